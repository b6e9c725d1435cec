//! Changes sing-box's configuration like a transaction: check a copy with the running executable,
//! replace the file, reload, see that it is healthy; else put the old file back and say so.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::swap::{self, SwapError};
use crate::{
    clock,
    singbox::{
        files::{self, ConfigError, FileText},
        process::{self, Process},
    },
};

/// A reload takes sing-box up to 42 ms here; certificates from the network may take seconds.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

/// A command of the system (systemctl, `check`) that takes longer has failed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Why an edit did not come to pass.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error("{0} is not among the files that sing-box reads")]
    NotAFile(PathBuf),
    #[error("sing-box refuses the new configuration, so nothing was written: {0}")]
    Refused(String),
    #[error("`sing-box check` cannot be run ({0}), so nothing was written")]
    Check(io::Error),
    #[error("{failure}; the old configuration was put back{after}")]
    RolledBack { failure: String, after: String },
    #[error(
        "{failure}; and the old configuration could not be put back ({error}): the old text is in {backup}"
    )]
    Stuck { failure: String, error: String, backup: String },
}

/// A file's new text.
#[derive(Clone, Debug)]
pub struct Edit {
    pub path: PathBuf,
    /// Hash of the text that the edit was made from.
    pub expected: [u8; 32],
    pub content: String,
}

/// sing-box, as far as its configuration is changed.
#[derive(Clone, Debug)]
pub struct Singbox {
    /// `[singbox] config`.
    pub config: Vec<PathBuf>,
    /// `None`: not running; then there is nothing to reload.
    pub process: Option<Process>,
    /// `[singbox] binary`; `None` (auto): the running executable in its own mount namespace.
    pub binary: Option<PathBuf>,
    pub reload: Reload,
    /// Where the last good version of a file is kept.
    pub backups: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub reloaded: bool,
    pub backups: Vec<PathBuf>,
}

impl Singbox {
    /// Checks, swaps, reloads. `healthy` is asked again and again after the reload until it says yes
    /// or the time is over. sing-box reads its files only at the reload, so that several files change
    /// as one.
    pub fn apply(
        &self,
        edits: &[Edit],
        mut healthy: impl FnMut() -> Result<(), String>,
    ) -> Result<Applied, EditError> {
        let old = edits.iter().map(|edit| files::read_file(&edit.path)).collect::<Result<Vec<_>, _>>()?;
        self.check(edits)?;
        let backups =
            old.iter().filter_map(|file| self.keep(file).transpose()).collect::<Result<Vec<_>, _>>()?;
        // With those of the new text too: a port that another process holds must not look like ours.
        let all: Vec<u16> =
            [ports(&files::read(&self.config)?), ports(&edited(&self.config, edits)?)].concat();
        let before = self.process.as_ref().map(|process| process.listeners(&all));
        for (done, edit) in edits.iter().enumerate() {
            if let Err(error) = swap::replace(&edit.path, edit.expected, edit.content.as_bytes()) {
                if done == 0 {
                    return Err(error.into());
                }
                let failure = error.to_string();
                self.put_back(&edits[..done], &old, &backups, &failure)?;
                return Err(EditError::RolledBack { failure, after: String::new() });
            }
        }
        let (Some(process), Some(before)) = (&self.process, before) else {
            return Ok(Applied { reloaded: false, backups });
        };
        if self.reload == Reload::Never {
            return Ok(Applied { reloaded: false, backups });
        }
        let result = self.reload(process).and_then(|()| self.wait(process, &before, &mut healthy));
        let Err(failure) = result else {
            return Ok(Applied { reloaded: true, backups });
        };
        self.put_back(edits, &old, &backups, &failure)?;
        let after = match process.alive() {
            false => self.restart(process),
            true => match self.reload(process) {
                Ok(()) => " and sing-box was told to read it".to_owned(),
                Err(error) => format!(", but sing-box could not be told to read it ({error}); reload it"),
            },
        };
        Err(EditError::RolledBack { failure, after })
    }

    /// Only where the file is still as this edit has left it.
    fn put_back(
        &self,
        edits: &[Edit],
        old: &[FileText],
        backups: &[PathBuf],
        failure: &str,
    ) -> Result<(), EditError> {
        for (edit, old) in edits.iter().zip(old) {
            let now = swap::sha256(edit.content.as_bytes());
            if let Err(error) = swap::replace(&edit.path, now, old.text.as_bytes()) {
                let names: Vec<_> = backups.iter().map(|path| path.display().to_string()).collect();
                let backup = if names.is_empty() { "no backup".to_owned() } else { names.join(", ") };
                return Err(EditError::Stuck {
                    failure: failure.to_owned(),
                    error: error.to_string(),
                    backup,
                });
            }
        }
        Ok(())
    }

