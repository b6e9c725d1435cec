//! The running nginx: which process it is, how it was started, its test of a configuration, its reload. Anybody can
//! give a process nginx's title, which says what to run and which configuration to read: only root's processes of
//! root's executables are looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{
    super::command::{run, told},
    Nginx, NginxError, io_at,
};
use crate::{
    clock, fault,
    singbox::{
        process,
        trust::{self, Distrust},
    },
};

/// A reload is done when new workers run; nginx starts them within milliseconds.
pub const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks for them.
const LOOK: Duration = Duration::from_millis(50);

/// What a master process calls itself.
const MASTER: &str = "nginx: master process ";

/// What a worker calls itself, before it says whether it ends.
const WORKER: &str = "nginx: worker process";

/// A process for ever: its pid, and when it began.
pub type Start = (u32, u64);

/// Processes that are not trusted, of which people are told.
const TOLD_MAX: usize = 3;

/// A running master process that root has started.
#[derive(Clone, Debug)]
pub struct Master {
    pub pid: u32,
    pub start_ticks: u64,
    /// After the program's name.
    args: Vec<String>,
    /// Its executable: the path may name another one meanwhile.
    exe: Arc<File>,
    cwd: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub master: Option<Master>,
    /// Processes that call themselves nginx, and why they are not followed.
    pub ignored: Vec<String>,
}

impl Found {
    fn ignore(&mut self, pid: u32, why: &impl std::fmt::Display) {
        if self.ignored.len() < TOLD_MAX {
            self.ignored.push(format!("nginx (pid {pid}) is not followed: {why}"));
        }
    }
}

