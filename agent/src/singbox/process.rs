//! Finds the sing-box process that uses a configuration, and says whether it still lives. Reads
//! /proc; changes nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A running sing-box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks since boot: tells the process from a later one with the same pid.
    pub start_ticks: u64,
    /// As the binary says it, for example `1.14.4`.
    pub version: Option<String>,
    /// Configuration files and directories, as named on its command line, absolute within its root.
    pub config: Vec<PathBuf>,
}

/// Why there is no process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    #[error("sing-box does not run; start it, boxmeter waits for it")]
    NoneRuns,
    #[error(
        "sing-box runs (pid {pid}) with the configuration {found}, and not with the one that boxmeter reads; set [singbox] config to it"
    )]
    OtherConfig { pid: u32, found: String },
    #[error("several sing-box processes use this configuration ({0:?}); stop all but one")]
    Several(Vec<u32>),
}

impl Process {
    /// Does it still run?
    pub fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// The network namespace that it is in, if that is not this process's own.
    pub fn foreign_netns(&self) -> Option<PathBuf> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.pid));
        let (own, its) = (fs::metadata("/proc/self/ns/net").ok()?, fs::metadata(&path).ok()?);
        (own.ino() != its.ino() || own.dev() != its.dev()).then_some(path)
    }

    /// Its executable, which works in another mount namespace and after the file was replaced, too.
    pub fn executable(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", self.pid))
    }
}

/// The process that uses one of these files or directories.
///
/// # Errors
/// When there is none, or more than one.
pub fn find(paths: &[PathBuf]) -> Result<Process, NotFound> {
    let all = running();
    let wanted: Vec<(u64, u64)> = paths.iter().filter_map(|path| identity(path)).collect();
    let uses = |process: &&Process| {
        let root = PathBuf::from(format!("/proc/{}/root", process.pid));
        process.config.iter().any(|path| {
            let seen = root.join(path.strip_prefix("/").unwrap_or(path));
            identity(&seen).is_some_and(|id| wanted.contains(&id)) || paths.contains(path)
        })
    };
    let mut users: Vec<&Process> = all.iter().filter(uses).collect();
    match (users.len(), all.first()) {
        (0, None) => Err(NotFound::NoneRuns),
        (0, Some(other)) => Err(NotFound::OtherConfig { pid: other.pid, found: shown(&other.config) }),
        (1, _) => {
            let mut process = users.remove(0).clone();
            process.version = version(&process.executable());
            Ok(process)
        }
        _ => Err(NotFound::Several(users.iter().map(|process| process.pid).collect())),
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Device and inode: the same file by another path, or through a bind mount.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Every sing-box that serves (`run`), by pid.
fn running() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn process(pid: u32) -> Option<Process> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<String> =
        line.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    let is_singbox =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("sing-box"));
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    if !is_singbox(&exe) && !is_singbox(Path::new(args.first()?)) {
        return None;
    }
    if !args.iter().any(|arg| arg == "run") {
        return None;
    }
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    Some(Process { pid, start_ticks: start_ticks(pid)?, version: None, config: config_paths(&args, &cwd) })
}

/// What the command line names: `-c`, `-C` and `-D` in their short and long forms. With none,
/// sing-box reads `config.json` in its working directory.
fn config_paths(args: &[String], cwd: &Path) -> Vec<PathBuf> {
    let mut directory = cwd.to_owned();
    let mut named: Vec<String> = Vec::new();
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned());
        match name {
            "-c" | "--config" | "-C" | "--config-directory" => named.extend(value()),
            "-D" | "--directory" => {
                if let Some(value) = value() {
                    directory = cwd.join(value);
                }
            }
            _ => {}
        }
    }
    if named.is_empty() {
        named.push("config.json".to_owned());
    }
    named.into_iter().map(|path| directory.join(path)).collect()
}

/// Field 22 of /proc/PID/stat; the name in field 2 may hold blanks and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?;
    if state == "Z" {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

/// `sing-box version 1.14.4` is the first line of its `version` command.
fn version(executable: &Path) -> Option<String> {
    let output = Command::new(executable).arg("version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.rsplit(' ').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(line: &str) -> Vec<String> {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        config_paths(&args, Path::new("/srv")).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn command_lines() {
        assert_eq!(paths("sing-box run -c /etc/a.json -C conf.d"), ["/etc/a.json", "/srv/conf.d"]);
        assert_eq!(paths("sing-box -D /var/lib/sing-box -C /etc/sing-box run"), ["/etc/sing-box"]);
        assert_eq!(paths("sing-box --directory=/x run --config=a.json"), ["/x/a.json"]);
        assert_eq!(paths("sing-box run"), ["/srv/config.json"]);
    }

    #[test]
    fn this_process_lives_and_no_other_start_does() {
        let pid = std::process::id();
        let process =
            Process { pid, start_ticks: start_ticks(pid).expect("own stat"), version: None, config: vec![] };
        assert!(process.alive());
        assert!(!Process { start_ticks: process.start_ticks + 1, ..process.clone() }.alive());
        assert_eq!(process.foreign_netns(), None);
    }
}
