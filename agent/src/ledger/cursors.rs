//! How far the counters of services were taken over, in the transaction that has their bytes.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    commit::Tick,
    error::CommitError,
    model::{Anomaly, AnomalyKind, ReportedRow, ServiceProgress},
};
use crate::core::counters::{Before, COUNTER_MAX, Key, Life};

impl Tick<'_> {
    /// Bytes and cursors of a service; nothing of either if the ledger has this reading or a later one already.
    pub(super) fn service(&mut self, reporter: [u8; 16], of: &ServiceProgress) -> rusqlite::Result<()> {
        let ServiceProgress { service, inbound, progress } = of;
        if !self.cache.inbounds.contains(inbound) {
            // Without the bytes no cursor moves: they come again.
            let slot = u32::try_from(inbound.0).unwrap_or(u32::MAX);
            self.committed.anomalies.push(Anomaly { kind: AnomalyKind::UnknownInbound, slot, generation: 0 });
            return Ok(());
        }
        let reading = i64::try_from(progress.reading).unwrap_or(i64::MAX);
        let done: Option<i64> = self
            .transaction
            .prepare_cached("SELECT reading FROM services WHERE name = ?1 AND reporter = ?2")?
            .query_row(params![&**service, reporter], |row| row.get(0))
            .optional()?;
        if done.is_some_and(|done| done >= reading) {
            return Ok(());
        }
        for &(user, total) in &progress.sums {
            self.reported_or_refused(reporter, &ReportedRow { user, inbound: *inbound, total })?;
        }
        self.transaction
            .prepare_cached(
                "INSERT INTO services VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET
                     boot = ?2, pid = ?3, started_ms = ?4, reporter = ?5, reading = ?6, at_ms = ?7, rev = ?8",
            )?
            .execute(params![
                &**service,
                progress.life.map(|life| life.boot),
                progress.life.map(|life| life.pid),
                progress.life.map(|life| life.started_ms),
                reporter,
                reading,
                self.at_ms,
                self.rev
            ])?;
        self.cursors(of)
    }

    fn cursors(&self, of: &ServiceProgress) -> rusqlite::Result<()> {
        if of.progress.anew {
            self.transaction
                .prepare_cached("DELETE FROM service_cursors WHERE service = ?1")?
                .execute([&*of.service])?;
        }
        let mut gone =
            self.transaction.prepare_cached("DELETE FROM service_cursors WHERE service = ?1 AND key = ?2")?;
        let mut moved = self.transaction.prepare_cached(
            "INSERT INTO service_cursors VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
                 upload = ?3, download = ?4",
        )?;
        for (key, cursor) in &of.progress.cursors {
            match cursor {
                // Readings have no higher ones.
                Some(cursor) => {
                    let [upload, download] =
                        cursor.map(|value| i64::try_from(value.min(COUNTER_MAX)).unwrap_or(i64::MAX));
                    moved.execute(params![&*of.service, key, upload, download])?;
                }
                None => drop(gone.execute(params![&*of.service, key])?),
            }
        }
        Ok(())
    }
}

/// What is known of a service; `None`: it was never seen.
pub(super) fn before(connection: &Connection, service: &str) -> Result<Option<Before>, CommitError> {
    let life = connection
        .query_row("SELECT boot, pid, started_ms FROM services WHERE name = ?1", [service], |row| {
            let boot: Option<[u8; 16]> = row.get(0)?;
            Ok(match boot {
                Some(boot) => Some(Life { boot, pid: row.get(1)?, started_ms: row.get(2)? }),
                None => None,
            })
        })
        .optional()?;
    let Some(life) = life else { return Ok(None) };
    let mut statement =
        connection.prepare("SELECT key, upload, download FROM service_cursors WHERE service = ?1")?;
    let rows = statement.query_map([service], |row| {
        let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok((row.get::<_, Key>(0)?, [bytes(row.get(1)?), bytes(row.get(2)?)]))
    })?;
    Ok(Some(Before { life, cursors: rows.collect::<rusqlite::Result<HashMap<_, _>>>()? }))
}
