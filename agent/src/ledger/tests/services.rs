//! Services that keep totals themselves: their bytes and how far they are, together or not at all.

use super::*;
use crate::core::counters::{Before, Counter, Cursor, Life, Progress, Reading, Tally, Whose};

const AGENT: [u8; 16] = [1; 16];
const NEXT_AGENT: [u8; 16] = [2; 16];
const THIRD_AGENT: [u8; 16] = [4; 16];

fn nginx() -> Origin {
    Origin { kind: "nginx".into(), status: "http://127.0.0.1/status".into() }
}

fn batch(rig: &Rig, reporter: [u8; 16], progress: Progress) -> Batch {
    let service =
        ServiceProgress { service: Arc::from("web"), origin: nginx(), inbound: rig.inbound, progress };
    let reported = Reported { reporter, rows: vec![], connections: vec![], services: vec![service] };
    Batch { reported: Some(reported), ..rig.batch(start_ms(), &[]) }
}

fn reading(life: Option<Life>, counters: &[(u8, u64)]) -> Reading {
    let counter =
        |&(n, bytes): &(u8, u64)| Counter { key: [n; 16], name: "alice".into(), bytes: [bytes, 2 * bytes] };
    Reading { life, counters: counters.iter().map(counter).collect(), ..Reading::default() }
}

fn before(rig: &Rig) -> Option<Before> {
    rig.ledger.service_before("web".into(), nginx()).wait().unwrap()
}

/// Takes a reading and commits it, as an agent does.
fn read(rig: &Rig, reporter: [u8; 16], tally: &mut Tally, told: &Reading) {
    let alice = user(rig, 0);
    tally.take(told, |_| Whose::User(alice));
    if let Some(progress) = tally.progress() {
        // Twice: the second time changes nothing.
        for _ in 0..2 {
            rig.ledger.commit(batch(rig, reporter, progress.clone())).wait().unwrap();
        }
        tally.committed(&progress);
    }
}

fn used(rig: &Rig) -> [u64; 2] {
    standing(rig, user(rig, 0)).used.reported
}

#[test]
fn an_agent_goes_on_where_the_one_before_was() {
    let rig = Rig::new("UTC", &["alice"]);
    assert_eq!(before(&rig), None);
    let life = |started_ms| Some(Life { boot: [3; 16], pid: 9, started_ms });
    let mut tally = Tally::new(before(&rig));
    read(&rig, AGENT, &mut tally, &reading(life(5), &[(1, 1_000)]));
    assert_eq!((used(&rig), before(&rig).unwrap().life), ([0, 0], life(5)));
    read(&rig, AGENT, &mut tally, &reading(life(5), &[(1, 1_010), (2, 5)]));
    assert_eq!(used(&rig), [15, 30]);
    // Read, and killed before the commit.
    tally.take(&reading(life(5), &[(1, 1_100)]), |_| Whose::User(user(&rig, 0)));
    let mut tally = Tally::new(before(&rig));
    read(&rig, NEXT_AGENT, &mut tally, &reading(life(5), &[(1, 1_110)]));
    assert_eq!(used(&rig), [115, 230]);
    let cursors = std::collections::HashMap::from([([1; 16], [1_110, 2_220])]);
    assert_eq!(before(&rig).unwrap().cursors, cursors, "the second counter is gone");
    // The service was started anew while no agent ran, and has counted more than before.
    let mut tally = Tally::new(before(&rig));
    read(&rig, THIRD_AGENT, &mut tally, &reading(life(9_000), &[(1, 2_000)]));
    assert_eq!(used(&rig), [2_115, 4_230]);
    // None of it is what the kernel counted.
    assert_eq!(rig.reader().audit().unwrap().users, counters(0));
}

#[test]
fn a_batch_that_comes_late_changes_nothing() {
    let rig = Rig::new("UTC", &["alice"]);
    let mut tally = Tally::new(Some(Before::default()));
    let alice = user(&rig, 0);
    tally.take(&reading(None, &[(1, 100)]), |_| Whose::User(alice));
    let late = tally.progress().unwrap();
    read(&rig, AGENT, &mut tally, &reading(None, &[(1, 150)]));
    assert_eq!(used(&rig), [150, 300]);
    let committed = rig.ledger.commit(batch(&rig, AGENT, late)).wait().unwrap();
    assert_eq!(committed.anomalies, []);
    assert_eq!((used(&rig), before(&rig).unwrap().cursors[&[1; 16]]), ([150, 300], [150, 300]));
}