impl Nginx {
    /// The running master process, and why others are none.
    ///
    /// # Errors
    /// There are several and none is named, or it is in a container.
    pub fn look(&self) -> Result<Found, NginxError> {
        let (mut found, mut all) = (Found::default(), Vec::new());
        if let Some(path) = &self.pid_file {
            if let Some(pid) = named(path)? {
                match inspect(pid) {
                    Some(Ok(_)) if is_elsewhere(pid) => return Err(NginxError::Elsewhere { pid }),
                    Some(Ok(master)) => found.master = Some(master),
                    Some(Err(why)) => found.ignore(pid, &why),
                    // nginx removes its file when it ends; one that was killed leaves it.
                    None => {}
                }
            }
            return Ok(found);
        }
        for entry in fs::read_dir("/proc").map_err(|error| io_at(Path::new("/proc"), error))?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match inspect(pid) {
                // One in a container is somebody else's.
                Some(_) if is_elsewhere(pid) => {}
                Some(Ok(master)) => all.push(master),
                Some(Err(why)) => found.ignore(pid, &why),
                None => {}
            }
        }
        if let Some(config) = &self.config {
            let is_named = |master: &Master| master.option("-c").map(|path| Path::new(&path) == config);
            all.retain(|master| is_named(master) != Some(false));
            // One that was started without it reads its usual one, and may be another.
            if all.iter().any(|master| is_named(master) == Some(true)) {
                all.retain(|master| is_named(master) == Some(true));
            }
        }
        if all.len() > 1 {
            let pids: Vec<String> = all.iter().map(|master| master.pid.to_string()).collect();
            return Err(NginxError::Several { pids: pids.join(", ") });
        }
        found.master = all.pop();
        Ok(found)
    }

    /// The running master process; `None`: there is none.
    ///
    /// # Errors
    /// See [`Nginx::look`].
    pub fn find(&self) -> Result<Option<Master>, NginxError> {
        Ok(self.look()?.master)
    }

    /// `nginx -t`, as the running one was started.
    pub(super) fn test(&self, master: &Master) -> Result<(), NginxError> {
        self.configuration(master)?;
        let mut command = self.command(master)?;
        let output = run(command.args(["-t", "-q"])).map_err(NginxError::Test)?;
        if output.status.success() { Ok(()) } else { Err(NginxError::Refused(told(&output))) }
    }

    /// The configuration that nginx would read now, with all files that it includes, as `nginx -T` prints it.
    ///
    /// # Errors
    /// nginx does not take it, or root must not ask it.
    pub fn dump(&self, master: &Master) -> Result<String, NginxError> {
        self.configuration(master)?;
        let mut command = self.command(master)?;
        let output = run(command.args(["-T", "-q"])).map_err(NginxError::Test)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(NginxError::Refused(told(&output))),
        }
    }

    /// Its executable with the options that it was started with.
    fn command(&self, master: &Master) -> Result<Command, NginxError> {
        let mut command = self.program(master)?;
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
        Ok(command)
    }

    fn program(&self, master: &Master) -> Result<Command, NginxError> {
        let mut command = match &self.binary {
            Some(binary) => {
                trust::whole(binary).map_err(NginxError::Distrusted)?;
                Command::new(binary)
            }
            // Opened when it was looked at: nobody can put another one there.
            None => Command::new(format!("/proc/self/fd/{}", master.exe.as_raw_fd())),
        };
        command.arg0("nginx").current_dir(&master.cwd);
        // It makes logs and folders that are not there yet; the agent's own files are for nobody else.
        // SAFETY: between fork and exec, one system call that cannot fail.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o022);
                Ok(())
            });
        }
        Ok(command)
    }

    /// The configuration file that nginx reads, which nobody but root may change: it can name code to be loaded.
    ///
    /// # Errors
    /// Somebody may.
    pub fn configuration(&self, master: &Master) -> Result<PathBuf, NginxError> {
        let named = self.config.clone().or_else(|| master.option("-c").map(PathBuf::from));
        let prefix = master.option("-p").map(|prefix| master.cwd.join(prefix));
        let path = match (named, prefix) {
            (Some(path), _) if path.is_absolute() => path,
            (Some(path), Some(prefix)) => prefix.join(path),
            (named, prefix) => {
                let built = self.built(master)?;
                let path = named.unwrap_or_else(|| built_in(&built, "--conf-path=", "conf/nginx.conf"));
                prefix.unwrap_or_else(|| built_in(&built, "--prefix=", "/usr/local/nginx")).join(path)
            }
        };
        trust::whole(&path).map_err(NginxError::Distrusted)?;
        Ok(path)
    }

    /// How the program was built, as `nginx -V` says.
    fn built(&self, master: &Master) -> Result<String, NginxError> {
        let output = run(self.program(master)?.arg("-V")).map_err(NginxError::Test)?;
        Ok(String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned())
    }
}

fn built_in(built: &str, option: &str, usual: &str) -> PathBuf {
    let value = built.split_ascii_whitespace().find_map(|word| word.strip_prefix(option));
    PathBuf::from(value.unwrap_or(usual))
}

/// The pid of a pid file. While nginx begins, and after a test of a configuration, it is there and empty.
fn named(path: &Path) -> Result<Option<u32>, NginxError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(path, error)),
    };
    match text.trim() {
        "" => Ok(None),
        pid => pid.parse().map(Some).map_err(|_| NginxError::PidFile { path: path.to_owned() }),
    }
}

/// The master process with this pid: `None` if it does not call itself one, an error if it is not root's nginx.
fn inspect(pid: u32) -> Option<Result<Master, Distrust>> {
    let start_ticks = process::start_ticks(pid).ok()?;
    // First: others can make whoever reads the titles of their processes wait without end.
    if let Err(why) = trust::is_roots(pid) {
        return is_called_nginx(pid).then_some(Err(why));
    }
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).trim_end_matches('\0').to_owned();
    let args = title.strip_prefix(MASTER)?.split([' ', '\0']).skip(1).map(str::to_owned).collect();
    let trusted = trusted(pid).map(|(exe, cwd)| Master { pid, start_ticks, args, exe: Arc::new(exe), cwd });
    // All of that is one process's, and it lives.
    process::is_alive((pid, start_ticks)).then_some(trusted)
}

