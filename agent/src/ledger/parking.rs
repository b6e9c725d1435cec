//! Entries of users that are taken out of the proxy's configuration, or about to be put there.
//!
//! Each step is committed before the file is written, so that a crash between the two leaves a record
//! too much and never one too few; what is then found in the file says how far it is (see
//! `people::sync_users`).

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    commit::{id_bytes, insert_event, user_id},
    error::CommitError,
    model::NewEvent,
    records::{ParkedEntry, ParkedKey, ParkedRecord, ParkedStage, Refusal},
};
use crate::core::event::UserId;

/// Parked entries of one user: an inbound has one entry of a name.
const PER_USER_MAX: i64 = 1000;

/// Adds or replaces records.
pub(super) fn put(
    transaction: &Transaction<'_>,
    user: UserId,
    entries: &[ParkedEntry],
    stage: ParkedStage,
    at_ms: i64,
    rev: i64,
) -> Result<(), CommitError> {
    for entry in entries {
        if serde_json::from_str::<serde::de::IgnoredAny>(&entry.entry).is_err() {
            return Err(CommitError::Refused("a parked entry is not JSON".to_owned()));
        }
        transaction
            .prepare_cached(
                "INSERT INTO parked VALUES (?1, ?2, ?7, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET
                     stage = ?3, entry = ?4, at_ms = ?5, rev = ?6",
            )?
            .execute(params![id_bytes(user), &*entry.inbound, stage, entry.entry, at_ms, rev, entry.nth])?;
    }
    let count: i64 = transaction
        .prepare_cached("SELECT count(*) FROM parked WHERE user_id = ?1")?
        .query_row([id_bytes(user)], |row| row.get(0))?;
    if count > PER_USER_MAX {
        return Err(CommitError::Refused(format!("more than {PER_USER_MAX} parked entries of one user")));
    }
    Ok(())
}

/// Moves records to a stage; one that is not there is a refusal.
pub(super) fn stage(
    transaction: &Transaction<'_>,
    entries: &[ParkedKey],
    stage: ParkedStage,
    rev: i64,
) -> Result<(), CommitError> {
    for key in entries {
        if set_stage(transaction, key, stage, rev)? == 0 {
            let text = format!("there is no parked entry of this user in {:?}", key.inbound);
            return Err(Refusal::Invalid(text).into());
        }
    }
    Ok(())
}

/// Somebody has put entries back by hand; those that were known to be back are not told again.
pub(super) fn found_back(
    transaction: &Transaction<'_>,
    found: &[(ParkedKey, serde_json::Value)],
    at_ms: i64,
    rev: i64,
) -> Result<(), CommitError> {
    for (key, data) in found {
        let stage: Option<ParkedStage> = transaction
            .prepare_cached("SELECT stage FROM parked WHERE user_id = ?1 AND inbound_tag = ?2 AND nth = ?3")?
            .query_row(params![id_bytes(key.user), &*key.inbound, key.nth], |row| row.get(0))
            .optional()?;
        if stage.is_none_or(|stage| stage == ParkedStage::Back) {
            continue;
        }
        set_stage(transaction, key, ParkedStage::Back, rev)?;
        let (kind, actor) = ("put_back_by_hand".to_owned(), "agent".to_owned());
        let event = NewEvent { at_ms, kind, user: Some(key.user), actor, data: data.clone() };
        insert_event(transaction, &event, rev)?;
    }
    Ok(())
}

pub(super) fn set_stage(
    transaction: &Transaction<'_>,
    key: &ParkedKey,
    stage: ParkedStage,
    rev: i64,
) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "UPDATE parked SET stage = ?4, rev = ?5 WHERE user_id = ?1 AND inbound_tag = ?2 AND nth = ?3",
        )?
        .execute(params![id_bytes(key.user), &*key.inbound, key.nth, stage, rev])
}

pub(super) fn remove(transaction: &Transaction<'_>, key: &ParkedKey) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM parked WHERE user_id = ?1 AND inbound_tag = ?2 AND nth = ?3")?
        .execute(params![id_bytes(key.user), &*key.inbound, key.nth])?;
    Ok(())
}

pub(super) fn remove_all(transaction: &Transaction<'_>, user: UserId) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM parked WHERE user_id = ?1")?.execute([id_bytes(user)])?;
    Ok(())
}

/// A record as far as a look at the files can tell something about it.
pub(super) struct Staged {
    pub key: ParkedKey,
    pub stage: ParkedStage,
    /// Of an inbound whose users are in no file: whoever has them knows how far the edit is.
    pub elsewhere: bool,
}

/// By user, names and stages.
pub(super) fn stages(connection: &Connection) -> rusqlite::Result<HashMap<UserId, Vec<Staged>>> {
    let mut stages: HashMap<UserId, Vec<Staged>> = HashMap::new();
    let mut statement = connection.prepare(
        "SELECT user_id, inbound_tag, nth, stage, json_extract(entry, '$.file') IS '' FROM parked",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let user = user_id(row.get(0)?);
        let key = ParkedKey { user, inbound: Arc::from(row.get::<_, String>(1)?), nth: row.get(2)? };
        stages.entry(user).or_default().push(Staged { key, stage: row.get(3)?, elsewhere: row.get(4)? });
    }
    Ok(stages)
}

/// All records, by user and tag.
pub(super) fn all(connection: &Connection, user: Option<UserId>) -> rusqlite::Result<Vec<ParkedRecord>> {
    let whose = if user.is_some() { "user_id = ?1" } else { "?1 IS NULL" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT user_id, inbound_tag, stage, entry, at_ms, nth FROM parked WHERE {whose}
         ORDER BY user_id, inbound_tag, nth"
    ))?;
    let rows = statement.query_map([user.map(id_bytes)], |row| {
        Ok(ParkedRecord {
            user: user_id(row.get(0)?),
            entry: ParkedEntry {
                inbound: Arc::from(row.get::<_, String>(1)?),
                nth: row.get(5)?,
                entry: row.get(3)?,
            },
            stage: row.get(2)?,
            at_ms: row.get(4)?,
        })
    })?;
    rows.collect()
}
