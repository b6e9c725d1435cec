//! The wallet and the turns of accounts. Money never appears or vanishes: entries are only added, a
//! package is never spent beyond what it has, and an account books what it spent once.

use std::collections::HashMap;

use rusqlite::{Connection, Row, Transaction, params};
use serde_json::json;
use uuid::Uuid;

use super::{
    columns,
    commit::{COUNTER_MAX, id_bytes, user_id},
    error::CommitError,
    idempotency,
    model::{AccountPeriod, Kept},
    policies,
    records::{Asked, Closing, EntryKind, Keep, NewEntry, Refusal, Settle, Turn, Used, WalletEntry},
    settings, standing,
};
use crate::core::event::UserId;

/// Entries of one user: one package a day for some decades.
const ENTRIES_MAX: i64 = 10_000;

const ENTRY: &str = "SELECT id, user_id, at_ms, kind, bytes, expires_ms, package_id, account_start_ms,
    account_generation, actor, note, rev FROM wallet_entries";

fn read(row: &Row<'_>) -> rusqlite::Result<WalletEntry> {
    let account = match (row.get(7)?, row.get(8)?) {
        (Some(start_ms), Some(generation)) => Some(AccountPeriod { start_ms, generation }),
        _ => None,
    };
    Ok(WalletEntry {
        id: Uuid::from_bytes(row.get(0)?),
        user: user_id(row.get(1)?),
        at_ms: row.get(2)?,
        kind: row.get(3)?,
        bytes: row.get(4)?,
        expires_ms: row.get(5)?,
        package: row.get::<_, Option<[u8; 16]>>(6)?.map(Uuid::from_bytes),
        account,
        actor: row.get(9)?,
        note: row.get(10)?,
        rev: row.get(11)?,
    })
}

/// Entries of a user, oldest first.
pub(super) fn of_user(connection: &Connection, user: UserId) -> rusqlite::Result<Vec<WalletEntry>> {
    let mut statement = connection.prepare_cached(&format!("{ENTRY} WHERE user_id = ?1 ORDER BY no"))?;
    let rows = statement.query_map([id_bytes(user)], read)?;
    rows.collect()
}

/// Entries of all users, oldest first.
pub(super) fn by_user(connection: &Connection) -> rusqlite::Result<HashMap<UserId, Vec<WalletEntry>>> {
    let mut wallets: HashMap<UserId, Vec<WalletEntry>> = HashMap::new();
    let mut statement = connection.prepare_cached(&format!("{ENTRY} ORDER BY no"))?;
    for entry in statement.query_map([], read)? {
        let entry = entry?;
        wallets.entry(entry.user).or_default().push(entry);
    }
    Ok(wallets)
}

/// Adds a package or an adjustment. Before that, what the account took of packages so far is booked:
/// what is new pays for bytes that are still to come.
pub(super) fn add(
    transaction: &Transaction<'_>,
    user: UserId,
    entry: &NewEntry,
    settle: &mut Settle,
    (asked, rev): (&Asked, i64),
) -> Result<WalletEntry, CommitError> {
    idempotency::claim(transaction, asked)?;
    let account = settings::living(transaction, user)?.account;
    let kind = match entry.kind {
        EntryKind::Package => "package_added",
        EntryKind::Adjustment => "quota_adjusted",
        EntryKind::Rollover | EntryKind::Spent | EntryKind::Settled => {
            return Err(CommitError::Refused("only an account that is settled books this".to_owned()));
        }
    };
    book(transaction, user, (account, None), settle, (&by_rule(asked), rev))?;
    let written = insert(transaction, user, entry, asked, rev)?;
    let data =
        json!({ "entry": written.id.to_string(), "bytes": entry.bytes, "expires_ms": entry.expires_ms });
    asked.event(transaction, kind, Some(user), data, rev)?;
    Ok(written)
}

/// What follows from a rule is the agent's doing, whoever set it off.
fn by_rule(asked: &Asked) -> Asked {
    Asked::new("agent", asked.at_ms)
}

/// Books what the account in force took of packages, of a user who ever had any.
pub(super) fn settle_if_used(
    transaction: &Transaction<'_>,
    user: UserId,
    settle: &mut Settle,
    (asked, rev): (&Asked, i64),
) -> Result<(), CommitError> {
    let account = settings::living(transaction, user)?.account;
    if !of_user(transaction, user)?.is_empty() {
        book(transaction, user, (account, None), settle, (&by_rule(asked), rev))?;
    }
    Ok(())
}

/// The event of a package's expiry, which says that it is booked.
const EXPIRED: &str = "package_expired";

