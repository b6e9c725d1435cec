//! `cargo xtask vm`: the oldest kernel that boxmeter runs on, Debian 12's 6.1, in QEMU with software emulation.
//! It loads the kernel object, runs the kernel tests and some end-to-end tests with a real sing-box. Owns the
//! choice of tests and how the machine is started; needs no root once QEMU is installed.

mod image;
mod linux;

use crate::report::Stage;
use crate::shell::{cargo, find_program, is_root, succeed};
use crate::{packages, paths, singbox, test};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// A kernel object to try instead of the one that the agent has inside
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
    /// Only kernel tests whose name contains one of these; no end-to-end tests then
    pub tests: Vec<String>,
}

/// What the stage is called.
pub const STAGE: &str = "older kernel";
/// What the stage may take; emulation on a busy machine has taken half of it.
pub const BUDGET: Duration = Duration::from_secs(5 * 60);
/// A machine that runs longer hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Tests that compare what flows with a rate: an emulated machine carries less than the rate itself. That
/// the programs with rates are accepted, all others show.
const TOO_FAST: &str = "rates::";
/// End-to-end tests that run there: owners, exact bytes, a second agent, a full disk, a killed agent.
const FLOW_TESTS: &[&str] = &["a_second_agent_is_refused", "agent_killed_while_the_disk_is_full"];

pub fn run(args: &Args) -> Result<ExitCode> {
    succeed(cargo().args(["build", "--locked", "-p", "boxmeter"]))?;
    singbox::install_missing()?;
    let stage = stage(args.object.as_deref(), &args.tests)?;
    let failed = crate::report::print(&[stage], &[]);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots the machine and runs the tests inside.
///
/// # Errors
/// QEMU or the kernel cannot be installed, or the image cannot be made.
pub fn stage(object: Option<&Path>, only: &[String]) -> Result<Stage> {
    let qemu = qemu()?;
    let linux = linux::install()?;
    let words = |list: &[String]| list.join(" ");
    let mut tests = vec![("kernel", words(only))];
    if only.is_empty() {
        tests[0].1 = format!("--skip {TOO_FAST}");
        tests.push(("flow", FLOW_TESTS.join(" ")));
    }
    let image = image::build(&linux, object, &tests)?;
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio", "-kernel"])
        .arg(&linux.image)
        .arg("-initrd")
        .arg(&image)
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(std::process::Stdio::null());
    let mut stage = test::run_stage(STAGE, &mut command, LIMIT)?;
    if stage.failed == 0 && !stage.guest_ended_well {
        stage.failed = 1;
        stage.failures.push("the machine did not say that its tests ended well".into());
    }
    if stage.took > BUDGET {
        eprintln!("warning: {STAGE} took {} s of {}", stage.took.as_secs(), BUDGET.as_secs());
    }
    Ok(stage)
}

fn qemu() -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the older kernel runs on x86-64 only");
    }
    let program = "qemu-system-x86_64";
    if let Some(found) = find_program(&[program]) {
        return Ok(found);
    }
    if !is_root() {
        bail!("{program} is missing. As root: apt-get install --no-install-recommends {}", packages::QEMU);
    }
    packages::install(&[packages::QEMU])?;
    find_program(&[program]).with_context(|| format!("{} brought no {program}", packages::QEMU))
}

/// Where the kernel and the image are kept.
fn folder() -> PathBuf {
    paths::target().join("vm")
}
