//! Which account slot is whose, and what the kernel's counters mean: rows for the ledger, rates and
//! the last sign of life for people.
//!
//! Owns the slots' bookkeeping. The kernel has the same in its maps (an account names its user and
//! inbound), so that a new agent learns it from there by [`Accounts::adopt`]. Counters only grow; one
//! that falls is an anomaly that is told, and never a negative number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    user::{ACCOUNT_FIRST, ACCOUNTS_MAX, USERS_MAX},
};

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

/// There is no slot left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotsFull {
    #[error("all {ACCOUNTS_MAX} account slots are in use: delete users, or give them fewer inbounds")]
    Accounts,
    #[error("all {USERS_MAX} user slots are in use: delete users")]
    Users,
}

/// A slot, and whether it was given out just now, so that the kernel must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given<S> {
    pub slot: S,
    pub new: bool,
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
    slot: Option<UserSlot>,
    accounts: BTreeSet<Slot>,
    activity: Activity,
    /// Monotonic time and payload, by direction.
    readings: VecDeque<(u64, [u64; 2])>,
}

/// Slots and what was read from them.
#[derive(Debug, Default)]
pub struct Accounts {
    slots: BTreeMap<Slot, Account>,
    pairs: BTreeMap<(UserId, InboundIndex), Slot>,
    users: BTreeMap<UserId, User>,
    user_slots: BTreeMap<UserSlot, UserId>,
    /// Given back, and not to be used again before the last counts are committed.
    released: BTreeSet<Slot>,
    released_users: BTreeSet<UserSlot>,
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

    /// Takes over an account that the kernel has. A pair that has a slot already keeps it, and the
    /// other one's bytes are the user's as well.
    pub fn adopt(&mut self, slot: Slot, user: UserId, inbound: InboundIndex) {
        let owner = Owner { user: Some(user), inbound };
        self.slots.entry(slot).or_insert(Account { owner, counters: None });
        self.pairs.entry((user, inbound)).or_insert(slot);
        self.users.entry(user).or_default().accounts.insert(slot);
    }

    /// Takes over a user's slot that the kernel has.
    pub fn adopt_user(&mut self, slot: UserSlot, user: UserId) {
        self.user_slots.entry(slot).or_insert(user);
        self.users.entry(user).or_default().slot.get_or_insert(slot);
    }

    /// The slot of a pair, a free one if it has none. A new one must be written to the kernel before
    /// any flow is given to it.
    pub fn slot_for(&mut self, user: UserId, inbound: InboundIndex) -> Result<Given<Slot>, SlotsFull> {
        if let Some(&slot) = self.pairs.get(&(user, inbound)) {
            return Ok(Given { slot, new: false });
        }
        let used = self.slots.range(Slot(ACCOUNT_FIRST)..).map(|(slot, _)| slot.0);
        let slot = Slot(first_free(used, ACCOUNT_FIRST, ACCOUNTS_MAX).ok_or(SlotsFull::Accounts)?);
        self.adopt(slot, user, inbound);
        Ok(Given { slot, new: true })
    }

    /// The slot of a user, a free one if there is none.
    pub fn user_slot_for(&mut self, user: UserId) -> Result<Given<UserSlot>, SlotsFull> {
        if let Some(slot) = self.users.get(&user).and_then(|user| user.slot) {
            return Ok(Given { slot, new: false });
        }
        let mut used: BTreeSet<u32> = self.released_users.iter().map(|slot| slot.0).collect();
        used.extend(self.user_slots.keys().map(|slot| slot.0));
        let slot = UserSlot(first_free(used, 1, USERS_MAX).ok_or(SlotsFull::Users)?);
        self.adopt_user(slot, user);
        Ok(Given { slot, new: true })
    }

    pub fn user_of(&self, slot: Slot) -> Option<UserId> {
        self.slots.get(&slot)?.owner.user
    }

    pub fn owner(&self, slot: Slot) -> Option<Owner> {
        self.slots.get(&slot).map(|account| account.owner)
    }

    pub fn user_in(&self, slot: UserSlot) -> Option<UserId> {
        self.user_slots.get(&slot).copied()
    }