/// Books for an account that goes on: a package expires. The event in the same transaction says that it was
/// done, also where there was nothing to book: done again, the package would pay for what came after. An
/// account that began after the expiry has nothing of it, and a user who is gone is left alone.
pub(super) fn book_expiry(
    transaction: &Transaction<'_>,
    user: UserId,
    settle: &mut Settle,
    (at_ms, rev): (i64, i64),
) -> Result<(), CommitError> {
    let account = match settings::living(transaction, user) {
        Ok(user) => user.account,
        Err(CommitError::Refusal(Refusal::NoSuchUser)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let done: bool = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM events WHERE user_id = ?1 AND kind = ?2 AND at_ms = ?3)",
        )?
        .query_row(params![id_bytes(user), EXPIRED, at_ms], |row| row.get(0))?;
    if done || at_ms <= account.start_ms {
        return Ok(());
    }
    let asked = Asked::new("agent", at_ms);
    settle_if_used(transaction, user, settle, (&asked, rev))?;
    let data = json!({ "message": "a package has expired; what it had paid until then is booked" });
    Ok(asked.event(transaction, EXPIRED, Some(user), data, rev)?)
}

fn insert(
    transaction: &Transaction<'_>,
    user: UserId,
    entry: &NewEntry,
    asked: &Asked,
    rev: i64,
) -> Result<WalletEntry, CommitError> {
    check(transaction, user, entry)?;
    let id = Uuid::now_v7();
    transaction
        .prepare_cached(
            "INSERT INTO wallet_entries (id, user_id, at_ms, kind, bytes, expires_ms, package_id, account_start_ms,
                                         account_generation, actor, note, rev)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            id.into_bytes(),
            id_bytes(user),
            asked.at_ms,
            entry.kind,
            entry.bytes,
            entry.expires_ms,
            entry.package.map(Uuid::into_bytes),
            entry.account.map(|account| account.start_ms),
            entry.account.map(|account| account.generation),
            asked.actor,
            entry.note,
            rev
        ])?;
    Ok(WalletEntry {
        id,
        user,
        at_ms: asked.at_ms,
        kind: entry.kind,
        bytes: entry.bytes,
        expires_ms: entry.expires_ms,
        package: entry.package,
        account: entry.account,
        actor: asked.actor.clone(),
        note: entry.note.clone(),
        rev,
    })
}

fn check(transaction: &Transaction<'_>, user: UserId, entry: &NewEntry) -> Result<(), CommitError> {
    let sound = entry.bytes != 0
        && entry.bytes.unsigned_abs() <= COUNTER_MAX.unsigned_abs()
        && match entry.kind {
            EntryKind::Package => entry.bytes > 0 && entry.package.is_none() && entry.account.is_none(),
            EntryKind::Rollover | EntryKind::Settled => {
                entry.bytes > 0 && entry.package.is_none() && entry.account.is_some()
            }
            EntryKind::Adjustment => {
                entry.package.is_none() && entry.account.is_none() && entry.expires_ms.is_none()
            }
            EntryKind::Spent => entry.bytes < 0 && entry.package.is_some() && entry.account.is_some(),
        };
    if !sound {
        let text = format!("{:?} of {} bytes is no wallet entry", entry.kind, entry.bytes);
        return Err(Refusal::Invalid(text).into());
    }
    let count: i64 = transaction
        .prepare_cached("SELECT count(*) FROM wallet_entries WHERE user_id = ?1")?
        .query_row([id_bytes(user)], |row| row.get(0))?;
    if count >= ENTRIES_MAX {
        return Err(Refusal::Invalid(format!("the user has {ENTRIES_MAX} wallet entries already")).into());
    }
    let Some(package) = entry.package else { return Ok(()) };
    // Nothing, if it is another user's package or none.
    let left: i64 = transaction
        .prepare_cached(
            "SELECT coalesce(sum(bytes), 0) FROM wallet_entries
             WHERE user_id = ?1 AND ((id = ?2 AND kind IN ('package', 'rollover', 'adjustment')) OR package_id = ?2)",
        )?
        .query_row(params![id_bytes(user), package.into_bytes()], |row| row.get(0))?;
    if left + entry.bytes < 0 {
        return Err(Refusal::Overspent { left, asked: -entry.bytes }.into());
    }
    Ok(())
}

/// Ends accounts: books what each spent and begins the next one. True for each that was turned; one
/// that is not in force any more (turned before, or the user is gone) is left alone.
pub(super) fn turn(
    transaction: &Transaction<'_>,
    turns: &[Turn],
    settle: &mut Settle,
    at_ms: i64,
    rev: i64,
) -> Result<Vec<bool>, CommitError> {
    let asked = Asked::new("agent", at_ms);
    let mut turned = Vec::with_capacity(turns.len());
    for one in turns {
        let live = match settings::living(transaction, one.user) {
            Ok(user) => user.account == one.from && one.to > one.from,
            Err(CommitError::Refusal(Refusal::NoSuchUser)) => false,
            Err(error) => return Err(error),
        };
        if live {
            close(transaction, one.user, (one.from, one.to), settle, ("period_turned", &asked, rev))?;
            keep(transaction, one.user, &one.kept)?;
        }
        turned.push(live);
    }
    Ok(turned)
}

