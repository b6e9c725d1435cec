//! Finds the running proxy that uses a configuration, and what is needed to reach it: its network
//! namespace, executable, systemd unit. Reads `/proc` only.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::files;
use crate::{
    clock,
    core::event::Network,
    service::{Kind, Service},
    v2ray,
};

/// `sing-box version` takes milliseconds; one that hangs is killed.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A running proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub kind: Kind,
    pub pid: u32,
    /// Clock ticks after boot: with the pid it names this process for ever.
    pub start_ticks: u64,
    /// As the process sees it.
    pub exe: PathBuf,
    /// Where it runs, as it sees it: files may be named relative to that.
    pub cwd: PathBuf,
    /// Inode of its network namespace.
    pub netns: u64,
    pub other_netns: bool,
    /// It sees files that this process does not, in another mount namespace.
    pub other_mount_ns: bool,
    /// From its cgroup: `sing-box.service`. Its MainPID may still be another process.
    pub unit: Option<String>,
    pub user_id: u32,
    /// The files and directories that it was told to read, in its view, made absolute.
    pub config_args: Vec<PathBuf>,
    /// The options that say so as written, to repeat them.
    pub raw_args: Vec<OsString>,
}

/// Why there is no one process.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    #[error("no {program} is running; start it, boxmeter waits")]
    None { program: &'static str },
    #[error(
        "{program} runs (pid {pids}), but with another configuration than {key} names: {args}; name that one there"
    )]
    OtherConfig { program: &'static str, key: String, pids: String, args: String },
    #[error(
        "several {program} processes use this configuration (pid {pids}); stop all but one, or give each its own file"
    )]
    Several { program: &'static str, pids: String },
    #[error("/proc cannot be read: {0}; boxmeter must run as root")]
    Proc(#[from] io::Error),
}

impl Process {
    /// `/proc/PID/NAME`.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// The namespace to connect in, if it is not this process's own.
    pub fn netns_path(&self) -> Option<PathBuf> {
        self.other_netns.then(|| self.proc("ns/net"))
    }

    /// Where it was started, in its view.
    pub fn work_directory(&self) -> io::Result<PathBuf> {
        fs::read_link(self.proc("cwd"))
    }

    /// Does it still run, and is it still the same?
    pub fn alive(&self) -> bool {
        is_alive((self.pid, self.start_ticks))
    }

    /// When it began, by `CLOCK_BOOTTIME` in nanoseconds; up to a clock tick of 10 ms too early.
    pub fn started_boot_ns(&self) -> u64 {
        // SAFETY: asks for a constant of the system.
        let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
        self.start_ticks.saturating_mul(1_000_000_000 / per_second)
    }

    /// For how long it has run.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(clock::boot_ns().saturating_sub(self.started_boot_ns()))
    }

    /// The executable, also if the file was replaced or is only in another mount namespace.
    pub fn exe_link(&self) -> PathBuf {
        self.proc("exe")
    }

    /// Its own version, asked of the executable that runs.
    pub fn version(&self) -> io::Result<String> {
        version_of_kind(self.kind, &self.exe_link())
    }

    /// Inodes of the listening sockets on these ports in its network namespace: they change when the proxy
    /// rebuilds its listeners, as sing-box does at SIGHUP.
    pub fn listeners(&self, ports: &[(Network, u16)]) -> Vec<Listener> {
        let mut found = Vec::new();
        for (network, names) in
            [(Network::Tcp, ["net/tcp", "net/tcp6"]), (Network::Udp, ["net/udp", "net/udp6"])]
        {
            if !ports.iter().any(|(wanted, _)| *wanted == network) {
                continue;
            }
            for name in names {
                let text = fs::read_to_string(self.proc(name)).unwrap_or_default();
                let all = text.lines().skip(1).filter_map(|line| listener(line, network));
                found.extend(all.filter(|found| ports.contains(&(network, found.port))));
            }
        }
        found
    }
}

/// A socket that takes clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub network: Network,
    pub port: u16,
    /// No other socket has it.
    pub inode: u64,
}

