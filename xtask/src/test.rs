//! `cargo xtask test`: installs what is missing and runs every test once; nothing is retried.
//! Owns the order of stages, their environment and the verdict. Tests are found, not listed: a new test target
//! of any package runs by itself.

use crate::bpf::Comparison;
use crate::leftovers::{self, RUN_VARIABLE};
use crate::report::{self, Stage};
use crate::shell::{cargo, is_root, succeed};
use crate::{bpf, package, paths, server, setup, skips, skips::Skip, tidy, vm};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A stage that runs longer hangs; it is ended and counts as failed.
const STAGE_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The same with `--long`: soak tests are part of it.
const LONG_STAGE_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);
/// Targets that are run in this order; others come after them.
const ORDER: &[&str] = &["kernel", "source", "cli", "flow"];
/// Targets whose tests have namespaces and agents of their own and mostly wait: two of them run at a time, but for
/// those that say that they run alone. In others kernel programs are counted.
const AT_ONCE: &[&str] = &["gate", "notify", "panel", "share"];
/// Parts of the contract that later work brings; said so that nobody takes them for tested.
const NOT_BUILT: &[&str] = &[];

/// From usage to the gate: who used how much, that nothing is missing, who is limited and why, and what comes next.
const DEMO_SHOWS: &[&str] = &[
    "$ boxmeter usage",
    "alice",
    "$ boxmeter audit",
    "alice's download ended by itself; bob went on",
    "limited",
    "of 32.0 MiB",
    "Try in another terminal",
    "The panel is at http://",
    "its kernel programs are removed",
];

#[derive(clap::Args)]
pub struct Args {
    /// Soak tests, every inbound and version, fuzzing at full length
    #[arg(long)]
    pub long: bool,
    /// Allow that tests which need root, BPF or sing-box are skipped
    #[arg(long)]
    pub unprivileged: bool,
    /// Only stages whose name contains this (set-up and build run always)
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
}