/// Is somebody's process called so by the kernel, and is it no worker of root's?
fn is_called_nginx(pid: u32) -> bool {
    let is_called =
        |pid: u32| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"nginx"));
    let is_worker = || parent(pid).is_some_and(|parent| is_called(parent) && trust::is_roots(parent).is_ok());
    is_called(pid) && !is_worker()
}

/// The executable and the directory of a process of root's that is nginx.
fn trusted(pid: u32) -> Result<(File, PathBuf), Distrust> {
    trust::is_roots(pid)?;
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let failed = |error| Distrust::Io { path: link.clone(), error };
    let exe = File::open(&link).map_err(failed)?;
    let path = fs::read_link(&link).map_err(failed)?;
    let deleted = path.to_string_lossy().strip_suffix(" (deleted)").map(PathBuf::from);
    let program = deleted.as_ref().unwrap_or(&path);
    if !program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nginx")) {
        return Err(Distrust::Program { path });
    }
    let meta = exe.metadata().map_err(failed)?;
    trust::own(&path, &meta)?;
    trust::no_setuid(&path, &meta)?;
    // One that an upgrade has replaced is only where it was opened.
    if deleted.is_none() {
        trust::whole(&path)?;
    }
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).map_err(failed)?;
    Ok((exe, cwd))
}

/// Has it another root directory than this process?
fn is_elsewhere(pid: u32) -> bool {
    let identity = |path: String| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    identity(format!("/proc/{pid}/root")) != identity("/".to_owned())
}

impl Master {
    /// The value of an option. nginx joins its arguments by blanks, so that one with blanks goes on to the next
    /// option.
    fn option(&self, name: &str) -> Option<String> {
        option(&self.args, name)
    }

    fn alive(&self) -> bool {
        process::is_alive((self.pid, self.start_ticks))
    }

