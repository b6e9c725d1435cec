//! nginx's users who may not connect: a file that names them, which its configuration includes once and asks
//! where it lets users in. Written whole, checked by `nginx -t`, read by a reload that drops nobody, and put
//! back as it was when nginx does not take it.
//!
//! The file is a `map` from `$boxmeter_user` to `$boxmeter_refused`. Names are patterns of hexadecimal bytes:
//! nginx's own comparison ignores case, and nothing that a name may hold can end a pattern.
//!
//! A note says that nginx may not have read the file yet, and what it had before; it is written first and
//! removed last, so that an agent that dies between two steps leaves something that the next one goes on from.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{
    command::{run, told},
    swap::{self, SwapError, sha256},
};
use crate::{clock, fault, singbox::process};

/// Bytes of a name. nginx reads no word of more than 4,096, and each byte takes four.
const NAME_MAX: usize = 512;

/// A reload is done when new workers run; nginx starts them within milliseconds.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks for them.
const LOOK: Duration = Duration::from_millis(50);

/// What a master process calls itself.
const MASTER: &str = "nginx: master process ";

/// Why nginx does not refuse whom it should. The file is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{file}: its folder is not there; make it, and include the file in nginx's `http` block", file = .0.display())]
    NoFolder(PathBuf),
    #[error("several nginx run (pids {pids}); say which by `pid_file`")]
    Several { pids: String },
    #[error("{path} does not name a running nginx", path = path.display())]
    PidFile { path: PathBuf },
    #[error(
        "nginx (pid {pid}) has another root directory, as in a container: its file cannot be followed from here"
    )]
    Elsewhere { pid: u32 },
    #[error("`nginx -t` could not be run: {0}")]
    Test(io::Error),
    #[error("`nginx -t` refuses its configuration, so that nothing was changed: {0}")]
    Refused(String),
    #[error("SIGHUP to nginx (pid {pid}): {error}")]
    Signal { pid: u32, error: io::Error },
    #[error(
        "nginx (pid {pid}) has no new workers {seconds} s after a reload, so that it goes on as before; its \
         error log says why",
        seconds = RELOAD_LIMIT.as_secs()
    )]
    NotReloaded { pid: u32 },
    #[error("nginx (pid {pid}) has ended at a reload; its error log says why")]
    Ended { pid: u32 },
    #[error("{error}. The text of before could not be put back: {restore}")]
    Torn { error: Box<NginxError>, restore: Box<NginxError> },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It was so already.
    Nothing,
    /// nginx has read it.
    Reloaded,
    /// No nginx runs; the next one reads it at its start.
    Written,
}

/// One nginx, and the file that is written for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nginx {
    /// The file of refused users.
    pub file: PathBuf,
    /// `None`: the one nginx that runs.
    pub pid_file: Option<PathBuf>,
    /// For `nginx -t`; `None`: the running one's.
    pub binary: Option<PathBuf>,
    /// `nginx -c`; `None`: as the running one was started.
    pub config: Option<PathBuf>,
    /// Where it is noted that a reload is under way.
    pub note: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// What nginx has read for certain; `None`: there was no file.
    before: Option<String>,
}

/// A running master process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    pub pid: u32,
    pub start_ticks: u64,
    /// After the program's name.
    args: Vec<String>,
}

/// The text of the file, and names that cannot be in it.
pub fn render<'n>(refused: impl IntoIterator<Item = &'n str>) -> (String, Vec<&'n str>) {
    let mut text = "# Written by boxmeter: users who may not connect now. What is edited here is lost.\n\
                    map $boxmeter_user $boxmeter_refused {\n    volatile;\n    default 0;\n"
        .to_owned();
    let mut left_out = Vec::new();
    for name in refused.into_iter().collect::<BTreeSet<_>>() {
        if name.is_empty() || name.len() > NAME_MAX {
            left_out.push(name);
            continue;
        }
        text.push_str("    \"~^");
        for byte in name.bytes() {
            // Letters for whoever reads the file; all else could mean something.
            let _ = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => write!(text, "{}", char::from(byte)),
                _ => write!(text, "\\x{byte:02x}"),
            };
        }
        text.push_str("\\z\" 1;\n");
    }
    text.push_str("}\n");
    (text, left_out)
}

