//! What waits to be told to people, and what became of it.
//!
//! Messages are derived from events: the transaction that queues what an event gives to tell also moves
//! the mark of how far events were looked at, so that a crash neither loses nor doubles one. What is
//! about to be sent is marked so before its first byte goes out; what a crash leaves so marked is decided
//! by what the receiver can tell a repetition by ([`Ledger::begin_notify`]).

mod queue;
mod restored;

use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use uuid::Uuid;

use super::{
    columns,
    commit::Stale,
    error::QueryError,
    model::EventRecord,
    reader::Reader,
    writer::{Ledger, Reply},
};
use crate::{
    core::{event::UserId, notice::Channel},
    fault,
};
use queue::{COLUMNS, OWN, Room, cut, delivery, derive, done, expire, looked_at, queue_all, recover};
pub(in crate::ledger) use restored::{forget, take_over};

/// The longest wait between two attempts. One beyond it comes from a clock that was set back.
pub const WAIT_MS_MAX: i64 = 3_600_000;
/// Reports that are remembered of each name: more than a year of days.
const REPORTS_MAX: i64 = 400;

columns::words!(Channel { Mail = "mail", Telegram = "telegram", Webhook = "webhook" });

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Waiting,
    Sending,
    Sent,
    /// Refused for good.
    Failed,
    /// It could not be sent for too long.
    Expired,
    /// It may have arrived; it is not sent again.
    Unsure,
}

columns::words!(Stage {
    Waiting = "waiting",
    Sending = "sending",
    Sent = "sent",
    Failed = "failed",
    Expired = "expired",
    Unsure = "unsure",
});

/// A message to be queued.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDelivery {
    pub channel: Channel,
    /// An address, a chat; empty where the channel has one place only.
    pub recipient: String,
    pub kind: String,
    /// What it is about: told once to each recipient.
    pub topic: String,
    pub user: Option<UserId>,
    pub data: Value,
}

impl NewDelivery {
    /// Is it to a user about itself? Its topic ends so.
    fn is_own(&self) -> bool {
        self.topic.ends_with(":own")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub no: i64,
    pub id: Uuid,
    pub channel: Channel,
    pub recipient: String,
    pub kind: String,
    pub user: Option<UserId>,
    pub data: Value,
    pub created_ms: i64,
    pub stage: Stage,
    pub attempts: u32,
    pub next_ms: i64,
    pub done_ms: Option<i64>,
    pub error: Option<String>,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    Again { at_ms: i64, error: String },
    Failed(String),
    Unsure(String),
}

/// An event, with what is known of its user.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    pub event: EventRecord,
    pub email: Option<String>,
    pub deleted: bool,
}

/// What an event gives to tell: pure.
pub type Alerts = std::sync::Arc<dyn Fn(&Happened) -> Vec<NewDelivery> + Send + Sync>;

/// What is wanted of the queue from now on.
#[derive(Clone, Debug, Default)]
pub struct NotifyWanted {
    pub any: bool,
    pub reports: Vec<&'static str>,
}

/// What one channel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelCounts {
    pub channel: Channel,
    pub waiting: u64,
    pub last_sent_ms: Option<i64>,
}

