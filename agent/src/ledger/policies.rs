//! Plans: what they say, who has them, and when they may go.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    columns,
    commit::user_id,
    error::CommitError,
    idempotency,
    records::{Asked, PolicyRecord, Refusal, Settle},
    schema_gate::FALLBACK,
    settings, wallet,
};
use crate::core::{
    event::{PolicyId, UserId},
    terms::Terms,
};

/// Policies that a ledger may have.
const POLICIES_MAX: i64 = 1000;

const POLICY: &str = "SELECT p.id, p.name, p.terms, p.built_in, p.tombstoned_ms, p.rev,
        (SELECT count(*) FROM users u WHERE u.policy_id = p.id AND u.tombstoned_ms IS NULL)
    FROM policies p";

fn read(row: &Row<'_>) -> rusqlite::Result<PolicyRecord> {
    Ok(PolicyRecord {
        id: PolicyId(Uuid::from_bytes(row.get(0)?)),
        name: Arc::from(row.get::<_, String>(1)?),
        terms: columns::json(row, 2)?,
        built_in: row.get(3)?,
        tombstoned_ms: row.get(4)?,
        rev: row.get(5)?,
        users: u64::try_from(row.get::<_, i64>(6)?).unwrap_or(0),
    })
}

/// All living policies: the built-in ones, then the others as they were made.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<PolicyRecord>> {
    let sql = format!("{POLICY} WHERE p.tombstoned_ms IS NULL ORDER BY p.built_in DESC, p.id");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], read)?;
    rows.collect()
}

/// A living policy.
pub(super) fn by_id(connection: &Connection, id: PolicyId) -> rusqlite::Result<Option<PolicyRecord>> {
    connection
        .prepare_cached(&format!("{POLICY} WHERE p.id = ?1 AND p.tombstoned_ms IS NULL"))?
        .query_row([id.0.into_bytes()], read)
        .optional()
}

pub(super) fn id_of(connection: &Connection, name: &str) -> rusqlite::Result<Option<PolicyId>> {
    connection
        .prepare_cached("SELECT id FROM policies WHERE name = ?1 AND tombstoned_ms IS NULL")?
        .query_row([name], |row| Ok(PolicyId(Uuid::from_bytes(row.get(0)?))))
        .optional()
}

pub(super) fn create(
    transaction: &Transaction<'_>,
    name: &str,
    terms: &Terms,
    asked: &Asked,
    rev: i64,
) -> Result<PolicyRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    check_name(transaction, name)?;
    let count: i64 =
        transaction
            .query_row("SELECT count(*) FROM policies WHERE tombstoned_ms IS NULL", [], |row| row.get(0))?;
    if count >= POLICIES_MAX {
        return Err(Refusal::Invalid(format!("there are {POLICIES_MAX} policies already")).into());
    }
    let id = PolicyId(Uuid::now_v7());
    transaction.execute(
        "INSERT INTO policies (id, name, terms, built_in, rev) VALUES (?1, ?2, ?3, 0, ?4)",
        params![id.0.into_bytes(), name, columns::to_json(terms)?, rev],
    )?;
    asked.event(transaction, "policy_created", None, json!({ "policy": name, "terms": terms }), rev)?;
    known(transaction, id)
}

/// A new name, new terms, or both. The id stays, and so do its users.
pub(super) fn change(
    transaction: &Transaction<'_>,
    id: PolicyId,
    name: Option<&str>,
    terms: Option<&Terms>,
    (if_rev, settle): (Option<i64>, &mut Settle),
    (asked, rev): (&Asked, i64),
) -> Result<PolicyRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = known(transaction, id)?;
    check_rev(&before, if_rev)?;
    let renamed = name.filter(|name| **name != *before.name);
    if let Some(name) = renamed {
        if before.built_in {
            return Err(Refusal::BuiltIn(before.name.to_string(), "it keeps its name").into());
        }
        check_name(transaction, name)?;
    }
    let changed = terms.filter(|terms| **terms != before.terms);
    if changed.is_some() && before.built_in && *before.name == *FALLBACK {
        let why = "it has no limits; make another policy for them";
        return Err(Refusal::BuiltIn(before.name.to_string(), why).into());
    }
    if renamed.is_none() && changed.is_none() {
        return Ok(before);
    }
    if changed.is_some() {
        for user in bearers_with_wallets(transaction, id)? {
            wallet::settle_if_used(transaction, user, settle, (asked, rev))?;
        }
    }
    transaction.execute(
        "UPDATE policies SET name = ?2, terms = ?3, rev = ?4 WHERE id = ?1",
        params![
            id.0.into_bytes(),
            renamed.unwrap_or(&before.name),
            columns::to_json(changed.unwrap_or(&before.terms))?,
            rev
        ],
    )?;
    if let Some(terms) = changed
        && terms.valid_days.is_some()
        && terms.valid_days != before.terms.valid_days
    {
        forget_first_uses(transaction, id, rev)?;
    }
    let mut data = json!({ "policy": &*before.name, "users": before.users });
    if let Some(name) = renamed {
        data["renamed_to"] = json!(name);
    }
    if let Some(terms) = changed {
        data["before"] = json!(before.terms);
        data["after"] = json!(terms);
    }
    asked.event(transaction, "policy_changed", None, data, rev)?;
    known(transaction, id)
}

