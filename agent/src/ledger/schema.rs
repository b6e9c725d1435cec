//! The database's schema: its versions, and what every connection is set to.

use std::{path::Path, sync::LazyLock, time::Duration};

use jiff::tz::TimeZone;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rusqlite_migration::{M, Migrations};
use uuid::Uuid;

use super::{error::LedgerError, schema_gate};

/// "boxm": tells a ledger from other SQLite files.
pub(super) const APPLICATION_ID: i64 = 0x626f_786d;

/// The version that this program writes.
pub(super) const SCHEMA: i64 = 6;

/// One entry per version, never changed once released: the n-th leads to `user_version` n.
static MIGRATIONS: LazyLock<Migrations<'static>> = LazyLock::new(|| {
    Migrations::new(vec![
        M::up(include_str!("migrations/0001_meter.sql")),
        M::up_with_hook(include_str!("migrations/0002_gate.sql"), |transaction: &Transaction<'_>| {
            Ok(schema_gate::move_users(transaction)?)
        })
        .foreign_key_check(),
        M::up(include_str!("migrations/0003_access.sql")),
        M::up(include_str!("migrations/0004_sharing.sql")),
        M::up(include_str!("migrations/0005_rules.sql")),
        M::up(include_str!("migrations/0006_notify.sql")),
    ])
});

/// Frames of the write-ahead log (4 KiB each) after which it is copied into the database: 8 MiB is
/// several ticks of a busy server, so that pages that change every tick are copied once.
const WAL_FRAMES: u32 = 2048;

/// To which the write-ahead log is cut after a reader had held it up.
const WAL_BYTES_KEPT: i64 = 16 << 20;

/// SQLite's page cache of the writer: the pages that every tick touches with 10,000 users, and far
/// below the agent's memory limit.
const CACHE_KIB: i64 = 6 * 1024;

/// Settings of the writer's connection.
pub(super) fn configure_writer(connection: &Connection, busy: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy)?;
    // Before anything is written: a file that has tables takes it over when it is made anew as a whole.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Anything less than FULL may lose the last ticks with the power, after they were said to be safe.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_FRAMES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What was overwritten is zeroed where its page is written anyway: a purge has little left to do.
    connection.pragma_update(None, "secure_delete", "FAST")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Refuses files that are not ours or come from a newer program. An empty file is fine.
pub(super) fn check_identity(connection: &Connection, path: &Path) -> Result<i64, LedgerError> {
    let ask = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|error| LedgerError::from_sqlite(path, &error))
    };
    let version = ask("user_version")?;
    let application = ask("application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| LedgerError::from_sqlite(path, &error))?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(LedgerError::NotALedger { path: path.to_owned() });
    }
    if version > SCHEMA {
        return Err(LedgerError::NewerSchema { path: path.to_owned(), found: version, known: SCHEMA });
    }
    Ok(version)
}

/// Brings the schema to this program's version.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(|error| LedgerError::from_sqlite(path, &error))?;
    // A table that others refer to can only be made anew with the keys off; what comes out is checked
    // before it is committed.
    let foreign_keys = |connection: &Connection, value: &str| {
        connection
            .pragma_update(None, "foreign_keys", value)
            .map_err(|error| LedgerError::from_sqlite(path, &error))
    };
    foreign_keys(connection, "OFF")?;
    MIGRATIONS.to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => LedgerError::from_sqlite(path, &err),
        other => LedgerError::Other { path: path.to_owned(), detail: other.to_string() },
    })?;
    foreign_keys(connection, "ON")
}

/// Writes the one row of `meta` at the first start, and notes a change of the time zone.
pub(super) fn ensure_meta(connection: &Connection, zone: &TimeZone, now_ms: i64) -> rusqlite::Result<()> {
    let name = zone_name(zone);
    let known: Option<String> =
        connection.query_row("SELECT zone FROM meta", [], |row| row.get(0)).optional()?;
    match known {
        None => connection.execute(
            "INSERT INTO meta (only_row, node_id, ledger_id, created_ms, rev, committed_ms, minutes_from_ms,
                               hours_from_ms, zone, zone_since_ms)
             VALUES (1, ?1, ?2, ?3, (SELECT max(rev) FROM policies), NULL, ?4, ?4, ?5, ?4)",
            params![Uuid::now_v7().into_bytes(), Uuid::now_v7().into_bytes(), now_ms, i64::MIN, name],
        )?,
        Some(known) if known != name => connection
            .execute("UPDATE meta SET zone = ?1, zone_since_ms = ?2, rev = rev + 1", params![name, now_ms])?,
        Some(_) => 0,
    };
    Ok(())
}

/// The zone's IANA name. A zone without one could not be found again by a reader: its hours and days
/// are kept as UTC's.
pub(super) fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// The inverse of [`zone_name`]; UTC for a zone that the machine no longer knows.
pub(super) fn zone_of(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    #[test]
    fn migrations_are_valid() {
        super::MIGRATIONS.validate().unwrap();
    }
}
