//! Counters that come back after they were away: over a restart of the service, or within its life.

use super::*;

/// nginx-module-vts: how many requests there were since its start, and how many its counters have.
fn kept(start: u64, [requests, counted]: [u64; 2], counters: &[(u8, &str, u64)]) -> Reading {
    let document = Document {
        loaded_ms: start * 1_000_000,
        at_ms: start * 1_000_000 + requests,
        requests: Some(requests),
        counted: Some(counted),
    };
    let started_ms = i64::try_from(start).unwrap() * 1_000_000;
    Reading { document: Some(document), keeps: true, ..reading(life(started_ms), counters) }
}

/// `vhost_traffic_status_dump`: counters go on where they were, or some time before. With a process that is known, and
/// without one; in one agent, and over agents.
#[test]
fn counters_that_a_service_brings_over_a_restart_are_not_billed_again() {
    for known in [true, false] {
        let told = |start, counts, counters: &[(u8, &str, u64)]| match kept(start, counts, counters) {
            told if known => told,
            told => Reading { life: None, ..told },
        };
        let mut books = Books { known: Some(Before::default()), ..Books::default() };
        let mut tally = books.next_agent();
        tally.take(&told(1, [1_000, 1_000], &[(1, "alice", 300_000), (2, "bob", 50), (3, "bob", 5)]), whose);
        commit(&mut tally, &mut books);
        let mut next = books.clone();
        for (mut tally, mut books) in [(tally, books.clone()), (next.next_agent(), next.clone())] {
            // Bob's counters are as old as the dump, and one of them is away.
            let back = told(2, [9, 1_005], &[(1, "alice", 300_007), (2, "bob", 40)]);
            let taken = tally.take(&back, whose);
            assert_eq!((taken.restarted, taken.fell), (true, 0));
            commit(&mut tally, &mut books);
            assert_eq!((books.upload(ALICE), books.upload(BOB)), (300_007, 55));
            // On from there, also the one that was away and is put back by a worker that starts.
            let mut tally = books.next_agent();
            let on = told(2, [19, 1_015], &[(1, "alice", 300_010), (2, "bob", 44), (3, "bob", 6)]);
            tally.take(&on, whose);
            commit(&mut tally, &mut books);
            assert_eq!((books.upload(ALICE), books.upload(BOB)), (300_010, 60));
            assert!(books.known.unwrap().floors.is_empty());
        }
    }
}

/// As far as can be told from what it says of its requests, all of a start that began at 0 counts.
#[test]
fn counters_that_begin_at_0_count_whole_where_that_is_known() {
    let before = || {
        let mut tally = Tally::new(Some(Before::default()));
        tally.take(&kept(1, [1_000, 900], &[(1, "alice", 100)]), whose);
        tally
    };
    let after = |counts, bytes| {
        let mut tally = before();
        tally.take(&kept(2, counts, &[(1, "alice", bytes)]), whose);
        tally.sums[&ALICE][0]
    };
    // Far fewer requests than its counters had: they are not those.
    assert_eq!(after([50, 40], 150), 250);
    // As many as there may be of both kinds: only what is more counts.
    assert_eq!(after([2_000, 1_500], 150), 150);
    assert_eq!(after([2_000, 800], 150), 150);
    // It fell: it began at 0, but where requests say that it was brought over.
    assert_eq!(after([2_000, 1_500], 30), 130);
    assert_eq!(after([10, 800], 30), 100);
    // Not told, or nginx does not count requests.
    assert_eq!(after([0, 40], 150), 150);
}

/// An answer that lacks them all, as when the module has no memory; or keys that a worker's start puts back.
#[test]
fn a_counter_that_was_away_goes_on_where_it_was() {
    let mut books = Books { known: Some(Before::default()), ..Books::default() };
    let mut tally = books.next_agent();
    let kept = |counters: &[(u8, &str, u64)]| Reading { keeps: true, ..reading(None, counters) };
    tally.take(&kept(&[(1, "alice", 100), (2, "bob", 7)]), whose);
    tally.take(&kept(&[]), whose);
    assert_eq!(tally.len(), 0);
    commit(&mut tally, &mut books);
    for mut tally in [tally, books.next_agent()] {
        let before = tally.sums.get(&ALICE).copied().unwrap_or_default()[0];
        tally.take(&kept(&[(1, "alice", 130), (2, "soon", 9)]), whose);
        assert_eq!(tally.sums[&ALICE][0] - before, 30);
        // It waited where it was.
        tally.take(&kept(&[(1, "alice", 130), (2, "bob", 10)]), whose);
        assert_eq!(tally.sums[&BOB][0] - before.min(7), 3);
        // Lower than it was: it has begun at 0.
        tally.take(&kept(&[]), whose);
        tally.take(&kept(&[(1, "alice", 129)]), whose);
        assert_eq!(tally.sums[&ALICE][0] - before, 159);
    }
}

#[test]
fn of_counters_that_vanished_the_smallest_are_forgotten_first() {
    let mut books = Books { known: Some(Before::default()), ..Books::default() };
    let mut tally = books.next_agent();
    let counter = |n: usize| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let bytes = if n == 70_000 { 1 << 40 } else { 1 };
        Counter { key, name: "alice".into(), bytes: [bytes, 0] }
    };
    let of = |ns: std::ops::Range<usize>| Reading {
        counters: ns.map(counter).collect(),
        keeps: true,
        ..Reading::default()
    };
    for part in [0..100_000, 100_000..200_000, 200_000..200_001] {
        tally.take(&of(part), whose);
        commit(&mut tally, &mut books);
    }
    assert_eq!((tally.floors.len(), &books.known.as_ref().unwrap().floors), (FLOORS_MAX, &tally.floors));
    let before = tally.sums[&ALICE][0];
    tally.take(&of(70_000..70_001), whose);
    assert_eq!(tally.sums[&ALICE][0], before);
}
