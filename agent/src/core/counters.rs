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
//!
//! A service may bring counters over a restart, or put keys back that it had forgotten, as nginx-module-vts does from
//! its dump. A counter that appears again is taken on from its *floor*, how far it was when it was seen last, if it is
//! not below: what it has truly counted anew up to that floor is lost then, and nothing is billed twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use super::event::UserId;

/// Counters of one service. Each is remembered with some fifty bytes; nginx makes one per address that clients
/// ask for, where it is told to.
pub const COUNTERS_MAX: usize = 131_072;

/// Counters that vanished and are remembered. Of more the smallest are forgotten: they are the least to be billed
/// again, and clients who make keys in masses push none that matters out.
const FLOORS_MAX: usize = COUNTERS_MAX;

/// A counter beyond this (1 PiB) is an error, not traffic. So far below the ledger's bound, which holds for all
/// counters of a user, that sums over many users stay within a number.
pub const COUNTER_MAX: u64 = 1 << 50;

/// What two readings of the same start may differ in: services tell how long they run in whole seconds, and
/// take their time to answer.
const START_UNSURE_MS: u64 = 3_000;

/// What the tag of a service's own account is called, after the service's name. No listener has it by accident.
pub const TAG: &str = "(reported)";

/// Is it the tag of a service's own account?
pub fn is_tag(tag: &str) -> bool {
    tag.rsplit_once('/').is_some_and(|(_, last)| last == TAG)
}

/// Readings in a row of an older start than the one that was read last, after which that one is taken to be gone.
const OLDER_MAX: u32 = 12;

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

/// What an answer says of itself, for where no process can be asked. A service may answer from two starts in turn
/// for a while, each with counters of its own, as nginx does whose program is exchanged while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    /// When whoever answers was started, or has read its configuration (Unix milliseconds).
    pub loaded_ms: u64,
    /// When it answered, by the same clock.
    pub at_ms: u64,
    /// Requests since its start, however often it has read its configuration; `None`: it does not say.
    pub requests: Option<u64>,
    /// Requests that its counters have. Where those are more than there were since its start, they are of an earlier
    /// one.
    pub counted: Option<u64>,
}

/// Have the counters of a start been brought over from the one before?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brought {
    No,
    Perhaps,
    Yes,
}

/// What a reading is, beside the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Same,
    /// All counters have begun at 0 since.
    Anew,
    /// Of a start that was followed by another already.
    Older,
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
    pub document: Option<Document>,
    pub counters: Vec<Counter>,
    /// Counters that were left out: not numbers, or beyond [`COUNTER_MAX`]. They are taken for unchanged.
    pub refused: Vec<Key>,
    /// It may bring counters over a restart, or put back what it had forgotten.
    pub keeps: bool,
    /// Names that need not be a user's, as their groups may be of anything: they are where somebody says so.
    pub unsure: HashSet<Arc<str>>,
}

/// What is known of a service from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    pub life: Option<Life>,
    pub document: Option<Document>,
    pub cursors: HashMap<Key, [u64; 2]>,
    /// Of counters that vanished.
    pub floors: HashMap<Key, [u64; 2]>,
}

