//! Each byte once, whatever dies: by example, and against an oracle that knows every restart.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

mod kept;

const ALICE: UserId = UserId(Uuid::from_u128(1));
const BOB: UserId = UserId(Uuid::from_u128(2));

fn whose(name: &str) -> Whose {
    match name {
        "alice" => Whose::User(ALICE),
        "bob" => Whose::User(BOB),
        "soon" => Whose::Soon,
        _ => Whose::Nobody,
    }
}

fn key(n: u8) -> Key {
    [n; 16]
}

fn life(started_ms: i64) -> Option<Life> {
    Some(Life { boot: [1; 16], pid: 0, started_ms })
}

fn reading(life: Option<Life>, counters: &[(u8, &str, u64)]) -> Reading {
    let counters = counters.iter().map(|&(n, name, bytes)| Counter {
        key: key(n),
        name: name.into(),
        bytes: [bytes, 2 * bytes],
    });
    Reading { life, counters: counters.collect(), ..Reading::default() }
}

/// The ledger: what was committed.
#[derive(Clone, Debug, Default)]
struct Books {
    known: Option<Before>,
    sums: BTreeMap<UserId, [u64; 2]>,
    /// Sums of this life of the agent that are in `sums`.
    taken: BTreeMap<UserId, [u64; 2]>,
}

impl Books {
    fn commit(&mut self, progress: &Progress) {
        let known = self.known.get_or_insert_default();
        (known.life, known.document) = (progress.life, progress.document);
        if progress.anew {
            known.cursors.clear();
            known.floors.clear();
        }
        for (key, cursor) in &progress.cursors {
            known.cursors.remove(key);
            known.floors.remove(key);
            match cursor {
                Some(Cursor { bytes, vanished: false }) => known.cursors.insert(*key, *bytes),
                Some(Cursor { bytes, vanished: true }) => known.floors.insert(*key, *bytes),
                None => None,
            };
        }
        for (user, sums) in &progress.sums {
            let before = self.taken.insert(*user, *sums).unwrap_or_default();
            let of = self.sums.entry(*user).or_default();
            *of = [of[0] + sums[0] - before[0], of[1] + sums[1] - before[1]];
        }
    }

    fn next_agent(&mut self) -> Tally {
        self.taken.clear();
        Tally::new(self.known.clone())
    }

    fn upload(&self, user: UserId) -> u64 {
        self.sums.get(&user).copied().unwrap_or_default()[0]
    }
}

fn commit(tally: &mut Tally, books: &mut Books) {
    if let Some(progress) = tally.progress() {
        books.commit(&progress);
        tally.committed(&progress);
    }
    assert_eq!(tally.progress(), None);
}

#[test]
fn the_first_sight_is_a_baseline_and_what_is_new_after_it_counts() {
    let mut books = Books::default();
    let mut tally = Tally::new(None);
    assert_eq!(tally.progress(), None);
    let first = tally.take(&reading(life(0), &[(1, "alice", 500)]), whose);
    assert!(first.baseline && first.grown.is_empty() && first.nobodys == [0; 2]);
    commit(&mut tally, &mut books);
    assert!(books.sums.is_empty());
    let next = reading(life(900), &[(1, "alice", 507), (2, "alice", 20), (3, "zoe", 5)]);
    let next = tally.take(&next, whose);
    assert_eq!((next.restarted, next.nobodys, next.grown), (false, [5, 10], BTreeSet::from([ALICE])));
    commit(&mut tally, &mut books);
    assert_eq!(books.upload(ALICE), 27);
    // Killed: the next agent finds its cursors, and nothing new.
    let mut tally = books.next_agent();
    tally.take(&reading(life(0), &[(1, "alice", 507), (2, "alice", 20), (3, "zoe", 5)]), whose);
    assert_eq!(tally.progress(), None);
}

/// An empty service has a baseline too: all that comes after it counts.
#[test]
fn a_baseline_without_counters_is_one() {
    let mut books = Books::default();
    let mut tally = Tally::new(None);
    tally.take(&reading(None, &[]), whose);
    commit(&mut tally, &mut books);
    let mut tally = books.next_agent();
    tally.take(&reading(None, &[(1, "alice", 3)]), whose);
    commit(&mut tally, &mut books);
    assert_eq!(books.upload(ALICE), 3);
}

