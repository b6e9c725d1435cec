//! What the kernel's counters mean: rows for the ledger, rates and the last sign of life for people.
//!
//! Owns what was read of each account. Slots are given out by the kernel's side, and its maps say whose
//! they are, so that a new agent learns it from there by [`Accounts::adopt`]. Counters only grow; one that
//! falls is an anomaly that is told, and never a negative number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use boxmeter_common::{DOWNLOAD, UPLOAD, user::ACCOUNT_FIRST};

use super::event::{Counters, InboundIndex, Now, Slot, UserId};

/// Over how long a rate is taken: long enough to be steady at one reading per second, short enough
/// that `top` follows.
pub const RATE_WINDOW_NS: u64 = 5_000_000_000;

/// Readings kept for a rate: the window at one reading per second, and its begin. At a faster tick the
/// window becomes shorter.
const RATE_READINGS: usize = 6;

/// A user's slot in the kernel's map of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserSlot(pub u32);

/// Whose bytes are in an account slot; no user: the inbound's unattributed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: Option<UserId>,
    pub inbound: InboundIndex,
}

/// One account's absolute counters, for the ledger to take the difference from its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub slot: Slot,
    pub owner: Owner,
    pub counters: Counters,
}

/// What must not be, and is told instead of being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// Counters fell within an epoch: the account has no row, and its last counters stand.
    CountersFell { slot: Slot, before: Counters, after: Counters },
    /// The kernel has bytes in a slot that is nobody's.
    UnknownSlot { slot: Slot, counters: Counters },
}

/// What one reading of the kernel's counters means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Accounts whose counters changed since the last reading, by slot.
    pub rows: Vec<Row>,
    pub anomalies: Vec<Anomaly>,
}

/// Bytes per second and the last sign of life of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Payload bytes per second.
    pub upload_rate: u64,
    pub download_rate: u64,
    /// Unix milliseconds of the reading that last showed payload.
    pub last_seen_ms: Option<i64>,
    /// Over all the user's accounts in this epoch.
    pub totals: Counters,
}

#[derive(Debug)]
struct Account {
    owner: Owner,
    /// `None` until the first reading.
    counters: Option<Counters>,
}

#[derive(Debug, Default)]
struct User {
    activity: Activity,
    /// Monotonic time and payload, by direction.
    readings: VecDeque<(u64, [u64; 2])>,
}

/// Slots and what was read from them.
#[derive(Debug, Default)]
pub struct Accounts {
    slots: BTreeMap<Slot, Account>,
    users: BTreeMap<UserId, User>,
    user_slots: BTreeMap<UserSlot, UserId>,
    /// Users whose rates are not 0 or whose counters changed.
    moving: BTreeSet<UserId>,
    last_read_ns: u64,
}

impl Accounts {
    /// The inbounds in use; their unattributed bytes are in the slots of their numbers.
    pub fn set_inbounds(&mut self, inbounds: impl IntoIterator<Item = InboundIndex>) {
        for inbound in inbounds {
            let owner = Owner { user: None, inbound };
            self.slots.entry(Slot(inbound.0)).or_insert(Account { owner, counters: None });
        }
    }

    /// Takes over an account that the kernel has: its first reading tells what was counted before.
    pub fn adopt(&mut self, slot: Slot, user: UserId, inbound: InboundIndex) {
        self.know(slot, user, inbound, None);
    }

    /// An account that the kernel has just been given, unless it is known: whatever is in it is news.
    pub fn begin(&mut self, slot: Slot, user: UserId, inbound: InboundIndex) {
        self.know(slot, user, inbound, Some(Counters::default()));
    }

    fn know(&mut self, slot: Slot, user: UserId, inbound: InboundIndex, counters: Option<Counters>) {
        let owner = Owner { user: Some(user), inbound };
        self.slots.entry(slot).or_insert(Account { owner, counters });
        self.users.entry(user).or_default();
    }

    /// A user's slot that the kernel has.
    pub fn adopt_user(&mut self, slot: UserSlot, user: UserId) {
        self.user_slots.entry(slot).or_insert(user);
    }

    pub fn user_of(&self, slot: Slot) -> Option<UserId> {
        self.slots.get(&slot)?.owner.user
    }

    pub fn user_in(&self, slot: UserSlot) -> Option<UserId> {
        self.user_slots.get(&slot).copied()
    }

    /// What the kernel's counters say now. Users whose activity may have changed are in
    /// [`Self::changed`] until the next reading.
    pub fn read(&mut self, readings: &[(Slot, Counters)], now: Now) -> Reading {
        let mut reading = Reading::default();
        let mut changed = BTreeSet::new();
        for &(slot, counters) in readings {
            let Some(account) = self.slots.get_mut(&slot) else {
                if counters != Counters::default() {
                    reading.anomalies.push(Anomaly::UnknownSlot { slot, counters });
                }
                continue;
            };
            let before = account.counters.unwrap_or_default();
            if account.counters == Some(counters) {
                continue;
            }
            if fell(before, counters) {
                reading.anomalies.push(Anomaly::CountersFell { slot, before, after: counters });
                continue;
            }
            let first = account.counters.replace(counters).is_none();
            reading.rows.push(Row { slot, owner: account.owner, counters });
            if let Some(user) = account.owner.user {
                changed.insert(user);
                self.advance(user, before, counters, first, now);
            }
        }
        reading.rows.sort_unstable_by_key(|row| row.slot);
        self.rates(changed, now);
        reading
    }

