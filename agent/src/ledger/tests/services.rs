//! Services that keep totals themselves: their bytes and how far they are, together or not at all.

use super::*;
use crate::core::counters::{Before, Counter, Life, Progress, Reading, Tally, Whose};

const AGENT: [u8; 16] = [1; 16];
const NEXT_AGENT: [u8; 16] = [2; 16];
const THIRD_AGENT: [u8; 16] = [4; 16];

fn batch(rig: &Rig, reporter: [u8; 16], progress: Progress) -> Batch {
    let service = ServiceProgress { service: Arc::from("web"), inbound: rig.inbound, progress };
    let reported = Reported { reporter, rows: vec![], connections: vec![], services: vec![service] };
    Batch { reported: Some(reported), ..rig.batch(start_ms(), &[]) }
}

fn reading(life: Option<Life>, counters: &[(u8, u64)]) -> Reading {
    let counter =
        |&(n, bytes): &(u8, u64)| Counter { key: [n; 16], name: "alice".into(), bytes: [bytes, 2 * bytes] };
    Reading { life, counters: counters.iter().map(counter).collect(), refused: vec![] }
}

fn before(rig: &Rig) -> Option<Before> {
    rig.ledger.service_before("web".into()).wait().unwrap()
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