/// One run: its mark, its temporary folder and what it found so far.
struct Run<'a> {
    args: &'a Args,
    id: String,
    temporary: PathBuf,
    object: Option<PathBuf>,
    stages: Vec<Stage>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if !args.unprivileged && !is_root() {
        bail!("kernel and end-to-end tests need root: run as root, or `cargo xtask test --unprivileged`");
    }
    let id = format!("{}", std::process::id());
    // Short, because paths of unix sockets are limited to 107 bytes.
    let temporary = std::env::temp_dir().join(format!("bm-{id}"));
    std::fs::create_dir_all(&temporary)?;
    let namespaces = leftovers::namespaces();
    let mut run = Run { args, id, temporary, object: None, stages: Vec::new() };
    let outcome = run.all();
    let started = Instant::now();
    let left = leftovers::sweep(&run.id, &run.temporary, &namespaces);
    let result = if left.is_empty() { Ok(()) } else { bail_left(&left) };
    run.stages.push(Stage::of_check("left behind", started.elapsed(), result));
    let _ = std::fs::remove_dir_all(&run.temporary);
    let failed = report::print(&run.stages, NOT_BUILT);
    outcome?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bail_left(left: &[String]) -> Result<()> {
    bail!("tests left behind (now removed): {}", left.join(", "))
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let unprivileged = self.args.unprivileged;
        self.check("setup", || match setup::everything() {
            Err(error) if unprivileged => {
                eprintln!("xtask: going on without: {error:#}");
                Ok(())
            }
            other => other.map(|_| ()),
        });
        self.check("build", build_everything);
        if self.stages.iter().any(|s| s.failed > 0) {
            return Ok(());
        }
        self.check("tidy", tidy::run);
        self.check("format", || succeed(cargo().args(["fmt", "--all", "--check"])));
        self.check("clippy", clippy);
        self.kernel_object();
        self.tests("unit", &["--workspace", "--exclude", "boxmeter-ebpf", "--lib", "--bins"], &[])?;
        for (package, target) in integration_targets()? {
            let threads = if AT_ONCE.contains(&&*target) { "--test-threads=2" } else { "--test-threads=1" };
            self.tests(&target, &["-p", &package, "--test", &target], &[threads])?;
        }
        if !unprivileged {
            self.check("demo", demo);
        }
        self.package();
        self.older_kernel();
        self.server();
        self.judge_skips()
    }

    fn wanted(&self, stage: &str) -> bool {
        self.args
            .only
            .as_deref()
            .is_none_or(|only| stage.contains(only) || matches!(stage, "setup" | "build"))
    }

    fn check(&mut self, name: &str, body: impl FnOnce() -> Result<()>) {
        if !self.wanted(name) {
            return;
        }
        eprintln!("\n== {name}");
        let started = Instant::now();
        let result = body();
        if let Err(error) = &result {
            eprintln!("{error:#}");
        }
        self.stages.push(Stage::of_check(name, started.elapsed(), result));
    }

    fn kernel_object(&mut self) {
        let mut rebuilt = None;
        let unprivileged = self.args.unprivileged;
        self.check("kernel object", || match bpf::check() {
            Ok(Comparison::Same) => Ok(()),
            Ok(Comparison::OtherCompiler { warning, rebuilt: path }) => {
                eprintln!("warning: {warning}");
                rebuilt = Some(path);
                Ok(())
            }
            Err(error) if unprivileged => {
                eprintln!("xtask: going on without: {error:#}");
                Ok(())
            }
            Err(error) => Err(error),
        });
        self.object = rebuilt;
    }

    fn package(&mut self) {
        if !self.wanted(package::STAGE) {
            return;
        }
        eprintln!("\n== {}", package::STAGE);
        self.machine(package::STAGE, package::stage());
    }

    /// A stage that needs more of the machine than some have.
    fn machine(&mut self, name: &str, stage: Result<Stage>) {
        match stage {
            Ok(stage) => self.stages.push(stage),
            Err(error) if self.args.unprivileged => eprintln!("xtask: going on without: {error:#}"),
            Err(error) => {
                eprintln!("{error:#}");
                self.stages.push(Stage::of_check(name, Duration::ZERO, Err(error)));
            }
        }
    }

    fn older_kernel(&mut self) {
        if !self.wanted(vm::STAGE) {
            return;
        }
        eprintln!("\n== {}", vm::STAGE);
        let which = if self.args.long { vm::Which::All } else { vm::Which::Short };
        self.machine(vm::STAGE, vm::stage(self.object.as_deref(), which));
    }

    /// The drill of a whole server takes most of an hour where the machine is emulated: it runs when it is asked
    /// for, and with the long tests.
    fn server(&mut self) {
        if !self.wanted(server::STAGE) {
            return;
        }
        eprintln!("\n== {}", server::STAGE);
        if self.args.long || self.args.only.is_some() {
            self.machine(server::STAGE, server::stage(self.args.long));
            return;
        }
        let reason = "long in emulation: `cargo xtask server`, or `cargo xtask test --long`";
        eprintln!("skipped: {reason}");
        let skip = Skip { test: "server::drill".to_owned(), reason: reason.to_owned() };
        self.stages.push(Stage { name: server::STAGE.into(), skipped: vec![skip], ..Stage::default() });
    }

    fn tests(&mut self, name: &str, selection: &[&str], options: &[&str]) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        eprintln!("\n== {name}");
        let log = self.temporary.join("skips");
        let _ = std::fs::remove_file(&log);
        let mut command = cargo();
        command.args(["test", "--locked", "--no-fail-fast"]).args(selection).arg("--").args(options);
        command.env(RUN_VARIABLE, &self.id).env("TMPDIR", &self.temporary).env("BOXMETER_SKIP_LOG", &log);
        command.env("BOXMETER_BIN", paths::program(false)).env("BOXMETER_TOOLS", paths::tools());
        if self.args.long {
            command.env("BOXMETER_LONG", "1").arg("--include-ignored");
        }
        if let Some(object) = &self.object {
            command.env("BOXMETER_BPF_OBJECT", object);
        }
        let limit = if self.args.long { LONG_STAGE_LIMIT } else { STAGE_LIMIT };
        let mut stage = run_stage(name, &mut command, limit)?;
        stage.add_skips(skips::read_log(&log));
        self.stages.push(stage);
        Ok(())
    }

    /// A skip is a failure, except where the committed list or `--unprivileged` allows it.
    fn judge_skips(&mut self) -> Result<()> {
        if self.args.unprivileged {
            return Ok(());
        }
        let allowed = skips::allowed()?;
        for stage in &mut self.stages {
            for skip in stage.skipped.iter().filter(|s| !allowed.contains(&s.test)) {
                stage.failed += 1;
                stage.failures.push(format!("{} was skipped: {}", skip.test, skip.reason));
            }
        }
        Ok(())
    }
}