#[test]
fn a_restart_is_found_by_the_start_also_where_counters_are_higher_than_before() {
    let mut books = Books::default();
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(life(0), &[(1, "alice", 100), (2, "bob", 10)]), whose);
    commit(&mut tally, &mut books);
    let mut later = books.clone();
    let next = later.next_agent();
    for (mut tally, mut books) in [(tally, books), (next, later)] {
        let taken = tally.take(&reading(life(60_000), &[(1, "alice", 150)]), whose);
        assert!(taken.restarted && taken.fell == 0);
        commit(&mut tally, &mut books);
        assert_eq!((books.upload(ALICE), books.upload(BOB)), (250, 10));
        assert_eq!(books.known.unwrap().cursors, HashMap::from([(key(1), [150, 300])]));
    }
    // Another boot is another life, whatever the times say; another process too.
    let other = Life { boot: [2; 16], ..life(0).unwrap() };
    assert!(!other.is(&life(0).unwrap()));
    let pid = |pid| Life { pid, ..life(0).unwrap() };
    assert!(!pid(7).is(&pid(8)) && pid(7).is(&pid(0)) && life(2_900).unwrap().is(&pid(7)));
}

/// A reading that does not tell the start comes between: what fell in it is not taken again when the next one
/// tells another start.
#[test]
fn a_start_that_is_not_told_for_a_while_counts_nothing_twice() {
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(life(0), &[(1, "alice", 100)]), whose);
    tally.take(&reading(None, &[(1, "alice", 20)]), whose);
    let taken = tally.take(&reading(life(60_000), &[(1, "alice", 30)]), whose);
    assert!(!taken.restarted);
    assert_eq!(tally.sums[&ALICE], [130, 260]);
    assert!(tally.take(&reading(life(120_000), &[(1, "alice", 40)]), whose).restarted);
    assert_eq!(tally.sums[&ALICE], [170, 340]);
}

fn document(loaded_ms: u64, requests: u64, bytes: u64) -> Reading {
    let document =
        Document { loaded_ms, at_ms: loaded_ms + requests, requests: Some(requests), counted: None };
    Reading { document: Some(document), ..reading(None, &[(1, "alice", bytes)]) }
}

/// nginx on another machine: only its answers tell.
#[test]
fn without_a_process_the_answer_tells_a_restart_from_a_configuration_that_was_read_anew() {
    let mut books = Books { known: Some(Before::default()), ..Books::default() };
    let mut tally = books.next_agent();
    tally.take(&document(1_000, 50, 100), whose);
    let reloaded = tally.take(&document(2_000, 60, 110), whose);
    assert_eq!((reloaded.restarted, tally.sums[&ALICE]), (false, [110, 220]));
    commit(&mut tally, &mut books);
    // Restarted, and higher than before already; also for the next agent.
    for mut tally in [tally.clone(), books.next_agent()] {
        let before = tally.sums.get(&ALICE).copied().unwrap_or_default()[0];
        let taken = tally.take(&document(3_000, 5, 150), whose);
        assert!(taken.restarted);
        assert_eq!(tally.sums[&ALICE][0] - before, 150);
    }
}

/// The program of a running nginx is exchanged: two of them answer in turn, each with its own counters.
#[test]
fn two_starts_that_answer_in_turn_count_nothing_twice() {
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&document(1_000, 5_000, 1_000_000), whose);
    for step in 1..=5 {
        // The new one, and then the old one again.
        let taken = tally.take(&document(9_000, step * 10, step * 100), whose);
        assert_eq!(taken.restarted, step == 1);
        let taken = tally.take(&document(1_000, 9_000 + step, 1_000_000 + step), whose);
        assert!(taken.older);
    }
    assert_eq!(tally.sums[&ALICE], [1_000_500, 2_001_000]);
    // The exchange was given up: the old one is all there is, and counts from where it is.
    for step in 1..OLDER_MAX {
        assert!(tally.take(&document(1_000, 9_100 + u64::from(step), 2_000_000), whose).older);
    }
    assert!(tally.take(&document(1_000, 9_200, 2_000_000), whose).baseline);
    tally.take(&document(1_000, 9_201, 2_000_001), whose);
    assert_eq!(tally.sums[&ALICE], [1_000_501, 2_001_002]);
}

