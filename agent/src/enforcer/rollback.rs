//! Takes back what a proxy did not come up with: the texts that it ran with are put back, file by file, and
//! it is told to read them, or started again where it has ended. What somebody has edited by hand meanwhile
//! is kept, and said where.

use std::path::PathBuf;

use super::{
    backups::{Backups, Running},
    editor::{EditError, Editor},
    reload::{self, Reload},
    swap,
};
use crate::{
    fault,
    singbox::{
        files::{self, FileText},
        process::Process,
    },
};

/// A file that is put back if sing-box does not come up with what it says now.
pub(super) struct Back {
    pub path: PathBuf,
    /// Hash of what boxmeter has written; another text is somebody else's.
    pub written: [u8; 32],
    /// boxmeter has written nothing into it.
    pub untouched: bool,
    /// Of an edit by hand that was made between two of boxmeter's: it is among the kept versions.
    pub by_hand: Option<[u8; 32]>,
    pub good: String,
    /// Where the good text is kept.
    pub kept: Option<PathBuf>,
}

/// Told what the files say and what they are to say again, before they are put back: whoever is let in by the one
/// and not by the other must not be lost, and who is out of the one must not be taken for somebody new.
pub type Saving<'a> = &'a dyn Fn(&[FileText], &[FileText]) -> Result<(), String>;

/// What became of the files.
#[derive(Default)]
pub(super) struct Outcome {
    /// Why one is not as it was.
    stuck: Vec<String>,
    /// Where edits by hand are kept that are not in the files any more.
    by_hand: Vec<PathBuf>,
}

impl Outcome {
    /// As one error.
    pub fn error(self, failure: String, back: &[Back], mut after: String) -> EditError {
        let names = |paths: &mut dyn Iterator<Item = &PathBuf>| {
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        if !self.by_hand.is_empty() {
            after = format!(
                "{after}; what was edited by hand since is in the files no more, but kept in {}",
                names(&mut self.by_hand.iter())
            );
        }
        if self.stuck.is_empty() {
            return EditError::RolledBack { failure, after };
        }
        let kept = names(&mut back.iter().filter_map(|back| back.kept.as_ref()));
        let backup = if kept.is_empty() { "no backup".to_owned() } else { kept };
        EditError::Stuck { failure, error: self.stuck.join("; "), backup, after }
    }
}

/// Puts every file back that can be. A text that boxmeter did not write stays where sing-box lives; where it has
/// ended, that text may be what has ended it: it is kept beside, and the good one put back, since a server that
/// is down is worse than an edit to be made again.
pub(super) fn put_back(back: &[Back], backups: Option<&Backups>, dead: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for (at, file) in back.iter().enumerate() {
        if at > 0 {
            fault::point("putting-back-next");
        }
        match put_back_one(file, backups, dead) {
            Ok(by_hand) => outcome.by_hand.extend(by_hand),
            Err(why) => outcome.stuck.push(why),
        }
    }
    outcome
}

/// Where a text by hand is kept that is gone from the file with that.
fn put_back_one(file: &Back, backups: Option<&Backups>, dead: bool) -> Result<Option<PathBuf>, String> {
    let now = files::read_file(&file.path).map_err(|error| error.to_string())?;
    if now.sha256 == swap::sha256(file.good.as_bytes()) {
        return Ok(None);
    }
    let aside = |hash| {
        let kept = backups.map(|backups| backups.keep_aside(&file.path, hash));
        kept.transpose().map_err(|error| error.to_string())
    };
    let mut by_hand = match &file.by_hand {
        Some(hash) => aside(hash)?,
        None => None,
    };
    if now.sha256 != file.written {
        match (dead, backups) {
            (false, _) if file.untouched => return Ok(None),
            (true, Some(backups)) => {
                backups.keep(&now).map_err(|error| error.to_string())?;
                by_hand = aside(&now.sha256)?;
            }
            _ => {
                return Err(format!(
                    "{} was edited by hand after boxmeter had written it, and was left as it is",
                    file.path.display()
                ));
            }
        }
    } else if let Some(backups) = backups
        // It has entries that are nowhere else.
        && let Err(error) = backups.keep(&now)
    {
        tracing::warn!("keeping {} as it was before it is put back: {error}", file.path.display());
    }
    swap::replace(&file.path, now.sha256, file.good.as_bytes()).map_err(|error| error.to_string())?;
    Ok(by_hand)
}

impl Editor {
    /// What a note says of files that are to be put back.
    pub(super) fn back_of(&self, backups: &Backups, running: &Running) -> Result<Vec<Back>, EditError> {
        let mut back = Vec::new();
        for (path, file) in &running.files {
            back.push(Back {
                path: path.clone(),
                written: file.written,
                untouched: file.written == file.loaded,
                by_hand: file.by_hand,
                good: backups.text(path, &file.loaded)?,
                kept: Some(backups.path(path, &file.loaded)),
            });
        }
        Ok(back)
    }