/// How far a counter was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub bytes: [u64; 2],
    /// The counter vanished; if it comes back, it may be where it was.
    pub vanished: bool,
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
    /// It was the first one ever, or of a start that came back: nothing of it is counted.
    pub baseline: bool,
    /// It is of a start that was followed by another already, and was not taken.
    pub older: bool,
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
    pub document: Option<Document>,
    /// No cursor from before holds any more.
    pub anew: bool,
    /// `None`: nothing has to be known of the counter any more.
    pub cursors: Vec<(Key, Option<Cursor>)>,
    /// Sums since this was made, of those that grew.
    pub sums: Vec<(UserId, [u64; 2])>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    life: Option<Life>,
    document: Option<Document>,
    /// Readings in a row of an older start.
    older: u32,
    /// When the start was loaded that the present one followed: it may answer in turn with it for a while.
    followed: Option<u64>,
    /// `None` until the baseline.
    cursors: Option<HashMap<Key, [u64; 2]>>,
    /// How far counters were that vanished. None of them is in `cursors`.
    floors: HashMap<Key, [u64; 2]>,
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
        match before {
            Some(Before { life, document, cursors, floors }) => {
                Tally { life, document, cursors: Some(cursors), floors, ..Tally::default() }
            }
            None => Tally::default(),
        }
    }

    /// Which start a reading is of. A process that is known decides; where none is, what the answer says of itself.
    fn start(&self, reading: &Reading) -> Start {
        if let (Some(old), Some(new)) = (self.life, reading.life) {
            return if old.is(&new) { Start::Same } else { Start::Anew };
        }
        let (Some(old), Some(new)) = (self.document, reading.document) else { return Start::Same };
        let fell = matches!((old.requests, new.requests), (Some(old), Some(new)) if new < old);
        // Of a clock that was set back nothing can be told. One that had fewer requests and never answered before was
        // started before its clock was set.
        if new.loaded_ms < old.loaded_ms && new.at_ms >= old.at_ms {
            let seen = self.followed == Some(new.loaded_ms);
            return if fell && !seen { Start::Anew } else { Start::Older };
        }
        // A configuration that was read anew leaves the counters; that is no start.
        if new.loaded_ms != old.loaded_ms && fell { Start::Anew } else { Start::Same }
    }

    /// Of a start that begins with this reading.
    fn brought(&self, reading: &Reading) -> Brought {
        if !reading.keeps {
            return Brought::No;
        }
        let told = reading.document.and_then(|now| Some((now.counted?, now.requests?)));
        // Who asks has made a request: without any they are not counted at all.
        let Some((counted, requests)) = told.filter(|(_, requests)| *requests > 0) else {
            return Brought::Perhaps;
        };
        if counted > requests {
            return Brought::Yes;
        }
        // A dump is as old as a minute or so when it is read after a crash, and lacks no quarter of all requests.
        match self.document.and_then(|before| before.counted) {
            Some(before) if counted < before - before / 4 => Brought::No,
            _ => Brought::Perhaps,
        }
    }

    /// Takes a complete reading.
    pub fn take(&mut self, reading: &Reading, whose: impl Fn(&str) -> Whose) -> Taken {
        self.reading += 1;
        let start = self.start(reading);
        self.older = if start == Start::Older { self.older + 1 } else { 0 };
        if (1..=OLDER_MAX).contains(&self.older) {
            return Taken { older: true, ..Taken::default() };
        }
        // One that came back for good has counted on from where nobody knows any more.
        let came_back = start == Start::Older;
        let mut taken = Taken { baseline: self.cursors.is_none() || came_back, ..Taken::default() };
        let before = self.cursors.take().unwrap_or_default();
        taken.restarted = start == Start::Anew;
        let brought = if taken.restarted { self.brought(reading) } else { Brought::Perhaps };
        // The start is kept as it was first told, so that it cannot creep. Where a reading does not tell it, no
        // later one may be compared with what was before: counters that fell here would be taken twice.
        let told = self.life.is_some() != reading.life.is_some();
        let loaded = |document: Option<Document>| document.map(|document| document.loaded_ms);
        if taken.restarted || came_back || told {
            self.life = reading.life;
        }
        if taken.restarted || taken.baseline || told || loaded(self.document) != loaded(reading.document) {
            self.changed = Some(self.reading);
        }
        if taken.restarted {
            self.followed = loaded(self.document);
        }
        self.document = reading.document;
        let before = match taken.restarted || taken.baseline {
            true => self.begin_anew(before, taken.restarted && brought != Brought::No),
            false => before,
        };
        let after = HashMap::with_capacity(before.len());
        let mut step = Step { before: &before, after, brought: brought == Brought::Yes, taken };
        let (added, refused) = added_up(reading);
        for counter in added.into_values() {
            self.one(&counter, &mut step, &whose);
        }
        for key in refused {
            if let Some(&cursor) = before.get(&key) {
                step.after.insert(key, cursor);
            }
        }
        let Step { after, taken, .. } = step;
        for (key, cursor) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
            if reading.keeps && *cursor != [0; 2] {
                self.floors.insert(*key, *cursor);
            }
            self.move_to(*key);
        }
        self.cursors = Some(after);
        self.bound_floors();
        taken
    }

    /// No counter is where it was. Where it may come back so, that is kept.
    fn begin_anew(&mut self, before: HashMap<Key, [u64; 2]>, keep: bool) -> HashMap<Key, [u64; 2]> {
        self.changed = Some(self.reading);
        if keep {
            before.keys().for_each(|key| self.move_to(*key));
            self.floors.extend(before.into_iter().filter(|(_, cursor)| *cursor != [0; 2]));
        } else {
            self.anew = Some(self.reading);
            self.moved.clear();
            self.floors.clear();
        }
        HashMap::new()
    }

    fn bound_floors(&mut self) {
        let over = self.floors.len().saturating_sub(FLOORS_MAX);
        if over == 0 {
            return;
        }
        let size = |(key, bytes): (&Key, &[u64; 2])| (bytes[0].saturating_add(bytes[1]), *key);
        let mut all: Vec<(u64, Key)> = self.floors.iter().map(size).collect();
        all.select_nth_unstable(over - 1);
        for (_, key) in all.drain(..over) {
            self.floors.remove(&key);
            self.move_to(key);
        }
    }

    /// From where on a counter counts, if not from 0, and whether it is lower than it was.
    fn base(&self, key: &Key, bytes: &[u64; 2], step: &Step<'_>) -> (Option<[u64; 2]>, bool) {
        let below = |at: &[u64; 2]| bytes[0] < at[0] || bytes[1] < at[1];
        if let Some(cursor) = step.before.get(key) {
            let fell = below(cursor);
            return ((!fell).then_some(*cursor), fell);
        }
        let base = match self.floors.get(key) {
            Some(floor) if !below(floor) => Some(*floor),
            // Brought over as it was some time before it was read last.
            Some(_) if step.brought => Some(*bytes),
            _ => None,
        };
        (base, false)
    }

    fn move_to(&mut self, key: Key) {
        self.moved.insert(key, self.reading);
        self.changed = Some(self.reading);
    }

    fn one(&mut self, counter: &Counter, step: &mut Step<'_>, whose: impl Fn(&str) -> Whose) {
        let Counter { key, name, bytes } = counter;
        let cursor = step.before.get(key);
        let (known, fell) = self.base(key, bytes, step);
        step.taken.fell += u64::from(fell);
        let had_floor = self.floors.remove(key).is_some();
        let base = known.unwrap_or_default();
        let more = [bytes[0] - base[0], bytes[1] - base[1]];
        let owner = if step.taken.baseline { Whose::Nobody } else { whose(name) };
        match owner {
            Whose::Soon => {
                // It stays where it was, or at its beginning.
                if cursor.is_some() || had_floor {
                    if cursor != Some(&base) {
                        self.move_to(*key);
                    }
                    step.after.insert(*key, base);
                }
                return;
            }
            _ if step.taken.baseline => {}
            Whose::Nobody => step.taken.nobodys = sum(step.taken.nobodys, more),
            Whose::User(user) if more != [0; 2] => {
                let sums = self.sums.entry(user).or_default();
                *sums = sum(*sums, more).map(|bytes| bytes.min(COUNTER_MAX));
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
        let cursor = |key: &Key| {
            let here = cursors.get(key).map(|bytes| Cursor { bytes: *bytes, vanished: false });
            here.or_else(|| self.floors.get(key).map(|bytes| Cursor { bytes: *bytes, vanished: true }))
        };
        Some(Progress {
            reading: self.reading,
            life: self.life,
            document: self.document,
            anew: self.anew.is_some(),
            cursors: self.moved.keys().map(|key| (*key, cursor(key))).collect(),
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

    /// All bytes since this was made, whoever's.
    pub fn sum(&self) -> [u64; 2] {
        self.sums.values().fold([0; 2], |all, one| sum(all, *one))
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
    /// It is of a start that was given the counters of the one before.
    brought: bool,
    taken: Taken,
}

/// Each counter once, and those that are to be left out. A service may show two under one name, as nginx-module-vts
/// does of keys that differ only behind what separates its own names: they are added up.
fn added_up(reading: &Reading) -> (HashMap<Key, Counter>, HashSet<Key>) {
    let mut refused: HashSet<Key> = reading.refused.iter().copied().collect();
    let mut added: HashMap<Key, Counter> = HashMap::with_capacity(reading.counters.len());
    for counter in &reading.counters {
        match added.entry(counter.key) {
            Entry::Vacant(place) => drop(place.insert(counter.clone())),
            Entry::Occupied(mut place) => {
                let bytes = sum(place.get().bytes, counter.bytes);
                place.get_mut().bytes = bytes;
                if bytes.iter().any(|bytes| *bytes > COUNTER_MAX) {
                    refused.insert(counter.key);
                }
            }
        }
    }
    added.retain(|key, _| !refused.contains(key));
    (added, refused)
}

fn sum(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    [one[0].saturating_add(other[0]), one[1].saturating_add(other[1])]
}

/// What a service's counters are in sum, by name: to be shown beside what the kernel counted.
pub fn by_name(reading: &Reading) -> BTreeMap<Arc<str>, [u64; 2]> {
    let mut sums = BTreeMap::<_, [u64; 2]>::new();
    for counter in &reading.counters {
        let of = sums.entry(Arc::clone(&counter.name)).or_default();
        *of = sum(*of, counter.bytes);
    }
    sums
}

#[cfg(test)]
mod tests;
