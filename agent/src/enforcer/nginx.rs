//! nginx's users who may not connect: a file that names them, which its configuration includes once and asks
//! where it lets users in. Written whole, checked by `nginx -t`, read by a reload that drops nobody, and put
//! back as it was when nginx does not take it.
//!
//! A note says which text the running nginx has read for certain, and which text it took last. Before a text is
//! written or nginx is told, the note says that nothing is certain; what an agent leaves that dies between two
//! steps, and an nginx that began meanwhile, are made up for by the next look.

mod master;
mod text;

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use master::{Found, Master};
pub use text::{names, render};

use super::swap::{self, SwapError, sha256};
use crate::{fault, singbox::trust::Distrust};
use master::{RELOAD_LIMIT, Start};

/// Why nginx does not refuse whom it should.
#[derive(Debug, thiserror::Error)]
pub enum NginxError {
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{file}: its folder is not there; make it, and include the file in nginx's `http` block", file = .0.display())]
    NoFolder(PathBuf),
    #[error(
        "{file} is not boxmeter's, so that nothing was written: name a file in `refuse` that is not there yet, \
         or empty this one if nobody needs what is in it",
        file = .0.display()
    )]
    Foreign(PathBuf),
    #[error("several nginx run (pids {pids}); say which by `pid_file`")]
    Several { pids: String },
    #[error("{path} does not name a process; is it nginx's pid file?", path = path.display())]
    PidFile { path: PathBuf },
    #[error(
        "nginx (pid {pid}) has another root directory, as in a container: its file cannot be followed from here"
    )]
    Elsewhere { pid: u32 },
    #[error("nginx is not asked and not told anything: {0}")]
    Distrusted(Distrust),
    #[error("`nginx -t` could not be run: {0}")]
    Test(io::Error),
    #[error("`nginx -t` refuses its configuration, so that nothing was changed: {0}")]
    Refused(String),
    #[error("SIGHUP to nginx (pid {pid}): {error}")]
    Signal { pid: u32, error: io::Error },
    #[error(
        "nginx (pid {pid}) has no new workers {seconds} s after a reload, so that it goes on as before: it takes \
         longer, or its error log says why",
        seconds = RELOAD_LIMIT.as_secs()
    )]
    NotReloaded { pid: u32 },
    #[error("nginx (pid {pid}) has ended at a reload; its error log says why")]
    Ended { pid: u32 },
    #[error("{error}. The text of before could not be put back: {restore}")]
    Torn { error: Box<NginxError>, restore: Box<NginxError> },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The running nginx has read it before.
    Nothing,
    /// The running nginx has read it now.
    Reloaded,
    /// It is written, and no nginx was found that could read it: processes that call themselves so are no root's.
    Waits { ignored: Vec<String> },
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
    /// Where it is kept what nginx has read.
    pub note: PathBuf,
}

/// What is known of what nginx has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    /// Which process has read which text; `None`: nothing is certain.
    read: Option<Read>,
    /// The last text that nginx took, or that was there before boxmeter wrote one; `None`: there was no file.
    good: Option<String>,
    /// What it was told to read last, while nothing is certain.
    told: Option<Told>,
}

/// A reload that was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    text: Read,
    /// The workers that there were.
    before: BTreeSet<Start>,
}

impl Note {
    /// The workers that there were when this process was told first to read this text; `None`: it was not told.
    fn told(&self, text: &Read) -> Option<&BTreeSet<Start>> {
        self.told.as_ref().filter(|told| told.text == *text).map(|told| &told.before)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Read {
    /// Of the machine: pids and times begin anew with it.
    boot: String,
    pid: u32,
    start_ticks: u64,
    sha256: String,
}

impl Read {
    fn new(master: &Master, text: &str) -> Result<Read, NginxError> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(path).map_err(|error| io_at(path, error))?.trim().to_owned();
        let sha256 = sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Read { boot, pid: master.pid, start_ticks: master.start_ticks, sha256 })
    }
}

impl Nginx {
    /// Would [`Nginx::follow`] have nginx reload?
    ///
    /// # Errors
    /// See [`NginxError`].
    pub fn needs_reload(&self, refused: &BTreeSet<String>) -> Result<bool, NginxError> {
        let (text, _) = render(refused.iter().map(String::as_str));
        let Some(master) = self.find()? else { return Ok(false) };
        Ok(self.read()?.as_deref() != Some(&*text) || !self.has_read(&master, &text)?)
    }

