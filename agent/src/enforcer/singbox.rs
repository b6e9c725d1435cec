//! Changes a proxy's configuration like a transaction: check a copy with the running executable, replace the
//! files; then, at once or later, have the proxy read them (sing-box by a reload, V2Ray and Xray by a restart)
//! and see that it is healthy, else put the last good version back and say so.

use std::{collections::BTreeMap, fmt, io, path::PathBuf};

use super::{
    added::Added,
    backups::{Backups, Running, RunningFile},
    reload::ports,
    swap::{self, SwapError},
};
use crate::{
    service::Service,
    singbox::{
        files::{self, ConfigError, FileText},
        process::Process,
    },
};

pub use super::reload::Reload;

/// Why an edit did not come to pass.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error("{0} is not among the files that the proxy reads")]
    NotAFile(PathBuf),
    #[error("{program} refuses the new configuration, so nothing was written: {why}")]
    Refused { program: &'static str, why: String },
    #[error(
        "{program} refuses its files as they are now, so it was not told to read them and goes on with what it has: {why}"
    )]
    RefusedNow { program: &'static str, why: String },
    #[error("the check of {program} cannot be run ({error}), so nothing was written")]
    Check { program: &'static str, error: io::Error },
    #[error("{failure}; the old configuration was put back{after}")]
    RolledBack { failure: String, after: String },
    #[error(
        "{0}; boxmeter has changed nothing since its files were last read, so there is no earlier version to put back: look into the proxy's log"
    )]
    NothingToPutBack(String),
    #[error(
        "{failure}; and the old configuration could not be put back ({error}): the old text is in {backup}"
    )]
    Stuck { failure: String, error: String, backup: String },
}

/// A file's new text. It holds credentials: nothing prints it.
#[derive(Clone)]
pub struct Edit {
    /// Whose file it is.
    pub service: Service,
    pub path: PathBuf,
    /// Hash of the text that the edit was made from.
    pub expected: [u8; 32],
    pub content: String,
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edit").field("path", &self.path).field("bytes", &self.content.len()).finish()
    }
}

/// A proxy, as far as its configuration is changed.
#[derive(Clone, Debug)]
pub struct Singbox {
    pub service: Service,
    /// `config` of `[singbox]` or of the `[[service]]`.
    pub config: Vec<PathBuf>,
    /// `None`: not running; then there is nothing to reload.
    pub process: Option<Process>,
    /// `binary` there; `None` (auto): the running executable in its own mount namespace.
    pub binary: Option<PathBuf>,
    pub reload: Reload,
    /// Where the last good versions of the files are kept. Without it a reload that fails later than
    /// its write cannot be taken back.
    pub backups: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub reloaded: bool,
    pub backups: Vec<PathBuf>,
}

/// A file that is put back if sing-box does not come up with what it says now.
struct Back {
    path: PathBuf,
    /// Hash of what boxmeter has written; another text is somebody else's.
    written: [u8; 32],
    good: String,
}

impl Singbox {
    /// Checks, swaps, reloads. `healthy` is asked again and again after the reload until it says yes
    /// or the time is over. A proxy reads its files only at the reload, so that several files change
    /// as one.
    pub fn apply(
        &self,
        edits: &[Edit],
        mut healthy: impl FnMut() -> Result<(), String>,
    ) -> Result<Applied, EditError> {
        let old = self.old_texts(edits)?;
        let backups = self.write(edits)?;
        let back: Vec<Back> = edits.iter().zip(old).map(|(edit, old)| back(edit, old)).collect();
        let reloaded = self.activate(&back, &backups, &mut healthy)?;
        Ok(Applied { reloaded, backups })
    }

    /// Checks and swaps: sing-box goes on with what it has until the next reload or restart. All files
    /// change or none. The text that sing-box runs with is kept until `reload` or `loaded`. Returns
    /// where the texts are kept that were replaced.
    pub fn write(&self, edits: &[Edit]) -> Result<Vec<PathBuf>, EditError> {
        let old = self.old_texts(edits)?;
        self.check(edits)?;
        let kept = match self.backups() {
            None => Vec::new(),
            Some(backups) => {
                let kept = old.iter().map(|file| backups.keep(file)).collect::<Result<Vec<_>, _>>()?;
                let running = self.running_after(&backups, edits, &old)?;
                backups.note(&running)?;
                kept
            }
        };
        for (done, edit) in edits.iter().enumerate() {
            if let Err(error) = swap::replace(&edit.path, edit.expected, edit.content.as_bytes()) {
                if done == 0 {
                    return Err(error.into());
                }
                let failure = error.to_string();
                let back: Vec<Back> =
                    edits[..done].iter().zip(old).map(|(edit, old)| back(edit, old)).collect();
                put_back(&back, &kept, &failure)?;
                return Err(EditError::RolledBack { failure, after: String::new() });
            }
        }
        Ok(kept)
    }

    /// Makes sing-box read what was written since it last did, and sees that it is healthy; else the
    /// texts that it ran with are put back, and it is told to read those. Did it reload?
    pub fn reload(&self, mut healthy: impl FnMut() -> Result<(), String>) -> Result<bool, EditError> {
        // What was edited by hand meanwhile comes into force too.
        self.check(&[]).map_err(|error| match error {
            EditError::Refused { program, why } => EditError::RefusedNow { program, why },
            other => other,
        })?;
        let (mut back, mut kept) = (Vec::new(), Vec::new());
        if let Some(backups) = self.backups() {
            for (path, file) in self.running(&backups)?.files {
                let good = backups.text(&path, &file.loaded)?;
                kept.push(backups.path(&path, &file.loaded));
                back.push(Back { path, written: file.written, good });
            }
        }
        self.activate(&back, &kept, &mut healthy)
    }

