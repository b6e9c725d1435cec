//! One tick is one transaction: usage, the cursors it comes from, and what happened.
//!
//! Nothing here is told what was used: it is told how far the kernel's counters are, and takes the
//! difference to how far they were at the last commit. So a batch may be repeated, come late, or be
//! lost with a failed transaction, and no byte is lost or counted twice.

use std::collections::HashSet;

use rusqlite::{Connection, Transaction, params};
use uuid::Uuid;

use super::{
    bucket::Buckets,
    cache::{Cache, Cursor, Staged},
    error::CommitError,
    model::{AccountPeriod, Anomaly, AnomalyKind, Batch, Committed, InboundNo, NewEvent, Row},
    retention::{self, Retention},
    statements::Statements,
};
use crate::core::event::{Counters, UserId};

/// A reading beyond this (256 PiB of one account in one epoch) is an error, not traffic; without the
/// bound one such reading would make the sum of a bucket overflow, and every later tick fail.
pub(super) const COUNTER_MAX: i64 = 1 << 58;

/// Counts as the database has them: never negative, in the order of the columns.
pub(super) type Sums = [i64; 4];

pub(super) fn to_sums(counters: &Counters) -> Option<Sums> {
    let mut sums = [0; 4];
    let all = [counters.payload[0], counters.payload[1], counters.wire[0], counters.wire[1]];
    for (sum, value) in sums.iter_mut().zip(all) {
        *sum = i64::try_from(value).ok().filter(|value| *value <= COUNTER_MAX)?;
    }
    Some(sums)
}

/// The columns hold no negative values (CHECK constraints), so that nothing is cut here.
pub(super) fn to_counters(sums: Sums) -> Counters {
    let at = |index: usize| u64::try_from(sums[index]).unwrap_or(0);
    Counters { payload: [at(0), at(1)], wire: [at(2), at(3)] }
}

/// What was added since; `None` if any counter is lower than it was.
fn grown(before: &Sums, after: &Sums) -> Option<Sums> {
    let mut delta = [0; 4];
    for (index, value) in delta.iter_mut().enumerate() {
        *value = after[index].checked_sub(before[index]).filter(|difference| *difference >= 0)?;
    }
    Some(delta)
}

pub(super) fn user_id(bytes: [u8; 16]) -> UserId {
    UserId(Uuid::from_bytes(bytes))
}

pub(super) fn id_bytes(user: UserId) -> [u8; 16] {
    user.0.into_bytes()
}

/// (kind, slot, generation).
type Told = HashSet<(AnomalyKind, u32, u32)>;

/// What other commands changed since the cache was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stale {
    No,
    /// Nothing that a tick needs but the revision.
    Revision,
    /// Users, their accounts, or inbounds. Cursors are changed by ticks alone.
    People,
}

/// Applies batches. Owned by the writer thread.
#[derive(Debug)]
pub(super) struct Committer {
    cache: Option<Cache>,
    stale: Stale,
    buckets: Buckets,
    retention: Retention,
    /// Anomalies that are in the events already: a broken slot must not write an event every tick.
    told: Told,
}

impl Committer {
    pub(super) fn new(buckets: Buckets, retention: Retention) -> Self {
        Committer { cache: None, stale: Stale::No, buckets, retention, told: HashSet::new() }
    }

    /// Another command is about to change the database.
    pub(super) fn changes(&mut self, what: Stale) {
        self.stale = self.stale.max(what);
    }

    /// The starts of the minute, hour and day of an instant.
    pub(super) fn starts(&mut self, ms: i64) -> Result<[i64; 3], CommitError> {
        self.buckets.starts(ms).map_err(|error| CommitError::Refused(error.to_string()))
    }

    /// Taken out, so that any early return leaves nothing that may differ from the database.
    fn cache(&mut self, connection: &Connection) -> rusqlite::Result<Cache> {
        let stale = std::mem::replace(&mut self.stale, Stale::No);
        match (self.cache.take(), stale) {
            (None, _) => Cache::load(connection),
            (Some(cache), Stale::No) => Ok(cache),
            (Some(cache), Stale::Revision) => cache.with_revision(connection),
            (Some(cache), Stale::People) => cache.with_people(connection),
        }
    }

    pub(super) fn commit(
        &mut self,
        connection: &mut Connection,
        batch: &Batch,
    ) -> Result<Committed, CommitError> {
        let starts = self.starts(batch.at.wall_ms)?;
        let mut cache = self.cache(connection)?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let epoch = cache.epoch(&transaction, batch)?;
        let rev = cache.rev + 1;
        let (staged, mut committed, fresh) = self.fill(&transaction, &cache, epoch, starts, batch)?;
        retention::step(&transaction, self.retention, batch.at.wall_ms)?;
        transaction
            .prepare_cached("UPDATE meta SET rev = ?1, committed_ms = ?2")?
            .execute((rev, batch.at.wall_ms))?;
        transaction.commit()?;
        committed.rev = rev;
        cache.apply(epoch, rev, staged);
        self.cache = Some(cache);
        self.told.extend(fresh);
        Ok(committed)
    }