/// One line of `/proc/net/tcp` or `/proc/net/udp`, if it is a socket that takes clients.
fn listener(line: &str, network: Network) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let takes_clients = match network {
        Network::Tcp => "0A",
        // Not connected to anybody.
        Network::Udp => "07",
    };
    (state == takes_clients).then_some(Listener { network, port, inode })
}

/// Does the process with this pid and start time still run?
pub fn is_alive((pid, ticks): (u32, u64)) -> bool {
    start_ticks(pid).is_ok_and(|now| now == ticks)
}

/// Asks an executable of sing-box for its version.
pub fn version_of(exe: &Path) -> io::Result<String> {
    version_of_kind(Kind::Singbox, exe)
}

/// Asks an executable for its version.
pub fn version_of_kind(kind: Kind, exe: &Path) -> io::Result<String> {
    let mut last = io::Error::from(io::ErrorKind::InvalidData);
    for argument in version_arguments(kind) {
        match parse_version(kind, &printed(exe, argument)?) {
            Some(version) => return Ok(version),
            None => {
                let what = format!("it does not print a version as {} does", kind.title());
                last = io::Error::new(io::ErrorKind::InvalidData, what);
            }
        }
    }
    Err(last)
}

/// In this order: V2Ray 4 knows no word `version`, and would start with it as a server.
fn version_arguments(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Singbox => &["version"],
        Kind::V2ray | Kind::Xray => &["-version", "version"],
    }
}

