//! Tells sing-box to read its configuration again, and sees whether it came up with it.

use std::{io, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    command::{run, told},
    singbox::Singbox,
};
use crate::{
    clock,
    service::Service,
    singbox::{files::FileText, process::Process},
};

/// A reload takes sing-box up to 42 ms here; certificates from the network may take seconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(20);

/// Healthy for so long is healthy: sing-box ends within milliseconds after its last listener failed.
const LASTS: Duration = Duration::from_millis(200);

/// How sing-box is told to read its configuration again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The unit if its MainPID is that process and it can reload, else a signal.
    Auto,
    Unit(String),
    Signal,
    Command(String),
    Never,
}

impl Reload {
    /// Reads `[singbox] reload`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Reload::Auto),
            "signal" => Some(Reload::Signal),
            "never" => Some(Reload::Never),
            _ => {
                let (kind, value) = text.split_once(':')?;
                let value = value.trim().to_owned();
                match kind {
                    _ if value.is_empty() => None,
                    "systemd" => Some(Reload::Unit(value)),
                    "command" => Some(Reload::Command(value)),
                    _ => None,
                }
            }
        }
    }
}

impl Singbox {
    /// Is it somebody else's to have it read its files? The admin has said so, or it must be restarted and
    /// runs in no unit of its own.
    pub fn is_by_hand(&self) -> bool {
        let restarts = self.reload == Reload::Auto && !self.service.is_singbox();
        let no_unit = |process: &Process| unit_of(process, &[]).is_none();
        self.reload == Reload::Never || restarts && self.process.as_ref().is_some_and(no_unit)
    }

    /// Has the proxy read its configuration again: sing-box reloads, others are restarted. All its connections
    /// end.
    pub fn tell(&self, process: &Process) -> Result<(), String> {
        let verb = if self.service.is_singbox() { "reload" } else { "restart" };
        match &self.reload {
            Reload::Never => Ok(()),
            Reload::Signal => signal(process),
            Reload::Unit(unit) => systemctl(verb, unit),
            Reload::Command(text) => {
                let output = run(Command::new("/bin/sh").args(["-c", text]))
                    .map_err(|error| format!("the reload command fails: {error}"))?;
                if output.status.success() {
                    Ok(())
                } else {
                    Err(format!("the reload command fails: {}", told(&output)))
                }
            }
            Reload::Auto if self.service.is_singbox() => match reloadable_unit(process) {
                Some(unit) => systemctl(verb, &unit),
                None => signal(process),
            },
            Reload::Auto => match unit_of(process, &[]) {
                Some(unit) => systemctl(verb, &unit),
                None => Err(format!(
                    "{} (pid {}) is no systemd unit's main process, so boxmeter cannot restart it: do it by hand, or say how in `restart` of its `[[service]]`",
                    self.service.kind.title(),
                    process.pid
                )),
            },
        }
    }

    /// A reload is done when every port of the new configuration has a new listener: until then the
    /// old ones answer. And it must last: a start that fails ends sing-box a moment later.
    pub(super) fn wait(
        &self,
        process: &Process,
        before: &[(u16, u64)],
        healthy: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = clock::mono_ns() + HEALTHY_WITHIN.as_nanos() as u64;
        let own_way = matches!(self.reload, Reload::Command(_)) || !self.service.is_singbox();
        let program = self.service.kind.title();
        let wanted = ports(&self.service.read(&self.config).map_err(|error| error.to_string())?);
        let mut well_since: Option<u64> = None;
        loop {
            // A command of the admin's may restart sing-box.
            let process = match process.alive() {
                true => process.clone(),
                false if own_way => match self.service.find(&self.config) {
                    Ok(found) => found,
                    Err(_) if clock::mono_ns() < deadline => {
                        std::thread::sleep(POLL);
                        continue;
                    }
                    Err(error) => return Err(error.to_string()),
                },
                false => {
                    return Err(format!(
                        "{program} ended at the reload: it could not start with the new configuration (a port that is taken, for example)"
                    ));
                }
            };
            let now = process.listeners(&wanted);
            let new = |port: &u16| now.iter().any(|found| found.0 == *port && !before.contains(found));
            let state = match wanted.iter().find(|port| !new(port)) {
                Some(port) => Err(format!("port {port} has no new listener; the log of {program} says why")),
                None => healthy(),
            };
            match state {
                Ok(()) => {
                    let now_ns = clock::mono_ns();
                    if now_ns - *well_since.get_or_insert(now_ns) >= LASTS.as_nanos() as u64 {
                        return Ok(());
                    }
                }
                Err(why) if clock::mono_ns() > deadline => {
                    return Err(format!(
                        "{program} did not come up healthy within {} s: {why}",
                        HEALTHY_WITHIN.as_secs()
                    ));
                }
                Err(_) => well_since = None,
            }
            std::thread::sleep(POLL);
        }
    }

    /// sing-box ends when a reload fails in its start.
    pub(super) fn restart(&self, process: &Process) -> String {
        match &process.unit {
            Some(unit) if Path::new("/run/systemd/system").exists() => {
                match run(Command::new("systemctl").args(["restart", unit])) {
                    Ok(output) if output.status.success() => {
                        format!(", and {unit}, which had ended, was restarted")
                    }
                    Ok(output) => format!(", but {unit} has ended and does not start: {}", told(&output)),
                    Err(error) => format!(", but {unit} has ended and systemctl fails: {error}"),
                }
            }
            _ => ", but sing-box has ended: start it".to_owned(),
        }
    }
}

/// TCP ports on which a proxy listens with a configuration.
pub(super) fn ports(files: &[FileText]) -> Vec<u16> {
    let service = files.first().map_or_else(Service::singbox, |file| file.service.clone());
    let Ok(config) = service.parse(files) else {
        return Vec::new();
    };
    let inbounds = config.inbounds.iter().filter(|inbound| inbound.transports.tcp);
    let api = config.api_service.map(|api| api.listen_port);
    inbounds.filter_map(|inbound| inbound.listen_port).chain(api).collect()
}

/// The unit whose reload reaches exactly this process.
pub fn reloadable_unit(process: &Process) -> Option<String> {
    unit_of(process, &["CanReload=yes"])
}

/// The unit whose main process it is, if it has these properties.
fn unit_of(process: &Process, properties: &[&str]) -> Option<String> {
    let unit = process.unit.clone()?;
    let output =
        run(Command::new("systemctl").args(["show", "-p", "MainPID", "-p", "CanReload", &unit])).ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let has = |line: &str| text.lines().any(|found| found == line);
    (has(&format!("MainPID={}", process.pid)) && properties.iter().all(|line| has(line))).then_some(unit)
}

fn systemctl(verb: &str, unit: &str) -> Result<(), String> {
    let output = run(Command::new("systemctl").args([verb, unit]))
        .map_err(|error| format!("systemctl fails: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`systemctl {verb} {unit}` fails: {}", told(&output)))
    }
}

/// By a handle of the process, so that no other one with the same pid is hit.
fn signal(process: &Process) -> Result<(), String> {
    let fail = |error: io::Error| format!("SIGHUP to sing-box (pid {}): {error}", process.pid);
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| fail(e.into()))?;
    if !process.alive() {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    pidfd_send_signal(&handle, Signal::HUP).map_err(|e| fail(e.into()))
}
