//! How far the counters of services were taken over, in the transaction that has their bytes.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    commit::Tick,
    error::CommitError,
    model::{Anomaly, AnomalyKind, InboundNo, ReportedRow, ServiceProgress},
};
use crate::core::counters::{Before, COUNTER_MAX, Document, Key, Life};

impl Tick<'_> {
    /// Bytes and cursors of a service; nothing of either if the ledger has this reading or a later one already.
    pub(super) fn service(&mut self, reporter: [u8; 16], of: &ServiceProgress) -> rusqlite::Result<()> {
        let ServiceProgress { service, inbound, progress } = of;
        if !self.cache.inbounds.contains(inbound) {
            self.refuse(of, AnomalyKind::UnknownInbound);
            return Ok(());
        }
        let reading = signed(progress.reading);
        let done: Option<i64> = self
            .transaction
            .prepare_cached("SELECT reading FROM services WHERE name = ?1 AND reporter = ?2")?
            .query_row(params![&**service, reporter], |row| row.get(0))
            .optional()?;
        if done.is_some_and(|done| done >= reading) {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(progress.sums.len());
        for &(user, total) in &progress.sums {
            let row = ReportedRow { user, inbound: *inbound, total };
            match self.reported_delta(reporter, &row)? {
                Ok(delta) => rows.push((row, delta)),
                // As after a backup was restored. It stays so, and must not hold up all others.
                Err(AnomalyKind::UnknownUser) => self.anomaly(*inbound, AnomalyKind::UnknownUser),
                Err(kind) => {
                    self.refuse(of, kind);
                    return Ok(());
                }
            }
        }
        // Nothing is written before all of it can be.
        for (row, delta) in &rows {
            self.add_reported(reporter, row, *delta)?;
        }
        self.transaction
            .prepare_cached(
                "INSERT INTO services VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO UPDATE SET
                     boot = ?2, pid = ?3, started_ms = ?4, loaded_ms = ?5, answered_ms = ?6, requests = ?7,
                     reporter = ?8, reading = ?9, at_ms = ?10, rev = ?11",
            )?
            .execute(params![
                &**service,
                progress.life.map(|life| life.boot),
                progress.life.map(|life| life.pid),
                progress.life.map(|life| life.started_ms),
                progress.document.map(|document| signed(document.loaded_ms)),
                progress.document.map(|document| signed(document.at_ms)),
                progress.document.and_then(|document| document.requests).map(signed),
                reporter,
                reading,
                self.at_ms,
                self.rev
            ])?;
        self.cursors(of)
    }

    /// Without the bytes no cursor moves: both come again.
    fn refuse(&mut self, of: &ServiceProgress, kind: AnomalyKind) {
        self.anomaly(of.inbound, kind);
        self.committed.services_refused.push(Arc::clone(&of.service));
    }

    fn anomaly(&mut self, inbound: InboundNo, kind: AnomalyKind) {
        let slot = u32::try_from(inbound.0).unwrap_or(u32::MAX);
        self.committed.anomalies.push(Anomaly { kind, slot, generation: 0 });
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

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What is known of a service; `None`: it was never seen.
pub(super) fn before(connection: &Connection, service: &str) -> Result<Option<Before>, CommitError> {
    let known = connection
        .query_row(
            "SELECT boot, pid, started_ms, loaded_ms, answered_ms, requests FROM services WHERE name = ?1",
            [service],
            |row| {
                let boot: Option<[u8; 16]> = row.get(0)?;
                let life = match boot {
                    Some(boot) => Some(Life { boot, pid: row.get(1)?, started_ms: row.get(2)? }),
                    None => None,
                };
                let (loaded, at): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                let requests: Option<i64> = row.get(5)?;
                let document = loaded.zip(at).map(|(loaded, at)| Document {
                    loaded_ms: unsigned(loaded),
                    at_ms: unsigned(at),
                    requests: requests.map(unsigned),
                });
                Ok((life, document))
            },
        )
        .optional()?;
    let Some((life, document)) = known else { return Ok(None) };
    let mut statement =
        connection.prepare("SELECT key, upload, download FROM service_cursors WHERE service = ?1")?;
    let rows = statement.query_map([service], |row| {
        Ok((row.get::<_, Key>(0)?, [unsigned(row.get(1)?), unsigned(row.get(2)?)]))
    })?;
    Ok(Some(Before { life, document, cursors: rows.collect::<rusqlite::Result<HashMap<_, _>>>()? }))
}
