//! The program `boxmeter`: see `boxmeter --help`.

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).map(std::path::PathBuf::from);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    boxmeter::daemon::run(&boxmeter::config::Config::load(path.as_deref())?)
}