impl Ledger {
    /// Readies the queue: what a crash left in the middle is decided, and what is not wanted (any more)
    /// begins anew if it ever is. Answers of which parts people know that they do not work.
    pub fn begin_notify(&self, wanted: NotifyWanted, now_ms: i64) -> Reply<Vec<String>> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                recover(transaction, now_ms, rev)?;
                for name in ["daily", "monthly"] {
                    if !wanted.reports.contains(&name) {
                        transaction.execute("DELETE FROM notify_reports WHERE name = ?1", [name])?;
                    }
                }
                if !wanted.any {
                    transaction.execute("DELETE FROM notify_state", [])?;
                    transaction.execute("DELETE FROM notify_troubles", [])?;
                    return Ok(Vec::new());
                }
                transaction.execute(
                    "INSERT OR IGNORE INTO notify_state VALUES (1, coalesce((SELECT max(no) FROM events), 0), 0)",
                    [],
                )?;
                let mut statement = transaction.prepare("SELECT part FROM notify_troubles")?;
                let parts = statement.query_map([], |row| row.get(0))?;
                Ok(parts.collect::<rusqlite::Result<_>>()?)
            })
        })
    }

    /// Queues what events since the last call give to tell. Answers the channels that have something to
    /// send now.
    pub fn derive_alerts(&self, alerts: Alerts, now_ms: i64) -> Reply<Vec<Channel>> {
        self.send(move |writer| {
            let Some((mut from, mut last)) = looked_at(&writer.connection)? else { return Ok(Vec::new()) };
            while from < last {
                let queued = writer.change(Stale::Revision, |transaction, rev| {
                    derive(transaction, from, &alerts, now_ms, rev)
                })?;
                if queued {
                    fault::point("notify_derived");
                }
                let Some(now) = looked_at(&writer.connection)?.filter(|(now, _)| *now > from) else { break };
                (from, last) = now;
            }
            let mut statement = writer.connection.prepare_cached(
                "SELECT DISTINCT channel FROM deliveries
                 WHERE done_ms IS NULL AND state = 'waiting' AND (next_ms <= ?1 OR next_ms > ?2)",
            )?;
            let due = statement.query_map([now_ms, now_ms + WAIT_MS_MAX], |row| row.get(0))?;
            Ok(due.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Takes the message of a channel that has been due for longest, and marks that it is being sent. What is for
    /// the admin goes before what is for users; one that is tried again and again stands behind those that came
    /// meanwhile.
    pub fn claim_delivery(&self, channel: Channel, now_ms: i64) -> Reply<Option<Delivery>> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM deliveries
                     WHERE channel = ?1 AND done_ms IS NULL AND state = 'waiting'
                       AND (next_ms <= ?2 OR next_ms > ?3) ORDER BY {OWN}, next_ms, no LIMIT 1"
                );
                let found = transaction
                    .prepare_cached(&sql)?
                    .query_row(params![channel, now_ms, now_ms + WAIT_MS_MAX], delivery)
                    .optional()?;
                let Some(mut found) = found else { return Ok(None) };
                transaction.execute(
                    "UPDATE deliveries SET state = 'sending', attempts = attempts + 1 WHERE no = ?1",
                    [found.no],
                )?;
                found.stage = Stage::Sending;
                found.attempts += 1;
                Ok(Some(found))
            })
        })
    }

    /// What became of a message that was claimed.
    pub fn delivered(&self, no: i64, outcome: Outcome, now_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                match &outcome {
                    Outcome::Sent => done(transaction, no, Stage::Sent, None, now_ms, rev)?,
                    Outcome::Failed(error) => done(transaction, no, Stage::Failed, Some(error), now_ms, rev)?,
                    Outcome::Unsure(error) => done(transaction, no, Stage::Unsure, Some(error), now_ms, rev)?,
                    Outcome::Again { at_ms, error } => {
                        transaction.execute(
                            "UPDATE deliveries SET state = 'waiting', next_ms = ?2, error = ?3
                             WHERE no = ?1 AND state = 'sending'",
                            params![no, at_ms, cut(error)],
                        )?;
                    }
                }
                Ok(())
            })
        })
    }

    /// What waits for another attempt is due now, since the channel works.
    pub fn hasten_deliveries(&self, channel: Channel, now_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| {
                let sql = "UPDATE deliveries SET next_ms = ?2
                           WHERE channel = ?1 AND done_ms IS NULL AND state = 'waiting' AND next_ms > ?2";
                transaction.execute(sql, params![channel, now_ms])?;
                Ok(())
            })
        })
    }

    /// Gives up on what is too old, and forgets what was done long ago.
    pub fn expire_deliveries(&self, now_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| Ok(expire(transaction, now_ms, rev)?))
        })
    }

    /// The days or months of which there were reports.
    pub fn reports_made(&self, name: &'static str) -> Reply<Vec<String>> {
        self.send(move |writer| {
            let mut statement =
                writer.connection.prepare("SELECT period FROM notify_reports WHERE name = ?1")?;
            let periods = statement.query_map([name], |row| row.get(0))?;
            Ok(periods.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Queues a report, once for each period; false if it was made before. With nothing to queue the period
    /// counts as made.
    pub fn queue_report(
        &self,
        name: &'static str,
        period: String,
        new: Vec<NewDelivery>,
        now_ms: i64,
    ) -> Reply<bool> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| {
                let sql = "INSERT OR IGNORE INTO notify_reports VALUES (?1, ?2, ?3)";
                if transaction.execute(sql, params![name, period, now_ms])? == 0 {
                    return Ok(false);
                }
                queue_all(transaction, &mut Room::default(), &new, now_ms)?;
                transaction.execute(
                    "DELETE FROM notify_reports WHERE name = ?1 AND period IN
                         (SELECT period FROM notify_reports WHERE name = ?1 ORDER BY at_ms DESC
                          LIMIT -1 OFFSET ?2)",
                    params![name, REPORTS_MAX],
                )?;
                Ok(true)
            })
        })
    }
}

impl Reader {
    /// The newest messages first: those that wait, then those that are done.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn deliveries(&self, limit: usize) -> Result<Vec<Delivery>, QueryError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM deliveries ORDER BY done_ms IS NOT NULL, coalesce(done_ms, 0) DESC, no DESC LIMIT ?1"
        );
        let mut statement = self.connection().prepare_cached(&sql)?;
        let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], delivery)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// What each channel has, and how many messages there was no room for.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn delivery_counts(&self) -> Result<(Vec<ChannelCounts>, u64), QueryError> {
        let mut statement = self.connection().prepare_cached(
            "SELECT channel, sum(done_ms IS NULL), max(CASE WHEN state = 'sent' THEN done_ms END)
             FROM deliveries GROUP BY channel",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(ChannelCounts {
                channel: row.get(0)?,
                waiting: row.get::<_, u32>(1)?.into(),
                last_sent_ms: row.get(2)?,
            })
        })?;
        let counts = rows.collect::<rusqlite::Result<_>>()?;
        let refused = self
            .connection()
            .query_row("SELECT refused FROM notify_state", [], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok((counts, refused.unwrap_or(0).unsigned_abs()))
    }
}
