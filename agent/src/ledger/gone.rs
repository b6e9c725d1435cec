//! Names whose users somebody deleted. What still counts such a name makes nobody of it by itself: only somebody who
//! makes a user of that name does. Kept as salted hashes, which outlive a purge.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};

use super::error::CommitError;
use crate::core::counters;

type Hash = [u8; 32];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    salt: Hash,
    hashes: HashSet<Hash>,
    /// Those of them that were not purged, by the tag of each service's own account that they were on.
    pub by_tag: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

fn hash_of(salt: &Hash, name: &str) -> Hash {
    Sha256::new().chain_update(salt).chain_update(name).finalize().into()
}

impl Gone {
    /// Was the user of this name deleted, and nobody made of it since?
    pub fn has(&self, name: &str) -> bool {
        !self.hashes.is_empty() && self.hashes.contains(&hash_of(&self.salt, name))
    }

    /// What the ledger has as well: the user was deleted, and was on the accounts with these tags.
    pub fn add(&mut self, name: &Arc<str>, tags: impl IntoIterator<Item = Arc<str>>) {
        self.hashes.insert(hash_of(&self.salt, name));
        for tag in tags {
            self.by_tag.entry(tag).or_default().insert(Arc::clone(name));
        }
    }

    /// What the ledger has as well: somebody has this name.
    pub fn remove(&mut self, name: &str) {
        self.hashes.remove(&hash_of(&self.salt, name));
        for names in self.by_tag.values_mut() {
            names.remove(name);
        }
    }
}

fn salt(connection: &Connection) -> rusqlite::Result<Hash> {
    connection.query_row("SELECT salt FROM gone_salt", [], |row| row.get(0))
}

/// A user of this name was deleted.
pub(super) fn add(transaction: &Transaction<'_>, name: &str, at_ms: i64, rev: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO gone_names VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET at_ms = ?2, rev = ?3",
        )?
        .execute(params![hash_of(&salt(transaction)?, name), at_ms, rev])?;
    Ok(())
}

/// Somebody has this name from now on.
pub(super) fn remove(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM gone_names WHERE hash = ?1")?
        .execute([hash_of(&salt(transaction)?, name)])?;
    Ok(())
}

pub(super) fn has(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<bool> {
    let found = transaction
        .prepare_cached("SELECT 1 FROM gone_names WHERE hash = ?1")?
        .query_row([hash_of(&salt(transaction)?, name)], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

pub(super) fn all(connection: &Connection) -> Result<Gone, CommitError> {
    let mut gone = Gone { salt: salt(connection)?, ..Gone::default() };
    let mut statement = connection.prepare("SELECT hash FROM gone_names")?;
    gone.hashes = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut statement = connection.prepare(
        "SELECT i.tag, u.name FROM inbounds i JOIN user_inbounds m ON m.inbound_no = i.no
         JOIN users u ON u.id = m.user_id
         WHERE i.tag LIKE '%/' || ?1 AND u.tombstoned_ms IS NOT NULL AND u.purged_ms IS NULL",
    )?;
    let mut rows = statement.query([counters::TAG])?;
    while let Some(row) = rows.next()? {
        let (tag, name): (String, String) = (row.get(0)?, row.get(1)?);
        // Somebody may have the name by now, and whoever only vanished from a file was not deleted.
        if gone.has(&name) {
            gone.by_tag.entry(tag.into()).or_default().insert(name.into());
        }
    }
    Ok(gone)
}

/// Who was deleted before there was this table, as far as the events say.
pub(super) fn fill(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(
        "SELECT u.name, max(u.tombstoned_ms) FROM users u
         WHERE u.tombstoned_ms IS NOT NULL AND u.purged_ms IS NULL
             AND EXISTS (SELECT 1 FROM events e WHERE e.user_id = u.id AND e.kind = 'user_deleted')
             AND NOT EXISTS (SELECT 1 FROM users o WHERE o.name = u.name AND o.tombstoned_ms IS NULL)
         GROUP BY u.name",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let rev = transaction.query_row("SELECT rev FROM meta", [], |row| row.get(0))?;
        add(transaction, &row.get::<_, String>(0)?, row.get(1)?, rev)?;
    }
    Ok(())
}

/// After a restore: whom the ledger that was replaced knows as deleted is nobody new, and neither is whom the
/// backup knows. Whoever is a user in one of the two was not deleted for good.
pub(super) fn take_over(transaction: &Transaction<'_>, before: &Connection) -> rusqlite::Result<()> {
    let (own, theirs) = (salt(transaction)?, salt(before)?);
    let rev: i64 = transaction.query_row("SELECT rev + 1 FROM meta", [], |row| row.get(0))?;
    if own != theirs {
        // Of two ledgers: what the backup's hashes are of is known only as long as it has the names.
        let known: Vec<(String, i64)> = transaction
            .prepare(
                "SELECT name, max(tombstoned_ms) FROM users WHERE tombstoned_ms IS NOT NULL GROUP BY name",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut deleted = Vec::new();
        for (name, at_ms) in known {
            if has(transaction, &name)? {
                deleted.push((name, at_ms));
            }
        }
        transaction.execute("DELETE FROM gone_names", [])?;
        transaction.execute("UPDATE gone_salt SET salt = ?1", [theirs])?;
        for (name, at_ms) in deleted {
            add(transaction, &name, at_ms, rev)?;
        }
    }
    let mut statement = before.prepare("SELECT hash, at_ms FROM gone_names")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (hash, at_ms): (Hash, i64) = (row.get(0)?, row.get(1)?);
        transaction
            .prepare_cached("INSERT INTO gone_names VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
            .execute(params![hash, at_ms, rev])?;
    }
    let now: &Connection = transaction;
    for connection in [now, before] {
        let mut statement = connection.prepare("SELECT name FROM users WHERE tombstoned_ms IS NULL")?;
        let living: Vec<String> =
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for name in living {
            remove(transaction, &name)?;
        }
    }
    Ok(())
}