/// Bytes that the ledger has no place for move no cursor: they come again.
#[test]
fn without_a_place_for_the_bytes_no_cursor_moves() {
    let rig = Rig::new("UTC", &["alice"]);
    let mut tally = Tally::new(Some(Before::default()));
    tally.take(&reading(None, &[(1, 100)]), |_| Whose::User(user(&rig, 0)));
    let mut lost = batch(&rig, AGENT, tally.progress().unwrap());
    lost.reported.as_mut().unwrap().services[0].inbound = InboundNo(77);
    let committed = rig.ledger.commit(lost).wait().unwrap();
    assert_eq!(committed.anomalies[0].kind, AnomalyKind::UnknownInbound);
    assert_eq!(committed.services_refused, [Arc::from("web")]);
    assert_eq!((before(&rig), used(&rig)), (None, [0, 0]));
}

#[test]
fn a_hundred_thousand_counters_are_one_transaction_and_found_again() {
    let rig = Rig::new("UTC", &["alice"]);
    let counter = |n: u32| {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&n.to_le_bytes());
        Counter { key, name: "alice".into(), bytes: [1, 2] }
    };
    let told = Reading { counters: (0..100_000).map(counter).collect(), ..Reading::default() };
    let mut tally = Tally::new(Some(Before::default()));
    read(&rig, AGENT, &mut tally, &told);
    assert_eq!(used(&rig), [100_000, 200_000]);
    let mut tally = Tally::new(before(&rig));
    assert_eq!(tally.len(), 100_000);
    read(&rig, NEXT_AGENT, &mut tally, &told);
    assert_eq!(used(&rig), [100_000, 200_000]);
}

/// One user's bytes are refused: no other's are taken without the cursors, and no cursor moves without the bytes.
#[test]
fn bytes_and_cursors_of_a_service_are_taken_together_or_not_at_all() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let (alice, bob) = (user(&rig, 0), user(&rig, 1));
    let progress = |reading: u64, bytes: [u64; 2]| Progress {
        reading,
        life: None,
        document: None,
        anew: false,
        cursors: [1, 2]
            .map(|n| ([n; 16], Some(Cursor { bytes: [bytes[usize::from(n) - 1], 0], vanished: false })))
            .into(),
        sums: vec![(alice, [bytes[0], 0]), (bob, [bytes[1], 0])],
    };
    rig.ledger.commit(batch(&rig, AGENT, progress(1, [10, 100]))).wait().unwrap();
    let both = || [alice, bob].map(|user| standing(&rig, user).used.reported[0]);
    // What bob is said to have fell.
    let refused = rig.ledger.commit(batch(&rig, AGENT, progress(2, [20, 50]))).wait().unwrap();
    assert_eq!(refused.services_refused, [Arc::from("web")]);
    assert_eq!((both(), before(&rig).unwrap().cursors[&[1; 16]]), ([10, 100], [10, 0]));
    // Read again, it is as if that had not been.
    let taken = rig.ledger.commit(batch(&rig, AGENT, progress(2, [20, 150]))).wait().unwrap();
    assert!(taken.services_refused.is_empty() && taken.anomalies.is_empty());
    assert_eq!((both(), before(&rig).unwrap().cursors[&[2; 16]]), ([20, 150], [150, 0]));
}

/// Of a user whom the ledger does not know, as after a backup was restored: he holds up nobody else.
#[test]
fn bytes_of_a_stranger_hold_up_nobody() {
    let rig = Rig::new("UTC", &["alice"]);
    let stranger = crate::core::event::UserId(uuid::Uuid::now_v7());
    let mut tally = Tally::new(Some(Before::default()));
    let told = reading(None, &[(1, 100), (2, 7)]);
    let alice = user(&rig, 0);
    let mut told = told;
    told.counters[1].name = "stranger".into();
    tally.take(&told, |name| Whose::User(if name == "alice" { alice } else { stranger }));
    let done = rig.ledger.commit(batch(&rig, AGENT, tally.progress().unwrap())).wait().unwrap();
    assert_eq!((done.anomalies[0].kind, done.services_refused.len()), (AnomalyKind::UnknownUser, 0));
    assert_eq!((used(&rig), before(&rig).unwrap().cursors.len()), ([100, 200], 2));
}