impl Nginx {
    /// Makes nginx refuse these users and no others. Blocks, for as long as nginx takes; done again, it changes
    /// nothing.
    ///
    /// # Errors
    /// See [`NginxError`].
    pub fn follow(&self, refused: &BTreeSet<String>) -> Result<Followed, NginxError> {
        let (text, _) = render(refused.iter().map(String::as_str));
        let now = self.read()?;
        let note = self.noted()?;
        if note.is_none() && now.as_deref() == Some(&*text) {
            return Ok(Followed::Nothing);
        }
        let before = note.map_or_else(|| now.clone(), |note| note.before);
        if now.is_none() && refused.is_empty() {
            // Whoever includes it has not yet: there is nothing to be read anew.
            self.write(None, &text)?;
            return Ok(Followed::Written);
        }
        self.write_note(&Note { before: before.clone() })?;
        fault::point("nginx-noted");
        if now.as_deref() != Some(&*text) {
            self.write(now.as_deref(), &text)?;
        }
        fault::point("nginx-written");
        match self.told() {
            Ok(followed) => {
                self.remove_note()?;
                Ok(followed)
            }
            Err(error) => Err(self.restored(error, before.as_deref(), &text)),
        }
    }

    /// Checks what was written and has nginx read it.
    fn told(&self) -> Result<Followed, NginxError> {
        let Some(master) = self.find()? else { return Ok(Followed::Written) };
        self.test(&master)?;
        master.reload()?;
        Ok(Followed::Reloaded)
    }

    /// Puts the old text back: nginx has not read the new one.
    fn restored(&self, error: NginxError, before: Option<&str>, text: &str) -> NginxError {
        let empty = render([]).0;
        let done = self.write(Some(text), before.unwrap_or(&empty)).and_then(|()| self.remove_note());
        match done {
            Ok(()) => error,
            Err(restore) => NginxError::Torn { error: Box::new(error), restore: Box::new(restore) },
        }
    }

    fn read(&self) -> Result<Option<String>, NginxError> {
        match fs::read(&self.file) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(NginxError::Io { path: self.file.clone(), error }),
        }
    }

    fn write(&self, now: Option<&str>, text: &str) -> Result<(), NginxError> {
        if now.is_some() {
            // Of what was read: bytes that are no text are somebody's hand, and go.
            let now = fs::read(&self.file).map_err(|error| io_at(&self.file, error))?;
            swap::replace(&self.file, sha256(&now), text.as_bytes())?;
            return Ok(());
        }
        let folder = self.file.parent().filter(|folder| folder.is_dir());
        let folder = folder.ok_or_else(|| NginxError::NoFolder(self.file.clone()))?;
        let at = |error| io_at(&self.file, error);
        let mut new = tempfile::Builder::new().prefix(".boxmeter-").tempfile_in(folder).map_err(at)?;
        new.write_all(text.as_bytes()).map_err(at)?;
        new.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(at)?;
        new.as_file().sync_all().map_err(at)?;
        new.persist(&self.file).map_err(|error| at(error.error))?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
    }

    fn noted(&self) -> Result<Option<Note>, NginxError> {
        match fs::read(&self.note) {
            // One that breaks off was not finished: nothing had been written after it.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_at(&self.note, error)),
        }
    }

    fn write_note(&self, note: &Note) -> Result<(), NginxError> {
        let at = |error| io_at(&self.note, error);
        let folder = self.note.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(at)?;
        let mut new = tempfile::Builder::new().prefix(".note-").tempfile_in(folder).map_err(at)?;
        let text = serde_json::to_vec(note).map_err(|error| at(error.into()))?;
        new.write_all(&text).map_err(at)?;
        new.as_file().sync_all().map_err(at)?;
        new.persist(&self.note).map_err(|error| at(error.error))?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
    }

    fn remove_note(&self) -> Result<(), NginxError> {
        match fs::remove_file(&self.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(&self.note, error)),
            _ => Ok(()),
        }
    }

    /// The running master process; `None`: there is none.
    ///
    /// # Errors
    /// There are several and none is named, or it is in a container.
    pub fn find(&self) -> Result<Option<Master>, NginxError> {
        if let Some(path) = &self.pid_file {
            return self.named(path);
        }
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(|error| io_at(Path::new("/proc"), error))?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A process that ends meanwhile is none; one in a container is somebody else's.
            found.extend(pid.and_then(master).filter(|master| !master.is_elsewhere()));
        }
        if let Some(config) = &self.config
            && found.len() > 1
        {
            found.retain(|master| master.option("-c").is_some_and(|path| Path::new(&path) == config));
        }
        if found.len() > 1 {
            let pids: Vec<String> = found.iter().map(|master| master.pid.to_string()).collect();
            return Err(NginxError::Several { pids: pids.join(", ") });
        }
        Ok(found.pop())
    }

    fn named(&self, path: &Path) -> Result<Option<Master>, NginxError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_at(path, error)),
        };
        let pid = text.trim().parse().map_err(|_| NginxError::PidFile { path: path.to_owned() })?;
        match master(pid) {
            Some(master) if master.is_elsewhere() => Err(NginxError::Elsewhere { pid }),
            // nginx removes its file when it ends; one that was killed leaves it.
            found => Ok(found),
        }
    }

    /// `nginx -t`, as the running one was started.
    fn test(&self, master: &Master) -> Result<(), NginxError> {
        let proc = |name: &str| PathBuf::from(format!("/proc/{}/{name}", master.pid));
        let binary = self.binary.clone().unwrap_or_else(|| proc("exe"));
        let mut command = Command::new(binary);
        command.arg("-t").arg("-q").current_dir(proc("cwd"));
        let config = self.config.as_ref().map(|config| config.to_string_lossy().into_owned());
        for (name, value) in [
            ("-c", config.or_else(|| master.option("-c"))),
            ("-p", master.option("-p")),
            ("-e", master.option("-e")),
            ("-g", master.option("-g")),
        ] {
            if let Some(value) = value {
                command.args([name, &value]);
            }
        }
        let output = run(&mut command).map_err(NginxError::Test)?;
        if output.status.success() { Ok(()) } else { Err(NginxError::Refused(told(&output))) }
    }
}

