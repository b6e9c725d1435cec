//! The statements that a tick runs thousands of times, prepared once per tick.
//!
//! Nearly always the row is there already: an update is tried first, at half the cost of an upsert.

use rusqlite::{CachedStatement, Params, Transaction};

/// Adds to a row, or makes it.
pub(super) struct Adder<'a> {
    update: CachedStatement<'a>,
    insert: CachedStatement<'a>,
}

impl<'a> Adder<'a> {
    fn new(transaction: &'a Transaction<'_>, update: &str, insert: &str) -> rusqlite::Result<Self> {
        Ok(Adder { update: transaction.prepare_cached(update)?, insert: transaction.prepare_cached(insert)? })
    }

    pub(super) fn execute(&mut self, values: impl Params + Copy) -> rusqlite::Result<()> {
        if self.update.execute(values)? == 0 {
            self.insert.execute(values)?;
        }
        Ok(())
    }
}

pub(super) struct Statements<'a> {
    /// Minute, hour, day: (start, key, four counts, rev).
    pub buckets: [Adder<'a>; 3],
    /// Minute, hour, day: (start, inbound, four counts, rev).
    pub watched: [Adder<'a>; 3],
    /// (epoch, key, four counts, rev, instant).
    pub total: Adder<'a>,
    /// (epoch, slot, generation, four counts, rev).
    pub move_cursor: CachedStatement<'a>,
    /// (epoch, slot, generation, user, inbound, four counts, rev).
    pub new_cursor: CachedStatement<'a>,
}

const COUNTS: &str = "upload_payload, download_payload, upload_wire, download_wire";

const ADD: &str = "upload_payload = upload_payload + ?3, download_payload = download_payload + ?4,
    upload_wire = upload_wire + ?5, download_wire = download_wire + ?6, rev = ?7";

impl<'a> Statements<'a> {
    pub(super) fn new(transaction: &'a Transaction<'_>) -> rusqlite::Result<Self> {
        let adder = |table: &str, subject: &str| {
            Adder::new(
                transaction,
                &format!("UPDATE {table} SET {ADD} WHERE start_ms = ?1 AND {subject} = ?2"),
                &format!(
                    "INSERT INTO {table} (start_ms, {subject}, {COUNTS}, rev)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                ),
            )
        };
        let bucket = |table: &str| adder(table, "key_no");
        let watched = |table: &str| adder(table, "inbound_no");
        Ok(Statements {
            buckets: [bucket("usage_minutes")?, bucket("usage_hours")?, bucket("usage_days")?],
            watched: [watched("watched_minutes")?, watched("watched_hours")?, watched("watched_days")?],
            total: Adder::new(
                transaction,
                &format!(
                    "UPDATE usage_totals SET {ADD}, last_ms = max(last_ms, ?8) WHERE epoch_no = ?1 AND key_no = ?2"
                ),
                &format!(
                    "INSERT INTO usage_totals (key_no, epoch_no, {COUNTS}, first_ms, last_ms, rev)
                     VALUES (?2, ?1, ?3, ?4, ?5, ?6, ?8, ?8, ?7)"
                ),
            )?,
            move_cursor: transaction.prepare_cached(
                "UPDATE cursors SET upload_payload = ?4, download_payload = ?5, upload_wire = ?6,
                     download_wire = ?7, rev = ?8 WHERE epoch_no = ?1 AND slot = ?2 AND generation = ?3",
            )?,
            new_cursor: transaction
                .prepare_cached("INSERT INTO cursors VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?,
        })
    }
}
