//! Who there is: users and inbounds as found in the proxy's configuration, and billing accounts.
//!
//! The file decides who exists, the ledger what they used: what vanishes from the file gets a
//! tombstone and keeps its history, and a name that comes back is another user. Two kinds of absence
//! mean nothing: of users whose entry is still to be written, and of users whose entry boxmeter took
//! out itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    columns,
    commit::{id_bytes, insert_event, user_id},
    error::CommitError,
    model::{AccountPeriod, FoundInbound, FoundUser, InboundNo, InboundRecord, NewEvent, UserRecord},
    parking::{self, Staged},
    policies,
    records::{AdminRecord, FileState, ParkedStage, Settings, StateRecord},
    schema_gate::FALLBACK,
};
use crate::core::event::{PolicyId, UserId};

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

/// Makes many changes in one transaction, each by itself: what is refused of one is its answer, and nothing
/// of it is there. If the ledger cannot write, nothing of all is there.
pub(super) fn each<I, T>(
    transaction: &Transaction<'_>,
    items: impl IntoIterator<Item = I>,
    mut change: impl FnMut(I) -> Result<T, CommitError>,
) -> Result<Vec<Result<T, CommitError>>, CommitError> {
    let mut answers = Vec::new();
    for item in items {
        transaction.execute_batch("SAVEPOINT one")?;
        let answer = change(item);
        match answer {
            Ok(_) => {}
            Err(CommitError::Refusal(_) | CommitError::Refused(_)) => {
                transaction.execute_batch("ROLLBACK TO one")?;
            }
            Err(error) => return Err(error),
        }
        transaction.execute_batch("RELEASE one")?;
        answers.push(answer);
    }
    Ok(answers)
}

pub(super) fn sync_users(
    connection: &mut Connection,
    found: &[FoundUser],
    elsewhere: &[Arc<str>],
    policy: &str,
    now_ms: i64,
) -> Result<Vec<UserRecord>, CommitError> {
    change(connection, |transaction, rev| {
        let inbounds = inbound_numbers(transaction)?;
        let present = live_names(transaction)?;
        let parked = parking::stages(transaction)?;
        let mut removing = removing(transaction)?;
        let mut sync = Sync { transaction, rev, now_ms, parked, policy: None };
        let mut seen = HashSet::new();
        for user in found {
            if !seen.insert(user.name.clone()) {
                continue;
            }
            let id = match present.get(&*user.name) {
                Some((id, state)) => {
                    sync.arrived(*id, *state)?;
                    *id
                }
                // Deleted here, and not yet gone from the file: not somebody new.
                None if removing.remove(&*user.name).is_some() => continue,
                None => sync.adopt(&user.name, policy)?,
            };
            let tags: HashSet<&str> = user.inbounds.iter().map(|tag| &**tag).collect();
            sync.compare_parked(id, &tags)?;
            let tags = tags.into_iter().chain(sync.parked_tags(id)).filter_map(|tag| inbounds.get(tag));
            let wanted = tags.copied().collect();
            sync.memberships(id, &wanted)?;
        }
        for (name, (id, state)) in &present {
            if seen.contains(name.as_str()) {
                continue;
            }
            sync.compare_parked(*id, &HashSet::new())?;
            if *state != FileState::Adding && sync.parked_tags(*id).next().is_none() {
                sync.bury(*id, name)?;
            }
        }
        let places = self::places_of_removing(transaction)?;
        for id in removing.into_values() {
            // A service that was not asked yet, or is away, may have the user still.
            if !elsewhere.iter().any(|tag| places.may_be_on(id, tag)) {
                sync.settle(id)?;
            }
        }
        Ok(users(transaction)?)
    })
}

/// Users whose removal from the file was decided, by name.
fn removing(connection: &Connection) -> rusqlite::Result<HashMap<String, UserId>> {
    let mut statement = connection.prepare("SELECT name, id FROM users WHERE file_state = 'removing'")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, user_id(row.get(1)?))))?;
    rows.collect()
}

/// Inbounds on which users who are being removed ever were.
#[derive(Clone, Debug, Default)]
pub struct Removing(HashMap<UserId, HashSet<Arc<str>>>);

impl Removing {
    /// May the user's entry be there? Of whom nothing is known, anywhere.
    pub fn may_be_on(&self, user: UserId, inbound: &str) -> bool {
        self.0.get(&user).is_none_or(|tags| tags.contains(inbound))
    }
}

