//! Totals that a service keeps itself: counters that grow, begin at 0 again when it restarts, and vanish when
//! it forgets them. Turned into bytes of users, each once.
//!
//! What was taken over is known by *cursors*: how far each counter was. They are committed together with the
//! bytes, so that an agent that dies between a reading and its commit leaves neither, and the next one reads
//! the same bytes again. A service that was never seen gives its *baseline*: what it counted before is
//! nobody's business.
//!
//! Bytes that a service counted and lost before anybody read them (it restarted between two readings) cannot
//! be known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::event::UserId;

/// Counters of one service. Each is remembered with some fifty bytes; nginx makes one per address that clients
/// ask for, where it is told to.
pub const COUNTERS_MAX: usize = 131_072;

/// A counter beyond this (256 PiB) is an error, not traffic: the ledger has the same bound.
pub const COUNTER_MAX: u64 = 1 << 58;

/// What two readings of the same start may differ in: services tell how long they run in whole seconds, and
/// take their time to answer.
const START_UNSURE_MS: u64 = 3_000;

/// Names a counter within its service: a hash, so that it does not matter what the service calls it.
pub type Key = [u8; 16];

/// From one start of a service to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Of the machine's kernel.
    pub boot: [u8; 16],
    /// 0 where it is not known.
    pub pid: u32,
    /// After that boot.
    pub started_ms: i64,
}

impl Life {
    /// Is this the same one?
    pub fn is(&self, other: &Life) -> bool {
        let same_pid = self.pid == other.pid || self.pid == 0 || other.pid == 0;
        self.boot == other.boot && same_pid && self.started_ms.abs_diff(other.started_ms) <= START_UNSURE_MS
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub key: Key,
    /// Whose bytes the service says they are.
    pub name: Arc<str>,
    /// Upload and download. They begin at 0 together.
    pub bytes: [u64; 2],
}

/// All counters of a service at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `None`: it cannot be told.
    pub life: Option<Life>,
    pub counters: Vec<Counter>,
    /// Counters that were left out: not numbers, or beyond [`COUNTER_MAX`]. They are taken for unchanged.
    pub refused: Vec<Key>,
}

/// What is known of a service from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    pub life: Option<Life>,
    pub cursors: HashMap<Key, [u64; 2]>,
}

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    User(UserId),
    /// He is about to be taken in: the bytes wait in the service.
    Soon,
    Nobody,
}

/// What a reading said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// It was the first one ever: nothing of it is counted.
    pub baseline: bool,
    /// The service was started anew since the last one.
    pub restarted: bool,
    /// Counters that are lower than they were though the service was not: forgotten and begun again, or set
    /// to 0 by somebody.
    pub fell: u64,
    /// Bytes under names that no user has.
    pub nobodys: [u64; 2],
    /// Of whom there are new bytes.
    pub grown: BTreeSet<UserId>,
}

/// What the ledger does not have yet of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The number of the reading up to which this goes; it only grows.
    pub reading: u64,
    pub life: Option<Life>,
    /// No cursor from before holds any more.
    pub anew: bool,
    /// `None`: the counter is gone.
    pub cursors: Vec<(Key, Option<[u64; 2]>)>,
    /// Sums since this was made, of those that grew.
    pub sums: Vec<(UserId, [u64; 2])>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    life: Option<Life>,
    /// `None` until the baseline.
    cursors: Option<HashMap<Key, [u64; 2]>>,
    sums: BTreeMap<UserId, [u64; 2]>,
    /// Readings taken; what follows has the number of the one that changed it last.
    reading: u64,
    grown: BTreeMap<UserId, u64>,
    moved: HashMap<Key, u64>,
    anew: Option<u64>,
    changed: Option<u64>,
}

impl Tally {
    /// `None`: the service was never seen.
    pub fn new(before: Option<Before>) -> Self {
        let (life, cursors) = before.map_or((None, None), |before| (before.life, Some(before.cursors)));
        Tally { life, cursors, ..Tally::default() }
    }