    /// Makes nginx refuse these users and no others. Blocks, for as long as nginx takes; done again, it changes
    /// nothing.
    ///
    /// # Errors
    /// See [`NginxError`].
    pub fn follow(&self, refused: &BTreeSet<String>) -> Result<Followed, NginxError> {
        let (text, _) = render(refused.iter().map(String::as_str));
        let now = self.read()?;
        let found = self.look()?;
        let is_written = now.as_deref() == Some(&*text);
        let master = match found.master {
            Some(master) if is_written && self.has_read(&master, &text)? => return Ok(Followed::Nothing),
            None if is_written => return Ok(Followed::Waits { ignored: found.ignored }),
            master => master,
        };
        let noted = self.noted()?;
        let told = match &master {
            Some(master) => {
                let read = Read::new(master, &text)?;
                noted.as_ref().filter(|_| is_written).and_then(|note| note.told(&read)).cloned()
            }
            None => None,
        };
        if let (Some(master), Some(before)) = (&master, &told)
            && master.has_reloaded(before)
        {
            // It took longer than anybody waited for it.
            self.note_read(master, text)?;
            return Ok(Followed::Reloaded);
        }
        // What was written by an agent that died is no text that nginx took.
        let good = noted.map_or_else(|| now.clone(), |note| note.good);
        if told.is_none() {
            self.write_note(&Note { good: good.clone(), ..Note::default() })?;
        }
        fault::point("nginx-noted");
        if !is_written {
            self.write(now.as_deref(), &text)?;
        }
        fault::point("nginx-written");
        let Some(master) = master else { return Ok(Followed::Waits { ignored: found.ignored }) };
        if let Err(error) = self.test(&master) {
            return Err(self.restored(error, good.as_deref(), &text, || self.test(&master).is_ok()));
        }
        // What a reload has not brought about stays written, for nginx takes it; it is looked for, and tried again.
        let before = told.unwrap_or_else(|| master.workers());
        let told = Some(Told { text: Read::new(&master, &text)?, before: before.clone() });
        self.write_note(&Note { read: None, good, told })?;
        master.reload(&before)?;
        self.note_read(&master, text)?;
        Ok(Followed::Reloaded)
    }

    fn note_read(&self, master: &Master, text: String) -> Result<(), NginxError> {
        let read = Some(Read::new(master, &text)?);
        self.write_note(&Note { read, good: Some(text), told: None })
    }

    /// Whom the file refuses now; nobody, where there is none of boxmeter's.
    ///
    /// # Errors
    /// It cannot be read, or is somebody else's.
    pub fn refused(&self) -> Result<BTreeSet<String>, NginxError> {
        Ok(self.read()?.map(|text| names(&text)).unwrap_or_default())
    }

    /// Has this process read this text for certain?
    fn has_read(&self, master: &Master, text: &str) -> Result<bool, NginxError> {
        let read = self.noted()?.and_then(|note| note.read);
        Ok(read.is_some_and(|read| Read::new(master, text).is_ok_and(|now| now == read)))
    }

    /// Puts the old text back: nginx has not read the new one. Where there was none the file goes, if nginx takes its
    /// configuration without it: it would not start again with one that it refuses. If the reason is another, the
    /// file stays, and refuses whom it should.
    fn restored(
        &self,
        error: NginxError,
        good: Option<&str>,
        text: &str,
        takes: impl Fn() -> bool,
    ) -> NginxError {
        let restored = match good {
            Some(good) => self.write(Some(text), good),
            None => self.remove().and_then(|()| if takes() { Ok(()) } else { self.write(None, text) }),
        };
        match restored {
            Ok(()) => error,
            Err(restore) => NginxError::Torn { error: Box::new(error), restore: Box::new(restore) },
        }
    }

    /// The file, if it is boxmeter's.
    fn remove(&self) -> Result<(), NginxError> {
        if self.read()?.is_none() {
            return Ok(());
        }
        let at = |error| io_at(&self.file, error);
        fs::remove_file(&self.file).map_err(at)?;
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
    }

