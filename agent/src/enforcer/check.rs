//! The check of a copy of the configuration with the edits in it, by the executable that runs: `sing-box check`,
//! `v2ray -test` or `v2ray test`, `xray run -test`.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sched::{CloneFlags, setns};

use super::{
    command::{run, told},
    editor::{Edit, EditError, Editor},
};
use crate::{
    service::Kind,
    singbox::{
        files::FileText,
        process::{self, Process},
    },
};

impl Editor {
    /// Has the proxy check a copy of all files with the edits in it.
    pub fn check(&self, edits: &[Edit]) -> Result<(), EditError> {
        let program = self.service.kind.title();
        let failed = |error| EditError::Check { program, error };
        let files = self.service.read(&self.config)?;
        if let Some(edit) = edits.iter().find(|edit| !files.iter().any(|file| *file.path == edit.path)) {
            return Err(EditError::NotAFile(edit.path.clone()));
        }
        let copies = Copies::make(&files, edits, self.running_process()).map_err(failed)?;
        let output = self.check_command(&copies).and_then(|mut command| run(&mut command)).map_err(failed)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(EditError::Refused { program, why: copies.rename(&told(&output)) }),
        }
    }

    fn check_command(&self, copies: &Copies) -> io::Result<Command> {
        let running = self.running_process();
        let mut command = match (&self.binary, running) {
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
            (None, None) => Command::new(self.executable_of_before()?),
        };
        let (words, option) = self.check_words()?;
        command.args(words);
        for file in &copies.seen {
            command.arg(option).arg(file);
        }
        // Certificates may be named relative to where sing-box runs. Not for another mount namespace,
        // whose directory is entered in the child.
        let before = self.before().map(|process| &process.cwd).filter(|cwd| cwd.is_dir());
        match running {
            Some(process) if process.other_mount_ns => {}
            Some(process) => drop(command.current_dir(process.proc("cwd"))),
            None => drop(before.map(|cwd| command.current_dir(cwd))),
        }
        Ok(command)
    }

    /// The sing-box that ran before, where none does; not one whose files are not this process's.
    fn before(&self) -> Option<&Process> {
        self.process.as_ref().or(self.last.as_ref()).filter(|process| !process.other_mount_ns)
    }

    /// The executable of a sing-box that does not run: the last one's, else the one that people would start.
    fn executable_of_before(&self) -> io::Result<PathBuf> {
        let exe = self.before().map(|process| process.exe.to_string_lossy().into_owned());
        let exe = exe.map(|exe| PathBuf::from(exe.trim_end_matches(" (deleted)")));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = std::env::split_paths(&path).map(|folder| folder.join(self.service.kind.program()));
        exe.into_iter().chain(named).find(|file| file.is_file()).ok_or_else(|| {
            let key = if self.service.is_singbox() { "[singbox] binary" } else { "binary` of its `[[service]]" };
            let program = self.service.kind.title();
            let what = format!(
                "{program} does not run, and its executable is not known: start it, or name the executable in `{key}`"
            );
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }
}

impl Editor {
    /// The words that ask for a check, and the option before each file.
    fn check_words(&self) -> io::Result<(&'static [&'static str], &'static str)> {
        match self.service.kind {
            Kind::Singbox => Ok((&["check", "--disable-color"], "-c")),
            Kind::Xray => Ok((&["run", "-test"], "-c")),
            Kind::V2ray => {
                let exe = match (&self.binary, self.running_process()) {
                    (Some(binary), _) => binary.clone(),
                    (None, Some(process)) => process.exe_link(),
                    (None, None) => self.executable_of_before()?,
                };
                let version = self.service.version_of(&exe)?;
                let newer = process::major_minor(&version).is_some_and(|(major, _)| major >= 5);
                Ok(if newer { (&["test"], "-c") } else { (&["-test"], "-config") })
            }
        }
    }
}

/// What folders with copies are called, before the process that made them.
const COPIES: &str = "boxmeter-check-";

/// Removes copies whose maker was killed: they hold credentials.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(COPIES)?.split_once('-'));
        if let Some((pid, _)) = maker
            && pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
        {
            // What cannot be removed now is found again at the next check.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
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
                "the proxy's container has no /tmp to check a copy in",
            ));
        }
        sweep(&parent);
        let directory = tempfile::Builder::new()
            .prefix(&format!("{COPIES}{}-", std::process::id()))
            .tempdir_in(&parent)?;
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
            let text = file.service.kind.checked_text(text);
            // Numbered, since sing-box merges in the order of the names.
            let name = format!("{at:05}.json");
            fs::write(directory.path().join(&name), text.as_bytes())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_killed_process_are_swept_and_those_of_a_living_one_stay() {
        let parent = tempfile::tempdir().unwrap();
        // Above the highest pid that Linux gives.
        let dead = parent.path().join(format!("{COPIES}4194305-abc"));
        let alive = parent.path().join(format!("{COPIES}{}-abc", std::process::id()));
        let other = parent.path().join("somebody-elses");
        for folder in [&dead, &alive, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("00000.json"), "{}").unwrap();
        }
        sweep(parent.path());
        assert!(!dead.exists());
        assert!(alive.exists() && other.exists());
    }
}
