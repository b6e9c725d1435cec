//! The drill of the package on a server, in a virtual machine: Debian 12 with its own kernel, systemd and a real
//! sing-box service. Installed, in service after two commands, a quota, a reboot, an upgrade under traffic, a power cut,
//! a clock that jumps, purged. Owns how the machine is started and switched off; what happens inside is `drill.sh`.

mod disk;

use crate::report::Stage;
use crate::shell::is_root;
use crate::{dist, singbox, vm};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Args {
    /// Only what `cargo xtask test` runs
    #[arg(long)]
    pub short: bool,
}

/// What the stage is called.
pub const STAGE: &str = "server";
/// What the short form may take.
const BUDGET: Duration = Duration::from_secs(8 * 60);
/// A machine that runs longer hangs. Emulation has been seen to take ten times as long on one machine as on another.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// Boots of one drill, if it goes well.
const BOOTS: u32 = 3;
/// Which figures must be there after the power was cut: those told so long before. A tick is one second, and its commit
/// takes a while in emulation.
const COMMITTED_WITHIN: Duration = Duration::from_secs(3);
/// From the word that the power may be cut until it is.
const CUT_AFTER: Duration = Duration::from_millis(4700);
/// When the first boot is, for the machine: in the middle of a month, and of a day.
const CLOCK: &str = "2026-11-10T1";

pub fn run(args: &Args) -> Result<ExitCode> {
    singbox::install_missing()?;
    let failed = crate::report::print(&[stage(!args.short)?], &[]);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the machine's disk and drills.
///
/// # Errors
/// QEMU, the kernel, the clean Debian or the packages cannot be had.
pub fn stage(long: bool) -> Result<Stage> {
    if !is_root() {
        bail!("the machine's disk is made by root");
    }
    let started = Instant::now();
    let qemu = vm::qemu()?;
    let linux = vm::linux::install()?;
    let packages = [dist::package_for_tests("1", None)?, dist::package_for_tests("2", None)?];
    let machine = disk::build(&linux, &packages)?;
    let mut drill = Drill {
        stage: Stage { name: STAGE.into(), ..Stage::default() },
        ended: false,
        counted: Vec::new(),
        cut_at: None,
    };
    for boot in 0..BOOTS {
        let mut words = format!("drill.counted={}", drill.last_counted());
        if long {
            words.push_str(" drill.long=1");
        }
        let child = start(&qemu, &linux.image, &machine, boot, &words)?;
        drill.attend(child, LIMIT.saturating_sub(started.elapsed()))?;
        if drill.ended || drill.stage.failed > 0 {
            break;
        }
    }
    let mut stage = drill.stage;
    stage.took = started.elapsed();
    if stage.failed == 0 && !stage.guest_ended_well {
        stage.failed = 1;
        stage.failures.push("the machine did not say that its drill ended well".into());
    }
    if !long && stage.took > BUDGET {
        eprintln!("warning: {STAGE} took {} s of {}", stage.took.as_secs(), BUDGET.as_secs());
    }
    std::fs::remove_file(&machine.disk)?;
    Ok(stage)
}

fn start(qemu: &Path, kernel: &Path, machine: &disk::Machine, boot: u32, words: &str) -> Result<Child> {
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(&machine.initrd)
        .arg("-drive")
        // What the machine has written is this machine's then, and a machine that is killed keeps it, as a disk does;
        // only this machine's own disk is not waited for.
        .arg(format!("file={},format=raw,if=virtio,cache=unsafe", machine.disk.display()))
        // Later at each boot, and the same in each drill.
        .args(["-rtc", &format!("base={CLOCK}{boot}:00:00")])
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 systemd.show_status=false {words}"));
    // SAFETY: prctl is a bare system call.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)) };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("QEMU does not start")
}

/// What is known of a drill so far.
struct Drill {
    stage: Stage,
    ended: bool,
    /// Figures of one user, and when they were told.
    counted: Vec<(Instant, u64)>,
    cut_at: Option<Instant>,
}

impl Drill {
    /// Follows one life of the machine; cuts its power when it says that it may be cut.
    fn attend(&mut self, mut child: Child, limit: Duration) -> Result<()> {
        let output = child.stdout.take().context("no output of the machine")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + limit;
        let result = self.listen(&lines, deadline);
        if let Err(reason) = result {
            self.stage.failed += 1;
            self.stage.failures.push(reason);
        }
        // Gone by itself, or its power is cut here.
        let _ = child.kill();
        child.wait()?;
        self.cut_at = None;
        Ok(())
    }

    fn listen(&mut self, lines: &Receiver<String>, deadline: Instant) -> Result<(), String> {
        loop {
            let end = self.cut_at.unwrap_or(deadline);
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.line(&line),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if self.cut_at.is_some() => {
                    println!("xtask: the power is cut");
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => return Err("the machine did not end in time".into()),
            }
        }
    }

    fn line(&mut self, line: &str) {
        let line = line.trim();
        self.stage.read_line(line);
        let Some(word) = line.strip_prefix("drill: ") else {
            println!("{line}");
            return;
        };
        if let Some(figure) = word.strip_prefix("counted ").and_then(|it| it.parse().ok()) {
            self.counted.push((Instant::now(), figure));
            return;
        }
        println!("{line}");
        match word {
            "cut the power" => self.cut_at = Some(Instant::now() + CUT_AFTER),
            "done" => self.ended = true,
            _ => {}
        }
    }

    /// What must be in the ledger: the last figure that was told early enough.
    fn last_counted(&self) -> u64 {
        let Some((end, _)) = self.counted.last() else { return 0 };
        let early = self.counted.iter().filter(|(at, _)| *at + COMMITTED_WITHIN <= *end);
        early.map(|(_, figure)| *figure).next_back().unwrap_or(0)
    }
}
