//! Consistent copies of a ledger that is in use.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rusqlite::{Connection, backup::Backup};

use super::error::CommitError;

/// Pages copied at a time: all of them, since the writer is the only one who changes them and waits.
const PAGES_PER_STEP: i32 = i32::MAX;

pub(super) fn backup(connection: &Connection, to: &Path) -> Result<(), CommitError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|error| {
        CommitError::Refused(format!("the backup {} cannot be made: {error}", to.display()))
    })?;
    let result = copy(connection, to);
    if result.is_err() {
        // Half a backup must not be mistaken for one.
        let _ = std::fs::remove_file(to);
    }
    result
}

fn copy(connection: &Connection, to: &Path) -> Result<(), CommitError> {
    let mut target = Connection::open(to)?;
    Backup::new(connection, &mut target)?.run_to_completion(PAGES_PER_STEP, Duration::ZERO, None)?;
    // A copy is one file: readable anywhere without side files, also from a read-only directory.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    Ok(())
}
