//! What a ledger was before its schema changed: a checked copy beside it, kept until somebody deletes it, so that the
//! version that wrote it can be installed again.

use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;

use super::{
    backup::{self, BackupError},
    error::LedgerError,
    open,
    reader::Reader,
    schema,
};

/// Copies of one version that are kept: whoever goes back and forth more often deletes some first.
const COPIES_MAX: u32 = 100;

/// Keeps a copy of a ledger of version `found`, if that is an older one. A start that was killed after the copy and
/// before the change finds its copy again.
///
/// # Errors
/// When there is no copy: then the schema must not be changed.
pub(super) fn keep(ledger: &Path, found: i64) -> Result<(), LedgerError> {
    // An empty file is no ledger yet.
    if found == 0 || found >= schema::SCHEMA {
        return Ok(());
    }
    let not_kept = |source| LedgerError::NotKept {
        path: ledger.to_owned(),
        found,
        known: schema::SCHEMA,
        source: Box::new(source),
    };
    let Some(copy) = place(ledger, found).map_err(not_kept)? else { return Ok(()) };
    backup::room(ledger, &copy, 0).map_err(not_kept)?;
    let made = backup::backup(ledger, &copy, false, &|| true).map_err(not_kept)?;
    tracing::info!(
        copy = %copy.display(), bytes = made.bytes, from = found, to = schema::SCHEMA,
        "the ledger as it was is kept, and its schema is changed now"
    );
    Ok(())
}

/// A name that nothing has; `None` if this very state is kept already.
fn place(ledger: &Path, version: i64) -> Result<Option<PathBuf>, BackupError> {
    let now = state(ledger)?;
    for n in 0..COPIES_MAX {
        let suffix = if n == 0 { format!(".schema-{version}") } else { format!(".schema-{version}.{n}") };
        let path = open::beside(ledger, &suffix);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(Some(path));
        }
        // One that cannot be read or is damaged is no copy of anything.
        if backup::verify(&path).is_ok() && state(&path).is_ok_and(|kept| kept == now) {
            return Ok(None);
        }
    }
    let detail = format!("there are {COPIES_MAX} copies of schema {version} beside it: delete some");
    Err(BackupError::Other { path: ledger.to_owned(), detail })
}

/// What tells one state of one ledger from every other, in every version of the schema.
fn state(path: &Path) -> Result<State, BackupError> {
    let (reader, version) = Reader::open_any(path)?;
    let asked = reader
        .connection()
        .query_row("SELECT ledger_id, rev FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional();
    // No row: whoever made it died before anything was in it.
    Ok(State { version, of: asked.map_err(|error| LedgerError::from_sqlite(path, &error))? })
}

#[derive(PartialEq, Eq)]
struct State {
    version: i64,
    of: Option<(Vec<u8>, i64)>,
}