    /// After a reload that failed: the files, then sing-box.
    pub(super) fn roll_back(
        &self,
        process: &Process,
        back: &[Back],
        failure: String,
        saving: Saving<'_>,
    ) -> EditError {
        fault::point("putting-back");
        self.save(back, saving);
        let backups = self.backups();
        let dead = !process.alive();
        let outcome = put_back(back, backups.as_ref(), dead);
        let after = match dead || !process.alive() {
            true => self.start_again(process.unit.as_deref()),
            false => self.tell_again(process, &outcome),
        };
        self.note_told(false);
        outcome.error(failure, back, after)
    }

    /// A server that is down is worse than what cannot be saved now: the texts are kept in any case.
    fn save(&self, back: &[Back], saving: Saving<'_>) {
        let saved = self
            .service
            .read(&self.config)
            .map_err(|error| error.to_string())
            .and_then(|now| saving(&now, &before(&now, back)));
        if let Err(error) = saved {
            tracing::error!("noting whom the files let in, before they are put back: {error}");
        }
    }

    /// Where not every file could be put back they must be good together before sing-box reads them.
    fn tell_again(&self, process: &Process, outcome: &Outcome) -> String {
        let program = self.service.kind.title();
        if !outcome.stuck.is_empty()
            && let Err(error) = self.check(&[])
        {
            return format!(", and {program} was not told to read the files as they are now ({error})");
        }
        match self.tell(process) {
            Ok(()) => format!(" and {program} was told to read it"),
            Err(error) => {
                format!(", but {program} could not be told to read it ({error}); do it by hand")
            }
        }
    }

    /// An agent before this one has told sing-box to read its files and did not live to see it end of that: the
    /// texts that it ran with are put back now, and it is started again. `None`: there is nothing of the kind.
    pub fn recover(&self, saving: Saving<'_>) -> Result<Option<EditError>, EditError> {
        let Some(backups) = self.backups() else { return Ok(None) };
        let Some(note) = backups.running()?.filter(|note| note.told) else { return Ok(None) };
        if self.process.is_some() || crate::singbox::process::is_alive(note.process) {
            return Ok(None);
        }
        if reload::was_stopped(note.unit.as_deref()) {
            self.note_told(false);
            return Ok(None);
        }
        let back = self.back_of(&backups, &note)?;
        self.save(&back, saving);
        let outcome = put_back(&back, Some(&backups), true);
        let after = self.start_again(note.unit.as_deref());
        self.note_told(false);
        let failure = format!(
            "{} was told to read its files and has ended, and boxmeter ended before it saw that",
            self.service.kind.title()
        );
        Ok(Some(outcome.error(failure, &back, after)))
    }

    /// Notes that sing-box is being told to read its files, or what came of that.
    pub(super) fn note_told(&self, told: bool) {
        let Some(backups) = self.backups() else { return };
        let note = || {
            let Some(mut running) = backups.running()? else { return Ok(()) };
            if running.told == told {
                return Ok(());
            }
            running.told = told;
            backups.note(&running)
        };
        // Without it only an agent that is killed in these seconds does not know what to put back.
        let done: Result<(), swap::SwapError> = note();
        if let Err(error) = done {
            tracing::warn!("noting that sing-box is told to read its files: {error}");
        }
    }

    /// What is noted of a process that sing-box has followed is forgotten once that has lived for a while.
    pub fn settled(&self) -> Result<(), EditError> {
        let (Some(backups), Some(process)) = (self.backups(), self.running_process()) else { return Ok(()) };
        match backups.running()? {
            Some(note) if !note.concerns(process) && process.age() >= reload::SETTLES => {
                Ok(backups.forget()?)
            }
            _ => Ok(()),
        }
    }

    /// Whether sing-box can be told anything.
    pub(super) fn running_process(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.alive())
    }

    /// Did a reload not come to pass because somebody has stopped sing-box? `told`: the signal reached it.
    pub(super) fn was_stopped(&self, process: &Process, told: bool) -> bool {
        let signalled = match self.reload {
            Reload::Signal => true,
            Reload::Auto => process.unit.is_none(),
            _ => false,
        };
        !process.alive() && (!told && signalled || reload::was_stopped(process.unit.as_deref()))
    }
}

/// The files with the good texts in them.
pub(super) fn before(now: &[FileText], back: &[Back]) -> Vec<FileText> {
    let mut before = now.to_vec();
    for file in &mut before {
        if let Some(back) = back.iter().find(|back| back.path == *file.path) {
            file.text.clone_from(&back.good);
        }
    }
    before
}
