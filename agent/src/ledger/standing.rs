//! What the gate reads: each user's settings with what was used, bought and parked.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    commit::{id_bytes, to_counters, user_id},
    model::{AccountPeriod, UserRecord},
    parking, people,
    records::{ParkedEntry, ParkedStage, Standing, Used},
    wallet,
};
use crate::core::event::{Counters, UserId};

/// The six sums of a set of rows of totals.
const SUMS: &str = "coalesce(sum(t.upload_payload), 0), coalesce(sum(t.download_payload), 0),
    coalesce(sum(t.upload_wire), 0), coalesce(sum(t.download_wire), 0),
    coalesce(sum(t.reported_upload), 0), coalesce(sum(t.reported_download), 0)";

fn read_used(row: &Row<'_>, first: usize) -> rusqlite::Result<Used> {
    let counted =
        to_counters([row.get(first)?, row.get(first + 1)?, row.get(first + 2)?, row.get(first + 3)?]);
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Used { counted, reported: [bytes(row.get(first + 4)?), bytes(row.get(first + 5)?)] })
}

/// What a user used in one account.
pub(super) fn account_usage(
    connection: &Connection,
    user: UserId,
    account: AccountPeriod,
) -> rusqlite::Result<Used> {
    connection
        .prepare_cached(&format!(
            "SELECT {SUMS} FROM usage_keys k JOIN usage_totals t ON t.key_no = k.no
             WHERE coalesce(k.user_id, x'') = ?1 AND k.account_start_ms = ?2 AND k.account_generation = ?3"
        ))?
        .query_row(params![id_bytes(user), account.start_ms, account.generation], |row| read_used(row, 0))
}

/// What a user used in all accounts.
fn total_usage(connection: &Connection, user: UserId) -> rusqlite::Result<Used> {
    connection
        .prepare_cached(&format!(
            "SELECT {SUMS} FROM usage_keys k JOIN usage_totals t ON t.key_no = k.no
             WHERE coalesce(k.user_id, x'') = ?1"
        ))?
        .query_row([id_bytes(user)], |row| read_used(row, 0))
}