fn io_at(path: &Path, error: io::Error) -> NginxError {
    NginxError::Io { path: path.to_owned(), error }
}

/// The master process with this pid, if it is one.
fn master(pid: u32) -> Option<Master> {
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).trim_end_matches('\0').to_owned();
    let args = title.strip_prefix(MASTER)?.split([' ', '\0']).skip(1).map(str::to_owned).collect();
    Some(Master { pid, start_ticks: process::start_ticks(pid).ok()?, args })
}

impl Master {
    /// The value of an option. nginx joins its arguments by blanks, so that one with blanks goes on to the next
    /// option.
    fn option(&self, name: &str) -> Option<String> {
        let is_option = |arg: &str| ["-c", "-p", "-e", "-g"].iter().any(|name| arg.starts_with(name));
        let at = self.args.iter().position(|arg| arg.starts_with(name))?;
        let mut words = vec![self.args[at][name.len()..].to_owned()];
        let rest = self.args[at + 1..].iter();
        // A value that is joined to its option has no blanks, but for directives.
        if words[0].is_empty() || name == "-g" {
            words.extend(rest.take_while(|arg| !is_option(arg)).cloned());
        }
        Some(words.join(" ").trim().to_owned())
    }

    /// Has it another root directory than this process?
    fn is_elsewhere(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let identity = |path: String| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        identity(format!("/proc/{}/root", self.pid)) != identity("/".to_owned())
    }

    fn alive(&self) -> bool {
        process::is_alive((self.pid, self.start_ticks))
    }

