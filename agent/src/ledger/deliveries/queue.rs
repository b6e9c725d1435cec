//! The steps of the queue, each within somebody's transaction.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        columns,
        commit::{id_bytes, user_id},
        error::CommitError,
        model::{EventRecord, EventsWanted},
        query,
        records::Asked,
    },
    Alerts, Channel, Delivery, Happened, NewDelivery, Stage,
};
use crate::fault;

/// Messages of one channel to the admin that wait. More are refused, and counted: whoever does not fetch a thousand
/// messages reads no more of them.
pub const WAITING_MAX: i64 = 1_000;
/// … and to users about themselves, which take nothing of the admin's room: one for each of as many users as a
/// server has.
pub const OWN_WAITING_MAX: i64 = 10_000;
/// Of a row: is it to a user about itself?
pub(super) const OWN: &str = "substr(topic, -4) = ':own'";
/// What is older says nothing any more.
pub const EXPIRES_MS: i64 = 3 * 24 * 3_600_000;
/// What is done is kept for people who look, so many and so long.
const DONE_MAX: i64 = 2_000;
const DONE_MS: i64 = 30 * 24 * 3_600_000;
/// Events that are looked at in one transaction.
const EVENTS_AT_ONCE: usize = 500;
/// Bytes of what a message is made of.
const DATA_MAX: usize = 16 << 10;
/// … and of a report, whose lists are bounded already.
const REPORT_MAX: usize = 256 << 10;
/// Bytes of an error that are kept.
const ERROR_MAX: usize = 500;
pub(super) const COLUMNS: &str = "no, id, channel, recipient, kind, user_id, data, created_ms, state, attempts, next_ms, \
                       done_ms, error";

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        no: row.get(0)?,
        id: Uuid::from_bytes(row.get(1)?),
        channel: row.get(2)?,
        recipient: row.get(3)?,
        kind: row.get(4)?,
        user: row.get::<_, Option<[u8; 16]>>(5)?.map(user_id),
        data: columns::json(row, 6)?,
        created_ms: row.get(7)?,
        stage: row.get(8)?,
        attempts: row.get(9)?,
        next_ms: row.get(10)?,
        done_ms: row.get(11)?,
        error: row.get(12)?,
    })
}

fn bounded(data: &Value) -> String {
    let text = data.to_string();
    let max = if data["report"].is_null() { DATA_MAX } else { REPORT_MAX };
    if text.len() <= max {
        return text;
    }
    // What is long is evidence; the event has it.
    let mut short = data.clone();
    if let Some(fields) = short.get_mut("data").and_then(Value::as_object_mut) {
        fields.retain(|_, value| value.to_string().len() <= DATA_MAX / 16);
    }
    let text = short.to_string();
    if text.len() <= DATA_MAX {
        return text;
    }
    // What it is about, without the words.
    let kept = ["at_ms", "event", "user", "own"].map(|key| (key.to_owned(), data[key].clone()));
    Value::Object(kept.into_iter().collect()).to_string()
}

pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_MAX.min(text.len()))]
}

/// What waits, counted once in a transaction.
#[derive(Default)]
pub(super) struct Room {
    waiting: HashMap<(Channel, bool), i64>,
}

impl Room {
    /// Is there room for this one?
    fn has(&mut self, transaction: &Transaction<'_>, new: &NewDelivery) -> rusqlite::Result<bool> {
        let own = new.is_own();
        let waiting = match self.waiting.entry((new.channel, own)) {
            Entry::Occupied(waiting) => *waiting.get(),
            Entry::Vacant(place) => {
                let sql = format!(
                    "SELECT count(*) FROM deliveries WHERE channel = ?1 AND done_ms IS NULL AND {OWN} = ?2"
                );
                let count = transaction.prepare_cached(&sql)?;
                *place.insert({ count }.query_row(params![new.channel, own], |row| row.get(0))?)
            }
        };
        Ok(waiting < if own { OWN_WAITING_MAX } else { WAITING_MAX })
    }

    fn takes(&mut self, new: &NewDelivery, rows: usize) {
        let waiting = self.waiting.entry((new.channel, new.is_own())).or_default();
        *waiting += i64::try_from(rows).unwrap_or(0);
    }
}

/// Queues a message unless it was told already. False if there is no room.
fn queue(
    transaction: &Transaction<'_>,
    room: &mut Room,
    new: &NewDelivery,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    if !room.has(transaction, new)? {
        return Ok(false);
    }
    let rows = transaction
        .prepare_cached(
            "INSERT INTO deliveries (id, channel, recipient, kind, topic, user_id, data, created_ms, state,
                                     attempts, next_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'waiting', 0, ?8)
             ON CONFLICT (channel, recipient, topic) DO NOTHING",
        )?
        .execute(params![
            Uuid::now_v7().into_bytes(),
            new.channel,
            new.recipient,
            new.kind,
            new.topic,
            new.user.map(id_bytes),
            bounded(&new.data),
            now_ms
        ])?;
    room.takes(new, rows);
    Ok(true)
}

/// How many of them there was no room for.
pub(super) fn queue_all(
    transaction: &Transaction<'_>,
    room: &mut Room,
    new: &[NewDelivery],
    now_ms: i64,
) -> rusqlite::Result<i64> {
    let mut refused = 0;
    for delivery in new {
        refused += i64::from(!queue(transaction, room, delivery, now_ms)?);
    }
    if refused > 0 {
        transaction.execute("UPDATE notify_state SET refused = refused + ?1", [refused])?;
    }
    Ok(refused)
}