    /// sing-box was seen to read its files by itself (a restart, somebody's reload): what they say now
    /// is what it runs with.
    pub fn loaded(&self) -> Result<(), EditError> {
        match self.backups() {
            Some(backups) => Ok(backups.forget()?),
            None => Ok(()),
        }
    }

    /// Hashes of the texts that sing-box ran with before boxmeter's edits since its last reload. A file
    /// that has one was put back by boxmeter, not edited by hand.
    pub fn own_texts(&self) -> Result<Vec<[u8; 32]>, EditError> {
        let Some(backups) = self.backups() else { return Ok(Vec::new()) };
        Ok(self.running(&backups)?.files.into_values().map(|file| file.loaded).collect())
    }

    /// The files with the texts that sing-box runs with, as far as boxmeter knows.
    pub fn loaded_texts(&self) -> Result<Vec<FileText>, EditError> {
        let mut now = self.service.read(&self.config)?;
        let Some(backups) = self.backups() else { return Ok(now) };
        let running = self.running(&backups)?;
        for file in &mut now {
            if let Some(known) = running.files.get(file.path.as_ref()) {
                file.text = backups.text(&file.path, &known.loaded)?;
                file.sha256 = known.loaded;
            }
        }
        Ok(now)
    }

    /// What `doctor --fix` has put into the files, of every time.
    pub fn added(&self) -> Result<Vec<Added>, EditError> {
        self.backups().map_or(Ok(Vec::new()), |backups| Ok(backups.added()?))
    }

    /// Keeps that; before the files are written, so that a crash in between leaves a note too much.
    pub fn set_added(&self, added: &[Added]) -> Result<(), EditError> {
        self.backups().map_or(Ok(()), |backups| Ok(backups.set_added(added)?))
    }

    fn backups(&self) -> Option<Backups> {
        self.backups.clone().map(Backups::new)
    }

    /// What this process runs with; nothing is known of another one.
    fn running(&self, backups: &Backups) -> Result<Running, EditError> {
        let id = self.process.as_ref().map(|process| (process.pid, process.start_ticks));
        let running = backups.running()?.filter(|running| Some(running.process) == id);
        Ok(running.unwrap_or(Running { process: id.unwrap_or_default(), files: BTreeMap::new() }))
    }

    fn running_after(
        &self,
        backups: &Backups,
        edits: &[Edit],
        old: &[FileText],
    ) -> Result<Running, EditError> {
        let mut running = self.running(backups)?;
        for (edit, old) in edits.iter().zip(old) {
            let written = swap::sha256(edit.content.as_bytes());
            let first = RunningFile { loaded: old.sha256, written };
            running.files.entry(edit.path.clone()).or_insert(first).written = written;
        }
        Ok(running)
    }

    fn old_texts(&self, edits: &[Edit]) -> Result<Vec<FileText>, EditError> {
        Ok(edits.iter().map(|edit| files::read_file(&edit.path)).collect::<Result<_, _>>()?)
    }

    /// Reloads; puts back what is not healthy.
    fn activate(
        &self,
        back: &[Back],
        kept: &[PathBuf],
        healthy: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<bool, EditError> {
        let Some(process) = self.process.as_ref().filter(|_| !self.is_by_hand()) else {
            return Ok(false);
        };
        let now = self.service.read(&self.config)?;
        let mut before = now.clone();
        for file in &mut before {
            if let Some(back) = back.iter().find(|back| back.path == *file.path) {
                file.text.clone_from(&back.good);
            }
        }
        // With those of the new text too: a port that another process holds must not look like ours.
        let listeners = process.listeners(&[ports(&before), ports(&now)].concat());
        let result = self.tell(process).and_then(|()| self.wait(process, &listeners, healthy));
        let Err(failure) = result else {
            self.loaded()?;
            return Ok(true);
        };
        if back.is_empty() {
            return Err(EditError::NothingToPutBack(failure));
        }
        put_back(back, kept, &failure)?;
        let program = self.service.kind.title();
        // Who reads files only at a start is started by the same command as before.
        let after = match process.alive() || !self.service.is_singbox() {
            false => self.restart(process),
            true => match self.tell(process) {
                Ok(()) => format!(" and {program} was told to read it"),
                Err(error) => {
                    format!(", but {program} could not be told to read it ({error}); do it by hand")
                }
            },
        };
        Err(EditError::RolledBack { failure, after })
    }
}

fn back(edit: &Edit, old: FileText) -> Back {
    Back { path: edit.path.clone(), written: swap::sha256(edit.content.as_bytes()), good: old.text }
}

/// Only where the file is still as boxmeter has left it.
fn put_back(back: &[Back], kept: &[PathBuf], failure: &str) -> Result<(), EditError> {
    for file in back {
        let good = swap::sha256(file.good.as_bytes());
        let is_good = files::read_file(&file.path).is_ok_and(|now| now.sha256 == good);
        if is_good {
            continue;
        }
        if let Err(error) = swap::replace(&file.path, file.written, file.good.as_bytes()) {
            let names: Vec<_> = kept.iter().map(|path| path.display().to_string()).collect();
            let backup = if names.is_empty() { "no backup".to_owned() } else { names.join(", ") };
            return Err(EditError::Stuck { failure: failure.to_owned(), error: error.to_string(), backup });
        }
    }
    Ok(())
}
