//! What the database has, in memory: so that a tick asks it nothing.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    commit::{Sums, user_id},
    model::{AccountPeriod, Batch, InboundNo},
};
use crate::core::event::UserId;

/// Kernel epochs whose cursors are held in memory: the present one, and the one before it while
/// its last counts come in.
const EPOCHS_MAX: usize = 2;

pub(super) type SlotKey = (u32, u32);
pub(super) type SubjectKey = (Option<UserId>, InboundNo, AccountPeriod);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub user: Option<UserId>,
    pub inbound: InboundNo,
    pub total: Sums,
}

/// One epoch's part of the cache.
#[derive(Debug)]
pub(super) struct Epoch {
    pub bytes: [u8; 16],
    pub no: i64,
    pub cursors: HashMap<SlotKey, Cursor>,
    pub watched: HashMap<InboundNo, Sums>,
}

/// What the database has, as of the last commit. It is changed only after a commit succeeded, and
/// thrown away whenever anything failed.
#[derive(Debug)]
pub(super) struct Cache {
    pub rev: i64,
    pub epochs: Vec<Epoch>,
    pub accounts: HashMap<UserId, AccountPeriod>,
    pub inbounds: HashSet<InboundNo>,
    pub keys: HashMap<SubjectKey, i64>,
}

impl Cache {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let rev = connection.query_row("SELECT rev FROM meta", [], |row| row.get(0))?;
        let mut cache = Cache {
            rev,
            epochs: Vec::new(),
            accounts: HashMap::new(),
            inbounds: HashSet::new(),
            keys: HashMap::new(),
        };
        cache.load_people(connection)?;
        Ok(cache)
    }

    pub(super) fn with_revision(mut self, connection: &Connection) -> rusqlite::Result<Self> {
        self.rev = connection.query_row("SELECT rev FROM meta", [], |row| row.get(0))?;
        Ok(self)
    }

    /// Everything but the cursors anew: nobody but a tick moves those.
    pub(super) fn with_people(self, connection: &Connection) -> rusqlite::Result<Self> {
        let mut cache = self.with_revision(connection)?;
        cache.accounts.clear();
        cache.inbounds.clear();
        cache.keys.clear();
        cache.load_people(connection)?;
        Ok(cache)
    }

    fn load_people(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut users = connection.prepare("SELECT id, account_start_ms, account_generation FROM users")?;
        let mut rows = users.query([])?;
        while let Some(row) = rows.next()? {
            let account = AccountPeriod { start_ms: row.get(1)?, generation: row.get(2)? };
            self.accounts.insert(user_id(row.get(0)?), account);
        }
        let mut inbounds = connection.prepare("SELECT no FROM inbounds")?;
        let mut rows = inbounds.query([])?;
        while let Some(row) = rows.next()? {
            self.inbounds.insert(InboundNo(row.get(0)?));
        }
        self.load_present_keys(connection)
    }

    /// Only the keys of accounts in force: those of past periods are never counted on again.
    fn load_present_keys(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut keys = connection.prepare(
            "SELECT k.no, k.user_id, k.inbound_no, k.account_start_ms, k.account_generation
             FROM usage_keys k LEFT JOIN users u ON u.id = k.user_id
             WHERE k.user_id IS NULL
                OR (u.account_start_ms = k.account_start_ms AND u.account_generation = k.account_generation)",
        )?;
        let mut rows = keys.query([])?;
        while let Some(row) = rows.next()? {
            let user = row.get::<_, Option<[u8; 16]>>(1)?.map(user_id);
            let account = AccountPeriod { start_ms: row.get(3)?, generation: row.get(4)? };
            self.keys.insert((user, InboundNo(row.get(2)?), account), row.get(0)?);
        }
        Ok(())
    }
}

/// What a transaction is about to change in the cache.
#[derive(Default)]
pub(super) struct Staged {
    pub cursors: HashMap<SlotKey, Cursor>,
    pub watched: HashMap<InboundNo, Sums>,
    pub keys: HashMap<SubjectKey, i64>,
}

impl Cache {
    /// The index of the batch's epoch, read from the database when it is not at hand. A new epoch
    /// is inserted; should the transaction fail then, the whole cache is gone with it.
    pub(super) fn epoch(&mut self, transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<usize> {
        if let Some(index) = self.epochs.iter().position(|epoch| epoch.bytes == batch.epoch) {
            return Ok(index);
        }
        let known: Option<i64> = transaction
            .query_row("SELECT no FROM epochs WHERE epoch = ?1", [batch.epoch], |row| row.get(0))
            .optional()?;
        let no = match known {
            Some(no) => no,
            None => {
                transaction.execute(
                    "INSERT INTO epochs (epoch, first_ms, rev) VALUES (?1, ?2, ?3)",
                    params![batch.epoch, batch.at.wall_ms, self.rev + 1],
                )?;
                transaction.last_insert_rowid()
            }
        };
        let mut epoch = Epoch { bytes: batch.epoch, no, cursors: HashMap::new(), watched: HashMap::new() };
        epoch.load(transaction)?;
        if self.epochs.len() >= EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push(epoch);
        Ok(self.epochs.len() - 1)
    }

    pub(super) fn apply(&mut self, epoch: usize, rev: i64, staged: Staged) {
        self.rev = rev;
        self.epochs[epoch].cursors.extend(staged.cursors);
        self.epochs[epoch].watched.extend(staged.watched);
        self.keys.extend(staged.keys);
    }
}

impl Epoch {
    fn load(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut cursors = transaction.prepare(
            "SELECT slot, generation, user_id, inbound_no, upload_payload, download_payload, upload_wire,
                    download_wire FROM cursors WHERE epoch_no = ?1",
        )?;
        let mut rows = cursors.query([self.no])?;
        while let Some(row) = rows.next()? {
            let cursor = Cursor {
                user: row.get::<_, Option<[u8; 16]>>(2)?.map(user_id),
                inbound: InboundNo(row.get(3)?),
                total: [row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?],
            };
            self.cursors.insert((row.get(0)?, row.get(1)?), cursor);
        }
        let mut watched = transaction.prepare(
            "SELECT inbound_no, upload_payload, download_payload, upload_wire, download_wire
             FROM watched WHERE epoch_no = ?1",
        )?;
        let mut rows = watched.query([self.no])?;
        while let Some(row) = rows.next()? {
            let total = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            self.watched.insert(InboundNo(row.get(0)?), total);
        }
        Ok(())
    }
}