    /// A first reading tells what was there already, and not that the user was seen now.
    fn advance(&mut self, user: UserId, before: Counters, after: Counters, first: bool, now: Now) {
        let Some(user) = self.users.get_mut(&user) else { return };
        for direction in [UPLOAD, DOWNLOAD] {
            let payload = after.payload[direction] - before.payload[direction];
            let wire = after.wire[direction] - before.wire[direction];
            let totals = &mut user.activity.totals;
            totals.payload[direction] = totals.payload[direction].saturating_add(payload);
            totals.wire[direction] = totals.wire[direction].saturating_add(wire);
        }
        if first {
            // What lies before the first reading is no rate.
            user.readings.clear();
        } else if after.payload != before.payload {
            user.activity.last_seen_ms = Some(now.wall_ms);
        }
    }

    fn rates(&mut self, changed: BTreeSet<UserId>, now: Now) {
        let mut moving = std::mem::take(&mut self.moving);
        moving.retain(|user| {
            self.users.get(user).is_some_and(|user| {
                user.activity.upload_rate != 0 || user.activity.download_rate != 0 || user.readings.len() > 1
            })
        });
        moving.extend(changed);
        for user in &moving {
            if let Some(user) = self.users.get_mut(user) {
                user.measure(now, self.last_read_ns);
            }
        }
        self.last_read_ns = self.last_read_ns.max(now.mono_ns);
        self.moving = moving;
    }

    /// The users whose activity the last reading changed, or may have.
    pub fn changed(&self) -> impl Iterator<Item = (UserId, Activity)> {
        self.moving.iter().map(|&user| (user, self.activity(user)))
    }

    pub fn activity(&self, user: UserId) -> Activity {
        self.users.get(&user).map_or(Activity::default(), |user| user.activity)
    }

    /// The unattributed bytes by inbound, as last read.
    pub fn unattributed(&self) -> impl Iterator<Item = (InboundIndex, Counters)> {
        self.slots
            .range(..Slot(ACCOUNT_FIRST))
            .map(|(_, account)| (account.owner.inbound, account.counters.unwrap_or_default()))
    }

    /// The last sign of life that the ledger knows, after a start.
    pub fn set_last_seen(&mut self, user: UserId, wall_ms: i64) {
        self.users.entry(user).or_default().activity.last_seen_ms.get_or_insert(wall_ms);
    }

    /// A sign of life that is in no counter of the kernel.
    pub fn seen(&mut self, user: UserId, wall_ms: i64) {
        self.users.entry(user).or_default().activity.last_seen_ms = Some(wall_ms);
    }
}

impl User {
    fn measure(&mut self, now: Now, last_read_ns: u64) {
        let payload = self.activity.totals.payload;
        if let [only] = self.readings.make_contiguous() {
            // It was idle, and not measured, up to the last reading.
            only.0 = only.0.max(last_read_ns);
        }
        if self.readings.back().is_some_and(|&(at, _)| at >= now.mono_ns) {
            return;
        }
        self.readings.push_back((now.mono_ns, payload));
        while self.readings.len() > RATE_READINGS
            || self.readings.get(1).is_some_and(|&(at, _)| now.mono_ns - at >= RATE_WINDOW_NS)
        {
            self.readings.pop_front();
        }
        let Some(&(since, first)) = self.readings.front() else { return };
        let [upload, download] = [UPLOAD, DOWNLOAD]
            .map(|direction| rate(payload[direction] - first[direction], now.mono_ns - since));
        self.activity.upload_rate = upload;
        self.activity.download_rate = download;
        if payload == first && self.readings.len() > 1 {
            // Nothing moved within the whole window: the next bytes are measured from here on.
            self.readings.drain(..self.readings.len() - 1);
        }
    }
}

