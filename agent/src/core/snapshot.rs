//! What readers see: an immutable picture of the core after each tick.
//!
//! Owns the picture and nothing else; the parts that change at each tick are copied only when a reader
//! still holds the last picture, so that publishing costs what has changed.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    account::{Accounts, Activity},
    attribute::{Attributor, Live},
    event::{Counters, InboundIndex, Now, UserId},
};

/// A user, live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserLive {
    /// Open flows and addresses.
    pub live: Live,
    /// Rates, the last sign of life, totals in this epoch.
    pub activity: Activity,
}

/// Something that does not work as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    pub part: &'static str,
    /// For people.
    pub reason: String,
    /// Unix milliseconds.
    pub since_ms: i64,
}

/// The core after a tick. Cloning costs a few reference counts.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Unix milliseconds of the tick; 0 before the first.
    pub as_of_ms: i64,
    /// Sorted by id.
    users: Arc<Vec<(UserId, UserLive)>>,
    /// Bytes without owner in this epoch, by inbound, those of flows that may still get one excluded.
    pub unattributed: Arc<BTreeMap<InboundIndex, Counters>>,
    pub degraded: Arc<Vec<Degraded>>,
    /// Names and values of everything that can overflow or surprise.
    pub counters: Arc<BTreeMap<&'static str, u64>>,
}

impl Snapshot {
    /// Zero for a user who was never seen.
    pub fn user(&self, user: UserId) -> UserLive {
        match self.users.binary_search_by_key(&user, |&(id, _)| id) {
            Ok(at) => self.users[at].1,
            Err(_) => UserLive::default(),
        }
    }

    /// The users who were seen, by id.
    pub fn users(&self) -> impl Iterator<Item = &(UserId, UserLive)> {
        self.users.iter()
    }
}

/// Makes the pictures.
#[derive(Debug, Default)]
pub struct Publisher {
    snapshot: Snapshot,
    live: BTreeMap<UserId, Live>,
}

impl Publisher {
    /// The picture as of now.
    pub fn publish(&mut self, attributor: &Attributor, accounts: &Accounts, now: Now) -> Snapshot {
        let live: BTreeMap<UserId, Live> = attributor.all_live().collect();
        let gone = self.live.keys().filter(|user| !live.contains_key(user)).copied().collect::<Vec<_>>();
        for user in gone {
            self.update(user, |row| row.live = Live::default());
        }
        for (&user, &now_live) in &live {
            if self.live.get(&user) != Some(&now_live) {
                self.update(user, |row| row.live = now_live);
            }
        }
        self.live = live;
        for (user, activity) in accounts.changed() {
            self.update(user, |row| row.activity = activity);
        }
        self.snapshot.as_of_ms = now.wall_ms;
        self.snapshot.unattributed = Arc::new(accounts.unattributed().collect());
        let counters = Arc::make_mut(&mut self.snapshot.counters);
        counters.extend(attributor.counters().named());
        counters.insert("sightings_waiting", attributor.waiting() as u64);
        counters.insert("flows_known", attributor.flow_count() as u64);
        counters.insert("wall_clock_steps", attributor.clock_steps());
        self.snapshot.clone()
    }

    /// Sets a user's activity aside from a reading: what the ledger knows at the start.
    pub fn set_activity(&mut self, user: UserId, activity: Activity) {
        self.update(user, |row| row.activity = activity);
    }

    /// The user is gone for good.
    pub fn forget(&mut self, user: UserId) {
        if let Ok(at) = self.snapshot.users.binary_search_by_key(&user, |&(id, _)| id) {
            Arc::make_mut(&mut self.snapshot.users).remove(at);
        }
        self.live.remove(&user);
    }

    /// Counters of other parts, shown in the next picture.
    pub fn set_counter(&mut self, name: &'static str, value: u64) {
        Arc::make_mut(&mut self.snapshot.counters).insert(name, value);
    }

    /// A part does not work as it should; the reason may change, since when stays.
    pub fn degrade(&mut self, part: &'static str, reason: String, now: Now) {
        let known = self.snapshot.degraded.iter().position(|degraded| degraded.part == part);
        let degraded = Arc::make_mut(&mut self.snapshot.degraded);
        match known {
            Some(at) => degraded[at].reason = reason,
            None => degraded.push(Degraded { part, reason, since_ms: now.wall_ms }),
        }
    }

    /// A part works again.
    pub fn restore(&mut self, part: &'static str) {
        if self.snapshot.degraded.iter().any(|degraded| degraded.part == part) {
            Arc::make_mut(&mut self.snapshot.degraded).retain(|degraded| degraded.part != part);
        }
    }

    fn update(&mut self, user: UserId, change: impl FnOnce(&mut UserLive)) {
        let at = match self.snapshot.users.binary_search_by_key(&user, |&(id, _)| id) {
            Ok(at) => {
                let mut row = self.snapshot.users[at].1;
                change(&mut row);
                if row == self.snapshot.users[at].1 {
                    return;
                }
                Arc::make_mut(&mut self.snapshot.users)[at].1 = row;
                return;
            }
            Err(at) => at,
        };
        let mut row = UserLive::default();
        change(&mut row);
        Arc::make_mut(&mut self.snapshot.users).insert(at, (user, row));
    }
}