/// A validity from the first use on begins anew with the next use: whoever was there long before is not over at
/// once. A user's own validity stays as it is.
fn forget_first_uses(transaction: &Transaction<'_>, id: PolicyId, rev: i64) -> Result<(), CommitError> {
    transaction.execute(
        "UPDATE users SET first_use_ms = NULL, rev = ?2
         WHERE policy_id = ?1 AND tombstoned_ms IS NULL AND first_use_ms IS NOT NULL
             AND json_type(overrides, '$.valid_days') IS NULL",
        params![id.0.into_bytes(), rev],
    )?;
    Ok(())
}

/// A tombstone, for a policy that nobody has.
pub(super) fn delete(
    transaction: &Transaction<'_>,
    id: PolicyId,
    if_rev: Option<i64>,
    (asked, rev): (&Asked, i64),
) -> Result<(), CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = known(transaction, id)?;
    check_rev(&before, if_rev)?;
    if before.built_in {
        return Err(Refusal::BuiltIn(before.name.to_string(), "it is not deleted").into());
    }
    if before.users > 0 {
        return Err(Refusal::PolicyInUse { name: before.name.to_string(), users: before.users }.into());
    }
    transaction.execute(
        "UPDATE policies SET tombstoned_ms = ?2, rev = ?3 WHERE id = ?1",
        params![id.0.into_bytes(), asked.at_ms, rev],
    )?;
    Ok(asked.event(transaction, "policy_deleted", None, json!({ "policy": &*before.name }), rev)?)
}

/// The terms alone: without counting who has them.
pub(super) fn terms(connection: &Connection, id: PolicyId) -> Result<Terms, CommitError> {
    let terms = connection
        .prepare_cached("SELECT terms FROM policies WHERE id = ?1 AND tombstoned_ms IS NULL")?
        .query_row([id.0.into_bytes()], |row| columns::json(row, 0))
        .optional()?;
    Ok(terms.ok_or_else(|| Refusal::NoSuchPolicy(id.to_string()))?)
}

fn bearers_with_wallets(connection: &Connection, id: PolicyId) -> rusqlite::Result<Vec<UserId>> {
    let mut statement = connection.prepare(
        "SELECT id FROM users WHERE policy_id = ?1 AND tombstoned_ms IS NULL
             AND EXISTS (SELECT 1 FROM wallet_entries WHERE user_id = users.id)",
    )?;
    let rows = statement.query_map([id.0.into_bytes()], |row| Ok(user_id(row.get(0)?)))?;
    rows.collect()
}

pub(super) fn known(connection: &Connection, id: PolicyId) -> Result<PolicyRecord, CommitError> {
    Ok(by_id(connection, id)?.ok_or_else(|| Refusal::NoSuchPolicy(id.to_string()))?)
}

fn check_rev(now: &PolicyRecord, if_rev: Option<i64>) -> Result<(), Refusal> {
    if if_rev.is_some_and(|rev| rev != now.rev) {
        return Err(Refusal::PolicyChanged { now: Box::new(now.clone()) });
    }
    Ok(())
}

fn check_name(connection: &Connection, name: &str) -> Result<(), CommitError> {
    settings::check_name(name)?;
    if id_of(connection, name)?.is_some() {
        return Err(Refusal::NameTaken("policy", name.to_owned()).into());
    }
    Ok(())
}
