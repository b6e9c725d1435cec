//! How a user goes: deleted, gone from the file, purged. Each is one transaction with its event.

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    commit::{id_bytes, user_id},
    deliveries,
    error::CommitError,
    idempotency,
    model::UserRecord,
    parking, policies,
    records::{Asked, FileState, Refusal},
    schema_gate::FALLBACK,
    settings::{check_rev, known, living, was_on_parked},
    sharing,
};
use crate::core::event::UserId;

/// A tombstone: history stays. Until the entry is gone from the file, its name is not adopted anew.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    id: UserId,
    if_rev: Option<i64>,
    (asked, rev): (&Asked, i64),
) -> Result<UserRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = living(transaction, id)?;
    check_rev(&before, if_rev)?;
    was_on_parked(transaction, id, asked.at_ms, rev)?;
    parking::remove_all(transaction, id)?;
    sharing::forget(transaction, id)?;
    transaction.execute(
        "UPDATE users SET tombstoned_ms = ?2, file_state = 'removing', settings_rev = ?3, rev = ?3 WHERE id = ?1",
        params![id_bytes(id), asked.at_ms, rev],
    )?;
    transaction.execute(
        "UPDATE user_inbounds SET tombstoned_ms = ?2, rev = ?3 WHERE user_id = ?1 AND tombstoned_ms IS NULL",
        params![id_bytes(id), asked.at_ms, rev],
    )?;
    asked.event(transaction, "user_deleted", Some(id), json!({ "name": &*before.name }), rev)?;
    known(transaction, id)
}

/// The file does not have the user's entry any more, or a name in it is somebody else's from now on. Whom
/// somebody wants purged is purged now; true for one who is.
pub(super) fn removed(
    transaction: &Transaction<'_>,
    id: UserId,
    at_ms: i64,
    rev: i64,
) -> Result<bool, CommitError> {
    transaction.execute(
        "UPDATE users SET file_state = 'settled', rev = ?2 WHERE id = ?1 AND file_state = 'removing'",
        params![id_bytes(id), rev],
    )?;
    let actor: Option<Option<String>> = transaction
        .query_row(
            "SELECT purge_actor FROM users WHERE id = ?1 AND tombstoned_ms IS NOT NULL AND purged_ms IS NULL",
            [id_bytes(id)],
            |row| row.get(0),
        )
        .optional()?;
    match actor.flatten() {
        None => Ok(false),
        Some(actor) => purge(transaction, id, &Asked::new(&actor, at_ms), rev).map(|()| true),
    }
}

/// Entries of deleted users are about to be in the files again: they are nobody new, and to be taken out once more.
/// The row of one who was purged does not say whose it was: its name gets a row that is purged in its turn.
pub(super) fn not_removed(
    transaction: &Transaction<'_>,
    names: &[String],
    (now_ms, rev): (i64, i64),
) -> Result<(), CommitError> {
    let mut statement = transaction.prepare_cached(
        "UPDATE users SET file_state = 'removing', rev = ?2 WHERE id =
             (SELECT id FROM users WHERE name = ?1 AND tombstoned_ms IS NOT NULL AND purged_ms IS NULL
              ORDER BY tombstoned_ms DESC LIMIT 1)
         AND NOT EXISTS (SELECT 1 FROM users WHERE name = ?1 AND tombstoned_ms IS NULL)",
    )?;
    let mut purged = transaction.prepare_cached(
        "INSERT INTO users (id, name, created_ms, tombstoned_ms, file_state, purge_actor, policy_id, overrides,
                            admin_state, admin_since_ms, admin_actor, account_start_ms, account_generation, warned,
                            state, state_cause, state_since_ms, settings_rev, rev)
         SELECT ?2, ?1, ?3, ?3, 'removing', 'agent', ?5, '{}', 'enabled', ?3, 'agent', ?3, 0, '[]', 'active', 'none', ?3,
                ?4, ?4
         WHERE NOT EXISTS (SELECT 1 FROM users WHERE name = ?1 AND tombstoned_ms IS NULL)",
    )?;
    for name in names {
        if statement.execute(params![name, rev])? == 0 {
            let policy =
                policies::id_of(transaction, FALLBACK)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            let id = UserId(Uuid::now_v7());
            purged.execute(params![name, id_bytes(id), now_ms, rev, policy.0.into_bytes()])?;
        }
    }
    Ok(())
}

/// Deleted users of a name are purged, at once or when their entries are gone: the first is told by true.
pub(super) fn purge_deleted(
    transaction: &Transaction<'_>,
    name: &str,
    asked: &Asked,
    rev: i64,
) -> Result<Vec<bool>, CommitError> {
    idempotency::claim(transaction, asked)?;
    let ids: Vec<UserId> = transaction
        .prepare("SELECT id FROM users WHERE name = ?1 AND tombstoned_ms IS NOT NULL AND purged_ms IS NULL")?
        .query_map([name], |row| Ok(user_id(row.get(0)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if ids.is_empty() && asked.key.is_some() {
        // Nothing is done, so that the key is not used up.
        return Err(Refusal::NoSuchUser.into());
    }
    let by_itself = Asked { key: None, ..asked.clone() };
    ids.into_iter()
        .map(|id| {
            let there = known(transaction, id)?.file_state == FileState::Removing;
            match there {
                true => {
                    transaction.execute(
                        "UPDATE users SET purge_actor = ?2, rev = ?3 WHERE id = ?1",
                        params![id_bytes(id), asked.actor, rev],
                    )?;
                }
                false => purge(transaction, id, &by_itself, rev)?,
            }
            Ok(!there)
        })
        .collect()
}

/// Takes name and personal data out of a deleted user's row, wallet and events. The row and the usage
/// stay, as nobody's: the sums of an audit must not change.
fn purge(transaction: &Transaction<'_>, id: UserId, asked: &Asked, rev: i64) -> Result<(), CommitError> {
    idempotency::claim(transaction, asked)?;
    let user = known(transaction, id)?;
    if user.tombstoned_ms.is_none() || user.file_state == FileState::Removing {
        let text = "only a user who is deleted, and gone from sing-box's configuration, can be purged";
        return Err(Refusal::Invalid(text.to_owned()).into());
    }
    if user.purged_ms.is_some() {
        return Ok(());
    }
    let bytes = id_bytes(id);
    transaction.execute(
        "UPDATE users SET name = ?2, purged_ms = ?3, overrides = '{}', email = NULL, note = NULL,
             admin_why = NULL, admin_evidence = NULL, rev = ?4 WHERE id = ?1",
        params![bytes, format!("(purged {id})"), asked.at_ms, rev],
    )?;
    transaction.execute(
        "UPDATE wallet_entries SET note = NULL, rev = ?2 WHERE user_id = ?1 AND note IS NOT NULL",
        params![bytes, rev],
    )?;
    transaction.execute("UPDATE events SET data = '{}', rev = ?2 WHERE user_id = ?1", params![bytes, rev])?;
    parking::remove_all(transaction, id)?;
    sharing::forget(transaction, id)?;
    deliveries::forget(transaction, id)?;
    // Answers may quote anything about anybody; who asks again is told that it was done.
    transaction.execute("UPDATE idempotency_keys SET status = NULL, answer = NULL", [])?;
    Ok(asked.event(transaction, "user_purged", Some(id), json!({}), rev)?)
}