    pub fn accounts_of(&self, user: UserId) -> impl Iterator<Item = (Slot, InboundIndex)> {
        let slots = self.users.get(&user).map(|user| user.accounts.iter()).into_iter().flatten();
        slots.filter_map(|&slot| Some((slot, self.slots.get(&slot)?.owner.inbound)))
    }

    /// The user is gone for good: its slots are read on until [`Self::committed`], and only then free.
    pub fn release(&mut self, user: UserId) {
        let Some(known) = self.users.get_mut(&user) else { return };
        self.released.extend(known.accounts.iter().copied());
        if let Some(slot) = known.slot.take() {
            self.user_slots.remove(&slot);
            self.released_users.insert(slot);
        }
        self.pairs.retain(|(owner, _), _| *owner != user);
    }

    /// The rows of a reading that was made after the kernel stopped counting for released users are
    /// committed. Gives the slots that are free now, to be cleared in the kernel first.
    pub fn committed(&mut self) -> (Vec<Slot>, Vec<UserSlot>) {
        let slots = std::mem::take(&mut self.released);
        for slot in &slots {
            let Some(user) = self.slots.remove(slot).and_then(|account| account.owner.user) else { continue };
            if let Some(known) = self.users.get_mut(&user) {
                known.accounts.remove(slot);
                if known.accounts.is_empty() && known.slot.is_none() {
                    self.users.remove(&user);
                    self.moving.remove(&user);
                }
            }
        }
        (slots.into_iter().collect(), std::mem::take(&mut self.released_users).into_iter().collect())
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

/// The first number from `first` on, below `end`, that is not among the sorted ones.
fn first_free(used: impl IntoIterator<Item = u32>, first: u32, end: u32) -> Option<u32> {
    let mut free = first;
    for used in used {
        if used > free {
            break;
        }
        free = free.max(used.saturating_add(1));
    }
    (free < end).then_some(free)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ALICE: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));
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
        let slot = accounts.slot_for(ALICE, INBOUND).expect("there is room").slot;
        (accounts, slot)
    }

    #[test]
    fn slots_begin_after_the_inbounds_and_stay() {
        let (mut accounts, slot) = accounts();
        assert_eq!(slot, Slot(ACCOUNT_FIRST));
        assert_eq!(accounts.slot_for(ALICE, INBOUND), Ok(Given { slot, new: false }));
        let next = Given { slot: Slot(ACCOUNT_FIRST + 1), new: true };
        assert_eq!(accounts.slot_for(BOB, INBOUND), Ok(next));
        assert_eq!(accounts.user_of(slot), Some(ALICE));
        assert_eq!(accounts.user_slot_for(ALICE), Ok(Given { slot: UserSlot(1), new: true }));
        assert_eq!(accounts.user_in(UserSlot(1)), Some(ALICE));
    }

    #[test]
    fn a_released_slot_is_used_again_only_after_the_commit() {
        let (mut accounts, slot) = accounts();
        let user_slot = accounts.user_slot_for(ALICE).expect("there is room").slot;
        accounts.release(ALICE);
        assert_ne!(accounts.slot_for(BOB, INBOUND).expect("there is room").slot, slot);
        assert_ne!(accounts.user_slot_for(BOB).expect("there is room").slot, user_slot);
        let rows = accounts.read(&[(slot, counters(5, 5))], at(1)).rows;
        assert_eq!(rows.len(), 1, "its last counts are still read");
        assert_eq!(accounts.committed(), (vec![slot], vec![user_slot]));
        let again = accounts.slot_for(UserId(Uuid::from_u128(3)), INBOUND);
        assert_eq!(again, Ok(Given { slot, new: true }));
    }

    #[test]
    fn full_maps_are_told() {
        let mut accounts = Accounts::default();
        for number in 0..u128::from(ACCOUNTS_MAX - ACCOUNT_FIRST) {
            let slot = Slot(ACCOUNT_FIRST + u32::try_from(number).expect("small"));
            accounts.adopt(slot, UserId(Uuid::from_u128(number)), INBOUND);
        }
        assert_eq!(accounts.slot_for(UserId(Uuid::max()), INBOUND), Err(SlotsFull::Accounts));
        assert!(accounts.slot_for(UserId(Uuid::from_u128(7)), INBOUND).is_ok());
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
