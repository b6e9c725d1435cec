//! Changes a proxy's configuration like a transaction: check a copy with the running executable, replace the
//! files; then, at once or later, have the proxy read them (sing-box by a reload, V2Ray and Xray by a restart)
//! and see that it is healthy, else put the last good version back and say so.

use std::{collections::btree_map::Entry, fmt, io, path::PathBuf};

use super::{
    added::Added,
    backups::{Backups, Moment, Running, RunningFile},
    reload::ports,
    rollback::{self, Back, Saving},
    swap::{self, SwapError},
};
use crate::{
    fault,
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
        "{failure}; and the old configuration could not be put back whole ({error}): the old text is in {backup}{after}"
    )]
    Stuck { failure: String, error: String, backup: String, after: String },
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
pub struct Editor {
    pub service: Service,
    /// `config` of `[singbox]` or of the `[[service]]`.
    pub config: Vec<PathBuf>,
    /// `None`: not running; then there is nothing to reload.
    pub process: Option<Process>,
    /// The one that ran before, where none does: its executable is likely to be the next one's.
    pub last: Option<Process>,
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

impl Editor {
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
        let back: Vec<Back> = back_to(edits, old, &backups);
        let reloaded = self.activate(&back, &mut healthy, &|_, _| Ok(()))?;
        Ok(Applied { reloaded, backups })
    }

    /// Checks and swaps: sing-box goes on with what it has until the next reload or restart. All files
    /// change or none. The text that sing-box runs with is kept until `reload` or `loaded`. Returns
    /// where the texts are kept that were replaced.
    pub fn write(&self, edits: &[Edit]) -> Result<Vec<PathBuf>, EditError> {
        let old = self.old_texts(edits)?;
        self.check(edits)?;
        let Some(backups) = self.backups() else { return self.swap(edits, old, &[]).map(|()| Vec::new()) };
        let kept = old.iter().map(|file| backups.keep(file)).collect::<Result<Vec<_>, _>>()?;
        let before = backups.running()?;
        let mut running = self.running_after(&backups, edits, &old)?;
        backups.note(&running)?;
        let done = self.swap(edits, old, &kept);
        running.written_at = Some(Moment::now());
        // Nothing is as written where it failed, but for what could not be put back. A note that says too much
        // costs a reload and loses nothing.
        let noted = match (&done, before) {
            (Ok(()) | Err(EditError::Stuck { .. }), _) => backups.note(&running),
            (Err(_), Some(before)) => backups.note(&before),
            (Err(_), None) => backups.forget(),
        };
        if let Err(error) = noted {
            tracing::warn!("noting what sing-box has not read: {error}");
        }
        done.map(|()| kept)
    }

    /// All files or none.
    fn swap(&self, edits: &[Edit], old: Vec<FileText>, kept: &[PathBuf]) -> Result<(), EditError> {
        for (done, edit) in edits.iter().enumerate() {
            if done > 0 {
                fault::point("written-one");
            }
            if let Err(error) = swap::replace(&edit.path, edit.expected, edit.content.as_bytes()) {
                if done == 0 {
                    return Err(error.into());
                }
                let back = back_to(&edits[..done], old, kept);
                let outcome = rollback::put_back(&back, self.backups().as_ref(), false);
                return Err(outcome.error(error.to_string(), &back, String::new()));
            }
        }
        Ok(())
    }

    /// Makes sing-box read what was written since it last did, and sees that it is healthy; else the
    /// texts that it ran with are put back, and it is told to read those. Did it reload? Not, if it does not
    /// run: it reads its files when it starts.
    pub fn reload(&self, healthy: impl FnMut() -> Result<(), String>) -> Result<bool, EditError> {
        self.reload_saving(healthy, &|_, _| Ok(()))
    }