/// nginx brings its counters over a restart, and what it does not say for a while is where it was.
#[test]
fn counters_that_come_back_are_known_to_the_next_agent() {
    let rig = Rig::new("UTC", &["alice"]);
    let life = |started_ms| Some(Life { boot: [3; 16], pid: 9, started_ms });
    let told = |start, counters: &[(u8, u64)]| Reading { keeps: true, ..reading(life(start), counters) };
    let mut tally = Tally::new(Some(Before::default()));
    read(&rig, AGENT, &mut tally, &told(5, &[(1, 300), (2, 40)]));
    // Restarted and back with one of them; and read by an agent that begins.
    read(&rig, AGENT, &mut tally, &told(90_000, &[(1, 310)]));
    assert_eq!(used(&rig), [350, 700]);
    let known = before(&rig).unwrap();
    assert_eq!((known.cursors[&[1; 16]], known.floors[&[2; 16]]), ([310, 620], [40, 80]));
    assert_eq!((known.cursors.len(), known.floors.len()), (1, 1));
    let mut tally = Tally::new(before(&rig));
    read(&rig, NEXT_AGENT, &mut tally, &told(90_000, &[(1, 310), (2, 41)]));
    assert_eq!((used(&rig), before(&rig).unwrap().floors.len()), ([351, 702], 0));
    read(&rig, NEXT_AGENT, &mut tally, &told(180_000, &[(1, 311), (2, 41)]));
    assert_eq!(used(&rig), [352, 704]);
}

/// The kernel counted it meanwhile, or nobody should: what a service says when it is reported again is a baseline.
#[test]
fn a_service_that_is_not_reported_any_more_or_is_another_begins_with_a_baseline() {
    let rig = Rig::new("UTC", &["alice"]);
    let mut tally = Tally::new(Some(Before::default()));
    read(&rig, AGENT, &mut tally, &reading(None, &[(1, 100), (2, 1)]));
    let others = [
        Origin { status: "http://127.0.0.1:81/status".into(), ..nginx() },
        Origin { kind: "v2ray".into(), ..nginx() },
    ];
    for origin in others {
        let before = rig.ledger.service_before("web".into(), origin.clone()).wait().unwrap();
        assert_eq!(before, None, "{origin:?}");
    }
    // The other one's baseline takes the place of what was known.
    let mut tally = Tally::new(None);
    tally.take(&reading(None, &[(1, 9_000)]), |_| Whose::User(user(&rig, 0)));
    let mut other = batch(&rig, NEXT_AGENT, tally.progress().unwrap());
    let origin = Origin { kind: "v2ray".into(), ..nginx() };
    other.reported.as_mut().unwrap().services[0].origin = origin.clone();
    rig.ledger.commit(other).wait().unwrap();
    let known = rig.ledger.service_before("web".into(), origin.clone()).wait().unwrap().unwrap();
    assert_eq!((known.cursors, before(&rig)), ([([1; 16], [9_000, 18_000])].into(), None));
    assert_eq!(used(&rig), [101, 202]);
    for (kept, is_known) in [("web", true), ("v2ray", false)] {
        rig.ledger.keep_services(vec![kept.into()]).wait().unwrap();
        let before = rig.ledger.service_before("web".into(), origin.clone()).wait().unwrap();
        assert_eq!(before.is_some(), is_known);
    }
    let left: i64 = rig
        .reader()
        .connection()
        .query_row("SELECT count(*) FROM service_cursors", [], |row| row.get(0))
        .unwrap();
    assert_eq!((left, used(&rig)), (0, [101, 202]), "usage stays");
}

fn counted(rig: &Rig, names: &[&str]) -> Vec<String> {
    let account = FoundInbound { tag: "web/(reported)".into(), kind: "nginx".to_owned(), port: 0 };
    rig.ledger.sync_inbounds(vec![account], start_ms()).wait().unwrap();
    let found = names
        .iter()
        .map(|name| FoundUser { name: Arc::from(*name), inbounds: vec!["web/(reported)".into()] });
    let users =
        rig.ledger.sync_users(found.collect(), vec![], "unlimited".to_owned(), start_ms()).wait().unwrap();
    users.iter().filter(|user| user.tombstoned_ms.is_none()).map(|user| user.name.to_string()).collect()
}

