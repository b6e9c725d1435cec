//! Who there is: users and inbounds as found in the proxy's configuration, and billing accounts.
//!
//! The file decides who exists, the ledger what they used: what vanishes from the file gets a
//! tombstone and keeps its history, and a name that comes back is another user.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    commit::{id_bytes, insert_event, user_id},
    error::CommitError,
    model::{AccountPeriod, FoundInbound, FoundUser, InboundNo, InboundRecord, NewEvent, UserRecord},
};
use crate::core::event::UserId;

/// Runs `change` in a transaction with the next revision, which is only used up if rows changed.
pub(super) fn change<T>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>, i64) -> Result<T, CommitError>,
) -> Result<T, CommitError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let rev: i64 = transaction.query_row("SELECT rev + 1 FROM meta", [], |row| row.get(0))?;
    let before = transaction.total_changes();
    let answer = change(&transaction, rev)?;
    if transaction.total_changes() != before {
        transaction.execute("UPDATE meta SET rev = ?1", [rev])?;
    }
    transaction.commit()?;
    Ok(answer)
}

pub(super) fn sync_users(
    connection: &mut Connection,
    found: &[FoundUser],
    policy: &str,
    now_ms: i64,
) -> Result<Vec<UserRecord>, CommitError> {
    change(connection, |transaction, rev| {
        let mut sync = Sync { transaction, rev, now_ms };
        let inbounds = inbound_numbers(transaction)?;
        let present = live_names(transaction)?;
        let mut seen = HashSet::new();
        for user in found {
            if !seen.insert(user.name.clone()) {
                continue;
            }
            let id = match present.get(&*user.name) {
                Some(id) => *id,
                None => sync.adopt(&user.name, policy)?,
            };
            let wanted = user.inbounds.iter().filter_map(|tag| inbounds.get(&**tag).copied()).collect();
            sync.memberships(id, &wanted)?;
        }
        for (name, id) in &present {
            if !seen.contains(name.as_str()) {
                sync.bury(*id, name)?;
            }
        }
        Ok(users(transaction)?)
    })
}

fn live_names(connection: &Connection) -> rusqlite::Result<HashMap<String, UserId>> {
    let mut statement = connection.prepare("SELECT name, id FROM users WHERE tombstoned_ms IS NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, user_id(row.get(1)?))))?;
    rows.collect()
}

fn inbound_numbers(connection: &Connection) -> rusqlite::Result<HashMap<String, InboundNo>> {
    let mut statement = connection.prepare("SELECT tag, no FROM inbounds")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, InboundNo(row.get(1)?))))?;
    rows.collect()
}

struct Sync<'a> {
    transaction: &'a Transaction<'a>,
    rev: i64,
    now_ms: i64,
}