    /// sing-box ends when a reload fails in its start.
    fn restart(&self, process: &Process) -> String {
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

    /// `sing-box check` on a copy of all files with the edits in it.
    pub fn check(&self, edits: &[Edit]) -> Result<(), EditError> {
        let files = files::read(&self.config)?;
        if let Some(edit) = edits.iter().find(|edit| !files.iter().any(|file| *file.path == edit.path)) {
            return Err(EditError::NotAFile(edit.path.clone()));
        }
        let copies = Copies::make(&files, edits, self.process.as_ref()).map_err(EditError::Check)?;
        let output = self
            .check_command(&copies)
            .and_then(|mut command| run(&mut command))
            .map_err(EditError::Check)?;
        if output.status.success() { Ok(()) } else { Err(EditError::Refused(copies.rename(&told(&output)))) }
    }

    fn check_command(&self, copies: &Copies) -> io::Result<Command> {
        let mut command = match (&self.binary, &self.process) {
            (Some(binary), _) => Command::new(binary),
            (None, Some(process)) if process.other_mount_ns => {
                let mut command = Command::new(&process.exe);
                let namespace = File::open(process.proc("ns/mnt"))?;
                let work = fs::read_link(process.proc("cwd"))?;
                // SAFETY: between fork and exec the child has one thread and does system calls only;
                // the path was allocated before.
                unsafe {
                    command.pre_exec(move || {
                        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
                        nix::unistd::chdir(&work)?;
                        Ok(())
                    });
                }
                command
            }
            (None, Some(process)) => Command::new(process.exe_link()),
            (None, None) => Command::new("sing-box"),
        };
        command.arg("check").arg("--disable-color");
        for file in &copies.seen {
            command.arg("-c").arg(file);
        }
        // Certificates may be named relative to where sing-box runs. Not for another mount namespace,
        // whose directory is entered in the child.
        if let Some(process) = self.process.as_ref().filter(|p| !p.other_mount_ns) {
            command.current_dir(process.proc("cwd"));
        }
        Ok(command)
    }

    /// Keeps the text that was good until now.
    fn keep(&self, old: &FileText) -> Result<Option<PathBuf>, EditError> {
        let Some(directory) = &self.backups else {
            return Ok(None);
        };
        let name = old.path.file_name().unwrap_or_default();
        let mut file = OsString::from(name);
        file.push(format!(".{}", hex(&old.sha256[..6])));
        let path = directory.join(file);
        let write = || {
            fs::create_dir_all(directory)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
            let mut new = tempfile::NamedTempFile::new_in(directory)?;
            io::Write::write_all(&mut new, old.text.as_bytes())?;
            new.as_file().sync_all()?;
            new.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|error| SwapError::Io { path: path.clone(), error })?;
        Ok(Some(path))
    }

    /// Tells sing-box to read its configuration again. All its connections end.
    pub fn reload(&self, process: &Process) -> Result<(), String> {
        match &self.reload {
            Reload::Never => Ok(()),
            Reload::Signal => signal(process),
            Reload::Unit(unit) => systemctl_reload(unit),
            Reload::Command(text) => {
                let output = run(Command::new("/bin/sh").args(["-c", text]))
                    .map_err(|error| format!("the reload command fails: {error}"))?;
                if output.status.success() {
                    Ok(())
                } else {
                    Err(format!("the reload command fails: {}", told(&output)))
                }
            }
            Reload::Auto => match reloadable_unit(process) {
                Some(unit) => systemctl_reload(&unit),
                None => signal(process),
            },
        }
    }

    /// A reload is done when every port of the new configuration has a new listener: until then the
    /// old ones answer. And it must last: a start that fails ends sing-box a moment later.
    fn wait(
        &self,
        process: &Process,
        before: &[(u16, u64)],
        healthy: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = clock::mono_ns() + HEALTHY_WITHIN.as_nanos() as u64;
        let own_way = matches!(self.reload, Reload::Command(_));
        let wanted = ports(&files::read(&self.config).map_err(|error| error.to_string())?);
        let mut well_since: Option<u64> = None;
        loop {
            // A command of the admin's may restart sing-box.
            let process = match process.alive() {
                true => process.clone(),
                false if own_way => match process::find(&self.config) {
                    Ok(found) => found,
                    Err(_) if clock::mono_ns() < deadline => {
                        std::thread::sleep(POLL);
                        continue;
                    }
                    Err(error) => return Err(error.to_string()),
                },
                false => return Err("sing-box ended at the reload: it could not start with the new configuration (a port that is taken, for example)".into()),
            };
            let now = process.listeners(&wanted);
            let new = |port: &u16| now.iter().any(|found| found.0 == *port && !before.contains(found));
            let state = match wanted.iter().find(|port| !new(port)) {
                Some(port) => Err(format!("port {port} has no new listener; sing-box's log says why")),
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
                        "sing-box did not come up healthy within {} s: {why}",
                        HEALTHY_WITHIN.as_secs()
                    ));
                }
                Err(_) => well_since = None,
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The files as they will be.
fn edited(config: &[PathBuf], edits: &[Edit]) -> Result<Vec<FileText>, ConfigError> {
    let mut files = files::read(config)?;
    for file in &mut files {
        if let Some(edit) = edits.iter().find(|edit| edit.path == *file.path) {
            file.text.clone_from(&edit.content);
        }
    }
    Ok(files)
}

/// TCP ports on which sing-box listens with a configuration.
fn ports(files: &[FileText]) -> Vec<u16> {
    let Ok(config) = files::parse(files) else {
        return Vec::new();
    };
    let inbounds = config.inbounds.iter().filter(|inbound| inbound.transports.tcp);
    let api = config.api_service.map(|api| api.listen_port);
    inbounds.filter_map(|inbound| inbound.listen_port).chain(api).collect()
}

/// Copies of the configuration that only root can read, removed at the end.
struct Copies {
    _directory: tempfile::TempDir,
    /// As the checking process sees them.
    seen: Vec<PathBuf>,
    names: Vec<(String, String)>,
}

impl Copies {
    fn make(files: &[FileText], edits: &[Edit], process: Option<&Process>) -> io::Result<Self> {
        let parent = match process {
            Some(process) if process.other_mount_ns => process::in_root(process.pid, Path::new("/tmp")),
            _ => std::env::temp_dir(),
        };
        if !parent.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "sing-box's container has no /tmp to check a copy in",
            ));
        }
        let directory = tempfile::Builder::new().prefix("boxmeter-check-").tempdir_in(&parent)?;
        let inside = match process {
            Some(process) if process.other_mount_ns => {
                Path::new("/tmp").join(directory.path().file_name().unwrap_or_default())
            }
            _ => directory.path().to_owned(),
        };
        let (mut seen, mut names) = (Vec::new(), Vec::new());
        for (at, file) in files.iter().enumerate() {
            let edit = edits.iter().find(|edit| edit.path == *file.path);
            let text = edit.map_or(&file.text, |edit| &edit.content);
            // Numbered, since sing-box merges in the order of the names.
            let name = format!("{at:05}.json");
            fs::write(directory.path().join(&name), text)?;
            let path = inside.join(name);
            names.push((path.display().to_string(), file.path.display().to_string()));
            seen.push(path);
        }
        Ok(Copies { _directory: directory, seen, names })
    }

    /// People know their own files' names.
    fn rename(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (copy, file)| text.replace(copy, file))
    }
}

/// The unit whose reload reaches exactly this process.
pub fn reloadable_unit(process: &Process) -> Option<String> {
    let unit = process.unit.clone()?;
    let output =
        run(Command::new("systemctl").args(["show", "-p", "MainPID", "-p", "CanReload", &unit])).ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let has = |line: String| text.lines().any(|found| found == line);
    (has(format!("MainPID={}", process.pid)) && has("CanReload=yes".into())).then_some(unit)
}

fn systemctl_reload(unit: &str) -> Result<(), String> {
    let output = run(Command::new("systemctl").args(["reload", unit]))
        .map_err(|error| format!("systemctl fails: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`systemctl reload {unit}` fails: {}", told(&output)))
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

/// Runs a command with a time limit.
fn run(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = clock::mono_ns() + COMMAND_TIMEOUT.as_nanos() as u64;
    while child.try_wait()?.is_none() {
        if clock::mono_ns() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output()
}

/// What a command printed, in one line.
fn told(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