pub(super) fn places_of_removing(connection: &Connection) -> rusqlite::Result<Removing> {
    let mut statement = connection.prepare_cached(
        "SELECT u.id, i.tag FROM users u JOIN user_inbounds m ON m.user_id = u.id
         JOIN inbounds i ON i.no = m.inbound_no WHERE u.file_state = 'removing'",
    )?;
    let mut rows = statement.query([])?;
    let mut places: HashMap<UserId, HashSet<Arc<str>>> = HashMap::new();
    while let Some(row) = rows.next()? {
        places.entry(user_id(row.get(0)?)).or_default().insert(Arc::from(row.get::<_, String>(1)?));
    }
    Ok(Removing(places))
}

fn live_names(connection: &Connection) -> rusqlite::Result<HashMap<String, (UserId, FileState)>> {
    let mut statement =
        connection.prepare("SELECT name, id, file_state FROM users WHERE tombstoned_ms IS NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (user_id(row.get(1)?), row.get(2)?))))?;
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
    parked: HashMap<UserId, Vec<Staged>>,
    /// Of adopted users, looked up for the first one.
    policy: Option<PolicyId>,
}

impl Sync<'_> {
    fn adopt(&mut self, name: &str, policy: &str) -> rusqlite::Result<UserId> {
        let policy = match self.policy {
            Some(policy) => policy,
            None => self.policy_of_adopted(policy)?,
        };
        let id = UserId(Uuid::now_v7());
        self.transaction
            .prepare_cached(
                "INSERT INTO users (id, name, created_ms, file_state, policy_id, overrides, admin_state,
                                    admin_since_ms, admin_actor, account_start_ms, account_generation, warned,
                                    state, state_cause, state_since_ms, settings_rev, rev)
                 VALUES (?1, ?2, ?3, 'settled', ?4, '{}', 'enabled', ?3, 'agent', ?3, 0, '[]', 'active', 'none', ?3, ?5, ?5)",
            )?
            .execute(params![id_bytes(id), name, self.now_ms, policy.0.into_bytes(), self.rev])?;
        self.event("user_adopted", id, json!({ "name": name }))?;
        Ok(id)
    }

    /// A name that nobody has is no reason to cut anybody.
    fn policy_of_adopted(&mut self, name: &str) -> rusqlite::Result<PolicyId> {
        let mut found = policies::id_of(self.transaction, name)?;
        if found.is_none() {
            let data = json!({ "policy": name, "instead": FALLBACK, "severity": "warning" });
            let event = NewEvent {
                at_ms: self.now_ms,
                kind: "policy_unknown".to_owned(),
                user: None,
                actor: "agent".to_owned(),
                data,
            };
            insert_event(self.transaction, &event, self.rev)?;
            found = policies::id_of(self.transaction, FALLBACK)?;
        }
        let policy = found.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        self.policy = Some(policy);
        Ok(policy)
    }

    /// The user is in the file; an addition is over with that.
    fn arrived(&mut self, id: UserId, state: FileState) -> rusqlite::Result<()> {
        if state == FileState::Settled { Ok(()) } else { self.settle(id) }
    }

    fn settle(&mut self, id: UserId) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE users SET file_state = 'settled', rev = ?2 WHERE id = ?1")?
            .execute(params![id_bytes(id), self.rev])?;
        Ok(())
    }

    fn parked_tags(&self, id: UserId) -> impl Iterator<Item = &str> {
        self.parked.get(&id).into_iter().flatten().map(|staged| &*staged.key.inbound)
    }

    /// What was seen in the file says how far each edit is, also one whose end was never confirmed.
    fn compare_parked(&mut self, id: UserId, in_file: &HashSet<&str>) -> rusqlite::Result<()> {
        let Some(mut entries) = self.parked.remove(&id) else { return Ok(()) };
        let mut left = Vec::with_capacity(entries.len());
        for staged in entries.drain(..) {
            if staged.elsewhere {
                left.push(staged);
                continue;
            }
            let Staged { key, stage, .. } = staged;
            let next = match (stage, in_file.contains(&*key.inbound)) {
                (ParkedStage::Leaving | ParkedStage::Back, false) => ParkedStage::Out,
                // Who put it there, boxmeter after a reload that failed or somebody by hand, is known to who
                // edits the files (`Ledger::found_back`).
                (ParkedStage::Out, true) => ParkedStage::Out,
                (ParkedStage::Returning, true) => {
                    parking::remove(self.transaction, &key)?;
                    continue;
                }
                (stage, _) => stage,
            };
            if next != stage {
                parking::set_stage(self.transaction, &key, next, self.rev)?;
            }
            left.push(Staged { key, stage: next, elsewhere: false });
        }
        if !left.is_empty() {
            self.parked.insert(id, left);
        }
        Ok(())
    }

    fn bury(&mut self, id: UserId, name: &str) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE users SET tombstoned_ms = ?2, rev = ?3 WHERE id = ?1")?
            .execute(params![id_bytes(id), self.now_ms, self.rev])?;
        self.memberships(id, &HashSet::new())?;
        self.event("user_vanished", id, json!({ "name": name }))
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

    fn event(&self, kind: &str, user: UserId, data: serde_json::Value) -> rusqlite::Result<()> {
        let event = NewEvent {
            at_ms: self.now_ms,
            kind: kind.to_owned(),
            user: Some(user),
            actor: "agent".to_owned(),
            data,
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

/// By user, the inbounds on which the entry is, or was before it was parked.
pub(super) fn members(connection: &Connection) -> rusqlite::Result<HashMap<UserId, Vec<InboundNo>>> {
    let mut members: HashMap<UserId, Vec<InboundNo>> = HashMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT user_id, inbound_no FROM user_inbounds WHERE tombstoned_ms IS NULL ORDER BY user_id, inbound_no",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        members.entry(user_id(row.get(0)?)).or_default().push(InboundNo(row.get(1)?));
    }
    Ok(members)
}

const USER: &str = "SELECT u.id, u.name, u.created_ms, u.tombstoned_ms, u.purged_ms, u.file_state, p.name,
        u.policy_id, u.overrides, u.expires_ms, u.email, u.note, u.admin_state, u.admin_since_ms, u.admin_actor,
        u.admin_why, u.account_start_ms, u.account_generation, u.first_use_ms, u.state, u.state_since_ms,
        u.settings_rev, u.rev, u.admin_until_ms, u.admin_evidence, u.state_cause,
        u.warned, u.account_rule
    FROM users u JOIN policies p ON p.id = u.policy_id";

fn read_user(row: &rusqlite::Row<'_>) -> rusqlite::Result<UserRecord> {
    Ok(UserRecord {
        id: user_id(row.get(0)?),
        name: Arc::from(row.get::<_, String>(1)?),
        created_ms: row.get(2)?,
        tombstoned_ms: row.get(3)?,
        purged_ms: row.get(4)?,
        file_state: row.get(5)?,
        policy: row.get(6)?,
        settings: Settings {
            policy: PolicyId(Uuid::from_bytes(row.get(7)?)),
            overrides: columns::json(row, 8)?,
            expires_ms: row.get(9)?,
            email: row.get(10)?,
            note: row.get(11)?,
        },
        admin: AdminRecord {
            state: row.get(12)?,
            since_ms: row.get(13)?,
            actor: row.get(14)?,
            why: row.get(15)?,
            until_ms: row.get(23)?,
            evidence: columns::json_or_null(row, 24)?,
        },
        account: AccountPeriod { start_ms: row.get(16)?, generation: row.get(17)? },
        kept: columns::json_or_null(row, 27)?,
        warned: columns::json(row, 26)?,
        first_use_ms: row.get(18)?,
        state: StateRecord { state: row.get(19)?, cause: row.get(25)?, since_ms: row.get(20)? },
        inbounds: Vec::new(),
        settings_rev: row.get(21)?,
        rev: row.get(22)?,
    })
}

/// All users, those with a tombstone included, by id.
pub(super) fn users(connection: &Connection) -> rusqlite::Result<Vec<UserRecord>> {
    let mut members = members(connection)?;
    let mut statement = connection.prepare(&format!("{USER} ORDER BY u.id"))?;
    let users = statement.query_map([], read_user)?;
    users
        .map(|user| {
            let mut user = user?;
            user.inbounds = members.remove(&user.id).unwrap_or_default();
            Ok(user)
        })
        .collect()
}

/// Who has the name, else who had it last.
pub(super) fn bearer(connection: &Connection, name: &str) -> rusqlite::Result<Option<UserRecord>> {
    let find = |sql: &str| {
        connection.prepare_cached(sql)?.query_row([name], |row| Ok(user_id(row.get(0)?))).optional()
    };
    // Ids grow with time.
    let found = match find("SELECT id FROM users WHERE name = ?1 AND tombstoned_ms IS NULL")? {
        Some(id) => Some(id),
        None => find("SELECT id FROM users WHERE name = ?1 ORDER BY id DESC LIMIT 1")?,
    };
    found.map_or(Ok(None), |id| user(connection, id))
}

/// One user; those with a tombstone included.
pub(super) fn user(connection: &Connection, id: UserId) -> rusqlite::Result<Option<UserRecord>> {
    let user = connection
        .prepare_cached(&format!("{USER} WHERE u.id = ?1"))?
        .query_row([id_bytes(id)], read_user)
        .optional()?;
    let Some(mut user) = user else { return Ok(None) };
    user.inbounds = connection
        .prepare_cached(
            "SELECT inbound_no FROM user_inbounds WHERE user_id = ?1 AND tombstoned_ms IS NULL ORDER BY inbound_no",
        )?
        .query_map([id_bytes(id)], |row| Ok(InboundNo(row.get(0)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(user))
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