/// Bytes per second.
fn rate(bytes: u64, elapsed_ns: u64) -> u64 {
    if elapsed_ns == 0 {
        return 0;
    }
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(elapsed_ns);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn fell(before: Counters, after: Counters) -> bool {
    (0..2).any(|direction| {
        after.payload[direction] < before.payload[direction] || after.wire[direction] < before.wire[direction]
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ALICE: UserId = UserId(Uuid::from_u128(1));
    const SLOT: Slot = Slot(ACCOUNT_FIRST);
    const INBOUND: InboundIndex = InboundIndex(1);

    fn at(ms: u64) -> Now {
        Now { mono_ns: ms * 1_000_000, wall_ms: i64::try_from(ms).expect("small") }
    }

    fn counters(upload: u64, download: u64) -> Counters {
        Counters { payload: [upload, download], wire: [upload * 2, download * 2] }
    }

    fn accounts() -> (Accounts, Slot) {
        let mut accounts = Accounts::default();
        accounts.set_inbounds([INBOUND]);
        accounts.adopt(SLOT, ALICE, INBOUND);
        (accounts, SLOT)
    }

    #[test]
    fn what_comes_into_a_new_account_is_a_sign_of_life() {
        let mut accounts = Accounts::default();
        accounts.begin(SLOT, ALICE, INBOUND);
        accounts.adopt_user(UserSlot(1), ALICE);
        assert_eq!((accounts.user_of(SLOT), accounts.user_in(UserSlot(1))), (Some(ALICE), Some(ALICE)));
        assert_eq!(accounts.read(&[(SLOT, counters(0, 0))], at(1_000)), Reading::default());
        accounts.read(&[(SLOT, counters(10, 20))], at(2_000));
        assert_eq!(accounts.activity(ALICE).last_seen_ms, Some(2_000));
        // A service has told of more, and the next reading of the kernel shows nothing new.
        accounts.seen(ALICE, 2_500);
        accounts.read(&[(SLOT, counters(10, 20))], at(2_600));
        assert_eq!(accounts.activity(ALICE).last_seen_ms, Some(2_500));
        // Known already: what was read stays.
        accounts.begin(SLOT, ALICE, INBOUND);
        assert_eq!(accounts.read(&[(SLOT, counters(10, 20))], at(3_000)), Reading::default());
    }

    #[test]
    fn rows_are_absolute_and_only_of_what_changed() {
        let (mut accounts, slot) = accounts();
        let readings = [(slot, counters(10, 20)), (Slot(1), counters(1, 2))];
        let reading = accounts.read(&readings, at(1_000));
        let owner = |user| Owner { user, inbound: INBOUND };
        assert_eq!(
            reading.rows,
            [
                Row { slot: Slot(1), owner: owner(None), counters: counters(1, 2) },
                Row { slot, owner: owner(Some(ALICE)), counters: counters(10, 20) },
            ]
        );
        assert_eq!(accounts.read(&readings, at(2_000)), Reading::default());
        assert_eq!(accounts.unattributed().collect::<Vec<_>>(), [(INBOUND, counters(1, 2))]);
    }

    #[test]
    fn counters_that_fall_are_told_and_never_negative() {
        let (mut accounts, slot) = accounts();
        accounts.read(&[(slot, counters(10, 20))], at(1_000));
        let reading = accounts.read(&[(slot, counters(11, 19))], at(2_000));
        let (before, after) = (counters(10, 20), counters(11, 19));
        assert_eq!(reading.anomalies, [Anomaly::CountersFell { slot, before, after }]);
        assert_eq!(reading.rows, []);
        assert_eq!(accounts.activity(ALICE).totals, before);
        let unknown =
            accounts.read(&[(Slot(9_999), counters(1, 0)), (Slot(9_998), counters(0, 0))], at(3_000));
        assert_eq!(unknown.anomalies, [Anomaly::UnknownSlot { slot: Slot(9_999), counters: counters(1, 0) }]);
    }

    #[test]
    fn rates_follow_the_traffic_and_fall_to_zero() {
        let (mut accounts, slot) = accounts();
        let mut read = |ms, upload, download| {
            accounts.read(&[(slot, counters(upload, download))], at(ms));
            let activity = accounts.activity(ALICE);
            (activity.upload_rate, activity.download_rate, activity.last_seen_ms)
        };
        assert_eq!(read(1_000, 1_000_000, 0), (0, 0, None), "what was there before is no rate");
        assert_eq!(read(2_000, 1_001_000, 2_000), (1_000, 2_000, Some(2_000)));
        for second in 3..=20 {
            let bytes = (second - 1) * 1_000;
            assert_eq!(
                read(second * 1_000, 1_000_000 + bytes, bytes * 2),
                (1_000, 2_000, Some(i64::try_from(second * 1_000).expect("small")))
            );
        }
        for second in 21..=25 {
            read(second * 1_000, 1_019_000, 38_000);
        }
        assert_eq!(read(26_000, 1_019_000, 38_000), (0, 0, Some(20_000)));
        for second in 27..=3_600 {
            read(second * 1_000, 1_019_000, 38_000);
        }
        assert_eq!(
            read(3_601_000, 1_020_000, 38_000),
            (1_000, 0, Some(3_601_000)),
            "an hour of idleness does not thin out the first second"
        );
    }

    #[test]
    fn readings_at_one_instant_or_back_in_time_do_not_divide_by_zero() {
        let (mut accounts, slot) = accounts();
        for (ms, bytes) in [(5, 1), (5, 2), (4, u64::MAX / 2), (6, u64::MAX / 2)] {
            accounts.read(&[(slot, Counters { payload: [bytes; 2], wire: [bytes; 2] })], at(ms));
        }
        assert_eq!(accounts.activity(ALICE).totals.payload, [u64::MAX / 2; 2]);
    }
}