fn build_everything() -> Result<()> {
    succeed(cargo().args(["build", "--workspace", "--exclude", "boxmeter-ebpf", "--locked"]))?;
    succeed(cargo().args([
        "test",
        "--workspace",
        "--exclude",
        "boxmeter-ebpf",
        "--locked",
        "--no-run",
        "--quiet",
    ]))
}

fn clippy() -> Result<()> {
    succeed(cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "boxmeter-ebpf",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-Dwarnings",
    ]))
}

/// What README tells a newcomer to run: it ends by itself without a terminal, and has shown the main job then.
///
/// # Errors
/// It fails, or does not show what it should.
fn demo() -> Result<()> {
    // The program that runs may be another file by now: `cargo test` has built it anew.
    let output = cargo()
        .args(["run", "--quiet", "--locked", "-p", "xtask", "--", "run", "--demo"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("the demonstration does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the demonstration ended with {}:\n{text}", output.status);
    }
    match DEMO_SHOWS.iter().find(|words| !text.contains(**words)) {
        Some(missing) => bail!("the demonstration does not show {missing:?}:\n{text}"),
        None => Ok(()),
    }
}

/// Every test target of the workspace as (package, target), in the order of stages.
fn integration_targets() -> Result<Vec<(String, String)>> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value["name"].as_str().unwrap_or_default().to_string();
    let mut found = Vec::new();
    for package in list(&metadata, "packages") {
        for target in list(&package, "targets") {
            if list(&target, "kind").iter().any(|k| k == "test") {
                found.push((text(&package), text(&target)));
            }
        }
    }
    let place = |name: &str| ORDER.iter().position(|o| *o == name).unwrap_or(ORDER.len());
    found.sort_by_key(|(package, target)| (place(target), package.clone(), target.clone()));
    Ok(found)
}

/// Runs a program that prints as `cargo test` does, shows that and counts it.
///
/// # Errors
/// It does not start.
pub fn run_stage(name: &str, command: &mut Command, limit: Duration) -> Result<Stage> {
    let started = Instant::now();
    let mut stage = Stage { name: name.into(), ..Stage::default() };
    // A group of its own, so that a hanging stage can be ended with everything it started.
    let mut child =
        command.stdout(Stdio::piped()).process_group(0).spawn().context("the tests do not start")?;
    let output = child.stdout.take().context("no output of the tests")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut last = Instant::now();
    loop {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => {
                println!("{line}");
                stage.read_line(&line);
                stage.time_line(&line, last.elapsed());
                last = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                stage.failures.push(format!("did not end within {} s", limit.as_secs()));
                stage.failed += 1;
                break;
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && stage.failed == 0 {
        stage.failed = 1;
        stage.failures.push(format!("the tests ended with {status}"));
    }
    stage.took = started.elapsed();
    Ok(stage)
}