    /// The same, with something to do before texts are put back.
    pub fn reload_saving(
        &self,
        mut healthy: impl FnMut() -> Result<(), String>,
        saving: Saving<'_>,
    ) -> Result<bool, EditError> {
        if self.running_process().is_none() || self.is_by_hand() {
            return Ok(false);
        }
        // What was edited by hand meanwhile comes into force too.
        self.check(&[]).map_err(|error| match error {
            EditError::Refused { program, why } => EditError::RefusedNow { program, why },
            other => other,
        })?;
        let back = match self.backups() {
            Some(backups) => self.back_of(&backups, &self.running(&backups)?)?,
            None => Vec::new(),
        };
        self.activate(&back, &mut healthy, saving)
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
        // Also where another sing-box runs by now: it may have been started on what was put back.
        let files = backups.running()?.unwrap_or_default().files.into_values();
        Ok(files.filter(|file| file.loaded != file.written).map(|file| file.loaded).collect())
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

    pub(super) fn backups(&self) -> Option<Backups> {
        self.backups.clone().map(Backups::new)
    }

    /// What this process runs with; nothing is known of another one.
    fn running(&self, backups: &Backups) -> Result<Running, EditError> {
        let Some(process) = &self.process else { return Ok(Running::default()) };
        let running = backups.running()?.filter(|running| running.concerns(process)).unwrap_or_default();
        let unit = process.unit.clone();
        Ok(Running { process: (process.pid, process.start_ticks), unit, told: false, ..running })
    }

    fn running_after(
        &self,
        backups: &Backups,
        edits: &[Edit],
        old: &[FileText],
    ) -> Result<Running, EditError> {
        let mut running = self.running(backups)?;
        let unchanged = |sha256| RunningFile { loaded: sha256, written: sha256, by_hand: None };
        if self.process.is_some() {
            // The others too: an edit by hand in any of them may be what sing-box does not come up with.
            for file in self.service.read(&self.config)? {
                if let Entry::Vacant(place) = running.files.entry(file.path.as_ref().clone()) {
                    backups.keep(&file)?;
                    place.insert(unchanged(file.sha256));
                }
            }
        }
        for (edit, old) in edits.iter().zip(old) {
            let file = running.files.entry(edit.path.clone()).or_insert_with(|| unchanged(old.sha256));
            if old.sha256 != file.written && old.sha256 != file.loaded {
                file.by_hand = Some(old.sha256);
            }
            file.written = swap::sha256(edit.content.as_bytes());
        }
        running.written_at = None;
        Ok(running)
    }

    fn old_texts(&self, edits: &[Edit]) -> Result<Vec<FileText>, EditError> {
        Ok(edits.iter().map(|edit| files::read_file(&edit.path)).collect::<Result<_, _>>()?)
    }

    /// Reloads; puts back what is not healthy.
    fn activate(
        &self,
        back: &[Back],
        healthy: &mut impl FnMut() -> Result<(), String>,
        saving: Saving<'_>,
    ) -> Result<bool, EditError> {
        let Some(process) = self.running_process().filter(|_| !self.is_by_hand()) else {
            return Ok(false);
        };
        let now = self.service.read(&self.config)?;
        // With those of the new text too: a port that another process holds must not look like ours.
        let ports = [ports(&rollback::before(&now, back)), ports(&now)].concat();
        let listeners = process.listeners(&ports);
        self.note_told(true);
        let mut told = false;
        let result = self.tell(process).and_then(|()| {
            told = true;
            fault::point("told");
            self.wait(process, &listeners, healthy)
        });
        let Err(failure) = result else {
            self.loaded()?;
            return Ok(true);
        };
        if self.was_stopped(process, told) {
            self.note_told(false);
            return Ok(false);
        }
        let process = &self.of_now(process);
        if back.is_empty() || process.alive() && back.iter().all(|back| back.untouched) {
            self.note_told(false);
            let after =
                if process.alive() { String::new() } else { self.start_again(process.unit.as_deref()) };
            return Err(EditError::NothingToPutBack(failure + &after));
        }
        Err(self.roll_back(process, back, failure, saving))
    }
}

/// The texts from before some edits.
fn back_to(edits: &[Edit], old: Vec<FileText>, kept: &[PathBuf]) -> Vec<Back> {
    let back = |(at, (edit, old)): (usize, (&Edit, FileText))| Back {
        path: edit.path.clone(),
        written: swap::sha256(edit.content.as_bytes()),
        untouched: false,
        by_hand: None,
        good: old.text,
        kept: kept.get(at).cloned(),
    };
    edits.iter().zip(old).enumerate().map(back).collect()
}