    /// Everything that the batch brings, written within the transaction.
    fn fill(
        &self,
        transaction: &Transaction<'_>,
        cache: &Cache,
        epoch: usize,
        starts: [i64; 3],
        batch: &Batch,
    ) -> rusqlite::Result<(Staged, Committed, Told)> {
        let mut tick = Tick {
            transaction,
            statements: Statements::new(transaction)?,
            cache,
            epoch,
            starts,
            at_ms: batch.at.wall_ms,
            rev: cache.rev + 1,
            staged: Staged::default(),
            committed: Committed { at_ms: batch.at.wall_ms, ..Committed::default() },
        };
        for row in &batch.rows {
            tick.row(row)?;
        }
        for (inbound, total) in &batch.watched {
            tick.watched(*inbound, total)?;
        }
        if let Some(reported) = &batch.reported {
            tick.reported(reported)?;
        }
        let fresh = tick.anomaly_events(&self.told)?;
        for event in &batch.events {
            // An event about nobody we know must not keep the usage from being committed.
            let user = event.user.filter(|user| cache.accounts.contains_key(user));
            insert_event(transaction, &NewEvent { user, ..event.clone() }, tick.rev)?;
        }
        Ok((tick.staged, tick.committed, fresh))
    }
}

const SET_WATCHED: &str = "INSERT INTO watched VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET
         upload_payload = ?3, download_payload = ?4, upload_wire = ?5, download_wire = ?6, rev = ?7";

/// One batch within its transaction.
pub(super) struct Tick<'a> {
    pub transaction: &'a Transaction<'a>,
    statements: Statements<'a>,
    pub cache: &'a Cache,
    pub epoch: usize,
    pub starts: [i64; 3],
    pub at_ms: i64,
    pub rev: i64,
    staged: Staged,
    pub committed: Committed,
}