    /// Has it read its configuration anew, and waits until it runs with that.
    fn reload(&self) -> Result<(), NginxError> {
        let before = self.workers();
        self.signal()?;
        fault::point("nginx-told");
        let limit_ns = u64::try_from(RELOAD_LIMIT.as_nanos()).unwrap_or(u64::MAX) / fault::hurry();
        let deadline = clock::mono_ns().saturating_add(limit_ns);
        loop {
            if !self.alive() {
                return Err(NginxError::Ended { pid: self.pid });
            }
            if self.workers().difference(&before).next().is_some() {
                return Ok(());
            }
            if clock::mono_ns() > deadline {
                return Err(NginxError::NotReloaded { pid: self.pid });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Its children, by pid and when they began.
    fn workers(&self) -> BTreeSet<(u32, u64)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter(|pid| parent(*pid) == Some(self.pid));
        children.filter_map(|pid| Some((pid, process::start_ticks(pid).ok()?))).collect()
    }

    /// By a handle of the process, so that no other one with the same pid is hit.
    fn signal(&self) -> Result<(), NginxError> {
        let fail = |error: io::Error| NginxError::Signal { pid: self.pid, error };
        let gone = || fail(io::ErrorKind::NotFound.into());
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| fail(error.into()))?;
        if !self.alive() {
            return Err(gone());
        }
        pidfd_send_signal(&handle, Signal::HUP).map_err(|error| fail(error.into()))
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_mean_anything_to_nginx() {
        let hostile =
            ["alice", "a.b+c@d e", "x\" 0; } server { listen 1; #", "$remote_user", "a\nb\\Q", "名", "(?i)x"];
        let long = "x".repeat(NAME_MAX + 1);
        let (text, left_out) = render(hostile.into_iter().chain(["", long.as_str(), "alice"]));
        assert_eq!(left_out, ["", long.as_str()]);
        let patterns: Vec<&str> = text.lines().filter(|line| line.contains('~')).collect();
        assert_eq!(patterns.len(), hostile.len(), "{text}");
        for line in patterns {
            let pattern = line.strip_prefix("    \"~^").unwrap().strip_suffix("\\z\" 1;").unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '\\');
            assert!(pattern.chars().all(plain), "{pattern}");
        }
        assert!(text.contains("\"~^alice\\z\" 1;") && text.contains("\"~^a\\x2eb\\x2bc\\x40d\\x20e\\z\""));
        assert!(text.contains("\"~^\\xe5\\x90\\x8d\\z\""));
    }

    #[test]
    fn options_of_a_running_nginx_are_those_that_it_was_started_with() {
        let of = |title: &str| {
            let args = title.split(' ').skip(1).map(str::to_owned).collect();
            let master = Master { pid: 1, start_ticks: 1, args };
            ["-c", "-p", "-g"].map(|name| master.option(name).unwrap_or_default())
        };
        assert_eq!(
            of("/usr/sbin/nginx -g daemon on; master_process on;"),
            ["", "", "daemon on; master_process on;"]
        );
        assert_eq!(of("nginx -p/srv -g daemon off; -c conf/a.conf"), ["conf/a.conf", "/srv", "daemon off;"]);
        assert_eq!(of("nginx"), ["", "", ""]);
    }

    #[test]
    fn without_nginx_the_file_is_written_and_the_note_goes() {
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx {
            file: folder.path().join("refused.conf"),
            pid_file: Some(folder.path().join("no.pid")),
            binary: None,
            config: None,
            note: folder.path().join("notes/nginx.json"),
        };
        let refuse = |names: &[&str]| nginx.follow(&names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(refuse(&[]).unwrap(), Followed::Written);
        assert_eq!(refuse(&[]).unwrap(), Followed::Nothing);
        assert_eq!(refuse(&["alice"]).unwrap(), Followed::Written);
        assert_eq!(refuse(&["alice"]).unwrap(), Followed::Nothing);
        assert!(fs::read_to_string(&nginx.file).unwrap().contains("alice") && !nginx.note.exists());
        // Somebody else's text goes, also one that is no text.
        fs::write(&nginx.file, b"\xff").unwrap();
        assert_eq!(refuse(&["alice"]).unwrap(), Followed::Written);
        // A pid that is somebody else's now is no nginx.
        fs::write(folder.path().join("no.pid"), std::process::id().to_string()).unwrap();
        assert_eq!(refuse(&[]).unwrap(), Followed::Written);
        fs::remove_file(&nginx.file).unwrap();
        let lost = Nginx { file: folder.path().join("gone/refused.conf"), ..nginx };
        assert!(matches!(lost.follow(&BTreeSet::new()), Err(NginxError::NoFolder(_))));
    }
}