#[test]
fn what_vanishes_or_falls_is_no_negative_traffic() {
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(None, &[(1, "alice", 100), (2, "alice", 50)]), whose);
    // Evicted.
    let taken = tally.take(&reading(None, &[(2, "alice", 51)]), whose);
    assert_eq!((taken.fell, tally.sums[&ALICE]), (0, [151, 302]));
    // Back: it has begun at 0, also where it is higher than ever.
    tally.take(&reading(None, &[(1, "alice", 120), (2, "alice", 51)]), whose);
    assert_eq!(tally.sums[&ALICE], [271, 542]);
    // Evicted and back between two readings: it fell.
    let taken = tally.take(&reading(None, &[(1, "alice", 7), (2, "alice", 51)]), whose);
    assert_eq!((taken.fell, tally.sums[&ALICE]), (1, [278, 556]));
    // One that is no number.
    let mut bad = reading(None, &[(1, "alice", 8)]);
    bad.refused.push(key(2));
    tally.take(&bad, whose);
    assert_eq!((tally.sums[&ALICE], tally.len()), ([279, 558], 2));
    tally.take(&reading(None, &[(1, "alice", 8), (2, "alice", 52)]), whose);
    assert_eq!(tally.sums[&ALICE], [280, 560]);
}

/// Two keys that a service cannot show apart.
#[test]
fn counters_of_one_name_are_added_up() {
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(None, &[(1, "alice", 8), (1, "alice", 900)]), whose);
    let both = reading(None, &[(1, "alice", 9), (1, "alice", 905)]);
    assert_eq!(tally.take(&both, whose).fell, 0);
    assert_eq!((tally.sums[&ALICE], tally.len()), ([914, 1_828], 1));
    assert_eq!(by_name(&both)["alice"], [914, 1_828]);
    // Together beyond what can be, or one of them no number: unchanged.
    tally.take(&reading(None, &[(1, "alice", COUNTER_MAX / 2), (1, "alice", COUNTER_MAX / 2)]), whose);
    let mut half = reading(None, &[(1, "alice", 2_000)]);
    half.refused.push(key(1));
    tally.take(&half, whose);
    tally.take(&reading(None, &[(1, "alice", 915)]), whose);
    assert_eq!(tally.sums[&ALICE], [915, 1_830]);
}

/// A start whose machine had no clock yet.
#[test]
fn a_restart_with_a_wrong_clock_is_one_and_no_older_start() {
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&document(1_000_000, 500, 100), whose);
    let mut early = document(5_000, 3, 40);
    early.document.as_mut().unwrap().at_ms = 2_000_000;
    let taken = tally.take(&early, whose);
    assert!(taken.restarted && !taken.older);
    assert_eq!(tally.sums[&ALICE][0], 140);
    // The one before answers once more: it is that one, however few requests it had.
    tally.take(&document(3_000_000, 1, 0), whose);
    let mut early_again = early.clone();
    early_again.document.as_mut().unwrap().requests = Some(0);
    early_again.document.as_mut().unwrap().at_ms = 9_000_000;
    assert!(tally.take(&early_again, whose).older);
    assert_eq!(tally.sums[&ALICE][0], 140);
}

/// Sums of many users, each as high as anything can be, are a number.
#[test]
fn a_users_sum_has_a_bound() {
    let mut tally = Tally::new(Some(Before::default()));
    let all: Vec<(u8, &str, u64)> = (0..9).map(|n| (n, "alice", COUNTER_MAX / 2)).collect();
    tally.take(&reading(None, &all), whose);
    assert_eq!(tally.sums[&ALICE], [COUNTER_MAX; 2]);
    let all = 8_000_i64.checked_mul(i64::try_from(COUNTER_MAX).unwrap());
    assert!(all.is_some(), "of thousands");
}

#[test]
fn bytes_of_whoever_is_about_to_be_taken_in_wait_in_the_service() {
    let mut tally = Tally::new(Some(Before::default()));
    let taken = tally.take(&reading(None, &[(1, "soon", 100)]), whose);
    assert_eq!((taken.nobodys, tally.progress()), ([0; 2], None));
    let now = |_: &str| Whose::User(ALICE);
    tally.take(&reading(None, &[(1, "soon", 130)]), now);
    assert_eq!(tally.sums[&ALICE], [130, 260]);
    // Where it fell meanwhile, it counts from its beginning.
    tally.take(&reading(None, &[(1, "soon", 5)]), whose);
    tally.take(&reading(None, &[(1, "soon", 140)]), now);
    assert_eq!(tally.sums[&ALICE], [270, 540]);
}

