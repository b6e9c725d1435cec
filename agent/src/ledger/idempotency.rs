//! Changes that were asked for with a key are made once: the key is written in the transaction of the
//! change, the answer after it.

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::Value;

use super::{
    commit::insert_event,
    error::CommitError,
    model::NewEvent,
    records::{Asked, IdempotencyKey, Refusal, StoredAnswer},
};
use crate::core::event::UserId;

/// For how long a key is remembered: longer than any client tries again.
const KEPT_MS: i64 = 24 * 3_600_000;
/// Keys that are remembered; the oldest goes first.
const KEYS_MAX: i64 = 10_000;
/// Bytes of a key, and of an answer that is kept. A longer answer is not kept: asked again, the
/// change is known to be made, and the answer is made from what is there then.
const KEY_MAX: usize = 255;
const ANSWER_MAX: usize = 64 * 1024;

/// Whose a key is: an actor of the web has the same keys from every address, since a phone that tries
/// again may have another one by then.
fn owner(actor: &str) -> &str {
    actor.rsplit_once('@').map_or(actor, |(owner, _address)| owner)
}

/// Takes the key, if there is one, or says that the change was made before.
pub(super) fn claim(transaction: &Transaction<'_>, asked: &Asked) -> Result<(), CommitError> {
    let Some(key) = &asked.key else { return Ok(()) };
    if key.key.is_empty() || key.key.len() > KEY_MAX {
        return Err(Refusal::Invalid(format!("an idempotency key has 1 to {KEY_MAX} bytes")).into());
    }
    if let Some(before) = find(transaction, &asked.actor, key)? {
        return Err(Refusal::DoneBefore(before).into());
    }
    transaction.execute("DELETE FROM idempotency_keys WHERE at_ms < ?1", [asked.at_ms - KEPT_MS])?;
    transaction.execute(
        "DELETE FROM idempotency_keys WHERE (actor, key) IN
             (SELECT actor, key FROM idempotency_keys ORDER BY at_ms
              LIMIT max(0, (SELECT count(*) FROM idempotency_keys) - ?1 + 1))",
        [KEYS_MAX],
    )?;
    transaction.execute(
        "INSERT INTO idempotency_keys (actor, key, request, at_ms) VALUES (?1, ?2, ?3, ?4)",
        params![owner(&asked.actor), key.key, key.request, asked.at_ms],
    )?;
    Ok(())
}

/// What was answered to this key, if it was seen; a refusal if it was for something else.
pub(super) fn find(
    connection: &rusqlite::Connection,
    actor: &str,
    key: &IdempotencyKey,
) -> Result<Option<StoredAnswer>, CommitError> {
    let known = connection
        .prepare_cached(
            "SELECT request, at_ms, status, answer FROM idempotency_keys WHERE actor = ?1 AND key = ?2",
        )?
        .query_row(params![owner(actor), key.key], |row| {
            let answer = row.get::<_, Option<u16>>(2)?.zip(row.get(3)?);
            Ok((row.get::<_, [u8; 32]>(0)?, StoredAnswer { at_ms: row.get(1)?, answer }))
        })
        .optional()?;
    match known {
        Some((request, _)) if request != key.request => Err(Refusal::KeyReused.into()),
        known => Ok(known.map(|(_, answer)| answer)),
    }
}

/// Keeps the answer to a change that was made.
pub(super) fn store(
    transaction: &Transaction<'_>,
    actor: &str,
    key: &IdempotencyKey,
    (status, answer): (u16, &str),
) -> Result<(), CommitError> {
    if answer.len() <= ANSWER_MAX {
        transaction.execute(
            "UPDATE idempotency_keys SET status = ?3, answer = ?4 WHERE actor = ?1 AND key = ?2",
            params![owner(actor), key.key, status, answer],
        )?;
    }
    Ok(())
}

impl Asked {
    /// Writes what happened, with who asked for it.
    pub(super) fn event(
        &self,
        transaction: &Transaction<'_>,
        kind: &str,
        user: Option<UserId>,
        data: Value,
        rev: i64,
    ) -> rusqlite::Result<()> {
        let event =
            NewEvent { at_ms: self.at_ms, kind: kind.to_owned(), user, actor: self.actor.clone(), data };
        insert_event(transaction, &event, rev)
    }
}