    /// The file's text.
    fn read(&self) -> Result<Option<String>, NginxError> {
        match fs::read(&self.file) {
            Ok(bytes) if !text::is_own(&bytes) => Err(NginxError::Foreign(self.file.clone())),
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_at(&self.file, error)),
        }
    }

    fn write(&self, now: Option<&str>, text: &str) -> Result<(), NginxError> {
        if now.is_some() {
            let now = fs::read(&self.file).map_err(|error| io_at(&self.file, error))?;
            if !text::is_own(&now) {
                return Err(NginxError::Foreign(self.file.clone()));
            }
            // Of what was read: somebody's hand in boxmeter's own file goes.
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
        // One that somebody has made meanwhile is not replaced.
        new.persist_noclobber(&self.file).map_err(|error| at(error.error))?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
    }

    fn noted(&self) -> Result<Option<Note>, NginxError> {
        match fs::read(&self.note) {
            // It is replaced as a whole: one that says nothing is somebody's hand, and nothing is certain.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_at(&self.note, error)),
        }
    }

    fn write_note(&self, note: &Note) -> Result<(), NginxError> {
        if self.noted()?.as_ref() == Some(note) {
            return Ok(());
        }
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
}

fn io_at(path: &Path, error: io::Error) -> NginxError {
    NginxError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nginx(folder: &Path) -> Nginx {
        Nginx {
            file: folder.join("refused.conf"),
            pid_file: Some(folder.join("no.pid")),
            binary: None,
            config: None,
            note: folder.join("notes/nginx.json"),
        }
    }

    fn refuse(nginx: &Nginx, names: &[&str]) -> Result<Followed, NginxError> {
        nginx.follow(&names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn without_nginx_the_file_is_written_and_waits() {
        let folder = tempfile::tempdir().unwrap();
        let nginx = nginx(folder.path());
        let waits = Followed::Waits { ignored: vec![] };
        for names in [&[][..], &[], &["alice"], &["alice"]] {
            assert_eq!(refuse(&nginx, names).unwrap(), waits);
        }
        assert_eq!(nginx.refused().unwrap(), BTreeSet::from(["alice".to_owned()]));
        assert_eq!(nginx.noted().unwrap(), Some(Note::default()), "nobody has read it");
        // A pid that is somebody else's now is no nginx, nor is a file that says none yet.
        for text in [std::process::id().to_string(), String::new()] {
            fs::write(folder.path().join("no.pid"), text).unwrap();
            assert_eq!(refuse(&nginx, &["alice"]).unwrap(), waits);
        }
        fs::write(folder.path().join("no.pid"), "x").unwrap();
        assert!(matches!(refuse(&nginx, &[]), Err(NginxError::PidFile { .. })));
        fs::remove_file(folder.path().join("no.pid")).unwrap();
        fs::remove_file(&nginx.file).unwrap();
        refuse(&nginx, &["alice"]).unwrap();
        assert!(fs::read_to_string(&nginx.file).unwrap().contains("alice"), "written again");
        let lost = Nginx { file: folder.path().join("gone/refused.conf"), ..nginx };
        assert!(matches!(refuse(&lost, &[]), Err(NginxError::NoFolder(_))));
    }

    #[test]
    fn a_file_that_is_not_boxmeters_is_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let nginx = nginx(folder.path());
        for text in [&b"user www-data;\nevents {}\n"[..], b"\xff", b"map $boxmeter_user $x {}"] {
            fs::write(&nginx.file, text).unwrap();
            let error = refuse(&nginx, &["alice"]).unwrap_err();
            assert!(matches!(error, NginxError::Foreign(_)), "{error}");
            assert_eq!(fs::read(&nginx.file).unwrap(), text);
        }
        fs::write(&nginx.file, "\n").unwrap();
        refuse(&nginx, &["alice"]).unwrap();
        assert!(fs::read_to_string(&nginx.file).unwrap().contains("alice"));
    }

    fn no() -> NginxError {
        NginxError::Refused("unknown \"boxmeter_user\" variable".to_owned())
    }

    /// A first text that nginx refuses is not left where nginx would not start with it.
    #[test]
    fn a_first_text_that_nginx_refuses_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let nginx = nginx(folder.path());
        refuse(&nginx, &["alice"]).unwrap();
        let text = fs::read_to_string(&nginx.file).unwrap();
        let without = || !nginx.file.exists();
        assert!(matches!(nginx.restored(no(), None, &text, without), NginxError::Refused(_)));
        assert!(!nginx.file.exists());
        // It is not the file that nginx does not take, or nginx does not start without it.
        refuse(&nginx, &["alice"]).unwrap();
        assert!(matches!(nginx.restored(no(), None, &text, || false), NginxError::Refused(_)));
        assert_eq!(fs::read_to_string(&nginx.file).unwrap(), text);
        let good = render(["bob"]).0;
        assert!(matches!(nginx.restored(no(), Some(&good), &text, || false), NginxError::Refused(_)));
        assert_eq!(fs::read_to_string(&nginx.file).unwrap(), good);
        fs::write(&nginx.file, "server {}").unwrap();
        let torn = nginx.restored(no(), None, &text, || true);
        assert!(matches!(torn, NginxError::Torn { .. }), "somebody else's is not removed");
        assert!(nginx.file.exists());
    }

    /// A reload that takes longer than anybody waits is known when it is done, also to the next agent.
    #[test]
    fn a_reload_is_looked_for_and_not_begun_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let nginx = nginx(folder.path());
        let read = |pid, sha256: &str| Read { pid, sha256: sha256.to_owned(), ..Read::default() };
        let before = BTreeSet::from([(7, 1)]);
        let told = Some(Told { text: read(5, "a"), before: before.clone() });
        let note = Note { told, ..Note::default() };
        nginx.write_note(&note).unwrap();
        let noted = nginx.noted().unwrap().unwrap();
        assert_eq!((noted.told(&read(5, "a")), noted.clone()), (Some(&before), note));
        assert_eq!(noted.told(&read(5, "b")), None, "another text");
        assert_eq!(noted.told(&read(6, "a")), None, "another process");
        assert_eq!(Note::default().told(&read(5, "a")), None);
    }
}