#[test]
fn what_comes_while_a_commit_is_under_way_is_in_the_next_one() {
    let mut books = Books::default();
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(life(0), &[(1, "alice", 10), (2, "bob", 1)]), whose);
    let on_its_way = tally.progress().unwrap();
    tally.take(&reading(life(90_000), &[(1, "alice", 4)]), whose);
    books.commit(&on_its_way);
    tally.committed(&on_its_way);
    let next = tally.progress().unwrap();
    assert!(next.anew);
    assert_eq!(next.sums, [(ALICE, [14, 28])]);
    // Said twice, it is once.
    books.commit(&next);
    books.commit(&next);
    tally.committed(&next);
    assert_eq!((books.upload(ALICE), books.upload(BOB)), (14, 1));
    assert_eq!(books.known.clone().unwrap().cursors, HashMap::from([(key(1), [4, 8])]));
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happens {
    Grows(u8, u64),
    /// The service starts anew.
    Restarts,
    /// The service forgets a counter; it comes back when it grows.
    Forgets(u8),
    Read,
    Commit,
    /// A commit of which the agent does not know whether it was made, and dies.
    CommitAndDie,
    Die,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0..4_u8, 1..1_000_u64).prop_map(|(key, bytes)| Happens::Grows(key, bytes)),
        1 => Just(Happens::Restarts),
        1 => (0..4_u8).prop_map(Happens::Forgets),
        6 => Just(Happens::Read),
        4 => Just(Happens::Commit),
        1 => Just(Happens::CommitAndDie),
        1 => Just(Happens::Die),
    ]
}

/// Knows when each counter began, so that it needs no rule to find that out.
#[derive(Clone, Debug, Default)]
struct Oracle {
    service: BTreeMap<u8, (u64, u64)>,
    begun: u64,
    /// By counter, which one of its beginnings and how far: in memory, and in the ledger.
    seen: [BTreeMap<u8, (u64, u64)>; 2],
    sums: [u64; 2],
    unread: BTreeSet<u8>,
}

impl Oracle {
    fn read(&mut self) {
        for (key, &(begun, value)) in &self.service {
            let seen = self.seen[0].get(key).filter(|(then, _)| *then == begun).map_or(0, |(_, seen)| *seen);
            self.sums[0] += value - seen;
        }
        self.seen[0].clone_from(&self.service);
        self.unread.clear();
    }
}

proptest! {
    #[test]
    fn each_byte_is_counted_once_and_never_twice_where_counters_may_be_kept(keeps: bool, steps in proptest::collection::vec(happens(), 1..120)) {
        let (mut books, mut oracle) = (Books { known: Some(Before::default()), ..Books::default() }, Oracle::default());
        let mut tally = books.next_agent();
        let mut started_ms = 0;
        for step in steps {
            match step {
                Happens::Grows(key, bytes) => {
                    // One that was forgotten and not missed by a reading cannot be told from one that lives.
                    if oracle.unread.contains(&key) {
                        continue;
                    }
                    oracle.begun += 1;
                    oracle.service.entry(key).or_insert((oracle.begun, 0)).1 += bytes;
                }
                Happens::Restarts => {
                    oracle.service.clear();
                    oracle.unread.clear();
                    started_ms += 10_000;
                }
                Happens::Forgets(key) => {
                    if oracle.service.remove(&key).is_some() {
                        oracle.unread.insert(key);
                    }
                }
                Happens::Read => {
                    let counters: Vec<(u8, &str, u64)> =
                        oracle.service.iter().map(|(key, (_, value))| (*key, "alice", *value)).collect();
                    tally.take(&Reading { keeps, ..reading(life(started_ms), &counters) }, whose);
                    oracle.read();
                }
                Happens::Commit | Happens::CommitAndDie => {
                    if let Some(progress) = tally.progress() {
                        books.commit(&progress);
                        if matches!(step, Happens::Commit) {
                            tally.committed(&progress);
                        }
                    }
                    oracle.seen[1] = oracle.seen[0].clone();
                    oracle.sums[1] = oracle.sums[0];
                    if matches!(step, Happens::CommitAndDie) {
                        tally = books.next_agent();
                    }
                }
                Happens::Die => {
                    tally = books.next_agent();
                    oracle.seen[0] = oracle.seen[1].clone();
                    oracle.sums[0] = oracle.sums[1];
                    // What it had read is unread again; what was forgotten since must be missed again.
                    oracle.unread.extend(oracle.seen[1].iter().filter_map(|(key, (begun, _))| {
                        (oracle.service.get(key).map(|it| it.0) != Some(*begun)).then_some(*key)
                    }));
                    let unread = oracle.unread.clone();
                    oracle.service.retain(|key, _| !unread.contains(key));
                }
            }
            match keeps {
                // What begins at 0 and grows beyond where it was is taken for what it was.
                true => prop_assert!(books.upload(ALICE) <= oracle.sums[1]),
                false => prop_assert_eq!(books.upload(ALICE), oracle.sums[1]),
            }
        }
    }
}
