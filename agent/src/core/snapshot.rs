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

    /// Whether nothing changed about any user between the two.
    pub fn same_users(&self, other: &Snapshot) -> bool {
        Arc::ptr_eq(&self.users, &other.users)
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
}

impl Publisher {
    /// The picture as of now.
    pub fn publish(&mut self, attributor: &mut Attributor, accounts: &Accounts, now: Now) -> Snapshot {
        for (user, live) in attributor.take_live_changes() {
            self.update(user, |row| row.live = live);
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::Uuid;

    use super::*;
    use crate::core::event::{FlowId, FlowSeen, Network, Slot};

    const ALICE: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));
    const INBOUND: InboundIndex = InboundIndex(1);

    fn at(ms: u64) -> Now {
        Now { mono_ns: ms * 1_000_000, wall_ms: i64::try_from(ms).expect("small") }
    }

    fn opens(attributor: &mut Attributor, id: u64, peer: &str, user: UserId) {
        let peer = peer.parse().expect("an address");
        let flow = FlowSeen {
            id: FlowId(id),
            inbound: INBOUND,
            network: Network::Tcp,
            peer,
            opened_ns: 1,
            owner: Some(Slot(300)),
        };
        attributor.flow_seen(flow, Some(user), at(1));
    }

    #[test]
    fn addresses_are_distinct_and_of_ipv6_by_64() {
        let mut attributor = Attributor::default();
        let mut publisher = Publisher::default();
        let peers = [
            "203.0.113.1:1",
            "203.0.113.1:2",
            "203.0.113.2:1",
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8:0:1::1]:1",
        ];
        for (id, peer) in peers.into_iter().enumerate() {
            opens(&mut attributor, id as u64, peer, ALICE);
        }
        let snapshot = publisher.publish(&mut attributor, &Accounts::default(), at(2));
        assert_eq!(snapshot.user(ALICE).live, Live { flows: 6, addresses: 4 });
        assert_eq!(snapshot.user(BOB), UserLive::default());
        attributor.reconcile_walk(&BTreeSet::from([FlowId(4)]), at(3).mono_ns, at(3));
        let later = publisher.publish(&mut attributor, &Accounts::default(), at(4));
        assert_eq!(later.user(ALICE).live, Live { flows: 1, addresses: 1 });
        assert_eq!(snapshot.user(ALICE).live.flows, 6, "a reader's picture does not change");
        attributor.reconcile_walk(&BTreeSet::new(), at(5).mono_ns, at(5));
        assert_eq!(publisher.publish(&mut attributor, &Accounts::default(), at(6)).user(ALICE).live.flows, 0);
    }

    #[test]
    fn nothing_is_copied_when_nothing_changed() {
        let mut publisher = Publisher::default();
        let mut attributor = Attributor::default();
        opens(&mut attributor, 1, "203.0.113.1:1", ALICE);
        let first = publisher.publish(&mut attributor, &Accounts::default(), at(2));
        let second = publisher.publish(&mut attributor, &Accounts::default(), at(3));
        assert!(Arc::ptr_eq(&first.users, &second.users));
        assert_eq!(second.as_of_ms, 3);
    }

    #[test]
    fn activity_and_unattributed_bytes_are_in_the_picture() {
        let mut accounts = Accounts::default();
        let mut publisher = Publisher::default();
        accounts.set_inbounds([INBOUND]);
        let slot = Slot(boxmeter_common::user::ACCOUNT_FIRST);
        accounts.adopt(slot, BOB, INBOUND);
        let bytes = Counters { payload: [1, 2], wire: [3, 4] };
        accounts.read(&[(slot, Counters::default()), (Slot(1), bytes)], at(1_000));
        accounts.read(&[(slot, bytes)], at(2_000));
        let snapshot = publisher.publish(&mut Attributor::default(), &accounts, at(2_000));
        assert_eq!(snapshot.user(BOB).activity.totals, bytes);
        assert_eq!(snapshot.user(BOB).activity.download_rate, 2);
        assert_eq!(snapshot.unattributed.get(&INBOUND), Some(&bytes));
        assert_eq!(snapshot.users().count(), 1);
        assert_eq!(snapshot.counters.get("sightings_ambiguous"), Some(&0));
        publisher.forget(BOB);
        assert_eq!(snapshot.users().count(), 1);
    }

    #[test]
    fn since_when_stays_while_the_reason_changes() {
        let mut publisher = Publisher::default();
        publisher.degrade("source", "no answer".into(), at(1));
        publisher.degrade("source", "wrong secret".into(), at(2));
        let snapshot = publisher.publish(&mut Attributor::default(), &Accounts::default(), at(3));
        let expected = Degraded { part: "source", reason: "wrong secret".into(), since_ms: 1 };
        assert_eq!(*snapshot.degraded, [expected]);
        publisher.restore("source");
        assert!(
            publisher.publish(&mut Attributor::default(), &Accounts::default(), at(4)).degraded.is_empty()
        );
    }
}