pub(super) fn looked_at(connection: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    connection
        .prepare_cached("SELECT events_no, coalesce((SELECT max(no) FROM events), 0) FROM notify_state")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub(super) fn derive(
    transaction: &Transaction<'_>,
    from: i64,
    alerts: &Alerts,
    now_ms: i64,
    rev: i64,
) -> Result<bool, CommitError> {
    let wanted = EventsWanted::default();
    let events = query::events(transaction, &wanted, Some(from), EVENTS_AT_ONCE)
        .map_err(|error| CommitError::Other(error.to_string()))?;
    let Some(last) = events.last().map(|event| event.no) else { return Ok(false) };
    let (mut queued, mut refused) = (false, 0);
    let mut room = Room::default();
    for event in events {
        troubles(transaction, &event)?;
        let contact: Option<(Option<String>, bool)> = event
            .user
            .map(|user| {
                transaction
                    .prepare_cached("SELECT email, tombstoned_ms IS NOT NULL FROM users WHERE id = ?1")?
                    .query_row([id_bytes(user)], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .transpose()?;
        let (email, deleted) = contact.unwrap_or_default();
        let new = alerts(&Happened { event, email, deleted });
        refused += queue_all(transaction, &mut room, &new, now_ms)?;
        queued |= !new.is_empty();
    }
    if refused > 0 {
        let message = format!(
            "{refused} messages were not queued: as many wait as may; `boxmeter notify list` says why none goes out"
        );
        let data = json!({ "refused": refused, "message": message, "severity": "warning" });
        Asked::new("agent", now_ms).event(transaction, "messages_refused", None, data, rev)?;
    }
    transaction.execute("UPDATE notify_state SET events_no = ?1", [last])?;
    if queued {
        fault::point("notify_deriving");
    }
    Ok(queued)
}

/// Of which parts people know that they do not work.
fn troubles(transaction: &Transaction<'_>, event: &EventRecord) -> rusqlite::Result<()> {
    let part = event.data["part"].as_str().unwrap_or_default();
    match event.kind.as_str() {
        "trouble_began" => transaction
            .execute("INSERT OR IGNORE INTO notify_troubles VALUES (?1, ?2)", params![part, event.at_ms])
            .map(drop),
        "trouble_over" => {
            transaction.execute("DELETE FROM notify_troubles WHERE part = ?1", [part]).map(drop)
        }
        _ => Ok(()),
    }
}

/// What a crash has left in the middle. A webhook has its key, a mail its Message-ID; nothing tells two
/// messages of Telegram apart.
pub(super) fn recover(transaction: &Transaction<'_>, now_ms: i64, rev: i64) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE deliveries SET state = 'waiting', next_ms = ?1
         WHERE state = 'sending' AND channel <> 'telegram'",
        [now_ms],
    )?;
    let mut statement = transaction.prepare("SELECT no FROM deliveries WHERE state = 'sending'")?;
    let unsure: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let error = "the agent ended while it was being sent: it may have arrived, and is not sent again";
    for no in unsure {
        done(transaction, no, Stage::Unsure, Some(error), now_ms, rev)?;
    }
    Ok(())
}

/// A message is over; people are told where it did not arrive for sure.
pub(super) fn done(
    transaction: &Transaction<'_>,
    no: i64,
    stage: Stage,
    error: Option<&str>,
    now_ms: i64,
    rev: i64,
) -> rusqlite::Result<()> {
    let changed = transaction.execute(
        "UPDATE deliveries SET state = ?2, done_ms = ?3, error = ?4 WHERE no = ?1 AND done_ms IS NULL",
        params![no, stage, now_ms, error.map(cut)],
    )?;
    if changed == 0 || stage == Stage::Sent {
        return Ok(());
    }
    let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE no = ?1");
    let about = transaction.query_row(&sql, [no], delivery)?;
    // Whoever may read events may not read addresses, and what a server says often has one.
    let message = format!(
        "a message by {} was not delivered ({}): `boxmeter notify list` says why",
        about.channel.word(),
        stage.word()
    );
    let data = json!({
        "channel": about.channel.word(),
        "delivery": about.id.to_string(),
        "about": about.kind,
        "outcome": stage.word(),
        "attempts": about.attempts,
        "message": message,
        "severity": "warning",
    });
    Asked::new("agent", now_ms).event(transaction, "message_not_delivered", about.user, data, rev)
}

pub(super) fn expire(transaction: &Transaction<'_>, now_ms: i64, rev: i64) -> rusqlite::Result<()> {
    let mut statement = transaction
        .prepare("SELECT no, error FROM deliveries WHERE state = 'waiting' AND created_ms < ?1 LIMIT 100")?;
    let old: Vec<(i64, Option<String>)> = statement
        .query_map([now_ms - EXPIRES_MS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (no, error) in old {
        let why = error.unwrap_or_else(|| "nobody sent it".to_owned());
        done(transaction, no, Stage::Expired, Some(&format!("too old by now; last: {why}")), now_ms, rev)?;
    }
    transaction.execute("DELETE FROM deliveries WHERE done_ms < ?1", [now_ms - DONE_MS])?;
    transaction.execute(
        "DELETE FROM deliveries WHERE no IN
             (SELECT no FROM deliveries WHERE done_ms IS NOT NULL ORDER BY done_ms DESC LIMIT -1 OFFSET ?1)",
        [DONE_MAX],
    )?;
    Ok(())
}
