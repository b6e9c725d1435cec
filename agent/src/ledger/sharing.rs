//! Secrets of subscriptions, found by their hashes, and the settings of links.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    columns,
    commit::{Stale, id_bytes, user_id},
    error::{CommitError, QueryError},
    idempotency,
    reader::Reader,
    records::{Asked, Refusal},
    settings,
    writer::{Ledger, Reply},
};
use crate::core::event::UserId;

/// Bytes of the settings: 500 inbounds with everything said about them are far below.
const SETTINGS_MAX: usize = 1 << 20;

/// The settings of links as JSON, which the ledger does not look into; `None` before they are set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharingRecord {
    pub settings: Option<Value>,
    pub rev: i64,
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn token_of(connection: &Connection, user: UserId) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT token FROM subscriptions WHERE user_id = ?1")?
        .query_row([id_bytes(user)], |row| row.get(0))
        .optional()
}

fn put(
    transaction: &Transaction<'_>,
    user: UserId,
    token: &str,
    at_ms: i64,
    rev: i64,
) -> Result<(), CommitError> {
    if token.len() < 32 {
        return Err(CommitError::Refused("a subscription's secret is too short".to_owned()));
    }
    transaction.execute(
        "INSERT INTO subscriptions VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (user_id) DO UPDATE SET token = ?2, token_hash = ?3, created_ms = ?4, rev = ?5",
        params![id_bytes(user), token, hash(token), at_ms, rev],
    )?;
    Ok(())
}

/// What opens a deleted user's page is forgotten with the user.
pub(super) fn forget(transaction: &Transaction<'_>, user: UserId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM subscriptions WHERE user_id = ?1", [id_bytes(user)])?;
    Ok(())
}

fn read(connection: &Connection) -> rusqlite::Result<SharingRecord> {
    let found = connection
        .query_row("SELECT settings, rev FROM sharing", [], |row| {
            Ok(SharingRecord { settings: Some(columns::json(row, 0)?), rev: row.get(1)? })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn change(
    transaction: &Transaction<'_>,
    new: &Value,
    if_rev: Option<i64>,
    asked: &Asked,
    rev: i64,
) -> Result<SharingRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = read(transaction)?;
    if if_rev.is_some_and(|rev| rev != before.rev) {
        return Err(Refusal::Invalid("the settings of links were changed meanwhile".to_owned()).into());
    }
    if before.settings.as_ref() == Some(new) {
        return Ok(before);
    }
    let text = columns::to_json(new)?;
    if text.len() > SETTINGS_MAX {
        return Err(Refusal::Invalid("the settings of links are too long".to_owned()).into());
    }
    transaction.execute(
        "INSERT INTO sharing VALUES (1, ?1, ?2) ON CONFLICT (only_row) DO UPDATE SET settings = ?1, rev = ?2",
        params![text, rev],
    )?;
    asked.event(
        transaction,
        "sharing_changed",
        None,
        json!({ "before": before.settings, "after": new }),
        rev,
    )?;
    Ok(SharingRecord { settings: Some(new.clone()), rev })
}

impl Ledger {
    /// The secret of a living user's subscription; `new` becomes it where there is none yet.
    pub fn subscription_token(&self, user: UserId, new: String, at_ms: i64) -> Reply<String> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                settings::living(transaction, user)?;
                if let Some(token) = token_of(transaction, user)? {
                    return Ok(token);
                }
                put(transaction, user, &new, at_ms, rev)?;
                Ok(new)
            })
        })
    }

    /// Another secret; the one before opens nothing any more.
    pub fn rotate_subscription(&self, user: UserId, new: String, asked: Asked) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                idempotency::claim(transaction, &asked)?;
                settings::living(transaction, user)?;
                put(transaction, user, &new, asked.at_ms, rev)?;
                Ok(asked.event(transaction, "subscription_rotated", Some(user), json!({}), rev)?)
            })
        })
    }

    /// Puts other settings of links in place; with `if_rev` only over those that were seen.
    pub fn change_sharing(&self, new: Value, if_rev: Option<i64>, asked: Asked) -> Reply<SharingRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| change(transaction, &new, if_rev, &asked, rev))
        })
    }
}

impl Reader {
    /// Whose subscription a secret opens: nobody's, if the user is deleted.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn subscriber(&self, token: &str) -> Result<Option<UserId>, QueryError> {
        let found = self
            .connection()
            .prepare_cached(
                "SELECT u.id FROM subscriptions s JOIN users u ON u.id = s.user_id
                 WHERE s.token_hash = ?1 AND u.tombstoned_ms IS NULL",
            )?
            .query_row([hash(token)], |row| Ok(user_id(row.get(0)?)))
            .optional()?;
        Ok(found)
    }

    /// The settings of links.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn sharing(&self) -> Result<SharingRecord, QueryError> {
        Ok(read(self.connection())?)
    }
}
