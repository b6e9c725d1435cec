//! `cargo xtask vm`: the oldest kernel that boxmeter runs on, Debian 12's 6.1, in QEMU with software emulation.
//! It loads the kernel object, runs the kernel tests and some end-to-end tests with a real sing-box. Owns the
//! choice of tests and how the machine is started; needs no root once QEMU is installed.

pub mod image;
pub mod linux;

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
/// What the short form may take.
const BUDGET: Duration = Duration::from_secs(5 * 60);
/// A machine that runs longer hangs. Emulation has been seen to take ten times as long on one machine as on
/// another.
const LIMIT: Duration = Duration::from_secs(25 * 60);
/// The same for every test.
const LONG_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// The short form: a test for each thing that an older kernel may refuse or do differently. Loading, which all
/// of them do, shows that its verifier takes every program.
const SHORT_KERNEL_TESTS: &[&str] = &[
    "tcp::payload_of_an_owned_flow_is_exact_in_both_directions",
    "udp::each_peer_has_its_own_bytes_and_owner",
    "udp::the_wire_bytes_of_segmented_datagrams_have_a_header_each",
    "wire::wire_bytes_are_what_the_interface_counts",
    "owners::a_silent_socket_gets_its_owner_on_a_walk_and_at_its_close",
    "owners::a_flow_that_ended_before_its_owner_was_known_keeps_its_bytes",
    "budget::only_the_limited_user_is_cut",
    "blocks::a_client_that_is_cut_and_waits_for_data_hears_of_the_end",
    "recent::what_the_shortcut_counted_is_shown_with_the_flow",
    "pins::replacing_the_programs_under_traffic_misses_nothing",
    "pins::detaching_leaves_nothing",
];
/// The short form of the end-to-end tests: real sing-box, real traffic, exact bytes.
const SHORT_FLOW_TESTS: &[&str] = &["a_second_agent_is_refused"];
/// Tests that compare what flows with a rate: an emulated machine carries less than the rate itself. That
/// the programs with rates are accepted, all others show.
const TOO_FAST: &str = "rates::";
/// All end-to-end tests that run there: owners, exact bytes, a second agent, a full disk, a killed agent.
const FLOW_TESTS: &[&str] = &["a_second_agent_is_refused", "agent_killed_while_the_disk_is_full"];

pub fn run(args: &Args) -> Result<ExitCode> {
    succeed(cargo().args(["build", "--locked", "-p", "boxmeter"]))?;
    singbox::install_missing()?;
    let which = if args.tests.is_empty() { Which::All } else { Which::Named(&args.tests) };
    let stage = stage(args.object.as_deref(), which)?;
    let failed = crate::report::print(&[stage], &[]);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which tests run in the machine.
#[derive(Clone, Copy)]
pub enum Which<'a> {
    /// What `cargo xtask test` runs.
    Short,
    /// What `cargo xtask vm` and `cargo xtask test --long` run.
    All,
    /// Kernel tests by name.
    Named(&'a [String]),
}

impl Which<'_> {
    /// Test programs with their filters.
    fn filters(self) -> Vec<(&'static str, String)> {
        match self {
            Which::Short => {
                vec![("kernel", SHORT_KERNEL_TESTS.join(" ")), ("flow", SHORT_FLOW_TESTS.join(" "))]
            }
            Which::All => vec![("kernel", format!("--skip {TOO_FAST}")), ("flow", FLOW_TESTS.join(" "))],
            Which::Named(tests) => vec![("kernel", tests.join(" "))],
        }
    }
}

/// Boots the machine and runs the tests inside.
///
/// # Errors
/// QEMU or the kernel cannot be installed, or the image cannot be made.
pub fn stage(object: Option<&Path>, which: Which) -> Result<Stage> {
    let qemu = qemu()?;
    let linux = linux::install()?;
    let image = image::build(&linux, object, &which.filters())?;
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio", "-kernel"])
        .arg(&linux.image)
        .arg("-initrd")
        .arg(&image)
        .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .stdin(std::process::Stdio::null());
    let short = matches!(which, Which::Short);
    let limit = if short { LIMIT } else { LONG_LIMIT };
    let mut stage = test::run_stage(STAGE, &mut command, limit)?;
    if stage.failed == 0 && !stage.guest_ended_well {
        stage.failed = 1;
        stage.failures.push("the machine did not say that its tests ended well".into());
    }
    let expected = SHORT_KERNEL_TESTS.len() + SHORT_FLOW_TESTS.len();
    if short && stage.failed == 0 && stage.passed != expected {
        stage.failed = 1;
        stage.failures.push(format!("{} of {expected} tests ran: one has another name now", stage.passed));
    }
    if short && stage.took > BUDGET {
        eprintln!("warning: {STAGE} took {} s of {}", stage.took.as_secs(), BUDGET.as_secs());
    }
    Ok(stage)
}

/// The emulator.
///
/// # Errors
/// It cannot be installed here.
pub fn qemu() -> Result<PathBuf> {
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
pub fn folder() -> PathBuf {
    paths::target().join("vm")
}
