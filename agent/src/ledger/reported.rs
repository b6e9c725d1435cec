//! Bytes that the kernel does not see on a watched socket: told by the proxy in absolute counters, or
//! by another system at an import. They are in the same rows as the counted ones, in columns of their
//! own, and each is taken over once.
//!
//! A reporter's counters begin at 0 with its id, so that a batch may be repeated or lost as any other.
//! What was taken over of each open connection is kept beside them, in the same transaction: an agent
//! that was killed finds there how far its predecessor was, and counts on from there when the proxy
//! tells the same connection again.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    commit::{COUNTER_MAX, Tick, id_bytes},
    error::CommitError,
    model::{Anomaly, AnomalyKind, InboundNo, Reported, ReportedConnection, ReportedRow},
    records::{Asked, NewEntry, Settle},
    settings, wallet,
};
use crate::core::event::UserId;

/// Connections that are remembered after their end: sing-box tells ended ones again for a while.
const ENDED_KEPT_MS: i64 = 3_600_000;
/// A connection that nothing was told of for so long belongs to a proxy that is gone.
const OPEN_KEPT_MS: i64 = 30 * 86_400_000;
/// Rows that are removed at once, so that no tick is slow.
const REMOVED_MAX: i64 = 1000;

type Pair = [i64; 2];

fn pair(total: [u64; 2]) -> Option<Pair> {
    let one = |value: u64| i64::try_from(value).ok().filter(|value| *value <= COUNTER_MAX);
    Some([one(total[0])?, one(total[1])?])
}

impl Tick<'_> {
    pub(super) fn reported(&mut self, reported: &Reported) -> rusqlite::Result<()> {
        for row in &reported.rows {
            if let Some(kind) = self.reported_row(reported.reporter, row)? {
                let slot = u32::try_from(row.inbound.0).unwrap_or(u32::MAX);
                self.committed.anomalies.push(Anomaly { kind, slot, generation: 0 });
            }
        }
        for connection in &reported.connections {
            self.reported_connection(connection)?;
        }
        if !reported.connections.is_empty() {
            self.transaction
                .prepare_cached(
                    "DELETE FROM reported_connections WHERE id IN
                         (SELECT id FROM reported_connections WHERE at_ms < CASE ended WHEN 1 THEN ?1 ELSE ?2 END
                          LIMIT ?3)",
                )?
                .execute(params![self.at_ms - ENDED_KEPT_MS, self.at_ms - OPEN_KEPT_MS, REMOVED_MAX])?;
        }
        Ok(())
    }

    fn reported_row(
        &mut self,
        reporter: [u8; 16],
        row: &ReportedRow,
    ) -> rusqlite::Result<Option<AnomalyKind>> {
        let Some(total) = pair(row.total) else { return Ok(Some(AnomalyKind::Reported)) };
        let key = match self.key(Some(row.user), row.inbound)? {
            Ok(key) => key,
            Err(kind) => return Ok(Some(kind)),
        };
        let before: Option<Pair> = self
            .transaction
            .prepare_cached(
                "SELECT upload, download FROM reported_cursors
                 WHERE reporter = ?1 AND user_id = ?2 AND inbound_no = ?3",
            )?
            .query_row(params![reporter, id_bytes(row.user), row.inbound.0], |row| {
                Ok([row.get(0)?, row.get(1)?])
            })
            .optional()?;
        let before = before.unwrap_or_default();
        let delta = [total[0] - before[0], total[1] - before[1]];
        if delta.iter().any(|delta| *delta < 0) {
            return Ok(Some(AnomalyKind::Reported));
        }
        if delta != [0; 2] {
            let place = Place { key, epoch_no: self.cache.epochs[self.epoch].no, starts: self.starts };
            add(self.transaction, &place, delta, self.at_ms, self.rev)?;
            move_cursor(self.transaction, reporter, row, total, self.rev)?;
        }
        Ok(None)
    }

    fn reported_connection(&mut self, connection: &ReportedConnection) -> rusqlite::Result<()> {
        let Some([upload, download]) = pair(connection.total) else { return Ok(()) };
        self.transaction
            .prepare_cached(
                "INSERT INTO reported_connections VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                     upload = max(upload, ?2), download = max(download, ?3), at_ms = ?4, ended = max(ended, ?5)",
            )?
            .execute(params![&*connection.id, upload, download, self.at_ms, connection.ended])?;
        Ok(())
    }
}

fn move_cursor(
    transaction: &Transaction<'_>,
    reporter: [u8; 16],
    row: &ReportedRow,
    total: Pair,
    rev: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO reported_cursors VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET
                 upload = ?4, download = ?5, rev = ?6",
        )?
        .execute(params![reporter, id_bytes(row.user), row.inbound.0, total[0], total[1], rev])?;
    Ok(())
}

/// Which rows bytes go to.
pub(super) struct Place {
    pub key: i64,
    pub epoch_no: i64,
    pub starts: [i64; 3],
}

/// Adds to the buckets and the total, as a tick does for counted bytes.
pub(super) fn add(
    transaction: &Transaction<'_>,
    place: &Place,
    [upload, download]: Pair,
    at_ms: i64,
    rev: i64,
) -> rusqlite::Result<()> {
    for (table, start) in ["usage_minutes", "usage_hours", "usage_days"].into_iter().zip(place.starts) {
        let sql = format!(
            "INSERT INTO {table} VALUES (?1, ?2, 0, 0, 0, 0, ?5, ?3, ?4) ON CONFLICT DO UPDATE SET
                 reported_upload = reported_upload + ?3, reported_download = reported_download + ?4, rev = ?5"
        );
        transaction.prepare_cached(&sql)?.execute((start, place.key, upload, download, rev))?;
    }
    transaction
        .prepare_cached(
            "INSERT INTO usage_totals VALUES (?1, ?2, 0, 0, 0, 0, ?3, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET
                 reported_upload = reported_upload + ?5, reported_download = reported_download + ?6, rev = ?4,
                 first_ms = min(first_ms, ?3), last_ms = max(last_ms, ?3)",
        )?
        .execute((place.key, place.epoch_no, at_ms, rev, upload, download))?;
    Ok(())
}