impl Tick<'_> {
    fn row(&mut self, row: &Row) -> rusqlite::Result<()> {
        let refuse = |kind| Anomaly { kind, slot: row.slot, generation: row.generation };
        let stranger = row.user.is_some_and(|user| !self.cache.accounts.contains_key(&user));
        // Bytes are never dropped for that, nor given to somebody else: they are nobody's.
        let row = &Row { user: row.user.filter(|_| !stranger), ..row.clone() };
        let slot = (row.slot, row.generation);
        let known = self.cache.epochs[self.epoch].cursors.get(&slot);
        // Should a slot come twice in a batch, the later reading counts on from the first.
        let before = self.staged.cursors.get(&slot).or(known);
        let Some(total) = to_sums(&row.total) else {
            self.committed.anomalies.push(refuse(AnomalyKind::TooBig));
            return Ok(());
        };
        if before.is_some_and(|cursor| cursor.user != row.user || cursor.inbound != row.inbound) {
            self.committed.anomalies.push(refuse(AnomalyKind::OwnerChanged));
            return Ok(());
        }
        let Some(delta) = grown(&before.map_or([0; 4], |cursor| cursor.total), &total) else {
            self.committed.anomalies.push(refuse(AnomalyKind::Fell));
            return Ok(());
        };
        if delta == [0; 4] {
            return Ok(());
        }
        if stranger {
            self.committed.anomalies.push(refuse(AnomalyKind::UnknownUser));
        }
        match self.key(row.user, row.inbound)? {
            Ok(key) => self.add(row, key, total, delta),
            Err(kind) => {
                self.committed.anomalies.push(refuse(kind));
                Ok(())
            }
        }
    }

    /// The number of (user, inbound, account in force), made if there is none.
    pub(super) fn key(
        &mut self,
        user: Option<UserId>,
        inbound: InboundNo,
    ) -> rusqlite::Result<Result<i64, AnomalyKind>> {
        let account = match user {
            None => AccountPeriod::default(),
            Some(user) => match self.cache.accounts.get(&user) {
                Some(account) => *account,
                None => return Ok(Err(AnomalyKind::UnknownUser)),
            },
        };
        if !self.cache.inbounds.contains(&inbound) {
            return Ok(Err(AnomalyKind::UnknownInbound));
        }
        let subject = (user, inbound, account);
        if let Some(no) = self.cache.keys.get(&subject).or_else(|| self.staged.keys.get(&subject)) {
            return Ok(Ok(*no));
        }
        let no = new_key(self.transaction, user, inbound, account, self.rev)?;
        self.staged.keys.insert(subject, no);
        Ok(Ok(no))
    }

    fn add(&mut self, row: &Row, key: i64, total: Sums, delta: Sums) -> rusqlite::Result<()> {
        let epoch_no = self.cache.epochs[self.epoch].no;
        let [a, b, c, d] = delta;
        for (bucket, start) in self.statements.buckets.iter_mut().zip(self.starts) {
            bucket.execute((start, key, a, b, c, d, self.rev))?;
        }
        self.statements.total.execute((epoch_no, key, a, b, c, d, self.rev, self.at_ms))?;
        let [w, x, y, z] = total;
        let (user, inbound) = (row.user.map(id_bytes), row.inbound.0);
        let changed = self.statements.move_cursor.execute((
            epoch_no,
            row.slot,
            row.generation,
            w,
            x,
            y,
            z,
            self.rev,
        ))?;
        if changed == 0 {
            let slot = (epoch_no, row.slot, row.generation, user, inbound, w, x, y, z, self.rev);
            self.statements.new_cursor.execute(slot)?;
        }
        let cursor = Cursor { user: row.user, inbound: row.inbound, total };
        self.staged.cursors.insert((row.slot, row.generation), cursor);
        self.committed.rows_grown += 1;
        let added = to_counters(delta);
        for direction in 0..2 {
            let sums = &mut self.committed.added;
            sums.payload[direction] = sums.payload[direction].saturating_add(added.payload[direction]);
            sums.wire[direction] = sums.wire[direction].saturating_add(added.wire[direction]);
        }
        Ok(())
    }

    fn watched(&mut self, inbound: InboundNo, total: &Counters) -> rusqlite::Result<()> {
        let epoch = &self.cache.epochs[self.epoch];
        let slot = u32::try_from(inbound.0).unwrap_or(u32::MAX);
        let known = self.staged.watched.get(&inbound).or_else(|| epoch.watched.get(&inbound));
        let before = known.copied().unwrap_or_default();
        let delta = to_sums(total).and_then(|total| grown(&before, &total).map(|delta| (total, delta)));
        let refused = match delta {
            None => Some(AnomalyKind::Watched),
            Some(_) if !self.cache.inbounds.contains(&inbound) => Some(AnomalyKind::UnknownInbound),
            Some((_, [0, 0, 0, 0])) => None,
            Some(([a, b, c, d], [w, x, y, z])) => {
                self.transaction
                    .prepare_cached(SET_WATCHED)?
                    .execute((epoch.no, inbound.0, a, b, c, d, self.rev))?;
                for (bucket, start) in self.statements.watched.iter_mut().zip(self.starts) {
                    bucket.execute((start, inbound.0, w, x, y, z, self.rev))?;
                }
                self.staged.watched.insert(inbound, [a, b, c, d]);
                None
            }
        };
        self.committed.anomalies.extend(refused.map(|kind| Anomaly { kind, slot, generation: 0 }));
        Ok(())
    }

    /// Writes an event for each anomaly not yet in the events; returns those.
    fn anomaly_events(&self, told: &Told) -> rusqlite::Result<Told> {
        let mut fresh = HashSet::new();
        for anomaly in &self.committed.anomalies {
            let key = (anomaly.kind, anomaly.slot, anomaly.generation);
            if told.contains(&key) || !fresh.insert(key) {
                continue;
            }
            let mut data = serde_json::json!({
                "anomaly": anomaly.kind.name(), "slot": anomaly.slot, "generation": anomaly.generation,
            });
            let mut kind = "reading_refused";
            if anomaly.kind == AnomalyKind::UnknownUser {
                kind = "stranger_counted";
                data["severity"] = "warning".into();
                data["message"] =
                    "the kernel counts for a user that this ledger does not know, as after a backup was \
                    restored: those bytes are unattributed"
                        .into();
            }
            let event = NewEvent {
                at_ms: self.at_ms,
                kind: kind.to_owned(),
                user: None,
                actor: "agent".to_owned(),
                data,
            };
            insert_event(self.transaction, &event, self.rev)?;
        }
        Ok(fresh)
    }
}

pub(super) fn new_key(
    transaction: &Transaction<'_>,
    user: Option<UserId>,
    inbound: InboundNo,
    account: AccountPeriod,
    rev: i64,
) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached(
            "INSERT INTO usage_keys (user_id, inbound_no, account_start_ms, account_generation, rev)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![user.map(id_bytes), inbound.0, account.start_ms, account.generation, rev])?;
    Ok(transaction.last_insert_rowid())
}

pub(super) fn insert_event(
    transaction: &Transaction<'_>,
    event: &NewEvent,
    rev: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO events (id, at_ms, kind, user_id, actor, data, rev) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            Uuid::now_v7().into_bytes(),
            event.at_ms,
            event.kind,
            event.user.map(id_bytes),
            event.actor,
            event.data.to_string(),
            rev
        ])?;
    Ok(())
}