    /// Has it read its configuration anew, and waits until it runs with that. `before`: its workers of before.
    pub(super) fn reload(&self, before: &BTreeSet<Start>) -> Result<(), NginxError> {
        self.signal()?;
        fault::point("nginx-told");
        let limit_ns = u64::try_from(RELOAD_LIMIT.as_nanos()).unwrap_or(u64::MAX) / fault::hurry();
        let deadline = clock::mono_ns().saturating_add(limit_ns);
        loop {
            if !self.alive() {
                return Err(NginxError::Ended { pid: self.pid });
            }
            if self.has_reloaded(before) {
                return Ok(());
            }
            if clock::mono_ns() > deadline {
                return Err(NginxError::NotReloaded { pid: self.pid });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Does it run with what it has read since it had these workers?
    pub(super) fn has_reloaded(&self, before: &BTreeSet<Start>) -> bool {
        has_reloaded(before, &self.all_workers())
    }

    /// Its workers that take clients, by pid and when they began.
    pub(super) fn workers(&self) -> BTreeSet<Start> {
        self.all_workers().into_iter().filter(|(_, ends)| !ends).map(|(start, _)| start).collect()
    }

    /// All its workers, and whether each is about to end.
    fn all_workers(&self) -> BTreeMap<Start, bool> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter(|pid| parent(*pid) == Some(self.pid));
        let worker = |pid: u32| {
            let start = (pid, process::start_ticks(pid).ok()?);
            let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((start, ends(&String::from_utf8_lossy(&title))?))
        };
        children.filter_map(worker).collect()
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

/// Whether a worker is about to end, by its title; `None`: it is no worker, as nginx's other children.
fn ends(title: &str) -> Option<bool> {
    title.strip_prefix(WORKER).map(|rest| rest.starts_with(" is shutting down"))
}

/// There are new workers, and those of before are about to end. A worker that has crashed is replaced by one that
/// knows what the others know: then the others stay. Several new ones at once are of a reload, too, where one of
/// before does not end.
fn has_reloaded(before: &BTreeSet<Start>, now: &BTreeMap<Start, bool>) -> bool {
    let new = now.iter().filter(|(start, ends)| !**ends && !before.contains(start)).count();
    let stay = before.iter().any(|start| now.get(start) == Some(&false));
    new > 1 || new == 1 && !stay
}

fn option(args: &[String], name: &str) -> Option<String> {
    let is_option = |arg: &str| ["-c", "-p", "-e", "-g"].iter().any(|name| arg.starts_with(name));
    let at = args.iter().position(|arg| arg.starts_with(name))?;
    let mut words = vec![args[at][name.len()..].to_owned()];
    let rest = args[at + 1..].iter();
    // A value that is joined to its option has no blanks, but for directives.
    if words[0].is_empty() || name == "-g" {
        words.extend(rest.take_while(|arg| !is_option(arg)).cloned());
    }
    Some(words.join(" ").trim().to_owned())
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
    fn options_of_a_running_nginx_are_those_that_it_was_started_with() {
        let of = |title: &str| {
            let args: Vec<String> = title.split(' ').skip(1).map(str::to_owned).collect();
            ["-c", "-p", "-g"].map(|name| option(&args, name).unwrap_or_default())
        };
        assert_eq!(
            of("/usr/sbin/nginx -g daemon on; master_process on;"),
            ["", "", "daemon on; master_process on;"]
        );
        assert_eq!(of("nginx -p/srv -g daemon off; -c conf/a.conf"), ["conf/a.conf", "/srv", "daemon off;"]);
        assert_eq!(of("nginx"), ["", "", ""]);
        let built = "nginx version: nginx/1.22.1\nconfigure arguments: --prefix=/usr/share/nginx --conf-path=/etc/n.conf";
        assert_eq!(built_in(built, "--conf-path=", "conf/nginx.conf"), Path::new("/etc/n.conf"));
        assert_eq!(built_in("", "--prefix=", "/usr/local/nginx"), Path::new("/usr/local/nginx"));
    }

    #[test]
    fn a_reload_is_told_from_a_worker_that_has_crashed() {
        let before = BTreeSet::from([(1, 10), (2, 10)]);
        let done = |now: &[(u32, bool)]| {
            // Whoever has a higher pid began later.
            let now = now.iter().map(|(pid, ends)| ((*pid, if *pid > 2 { 99 } else { 10 }), *ends));
            has_reloaded(&before, &now.collect())
        };
        assert!(!done(&[(1, false), (2, false)]));
        assert!(!done(&[(1, false), (3, false)]), "one has crashed, and is there again");
        assert!(done(&[(1, true), (2, true), (3, false)]));
        assert!(done(&[(1, false), (2, false), (3, false), (4, false)]), "not told yet to end");
        assert!(done(&[(3, false)]), "those of before had nobody left");
        assert!(!done(&[(1, true), (2, true)]));
        assert!(!done(&[(1, true), (2, true), (3, true)]));
        assert!(has_reloaded(&before, &BTreeMap::from([((1, 11), false)])), "the pid alone says nothing");
        assert_eq!(ends("nginx: worker process"), Some(false));
        assert_eq!(ends("nginx: worker process is shutting down"), Some(true));
        assert_eq!(ends("nginx: cache manager process"), None);
    }

    /// What somebody's process calls itself is not read.
    #[test]
    fn processes_of_others_are_known_by_their_programs() {
        if !nix::unistd::Uid::current().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nginx");
        fs::copy("/bin/sleep", &program).unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let start = |arg0: &str, program: &Path| {
            Command::new(program).arg0(arg0).arg("60").uid(4242).spawn().unwrap()
        };
        let mut all = [
            start("nginx: master process x", &program),
            start("nginx: master process x", Path::new("/bin/sleep")),
        ];
        let found = all.each_ref().map(|child| inspect(child.id()));
        for child in &mut all {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(matches!(found, [Some(Err(Distrust::User { uid: 4242 })), None]), "{found:?}");
    }
}