/// By connection id, how far it was taken over: where the next start of the agent counts on from.
pub(super) fn connections(connection: &Connection) -> Result<HashMap<Arc<str>, [u64; 2]>, CommitError> {
    let mut statement = connection.prepare("SELECT id, upload, download FROM reported_connections")?;
    let rows = statement.query_map([], |row| {
        let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok((Arc::from(row.get::<_, String>(0)?), [bytes(row.get(1)?), bytes(row.get(2)?)]))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The inbound that stands for bytes of another system. No proxy's listener can have this tag by
/// accident, and it has no port.
const IMPORTED: &str = "(imported)";

/// Bytes that a user had used before, in one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedBytes {
    /// The instant that they are shown at.
    pub at_ms: i64,
    pub account: super::AccountPeriod,
    /// Upload and download.
    pub bytes: [u64; 2],
}

/// What a user had used and bought elsewhere.
pub struct UsedElsewhere {
    pub user: UserId,
    /// Names the source: a hash of the figures.
    pub reporter: [u8; 16],
    pub usage: Vec<ImportedBytes>,
    pub package: Option<NewEntry>,
}

/// Takes over usage, by the starts of its buckets, and package of a user.
pub(super) fn take_over(
    transaction: &Transaction<'_>,
    (one, placed): (&UsedElsewhere, &[(ImportedBytes, [i64; 3])]),
    settle: &mut Settle,
    (asked, rev): (&Asked, i64),
) -> Result<bool, CommitError> {
    settings::living(transaction, one.user)?;
    let new = import(transaction, one.reporter, one.user, placed, (asked.at_ms, rev))?;
    if new {
        if let Some(package) = &one.package {
            wallet::add(transaction, one.user, package, settle, (asked, rev))?;
        }
        let bytes = placed.iter().fold([0_u64; 2], |sum, (one, _)| {
            [sum[0].saturating_add(one.bytes[0]), sum[1].saturating_add(one.bytes[1])]
        });
        let data = serde_json::json!({ "reported": bytes });
        asked.event(transaction, "usage_imported", Some(one.user), data, rev)?;
    }
    Ok(new)
}

/// Takes over what a user used elsewhere. The second time for the same reporter changes nothing, and
/// says so by `false`.
fn import(
    transaction: &Transaction<'_>,
    reporter: [u8; 16],
    user: UserId,
    usage: &[(ImportedBytes, [i64; 3])],
    (at_ms, rev): (i64, i64),
) -> Result<bool, CommitError> {
    let inbound = imported_inbound(transaction, rev)?;
    let mut sum = [0_u64; 2];
    for (one, _) in usage {
        for (sum, bytes) in sum.iter_mut().zip(one.bytes) {
            *sum = sum.saturating_add(bytes);
        }
    }
    let Some(total) = pair(sum) else {
        return Err(CommitError::Refused("more bytes than anything can have carried".to_owned()));
    };
    let known: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM reported_cursors WHERE reporter = ?1 AND user_id = ?2 AND inbound_no = ?3)",
        params![reporter, id_bytes(user), inbound.0],
        |row| row.get(0),
    )?;
    if known {
        return Ok(false);
    }
    let first = usage.iter().map(|(one, _)| one.at_ms).min().unwrap_or(at_ms);
    transaction.execute(
        "INSERT INTO epochs (epoch, first_ms, rev) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![reporter, first, rev],
    )?;
    let epoch_no =
        transaction.query_row("SELECT no FROM epochs WHERE epoch = ?1", [reporter], |row| row.get(0))?;
    for (one, starts) in usage {
        let key = imported_key(transaction, user, inbound, one.account, rev)?;
        let bytes = pair(one.bytes).unwrap_or_default();
        add(transaction, &Place { key, epoch_no, starts: *starts }, bytes, one.at_ms, rev)?;
    }
    let row = ReportedRow { user, inbound, total: sum };
    move_cursor(transaction, reporter, &row, total, rev)?;
    Ok(true)
}

fn imported_inbound(transaction: &Transaction<'_>, rev: i64) -> rusqlite::Result<InboundNo> {
    transaction.execute(
        "INSERT INTO inbounds (tag, kind, port, created_ms, tombstoned_ms, rev) VALUES (?1, 'import', 0, 0, 0, ?2)
         ON CONFLICT DO NOTHING",
        params![IMPORTED, rev],
    )?;
    transaction
        .query_row("SELECT no FROM inbounds WHERE tag = ?1", [IMPORTED], |row| Ok(InboundNo(row.get(0)?)))
}

fn imported_key(
    transaction: &Transaction<'_>,
    user: UserId,
    inbound: InboundNo,
    account: super::AccountPeriod,
    rev: i64,
) -> rusqlite::Result<i64> {
    let known = transaction
        .prepare_cached(
            "SELECT no FROM usage_keys WHERE coalesce(user_id, x'') = ?1 AND inbound_no = ?2
                 AND account_start_ms = ?3 AND account_generation = ?4",
        )?
        .query_row(params![id_bytes(user), inbound.0, account.start_ms, account.generation], |row| row.get(0))
        .optional()?;
    match known {
        Some(no) => Ok(no),
        None => super::commit::new_key(transaction, Some(user), inbound, account, rev),
    }
}
