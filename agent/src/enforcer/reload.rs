//! Tells a proxy to read its configuration again, and sees whether it came up with it.

use std::{io, path::Path, process::Command, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    command::{run, told},
    editor::Editor,
};
use crate::{
    clock,
    core::event::Network,
    fault,
    service::Service,
    singbox::{
        config::Transports,
        files::FileText,
        process::{Listener, Process},
    },
};

/// A reload takes sing-box up to 42 ms here; certificates from the network may take seconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

/// One that has run for so long has come up.
pub(super) const SETTLES: Duration = Duration::from_secs(5);

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

impl Editor {
    /// Is it somebody else's to have it read its files? The admin has said so, or it must be restarted and
    /// runs in no unit of its own.
    pub fn is_by_hand(&self) -> bool {
        let restarts = self.reload == Reload::Auto && !self.service.is_singbox();
        let no_unit = |process: &Process| unit_of(process, &[]).is_none();
        // One that has ended says nothing: the next one will.
        self.reload == Reload::Never || restarts && self.running_process().is_some_and(no_unit)
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

    /// Whether another process may run after it was told to read its files.
    fn is_replaced(&self) -> bool {
        // A command of the admin's may restart sing-box.
        matches!(self.reload, Reload::Command(_)) || !self.service.is_singbox()
    }

    /// The process that runs now, where one has followed the one that was told. One that ends again and again does
    /// not run.
    pub(super) fn of_now(&self, told: &Process) -> Process {
        let lives = |next: &Process| next.age() >= SETTLES / u32::try_from(fault::hurry()).unwrap_or(1);
        let next = || self.service.find(&self.config).ok().filter(lives);
        let followed = if !told.alive() && self.is_replaced() { next() } else { None };
        followed.unwrap_or_else(|| told.clone())
    }

    /// A reload is done when every port of the new configuration has a new listener: until then the
    /// old ones answer. And it must last: a start that fails ends sing-box a moment later.
    pub(super) fn wait(
        &self,
        process: &Process,
        before: &[Listener],
        healthy: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = clock::mono_ns() + HEALTHY_WITHIN.as_nanos() as u64 / fault::hurry();
        let own_way = self.is_replaced();
        let program = self.service.kind.title();
        let wanted = ports(&self.service.read(&self.config).map_err(|error| error.to_string())?);
        let mut well_since: Option<u64> = None;
        loop {
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
            let new = |wanted: &(Network, u16)| {
                now.iter().any(|found| (found.network, found.port) == *wanted && !before.contains(found))
            };
            let state = match wanted.iter().find(|wanted| !new(wanted)) {
                Some((network, port)) => {
                    let network = if *network == Network::Tcp { "TCP" } else { "UDP" };
                    Err(format!("{network} port {port} has no new listener; the log of {program} says why"))
                }
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

    /// Starts one again that has ended: a proxy ends when it does not come up with what it reads.
    pub(super) fn start_again(&self, unit: Option<&str>) -> String {
        let program = self.service.kind.title();
        let (mut command, what) = match (&self.reload, unit.filter(|_| runs_systemd())) {
            // The command that restarts it starts it too; one that only reloads does not.
            (Reload::Command(text), _) if !self.service.is_singbox() => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", text]);
                (command, program)
            }
            (Reload::Unit(unit), None) if !self.service.is_singbox() => (restart(unit), unit.as_str()),
            (_, Some(unit)) => (restart(unit), unit),
            (_, None) => return format!(", but {program} has ended: start it"),
        };
        match run(&mut command) {
            Ok(output) if output.status.success() => {
                format!(", and {what}, which had ended, was restarted")
            }
            Ok(output) => format!(", but {what} has ended and does not start: {}", told(&output)),
            Err(error) => format!(", but {what} has ended and cannot be started: {error}"),
        }
    }
}

fn restart(unit: &str) -> Command {
    let mut command = Command::new("systemctl");
    command.args(["restart", unit]);
    command
}

fn runs_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Has somebody stopped the unit, so that it is to stay so? One that has died is failed, or waits to be
/// restarted.
pub(super) fn was_stopped(unit: Option<&str>) -> bool {
    let Some(unit) = unit.filter(|_| runs_systemd()) else { return false };
    let mut show = Command::new("systemctl");
    let output = run(show.args(["show", "-p", "ActiveState", "-p", "Result", unit]));
    output.is_ok_and(|output| says_stopped(&String::from_utf8_lossy(&output.stdout)))
}

fn says_stopped(text: &str) -> bool {
    let is = |line: &str| text.lines().any(|found| found == line);
    (is("ActiveState=inactive") || is("ActiveState=deactivating")) && is("Result=success")
}

/// Sockets that a proxy takes clients on with a configuration: of TCP, of its APIs, and of inbounds that are
/// on UDP alone, as hysteria2 and tuic. Another one's UDP need not be there.
pub(super) fn ports(files: &[FileText]) -> Vec<(Network, u16)> {
    let service = files.first().map_or_else(Service::singbox, |file| file.service.clone());
    let Ok(config) = service.parse(files) else {
        return Vec::new();
    };
    let tcp = config.inbounds.iter().filter(|inbound| inbound.transports.tcp);
    let udp = config.inbounds.iter().filter(|inbound| inbound.transports == Transports::UDP);
    let api = config.api_service.map(|api| api.listen_port);
    let clash = config.clash_api.and_then(|clash| {
        let (_, port) = clash.external_controller.rsplit_once(':')?;
        port.parse().ok().filter(|&port| port != 0)
    });
    let tcp = tcp.filter_map(|inbound| inbound.listen_port).chain(api).chain(clash);
    let udp = udp.filter_map(|inbound| inbound.listen_port);
    tcp.map(|port| (Network::Tcp, port)).chain(udp.map(|port| (Network::Udp, port))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforcer::swap::sha256;

    #[test]
    fn a_unit_that_was_stopped_is_told_from_one_that_died() {
        assert!(says_stopped("Result=success\nActiveState=inactive\n"));
        assert!(!says_stopped("Result=exit-code\nActiveState=failed\n"));
        assert!(!says_stopped("Result=exit-code\nActiveState=activating\n"), "it waits to be restarted");
        assert!(!says_stopped("Result=success\nActiveState=active\n"));
        assert!(!says_stopped(""));
    }

    #[test]
    fn every_socket_that_says_whether_sing_box_came_up_is_waited_for() {
        let text = r#"{"inbounds": [
            {"type": "hysteria2", "tag": "h", "listen_port": 1, "users": []},
            {"type": "trojan", "tag": "t", "listen_port": 2, "users": []},
            {"type": "vless", "tag": "q", "listen_port": 3, "users": [], "transport": {"type": "quic"}},
            {"type": "naive", "tag": "n", "listen_port": 4, "users": []}],
            "experimental": {"clash_api": {"external_controller": ":5"}},
            "services": [{"type": "api", "listen_port": 6}]}"#;
        let path = std::sync::Arc::new("a.json".into());
        let file = FileText {
            service: Service::singbox(),
            path,
            text: text.into(),
            sha256: sha256(text.as_bytes()),
        };
        let tcp = [2, 4, 6, 5].map(|port| (Network::Tcp, port));
        let udp = [1, 3].map(|port| (Network::Udp, port));
        assert_eq!(ports(&[file]), [&tcp[..], &udp].concat());
    }
}
