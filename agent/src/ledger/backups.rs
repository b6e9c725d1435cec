//! The directory of scheduled backups: when one is due, and which are old enough to go. Names tell what was made
//! here and when; nothing else in the directory is touched.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::backup::{BackedUp, BackupError, LEFT_FREE, PARTIAL, backup, room};

/// A copy that is not done by then was left by somebody who died.
const PARTIAL_KEPT_MS: i64 = 24 * 3_600_000;

const NAME: &str = "ledger-%Y%m%dT%H%M%SZ.db";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backups {
    pub directory: PathBuf,
    pub every: Duration,
    /// The newest ones that are kept.
    pub keep: usize,
    /// Older ones go, but for the newest of all.
    pub keep_for: Duration,
}

/// What a round of it did.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    pub path: PathBuf,
    pub backup: BackedUp,
    /// Old ones that are gone.
    pub removed: usize,
}

impl Backups {
    /// When the newest backup was made. One that is said to be of the future was made by a clock that was wrong,
    /// and keeps no other from being made.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn newest(&self, now_ms: i64) -> io::Result<Option<i64>> {
        Ok(self.list()?.into_iter().map(|(at_ms, _)| at_ms).filter(|at_ms| *at_ms <= now_ms).max())
    }

    /// When the next one is to be made: now, if there is none.
    ///
    /// # Errors
    /// As [`Backups::newest`].
    pub fn due_ms(&self, now_ms: i64) -> io::Result<i64> {
        let every = i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX);
        Ok(self.newest(now_ms)?.map_or(now_ms, |at_ms| at_ms.saturating_add(every)))
    }

    /// Makes one, and then removes those that are old. See [`backup`] for `go_on`.
    ///
    /// # Errors
    /// See [`BackupError`]; then nothing is removed either.
    pub fn make(
        &self,
        ledger: &Path,
        now_ms: i64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(Made, io::Result<()>), BackupError> {
        let refused = |error: io::Error| BackupError::Other {
            path: self.directory.clone(),
            detail: format!("its directory: {error}"),
        };
        self.make_directory().map_err(refused)?;
        let path = self.directory.join(name_of(now_ms).map_err(refused)?);
        // First: a full disk is often full of them.
        self.sweep(now_ms).map_err(refused)?;
        room(ledger, &path, LEFT_FREE)?;
        let backup = backup(ledger, &path, false, go_on)?;
        let mut made = Made { path, backup, removed: 0 };
        let pruned = self.prune(now_ms, &made.path).map(|removed| made.removed = removed);
        Ok((made, pruned))
    }

    fn make_directory(&self) -> io::Result<()> {
        if !self.directory.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&self.directory)?;
        }
        Ok(())
    }

    /// Those made here, with their times, the oldest first.
    fn list(&self) -> io::Result<Vec<(i64, PathBuf)>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(at_ms) = time_of(&entry.file_name())
                && entry.file_type()?.is_file()
            {
                list.push((at_ms, entry.path()));
            }
        }
        list.sort();
        Ok(list)
    }

    /// Those that a wrong clock has named for times to come neither go nor keep others from staying, and the one
    /// just made stays whatever its name says.
    fn prune(&self, now_ms: i64, made: &Path) -> io::Result<usize> {
        let mut list = self.list()?;
        list.retain(|(at_ms, _)| *at_ms <= now_ms);
        let oldest = now_ms.saturating_sub(i64::try_from(self.keep_for.as_millis()).unwrap_or(i64::MAX));
        let (count, mut removed, mut too_old) = (list.len(), 0, 0);
        for (index, (at_ms, path)) in list.into_iter().enumerate() {
            let newer = count - 1 - index;
            let many = newer >= self.keep;
            // By age one in a round: a clock that is wrong for a moment costs no more.
            if newer > 0 && path != made && (many || (at_ms < oldest && too_old == 0)) {
                fs::remove_file(path)?;
                removed += 1;
                too_old += usize::from(!many);
            }
        }
        Ok(removed)
    }

    /// Copies that nobody will complete.
    fn sweep(&self, now_ms: i64) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|it| it.starts_with(PARTIAL[0]) && it.ends_with(PARTIAL[1]));
            if !ours {
                continue;
            }
            let written = Timestamp::try_from(entry.metadata()?.modified()?).map_err(io::Error::other)?;
            if now_ms.saturating_sub(written.as_millisecond()) > PARTIAL_KEPT_MS {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn name_of(at_ms: i64) -> io::Result<String> {
    let at = Timestamp::from_millisecond(at_ms).map_err(io::Error::other)?;
    Ok(at.to_zoned(TimeZone::UTC).strftime(NAME).to_string())
}

/// The time in a name that is exactly as [`name_of`] makes it.
fn time_of(name: &OsStr) -> Option<i64> {
    let name = name.to_str()?;
    let at = DateTime::strptime(NAME, name).ok()?.to_zoned(TimeZone::UTC).ok()?;
    let at_ms = at.timestamp().as_millisecond();
    (name_of(at_ms).ok()? == name).then_some(at_ms)
}
