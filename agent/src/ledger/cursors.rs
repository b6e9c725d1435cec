//! How far the counters of services were taken over, in the transaction that has their bytes.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    commit::Tick,
    error::CommitError,
    model::{Anomaly, AnomalyKind, InboundNo, Origin, ReportedRow, ServiceProgress},
};
use crate::core::counters::{Before, COUNTER_MAX, Cursor, Document, Key, Life};

impl Tick<'_> {
    /// Bytes and cursors of a service; nothing of either if the ledger has this reading or a later one already.
    pub(super) fn service(&mut self, reporter: [u8; 16], of: &ServiceProgress) -> rusqlite::Result<()> {
        let ServiceProgress { service, origin, inbound, progress } = of;
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
                "INSERT INTO services VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
                     ON CONFLICT DO UPDATE SET
                     kind = ?2, status = ?3, boot = ?4, pid = ?5, started_ms = ?6, loaded_ms = ?7, answered_ms = ?8,
                     requests = ?9, counted = ?10, reporter = ?11, reading = ?12, at_ms = ?13, rev = ?14",
            )?
            .execute(params![
                &**service,
                &*origin.kind,
                &*origin.status,
                progress.life.map(|life| life.boot),
                progress.life.map(|life| life.pid),
                progress.life.map(|life| life.started_ms),
                progress.document.map(|document| signed(document.loaded_ms)),
                progress.document.map(|document| signed(document.at_ms)),
                progress.document.and_then(|document| document.requests).map(signed),
                progress.document.and_then(|document| document.counted).map(signed),
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
            "INSERT INTO service_cursors VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                 upload = ?3, download = ?4, vanished = ?5",
        )?;
        for (key, cursor) in &of.progress.cursors {
            match cursor {
                // Readings have no higher ones.
                Some(Cursor { bytes, vanished }) => {
                    let [upload, download] =
                        bytes.map(|value| i64::try_from(value.min(COUNTER_MAX)).unwrap_or(i64::MAX));
                    moved.execute(params![&*of.service, key, upload, download, vanished])?;
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

/// Nothing is known any more of services but these. One that is reported again later begins with a baseline: what it
/// counts meanwhile is counted by the kernel, or by nobody.
pub(super) fn keep(transaction: &Transaction<'_>, services: &[Arc<str>]) -> rusqlite::Result<()> {
    let known: Vec<String> = transaction
        .prepare("SELECT name FROM services")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in known.iter().filter(|name| !services.iter().any(|kept| **kept == ***name)) {
        transaction.execute("DELETE FROM service_cursors WHERE service = ?1", [name])?;
        transaction.execute("DELETE FROM services WHERE name = ?1", [name])?;
    }
    Ok(())
}

/// What is known of a service; `None`: it was never seen, or another one of this name was.
pub(super) fn before(
    connection: &Connection,
    service: &str,
    origin: &Origin,
) -> Result<Option<Before>, CommitError> {
    let known = connection
        .query_row(
            "SELECT boot, pid, started_ms, loaded_ms, answered_ms, requests, counted FROM services
             WHERE name = ?1 AND kind = ?2 AND status = ?3",
            params![service, &*origin.kind, &*origin.status],
            |row| {
                let boot: Option<[u8; 16]> = row.get(0)?;
                let life = match boot {
                    Some(boot) => Some(Life { boot, pid: row.get(1)?, started_ms: row.get(2)? }),
                    None => None,
                };
                let (loaded, at): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                let (requests, counted): (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
                let document = loaded.zip(at).map(|(loaded, at)| Document {
                    loaded_ms: unsigned(loaded),
                    at_ms: unsigned(at),
                    requests: requests.map(unsigned),
                    counted: counted.map(unsigned),
                });
                Ok((life, document))
            },
        )
        .optional()?;
    let Some((life, document)) = known else { return Ok(None) };
    let mut statement = connection
        .prepare("SELECT key, upload, download FROM service_cursors WHERE service = ?1 AND vanished = ?2")?;
    let mut counters = |vanished: bool| {
        let rows = statement.query_map(params![service, vanished], |row| {
            Ok((row.get::<_, Key>(0)?, [unsigned(row.get(1)?), unsigned(row.get(2)?)]))
        })?;
        rows.collect::<rusqlite::Result<HashMap<_, _>>>()
    };
    Ok(Some(Before { life, document, cursors: counters(false)?, floors: counters(true)? }))
}
