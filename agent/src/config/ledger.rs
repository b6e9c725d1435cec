//! `[ledger]`: where it is, how often it is written, and its backups.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::values::{AutoPath, duration, duration_or_never};

/// A tick is one transaction with one flush to the disk: more than ten a second gain nothing.
const TICK_MIN: Duration = Duration::from_millis(100);
/// The kernel's table of ended flows must be drained before it is full.
const TICK_MAX: Duration = Duration::from_secs(60);
/// More often would be nothing but copying.
const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    pub path: PathBuf,
    #[serde(with = "duration")]
    pub tick: Duration,
    /// `never`: the agent makes no backups.
    #[serde(with = "duration_or_never")]
    pub backup_every: Option<Duration>,
    /// `auto`: `backups` beside the ledger.
    pub backup_directory: AutoPath,
    /// Backups that are kept, the newest.
    pub backup_keep: u32,
    /// Older ones go, but for the newest of all.
    #[serde(with = "duration")]
    pub backup_keep_for: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Ledger {
            path: PathBuf::from("/var/lib/boxmeter/ledger.db"),
            tick: Duration::from_secs(1),
            backup_every: Some(day),
            backup_directory: AutoPath::Auto,
            backup_keep: 7,
            backup_keep_for: 30 * day,
        }
    }
}

impl Ledger {
    /// Where scheduled backups go.
    pub fn backups(&self) -> PathBuf {
        match &self.backup_directory {
            AutoPath::Path(path) => path.clone(),
            AutoPath::Auto => self.path.parent().unwrap_or(Path::new("/")).join("backups"),
        }
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(TICK_MIN..=TICK_MAX).contains(&self.tick) {
            return Err(("ledger.tick", "must be between 100ms and 60s".to_owned()));
        }
        if !self.path.is_absolute() {
            return Err(("ledger.path", "must be an absolute path".to_owned()));
        }
        if self.backup_every.is_some_and(|every| every < BACKUP_EVERY_MIN) {
            return Err(("ledger.backup_every", "must be at least 1m, or \"never\"".to_owned()));
        }
        if self.backup_keep == 0 {
            let text = "must be at least 1; backup_every = \"never\" makes none";
            return Err(("ledger.backup_keep", text.to_owned()));
        }
        Ok(())
    }
}
