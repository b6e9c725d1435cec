//! `cargo xtask run`: sets up, builds, and shows the main job. Beside this machine's sing-box when it has a
//! configuration, else beside a demonstration. Never edits that configuration without a yes.

use crate::shell::{cargo, is_root, succeed};
use crate::{demo, packages, paths, singbox};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// Where a packaged sing-box has its configuration.
const SYSTEM_CONFIG: &str = "/etc/sing-box";

#[derive(clap::Args)]
pub struct Args {
    /// Build optimised (takes minutes the first time)
    #[arg(long)]
    pub release: bool,
    /// Show the demonstration even if this machine has a sing-box configuration
    #[arg(long)]
    pub demo: bool,
    /// End the demonstration after this long; without a terminal it ends by itself
    #[arg(long)]
    pub seconds: Option<u64>,
}

pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("boxmeter counts in the kernel, which needs root: run this as root");
    }
    packages::install(&packages::missing_base())?;
    let mut build = cargo();
    build.args(["build", "--locked", "-p", "boxmeter"]);
    if args.release {
        build.arg("--release");
    }
    succeed(&mut build)?;
    let program = paths::program(args.release);
    if !args.demo && has_configuration(Path::new(SYSTEM_CONFIG)) {
        return beside_system(&program);
    }
    singbox::install_missing()?;
    demo::run(&program, args.seconds)
}

fn has_configuration(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|p: PathBuf| p.extension().is_some_and(|e| e == "json"))
}

fn beside_system(program: &Path) -> Result<()> {
    println!("{SYSTEM_CONFIG} has a configuration: metering this machine's sing-box.");
    let healthy = Command::new(program).arg("doctor").status().context("boxmeter does not start")?.success();
    if !healthy && yes("Let `boxmeter doctor --fix` propose changes? It shows them and asks again.")? {
        // A fix that was declined or failed has said so; metering goes on with what is there.
        let _ = Command::new(program).args(["doctor", "--fix"]).status()?;
    }
    println!("Ctrl-C ends the agent; the kernel goes on counting until `{} detach`.", program.display());
    println!("In another terminal: {} usage", program.display());
    let mut agent = Command::new(program).arg("run").spawn().context("boxmeter does not start")?;
    let panel = panel_beside(&mut agent, program);
    let ended = agent.wait();
    // Ctrl-C reached both; whatever else ended the agent did not end the panel.
    if let Ok(Some(mut panel)) = panel {
        let _ = kill(Pid::from_raw(panel.id().cast_signed()), Signal::SIGTERM);
        panel.wait()?;
    }
    let status = ended?;
    if status.success() { Ok(()) } else { bail!("boxmeter run: {status}") }
}

/// The panel, which prints its address and the first password, once the agent answers; none if the agent ends.
fn panel_beside(agent: &mut Child, program: &Path) -> Result<Option<Child>> {
    while agent.try_wait()?.is_none() {
        let asked = Command::new(program).args(["--json", "status"]).output()?;
        if asked.status.success() {
            return Ok(Some(Command::new(program).arg("panel").spawn()?));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(None)
}

fn yes(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