/// What it prints when it is started with one argument.
fn printed(exe: &Path, argument: &str) -> io::Result<String> {
    let mut child = Command::new(exe)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = clock::mono_ns() + VERSION_TIMEOUT.as_nanos() as u64;
    while child.try_wait()?.is_none() {
        if clock::mono_ns() > deadline {
            child.kill()?;
            child.wait()?;
            let what = format!("`{} {argument}` does not end", exe.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

fn parse_version(kind: Kind, text: &str) -> Option<String> {
    let head = match kind {
        Kind::Singbox => "sing-box version ",
        Kind::V2ray => "V2Ray ",
        Kind::Xray => "Xray ",
    };
    let version = text.lines().next()?.strip_prefix(head)?;
    Some(version.split_whitespace().next()?.to_owned())
}

/// `(1, 14)` of `1.14.4-beta.1`.
pub fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The sing-box that runs with these files or directories.
pub fn find(config: &[PathBuf]) -> Result<Process, NotFound> {
    find_of(&Service::singbox(), config)
}

/// The process of a service that runs with these files or directories.
pub fn find_of(service: &Service, config: &[PathBuf]) -> Result<Process, NotFound> {
    let (kind, program) = (service.kind, service.kind.title());
    let wanted = identities(config);
    let mut matching = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile is none.
        let Some(process) = inspect_as(kind, pid) else {
            continue;
        };
        if uses(&process, &wanted) { matching.push(process) } else { others.push(process) }
    }
    let pids = |found: &[Process]| found.iter().map(|p| p.pid.to_string()).collect::<Vec<_>>().join(", ");
    match (matching.len(), others.is_empty()) {
        (1, _) => Ok(matching.remove(0)),
        (0, true) => Err(NotFound::None { program }),
        (0, false) => Err(NotFound::OtherConfig {
            program,
            key: match service.is_singbox() {
                true => "`[singbox] config`".to_owned(),
                false => format!("`config` of the `[[service]]` {:?}", service.name),
            },
            pids: pids(&others),
            args: others
                .iter()
                .flat_map(|p| &p.config_args)
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
        _ => Err(NotFound::Several { program, pids: pids(&matching) }),
    }
}

/// Files are compared by device and inode, which also holds through bind mounts into containers.
fn identities(config: &[PathBuf]) -> Vec<(u64, u64)> {
    let mut found: Vec<_> = files::list(config).unwrap_or_default();
    found.extend(config.iter().cloned());
    found.iter().filter_map(|path| identity(path)).collect()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn uses(process: &Process, wanted: &[(u64, u64)]) -> bool {
    process.config_args.iter().any(|path| {
        let seen = in_root(process.pid, path);
        // A directory that is named by its files, or the other way round.
        let inside = files::list(std::slice::from_ref(&seen)).unwrap_or_default();
        std::iter::once(seen).chain(inside).filter_map(|path| identity(&path)).any(|id| wanted.contains(&id))
    })
}

/// A path as another process sees it.
pub fn in_root(pid: u32, path: &Path) -> PathBuf {
    let mut root = PathBuf::from(format!("/proc/{pid}/root"));
    root.extend(path.components().filter(|part| !matches!(part, Component::RootDir)));
    root
}

/// Reads one process; `None` if it is no running sing-box.
pub fn inspect(pid: u32) -> Option<Process> {
    inspect_as(Kind::Singbox, pid)
}

/// Reads one process; `None` if it is none of this kind that serves.
pub fn inspect_as(kind: Kind, pid: u32) -> Option<Process> {
    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let exe = fs::read_link(proc("exe")).ok()?;
    let cmdline = fs::read(proc("cmdline")).ok()?;
    let args: Vec<OsString> = cmdline
        .split(|&byte| byte == 0)
        .filter(|arg| !arg.is_empty())
        .map(|arg| OsString::from_vec(arg.to_vec()))
        .collect();
    let program = exe.file_name()?.to_string_lossy().replace(" (deleted)", "");
    let called = Path::new(args.first()?).file_name()?.to_string_lossy().into_owned();
    let serves = match kind {
        Kind::Singbox => args.iter().any(|arg| arg == "run"),
        Kind::V2ray | Kind::Xray => v2ray::process::serves(&args),
    };
    if !(program.starts_with(kind.program()) || called == kind.program()) || !serves {
        return None;
    }
    let cwd = fs::read_link(proc("cwd")).ok()?;
    let (config_args, raw_args) = match kind {
        Kind::Singbox => config_args(&args, &cwd),
        Kind::V2ray | Kind::Xray => v2ray::process::config_args(&args, &cwd, &exe),
    };
    let namespace = |name: &str| identity(&proc(name)).map(|(_, inode)| inode);
    let own = |name: &str| identity(&PathBuf::from("/proc/self").join(name)).map(|(_, inode)| inode);
    Some(Process {
        kind,
        pid,
        start_ticks: start_ticks(pid).ok()?,
        exe,
        cwd,
        netns: namespace("ns/net")?,
        other_netns: namespace("ns/net") != own("ns/net"),
        other_mount_ns: namespace("ns/mnt") != own("ns/mnt")
            && (may_enter() || identity(&proc("root")) != identity(Path::new("/"))),
        unit: fs::read_to_string(proc("cgroup")).ok().and_then(|text| unit(&text)),
        user_id: fs::metadata(proc("")).ok()?.uid(),
        config_args,
        raw_args,
    })
}

/// Whether this process may enter mount namespaces at all. A unit that may not has one of its own, in which the same
/// files are where they are for everybody else: the same root says that of sing-box too.
fn may_enter() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|it| it & CAP_SYS_ADMIN != 0)
}

/// What sing-box reads: `-c`, `-C` (repeatable), else `config.json`; relative to `-D`, else to where
/// it was started (after `-D` its working directory is that already).
fn config_args(args: &[OsString], cwd: &Path) -> (Vec<PathBuf>, Vec<OsString>) {
    let (mut paths, mut raw) = (Vec::new(), Vec::new());
    let mut at = 1;
    while at < args.len() {
        let arg = args[at].to_string_lossy().into_owned();
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with('-') => (name.to_owned(), Some(OsString::from(value))),
            _ if arg.len() > 2
                && ["-c", "-C", "-D"].contains(&&arg[..2.min(arg.len())])
                && arg.is_ascii() =>
            {
                (arg[..2].to_owned(), Some(OsString::from(&arg[2..])))
            }
            _ => (arg.clone(), None),
        };
        let is_config = matches!(name.as_str(), "-c" | "--config" | "-C" | "--config-directory");
        if is_config || matches!(name.as_str(), "-D" | "--directory") {
            let value = match inline {
                Some(value) => value,
                None => {
                    at += 1;
                    args.get(at).cloned().unwrap_or_default()
                }
            };
            if is_config {
                paths.push(cwd.join(&value));
            }
            raw.extend([OsString::from(name), value]);
        }
        at += 1;
    }
    if paths.is_empty() {
        paths.push(cwd.join("config.json"));
    }
    (paths, raw)
}

fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces and parentheses.
    let after = stat.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
    let state = after.chars().next().unwrap_or('X');
    let ticks = after.split(' ').nth(19).and_then(|field| field.parse().ok());
    match (state, ticks) {
        ('Z' | 'X', _) | (_, None) => Err(io::ErrorKind::NotFound.into()),
        (_, Some(ticks)) => Ok(ticks),
    }
}

/// The unit of a process from its `/proc/PID/cgroup`: the last `*.service` of the path.
fn unit(cgroup: &str) -> Option<String> {
    let line = cgroup
        .lines()
        .find(|line| line.starts_with("0::"))
        .filter(|line| line.contains(".service"))
        .or_else(|| cgroup.lines().find(|line| line.contains("name=systemd")))?;
    let found = line.rsplit(['/', ':']).find(|part| part.ends_with(".service"));
    // A user's own manager is a service too, and no proxy.
    found.filter(|unit| !unit.starts_with("user@")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn arguments_of_all_spellings_are_read() {
        let cwd = Path::new("/var/lib/sing-box");
        let read = |text: &str| config_args(&args(text), cwd).0;
        assert_eq!(
            read("sing-box -D /var/lib/sing-box -C /etc/sing-box run"),
            [PathBuf::from("/etc/sing-box")]
        );
        assert_eq!(
            read("sing-box run -c a.json --config=/b.json"),
            [PathBuf::from("/var/lib/sing-box/a.json"), "/b.json".into()]
        );
        assert_eq!(read("sing-box run -c/b.json"), [PathBuf::from("/b.json")]);
        assert_eq!(read("sing-box run"), [PathBuf::from("/var/lib/sing-box/config.json")]);
    }

    #[test]
    fn unit_is_the_innermost_service() {
        assert_eq!(unit("0::/system.slice/sing-box.service\n").as_deref(), Some("sing-box.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/user@0.service/app.slice/a.scope"), None);
        assert_eq!(unit("0::/system.slice/docker-12ab.scope"), None);
    }

    #[test]
    fn versions_and_listeners_are_read() {
        let singbox = "sing-box version 1.14.4\n\nEnvironment: go1.27";
        assert_eq!(parse_version(Kind::Singbox, singbox), Some("1.14.4".into()));
        let v2ray = "V2Ray 4.34.0 (user) 20230518-074445 (go1.19.8 linux/amd64)\nA unified platform";
        assert_eq!(parse_version(Kind::V2ray, v2ray), Some("4.34.0".into()));
        assert_eq!(parse_version(Kind::Xray, v2ray), None);
        assert_eq!(major_minor("1.14.0-alpha.2"), Some((1, 14)));
        let line = "   1: 0100007F:5DBD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 32769 2 00000000a3dbeabb 100";
        let found = |network| Some(Listener { network, port: 0x5DBD, inode: 32769 });
        assert_eq!(listener(line, Network::Tcp), found(Network::Tcp));
        assert_eq!(listener(&line.replace(" 0A ", " 01 "), Network::Tcp), None);
        let udp = line.replace(" 0A ", " 07 ");
        assert_eq!(listener(&udp, Network::Udp), found(Network::Udp));
        assert_eq!(listener(&udp, Network::Tcp), None);
    }

    #[test]
    fn this_test_is_no_sing_box() {
        assert_eq!(inspect(std::process::id()), None);
    }
}