/// A service counts a name for as long as it likes, whatever became of its user.
#[test]
fn a_deleted_name_is_adopted_by_nothing_that_only_counts() {
    let rig = Rig::new("UTC", &[]);
    assert_eq!(counted(&rig, &["alice", "bob"]), ["alice", "bob"]);
    let users = rig.ledger.users().wait().unwrap();
    for one in &users {
        rig.ledger.delete_user(one.id, None, asked()).wait().unwrap();
    }
    assert_eq!(counted(&rig, &[]), [""; 0]);
    let gone = || rig.ledger.gone().wait().unwrap();
    let by_tag = gone().by_tag;
    assert_eq!(by_tag["web/(reported)"], ["alice".into(), "bob".into()].into());
    rig.ledger.purge_deleted("bob".to_owned(), asked()).wait().unwrap();
    assert!(gone().has("bob") && gone().has("alice") && !gone().has("carol"));
    assert_eq!(gone().by_tag["web/(reported)"], ["alice".into()].into(), "nobody knows the other name");
    assert_eq!(counted(&rig, &["alice", "bob", "carol"]), ["carol"]);
    // Made again, by a person or in a proxy's file.
    rig.ledger.create_user(new_user(&rig, "alice"), asked()).wait().unwrap();
    sync(&rig.ledger, &["bob"], start_ms());
    assert!(!gone().has("alice") && !gone().has("bob") && gone().by_tag.is_empty());
    // Carol is who she was: meanwhile the service was not configured, and nobody has deleted her.
    assert_eq!(counted(&rig, &["alice", "bob", "carol"]), ["carol", "alice", "bob"]);
}

/// What was seen of a service, of which of its starts, and what that is in sum: in memory, or in the ledger.
#[derive(Clone, Copy, Default)]
struct Seen {
    start: i64,
    counters: [u64; 3],
    sum: u64,
}

/// A hundred restarts of either side at random points, with the real ledger: nothing twice, and nothing lost that was
/// committed or that the service still has.
#[test]
fn a_hundred_restarts_at_random_points_count_nothing_twice() {
    use rand::{RngExt as _, SeedableRng as _};
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut start, mut counters, mut agent) = (0_i64, [0_u64; 3], 0_u8);
    let (mut seen, mut committed) = (Seen::default(), Seen::default());
    let mut tally = Tally::new(Some(Before::default()));
    let mut restarts = [0; 2];
    while restarts[0] + restarts[1] < 100 {
        counters.iter_mut().for_each(|counter| *counter += random.random_range(0..1_000));
        let life = Some(Life { boot: [3; 16], pid: 9, started_ms: start * 10_000 });
        match random.random_range(0..6) {
            0 => {
                (start, counters) = (start + 1, [0; 3]);
                restarts[0] += 1;
            }
            1 => {
                // The agent dies; what it had not committed is read again, if the service still has it.
                agent += 1;
                seen = committed;
                tally = Tally::new(before(&rig).or_else(|| Some(Before::default())));
                restarts[1] += 1;
            }
            2 | 3 => {
                let told: Vec<(u8, u64)> = (1..).zip(counters).collect();
                tally.take(&reading(life, &told), |_| Whose::User(alice));
                let base = if seen.start == start { seen.counters } else { [0; 3] };
                let more: u64 = counters.iter().zip(base).map(|(now, base)| now - base).sum();
                seen = Seen { start, counters, sum: seen.sum + more };
            }
            _ => {
                let Some(progress) = tally.progress() else { continue };
                rig.ledger.commit(batch(&rig, [agent; 16], progress.clone())).wait().unwrap();
                committed = seen;
                // Every now and then it dies before it knows that.
                if random.random_range(0..4) > 0 {
                    tally.committed(&progress);
                }
            }
        }
        assert_eq!(used(&rig)[0], committed.sum, "after {restarts:?}");
    }
    assert!(restarts.iter().all(|count| *count > 20), "{restarts:?}");
}