    /// Takes a complete reading.
    pub fn take(&mut self, reading: &Reading, whose: impl Fn(&str) -> Whose) -> Taken {
        self.reading += 1;
        let mut taken = Taken { baseline: self.cursors.is_none(), ..Taken::default() };
        let before = self.cursors.take().unwrap_or_default();
        taken.restarted = matches!((self.life, reading.life), (Some(old), Some(new)) if !old.is(&new));
        // The start is kept as it was first told, so that it cannot creep. Where a reading does not tell it, no
        // later one may be compared with what was before: counters that fell here would be taken twice.
        if taken.restarted || self.life.is_some() != reading.life.is_some() {
            self.life = reading.life;
            self.changed = Some(self.reading);
        }
        if taken.baseline {
            self.changed = Some(self.reading);
        }
        let before = if taken.restarted { self.begin_anew() } else { before };
        let mut step = Step { before: &before, after: HashMap::with_capacity(before.len()), taken };
        for counter in &reading.counters {
            self.one(counter, &mut step, &whose);
        }
        for key in &reading.refused {
            if let Some(&cursor) = before.get(key) {
                step.after.entry(*key).or_insert(cursor);
            }
        }
        let Step { after, taken, .. } = step;
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.move_to(*key);
        }
        self.cursors = Some(after);
        taken
    }

    fn begin_anew(&mut self) -> HashMap<Key, [u64; 2]> {
        self.anew = Some(self.reading);
        self.changed = Some(self.reading);
        self.moved.clear();
        HashMap::new()
    }

    fn move_to(&mut self, key: Key) {
        self.moved.insert(key, self.reading);
        self.changed = Some(self.reading);
    }

    fn one(&mut self, counter: &Counter, step: &mut Step<'_>, whose: impl Fn(&str) -> Whose) {
        let Counter { key, name, bytes } = counter;
        // A service that says the same one twice is not believed the second time.
        if step.after.contains_key(key) {
            return;
        }
        let cursor = step.before.get(key);
        let base = cursor.copied().unwrap_or_default();
        let fell = bytes[0] < base[0] || bytes[1] < base[1];
        step.taken.fell += u64::from(fell);
        let base = if fell { [0; 2] } else { base };
        let more = [bytes[0] - base[0], bytes[1] - base[1]];
        let owner = if step.taken.baseline { Whose::Nobody } else { whose(name) };
        match owner {
            Whose::Soon => {
                // It stays where it was, or at its beginning.
                if let Some(stays) = cursor.filter(|_| !fell) {
                    step.after.insert(*key, *stays);
                }
                return;
            }
            _ if step.taken.baseline => {}
            Whose::Nobody => step.taken.nobodys = sum(step.taken.nobodys, more),
            Whose::User(user) if more != [0; 2] => {
                let sums = self.sums.entry(user).or_default();
                *sums = sum(*sums, more);
                self.grown.insert(user, self.reading);
                step.taken.grown.insert(user);
            }
            Whose::User(_) => {}
        }
        if cursor != Some(bytes) {
            self.move_to(*key);
        }
        step.after.insert(*key, *bytes);
    }

    /// What the ledger does not have; `None`: it has everything.
    pub fn progress(&self) -> Option<Progress> {
        self.changed?;
        let cursors = self.cursors.as_ref()?;
        let sum = |user: &UserId| (*user, self.sums.get(user).copied().unwrap_or_default());
        Some(Progress {
            reading: self.reading,
            life: self.life,
            anew: self.anew.is_some(),
            cursors: self.moved.keys().map(|key| (*key, cursors.get(key).copied())).collect(),
            sums: self.grown.keys().map(sum).collect(),
        })
    }

    /// The ledger has this.
    pub fn committed(&mut self, progress: &Progress) {
        let newer = |at: u64| at > progress.reading;
        self.grown.retain(|_, at| newer(*at));
        self.moved.retain(|_, at| newer(*at));
        self.anew = self.anew.filter(|at| newer(*at));
        self.changed = self.changed.filter(|at| newer(*at));
    }

    /// How many counters there are.
    pub fn len(&self) -> usize {
        self.cursors.as_ref().map_or(0, HashMap::len)
    }

    /// Is nothing known of it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A reading while it is taken.
struct Step<'a> {
    before: &'a HashMap<Key, [u64; 2]>,
    after: HashMap<Key, [u64; 2]>,
    taken: Taken,
}

fn sum(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    [one[0].saturating_add(other[0]), one[1].saturating_add(other[1])]
}

/// What a service's counters are in sum, by name: to be shown beside what the kernel counted.
pub fn by_name(reading: &Reading) -> BTreeMap<Arc<str>, [u64; 2]> {
    let (mut sums, mut seen) = (BTreeMap::<_, [u64; 2]>::new(), HashSet::new());
    for counter in reading.counters.iter().filter(|counter| seen.insert(counter.key)) {
        let of = sums.entry(Arc::clone(&counter.name)).or_default();
        *of = sum(*of, counter.bytes);
    }
    sums
}

#[cfg(test)]
mod tests;
