//! The program `boxmeter`: see `boxmeter --help`.

fn main() {
    if let Err(e) = real() {
        eprintln!("{e:#}");
        std::process::exit(1);
    }
}

fn real() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).map(std::path::PathBuf::from);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    boxmeter::daemon::run(&boxmeter::config::Config::load(path.as_deref())?)
}