/// Notes the rules that running accounts go by.
pub(super) fn keep_rules(transaction: &Transaction<'_>, keeps: &[Keep]) -> Result<(), CommitError> {
    for one in keeps {
        match settings::living(transaction, one.user) {
            Ok(user) if user.account == one.account => keep(transaction, one.user, &one.kept)?,
            Ok(_) | Err(CommitError::Refusal(Refusal::NoSuchUser)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn keep(transaction: &Transaction<'_>, user: UserId, kept: &Kept) -> Result<(), CommitError> {
    transaction
        .prepare_cached("UPDATE users SET account_rule = ?2 WHERE id = ?1")?
        .execute(params![id_bytes(user), columns::to_json(kept)?])?;
    Ok(())
}

/// "Reset traffic": the period's usage starts anew, history stays.
pub(super) fn reset(
    transaction: &Transaction<'_>,
    user: UserId,
    settle: &mut Settle,
    asked: &Asked,
    rev: i64,
) -> Result<AccountPeriod, CommitError> {
    idempotency::claim(transaction, asked)?;
    let from = settings::living(transaction, user)?.account;
    let to = AccountPeriod { generation: from.generation + 1, ..from };
    close(transaction, user, (from, to), settle, ("traffic_reset", asked, rev))?;
    transaction.execute("UPDATE users SET settings_rev = ?2 WHERE id = ?1", params![id_bytes(user), rev])?;
    Ok(to)
}

/// Asks what is to be booked, and books it.
fn book(
    transaction: &Transaction<'_>,
    user: UserId,
    (account, next): (AccountPeriod, Option<AccountPeriod>),
    settle: &mut Settle,
    (asked, rev): (&Asked, i64),
) -> Result<(Used, Vec<WalletEntry>), CommitError> {
    let record = settings::known(transaction, user)?;
    let wallet = of_user(transaction, user)?;
    let expired_ms = match wallet.is_empty() {
        true => None,
        false => transaction
            .prepare_cached("SELECT max(at_ms) FROM events WHERE user_id = ?1 AND kind = ?2")?
            .query_row(params![id_bytes(user), EXPIRED], |row| row.get(0))?,
    };
    let used = standing::account_usage(transaction, user, account)?;
    let closing = Closing {
        user,
        name: record.name,
        created_ms: record.created_ms,
        account,
        kept: record.kept,
        next,
        policy: record.settings.policy,
        terms: policies::terms(transaction, record.settings.policy)?,
        overrides: record.settings.overrides,
        used,
        wallet,
        expired_ms,
    };
    let mut booked = Vec::new();
    for entry in settle(&closing) {
        if matches!(entry.kind, EntryKind::Package | EntryKind::Adjustment) {
            return Err(CommitError::Refused("settling an account gives nothing away".to_owned()));
        }
        booked.push(insert(transaction, user, &entry, asked, rev)?);
    }
    Ok((used, booked))
}

fn close(
    transaction: &Transaction<'_>,
    user: UserId,
    (from, to): (AccountPeriod, AccountPeriod),
    settle: &mut Settle,
    (kind, asked, rev): (&str, &Asked, i64),
) -> Result<(), CommitError> {
    let (used, booked) = book(transaction, user, (from, Some(to)), settle, (&by_rule(asked), rev))?;
    transaction
        .prepare_cached(
            "UPDATE users SET account_start_ms = ?2, account_generation = ?3, warned = '[]', rev = ?4
             WHERE id = ?1",
        )?
        .execute(params![id_bytes(user), to.start_ms, to.generation, rev])?;
    let booked: Vec<_> =
        booked.iter().map(|entry| json!({ "kind": entry.kind.word(), "bytes": entry.bytes })).collect();
    let Used { counted, reported } = used;
    let data = json!({
        "from_ms": from.start_ms, "to_ms": to.start_ms, "payload": counted.payload,
        "wire": counted.wire, "reported": reported, "booked": booked,
    });
    Ok(asked.event(transaction, kind, Some(user), data, rev)?)
}

/// Bytes by kind, for tests of conservation.
#[cfg(test)]
pub(super) fn sums(connection: &Connection) -> Vec<(String, i64)> {
    let mut statement = connection
        .prepare("SELECT kind, sum(bytes) FROM wallet_entries GROUP BY kind ORDER BY kind")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}