/// How far the kernel's counters of a user were taken over in an epoch.
fn taken_over(connection: &Connection, user: UserId, epoch: [u8; 16]) -> rusqlite::Result<Counters> {
    connection
        .prepare_cached(
            "SELECT coalesce(sum(upload_payload), 0), coalesce(sum(download_payload), 0),
                    coalesce(sum(upload_wire), 0), coalesce(sum(download_wire), 0)
             FROM cursors WHERE epoch_no = (SELECT no FROM epochs WHERE epoch = ?1) AND user_id = ?2",
        )?
        .query_row(params![epoch, id_bytes(user)], |row| {
            Ok(to_counters([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
        })
}

/// One user, for after a change of one.
pub(super) fn of_user(
    connection: &Connection,
    user: UserId,
    epoch: [u8; 16],
) -> rusqlite::Result<Option<Standing>> {
    let connection = connection.unchecked_transaction()?;
    let Some(record) = people::user(&connection, user)? else { return Ok(None) };
    let as_of = revision(&connection)?;
    let parts = Parts {
        used: account_usage(&connection, user, record.account)?,
        total: total_usage(&connection, user)?,
        taken_over: taken_over(&connection, user, epoch)?,
        wallet: wallet::of_user(&connection, user)?,
        parked: parking::all(&connection, Some(user))?
            .into_iter()
            .map(|record| (record.stage, record.entry))
            .collect(),
    };
    Ok(Some(standing(record, parts, as_of)))
}

/// From so many on, one pass over each table is faster than a look for each user.
const MANY: usize = 64;

/// Some users, in their order, for after a change of them.
pub(super) fn of_users(
    connection: &Connection,
    users: &[UserId],
    epoch: [u8; 16],
) -> rusqlite::Result<Vec<Option<Standing>>> {
    let mut known: HashMap<UserId, Standing> = match users.len() < MANY {
        true => HashMap::new(),
        false => all(connection, epoch)?.into_iter().map(|standing| (standing.id, standing)).collect(),
    };
    // Those who are gone from the file are not among all.
    let of = |user: &UserId| match known.remove(user) {
        Some(standing) => Ok(Some(standing)),
        None => of_user(connection, *user, epoch),
    };
    users.iter().map(of).collect()
}

fn revision(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT rev FROM meta", [], |row| row.get(0))
}

#[derive(Default)]
struct Parts {
    used: Used,
    total: Used,
    taken_over: Counters,
    wallet: Vec<super::records::WalletEntry>,
    parked: Vec<(ParkedStage, ParkedEntry)>,
}

fn standing(record: UserRecord, parts: Parts, as_of: i64) -> Standing {
    Standing {
        id: record.id,
        name: Arc::clone(&record.name),
        created_ms: record.created_ms,
        tombstoned_ms: record.tombstoned_ms,
        file_state: record.file_state,
        settings: record.settings,
        admin: record.admin,
        account: record.account,
        kept: record.kept,
        warned: record.warned,
        first_use_ms: record.first_use_ms,
        state: record.state,
        used: parts.used,
        total: parts.total,
        taken_over: parts.taken_over,
        wallet: parts.wallet,
        parked: parts.parked,
        inbounds: record.inbounds,
        settings_rev: record.settings_rev,
        rev: record.rev,
        as_of,
    }
}

/// Everybody who lives or is still in the file, by id: one pass over each table.
pub(super) fn all(connection: &Connection, epoch: [u8; 16]) -> rusqlite::Result<Vec<Standing>> {
    let connection = connection.unchecked_transaction()?;
    let as_of = revision(&connection)?;
    let mut used = usage(&connection)?;
    let mut taken = all_taken_over(&connection, epoch)?;
    let mut wallets = wallet::by_user(&connection)?;
    let mut parked: HashMap<UserId, Vec<(ParkedStage, ParkedEntry)>> = HashMap::new();
    for record in parking::all(&connection, None)? {
        parked.entry(record.user).or_default().push((record.stage, record.entry));
    }
    let mut all = Vec::new();
    for record in people::users(&connection)? {
        if record.tombstoned_ms.is_some() && record.file_state != super::FileState::Removing {
            continue;
        }
        let id = record.id;
        let (in_account, total) = used.remove(&id).unwrap_or_default();
        let parts = Parts {
            used: in_account,
            total,
            taken_over: taken.remove(&id).unwrap_or_default(),
            wallet: wallets.remove(&id).unwrap_or_default(),
            parked: parked.remove(&id).unwrap_or_default(),
        };
        all.push(standing(record, parts, as_of));
    }
    Ok(all)
}

/// By user, what was used in the account in force and over all time.
fn usage(connection: &Connection) -> rusqlite::Result<HashMap<UserId, (Used, Used)>> {
    let mut usage: HashMap<UserId, (Used, Used)> = HashMap::new();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT k.user_id, k.account_start_ms = u.account_start_ms
                AND k.account_generation = u.account_generation AS in_force, {SUMS}
         FROM usage_totals t JOIN usage_keys k ON k.no = t.key_no JOIN users u ON u.id = k.user_id
         GROUP BY k.user_id, in_force"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let part = read_used(row, 2)?;
        let (in_account, total) = usage.entry(user_id(row.get(0)?)).or_default();
        if row.get(1)? {
            *in_account = plus(*in_account, part);
        }
        *total = plus(*total, part);
    }
    Ok(usage)
}

fn all_taken_over(connection: &Connection, epoch: [u8; 16]) -> rusqlite::Result<HashMap<UserId, Counters>> {
    let known: Option<i64> = connection
        .query_row("SELECT no FROM epochs WHERE epoch = ?1", [epoch], |row| row.get(0))
        .optional()?;
    let mut statement = connection.prepare_cached(
        "SELECT user_id, sum(upload_payload), sum(download_payload), sum(upload_wire), sum(download_wire)
         FROM cursors WHERE epoch_no = ?1 AND user_id IS NOT NULL GROUP BY user_id",
    )?;
    let rows = statement.query_map([known], |row| {
        let sums = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        Ok((user_id(row.get(0)?), to_counters(sums)))
    })?;
    rows.collect()
}

fn plus(a: Used, b: Used) -> Used {
    let pair = |a: [u64; 2], b: [u64; 2]| [a[0].saturating_add(b[0]), a[1].saturating_add(b[1])];
    Used {
        counted: Counters {
            payload: pair(a.counted.payload, b.counted.payload),
            wire: pair(a.counted.wire, b.counted.wire),
        },
        reported: pair(a.reported, b.reported),
    }
}
