//! The part of the second schema version that SQL alone cannot do: ids and terms of the built-in
//! policies, and users moved over from names of policies to their ids.

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    commit::{insert_event, user_id},
    model::NewEvent,
};
use crate::core::terms;

/// The policy of users whose policy nobody knows: installing (and updating) cuts nobody.
pub(super) const FALLBACK: &str = "unlimited";

const MOVE_USERS: &str = "
    INSERT INTO users_2
    SELECT u.id, u.name, u.created_ms, u.tombstoned_ms, NULL, 'settled',
           coalesce((SELECT id FROM policies WHERE name = u.policy),
                    (SELECT id FROM policies WHERE name = 'unlimited')),
           '{}', 'enabled', u.created_ms, 'agent', NULL, NULL, NULL, u.account_start_ms, u.account_generation, '[]',
           NULL, u.expires_ms, u.email, u.note, 'active', 'none', u.created_ms, ?1, ?1
    FROM users u";

const SWAP_TABLES: &str = "
    DROP TABLE users;
    ALTER TABLE users_2 RENAME TO users;
    CREATE UNIQUE INDEX users_by_name ON users (name) WHERE tombstoned_ms IS NULL;
    CREATE INDEX users_by_policy ON users (policy_id) WHERE tombstoned_ms IS NULL;";

pub(super) fn move_users(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let meta: Option<(i64, i64)> = transaction
        .query_row("SELECT rev, coalesce(committed_ms, created_ms) FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (before, at_ms) = meta.unwrap_or((0, 0));
    let rev = before + 1;
    for (name, terms) in terms::built_in() {
        let terms = serde_json::to_string(&terms)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        transaction.execute(
            "INSERT INTO policies (id, name, terms, built_in, rev) VALUES (?1, ?2, ?3, 1, ?4)",
            params![Uuid::now_v7().into_bytes(), name, terms, rev],
        )?;
    }
    let strangers = strangers(transaction)?;
    transaction.execute(MOVE_USERS, [rev])?;
    transaction.execute_batch(SWAP_TABLES)?;
    for (user, policy) in strangers {
        let event = NewEvent {
            at_ms,
            kind: "policy_unknown".to_owned(),
            user: Some(user_id(user)),
            actor: "agent".to_owned(),
            data: json!({ "policy": policy, "instead": FALLBACK }),
        };
        insert_event(transaction, &event, rev)?;
    }
    // What was watched before has no buckets: an audit of a range begins after it.
    let watched: bool =
        transaction.query_row("SELECT EXISTS (SELECT 1 FROM watched)", [], |row| row.get(0))?;
    if watched {
        transaction.execute("UPDATE meta SET watched_from_ms = ?1", [at_ms])?;
    }
    transaction.execute("UPDATE meta SET rev = ?1", [rev])?;
    Ok(())
}

/// Living users with a policy that does not exist.
fn strangers(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<([u8; 16], String)>> {
    let mut statement = transaction.prepare(
        "SELECT id, policy FROM users WHERE tombstoned_ms IS NULL AND policy NOT IN (SELECT name FROM policies)",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