impl Sync<'_> {
    fn adopt(&mut self, name: &str, policy: &str) -> rusqlite::Result<UserId> {
        let id = UserId(Uuid::now_v7());
        self.transaction
            .prepare_cached(
                "INSERT INTO users (id, name, created_ms, policy, account_start_ms, account_generation, rev)
                 VALUES (?1, ?2, ?3, ?4, ?3, 0, ?5)",
            )?
            .execute(params![id_bytes(id), name, self.now_ms, policy, self.rev])?;
        self.event("user_adopted", id, name)?;
        Ok(id)
    }

    fn bury(&mut self, id: UserId, name: &str) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE users SET tombstoned_ms = ?2, rev = ?3 WHERE id = ?1")?
            .execute(params![id_bytes(id), self.now_ms, self.rev])?;
        self.memberships(id, &HashSet::new())?;
        self.event("user_vanished", id, name)
    }

    fn memberships(&mut self, id: UserId, wanted: &HashSet<InboundNo>) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT inbound_no FROM user_inbounds WHERE user_id = ?1 AND tombstoned_ms IS NULL",
        )?;
        let present: HashSet<InboundNo> = statement
            .query_map([id_bytes(id)], |row| Ok(InboundNo(row.get(0)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for inbound in present.difference(wanted) {
            self.transaction
                .prepare_cached(
                    "UPDATE user_inbounds SET tombstoned_ms = ?3, rev = ?4 WHERE user_id = ?1 AND inbound_no = ?2",
                )?
                .execute(params![id_bytes(id), inbound.0, self.now_ms, self.rev])?;
        }
        for inbound in wanted.difference(&present) {
            self.transaction
                .prepare_cached(
                    "INSERT INTO user_inbounds VALUES (?1, ?2, NULL, ?3)
                     ON CONFLICT DO UPDATE SET tombstoned_ms = NULL, rev = ?3",
                )?
                .execute(params![id_bytes(id), inbound.0, self.rev])?;
        }
        Ok(())
    }

    fn event(&self, kind: &str, user: UserId, name: &str) -> rusqlite::Result<()> {
        let event = NewEvent {
            at_ms: self.now_ms,
            kind: kind.to_owned(),
            user: Some(user),
            actor: "agent".to_owned(),
            data: json!({ "name": name }),
        };
        insert_event(self.transaction, &event, self.rev)
    }
}

pub(super) fn sync_inbounds(
    connection: &mut Connection,
    found: &[FoundInbound],
    now_ms: i64,
) -> Result<Vec<InboundRecord>, CommitError> {
    change(connection, |transaction, rev| {
        let mut seen = HashSet::new();
        for inbound in found {
            seen.insert(&*inbound.tag);
            // The condition leaves unchanged rows, and their revision, alone.
            transaction
                .prepare_cached(
                    "INSERT INTO inbounds (tag, kind, port, created_ms, rev) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (tag) DO UPDATE SET kind = ?2, port = ?3, tombstoned_ms = NULL, rev = ?5
                     WHERE kind <> ?2 OR port <> ?3 OR tombstoned_ms IS NOT NULL",
                )?
                .execute(params![&*inbound.tag, inbound.kind, inbound.port, now_ms, rev])?;
        }
        for inbound in inbounds(transaction)? {
            if inbound.tombstoned_ms.is_none() && !seen.contains(&*inbound.tag) {
                transaction
                    .prepare_cached("UPDATE inbounds SET tombstoned_ms = ?2, rev = ?3 WHERE no = ?1")?
                    .execute(params![inbound.no.0, now_ms, rev])?;
            }
        }
        Ok(inbounds(transaction)?)
    })
}

/// From the next tick on, the user's usage belongs to this account.
pub(super) fn turn_account(
    connection: &mut Connection,
    user: UserId,
    account: AccountPeriod,
) -> Result<(), CommitError> {
    change(connection, |transaction, rev| {
        let changed = transaction.execute(
            "UPDATE users SET account_start_ms = ?2, account_generation = ?3, rev = ?4
             WHERE id = ?1 AND (account_start_ms, account_generation) <= (?2, ?3)",
            params![id_bytes(user), account.start_ms, account.generation, rev],
        )?;
        if changed == 0 {
            return Err(CommitError::Refused(
                "no such user, or the account is older than the present one".to_owned(),
            ));
        }
        Ok(())
    })
}

/// All users, those with a tombstone included, by id.
pub(super) fn users(connection: &Connection) -> rusqlite::Result<Vec<UserRecord>> {
    let mut members: HashMap<UserId, Vec<InboundNo>> = HashMap::new();
    let mut statement = connection.prepare(
        "SELECT user_id, inbound_no FROM user_inbounds WHERE tombstoned_ms IS NULL ORDER BY user_id, inbound_no",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        members.entry(user_id(row.get(0)?)).or_default().push(InboundNo(row.get(1)?));
    }
    let mut statement = connection.prepare(
        "SELECT id, name, created_ms, tombstoned_ms, policy, account_start_ms, account_generation, email, note,
                expires_ms, rev FROM users ORDER BY id",
    )?;
    let users = statement.query_map([], |row| {
        let id = user_id(row.get(0)?);
        Ok(UserRecord {
            id,
            name: Arc::from(row.get::<_, String>(1)?),
            created_ms: row.get(2)?,
            tombstoned_ms: row.get(3)?,
            policy: row.get(4)?,
            account: AccountPeriod { start_ms: row.get(5)?, generation: row.get(6)? },
            email: row.get(7)?,
            note: row.get(8)?,
            expires_ms: row.get(9)?,
            inbounds: members.remove(&id).unwrap_or_default(),
            rev: row.get(10)?,
        })
    })?;
    users.collect()
}

/// All inbounds, those with a tombstone included, by number.
pub(super) fn inbounds(connection: &Connection) -> rusqlite::Result<Vec<InboundRecord>> {
    let mut statement =
        connection.prepare("SELECT no, tag, kind, port, tombstoned_ms, rev FROM inbounds ORDER BY no")?;
    let inbounds = statement.query_map([], |row| {
        Ok(InboundRecord {
            no: InboundNo(row.get(0)?),
            tag: Arc::from(row.get::<_, String>(1)?),
            kind: row.get(2)?,
            port: row.get(3)?,
            tombstoned_ms: row.get(4)?,
            rev: row.get(5)?,
        })
    })?;
    inbounds.collect()
}
