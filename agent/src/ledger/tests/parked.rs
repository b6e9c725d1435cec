//! Entries that boxmeter takes out of the file: at every step of an edit, and whatever is found in the
//! file then, nobody is buried, doubled or let in.

use super::*;

fn entry(tag: &str) -> ParkedEntry {
    ParkedEntry { inbound: Arc::from(tag), nth: 0, entry: r#"{"name":"alice"}"#.to_owned() }
}

fn stages(rig: &Rig) -> Vec<ParkedStage> {
    rig.reader().parked().unwrap().iter().map(|record| record.stage).collect()
}

fn key(user: UserId) -> ParkedKey {
    ParkedKey { user, inbound: Arc::from("in"), nth: 0 }
}

/// How many bear the name and live.
fn living(rig: &Rig, names: &[&str]) -> usize {
    let (users, _) = sync(&rig.ledger, names, start_ms() + 1000);
    users.iter().filter(|user| &*user.name == "alice" && user.tombstoned_ms.is_none()).count()
}

#[test]
fn who_was_taken_out_is_not_gone() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let alice = user(&rig, 0);
    rig.ledger.park(vec![(alice, entry("in"))], vec![], start_ms()).wait().unwrap();
    // Killed before the file was written: the entry is still there, and nobody put it back.
    assert_eq!((living(&rig, &["alice", "bob"]), stages(&rig)), (1, vec![ParkedStage::Leaving]));
    // Killed after: the file says so.
    assert_eq!((living(&rig, &["bob"]), stages(&rig)), (1, vec![ParkedStage::Out]));
    assert_eq!(standing(&rig, alice).inbounds, [rig.inbound]);
    rig.ledger.set_parked(vec![key(alice)], ParkedStage::Returning).wait().unwrap();
    assert_eq!((living(&rig, &["bob"]), stages(&rig)), (1, vec![ParkedStage::Returning]));
    // The file has it again, confirmed or not.
    assert_eq!((living(&rig, &["alice", "bob"]), stages(&rig)), (1, vec![]));
    assert_eq!(kinds(&rig, alice), ["user_adopted"]);
    assert_eq!(living(&rig, &["bob"]), 0, "from here on the file decides again");
}

#[test]
fn put_back_by_hand_is_told_once() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let alice = user(&rig, 0);
    rig.ledger.park(vec![(alice, entry("in"))], vec![], start_ms()).wait().unwrap();
    rig.ledger.set_parked(vec![key(alice)], ParkedStage::Out).wait().unwrap();
    let found = || vec![(key(alice), serde_json::json!({"inbound": "in"}))];
    for _ in 0..3 {
        assert_eq!(living(&rig, &["alice", "bob"]), 1);
        rig.ledger.found_back(found(), start_ms() + 1000).wait().unwrap();
        assert_eq!(stages(&rig), [ParkedStage::Back]);
    }
    assert_eq!(kinds(&rig, alice), ["user_adopted", "put_back_by_hand"]);
    assert_eq!(standing(&rig, alice).id, alice, "the same user, with the same limits");
    assert_eq!((living(&rig, &["bob"]), stages(&rig)), (1, vec![ParkedStage::Out]));
    // boxmeter itself has put the file back: nobody did anything by hand.
    assert_eq!((living(&rig, &["alice"]), stages(&rig)), (1, vec![ParkedStage::Out]));
    assert_eq!(kinds(&rig, alice).len(), 2);
    rig.ledger.found_back(found(), start_ms() + 1000).wait().unwrap();
    assert_eq!(kinds(&rig, alice).len(), 3, "and told again when it is done again");
    rig.ledger.unpark(vec![key(alice)]).wait().unwrap();
    assert_eq!(stages(&rig), []);
}

#[test]
fn an_addition_survives_a_crash_with_its_entry() {
    let rig = Rig::new("UTC", &["alice"]);
    let new = NewUser { entries: vec![entry("in")], ..new_user(&rig, "carol") };
    let carol = rig.ledger.create_user(new, asked()).wait().unwrap();
    assert_eq!(standing(&rig, carol.id).parked, [(ParkedStage::Returning, entry("in"))]);
    sync(&rig.ledger, &["alice", "carol"], start_ms() + 1000);
    let now = standing(&rig, carol.id);
    assert_eq!((now.parked, now.file_state), (vec![], FileState::Settled));
    assert!(!format!("{:?}", entry("in")).contains("name"), "entries have credentials: not even debugged");
}

#[test]
fn what_makes_no_sense_is_refused_whole() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let broken = ParkedEntry { inbound: Arc::from("in"), nth: 0, entry: "{".to_owned() };
    let both = vec![(alice, entry("other")), (alice, broken)];
    assert!(rig.ledger.park(both, vec![], start_ms()).wait().is_err());
    let nobody = UserId(uuid::Uuid::now_v7());
    assert!(
        rig.ledger
            .park(vec![(alice, entry("in")), (nobody, entry("in"))], vec![], start_ms())
            .wait()
            .is_err()
    );
    assert_eq!(stages(&rig), []);
    assert!(rig.ledger.set_parked(vec![key(alice)], ParkedStage::Out).wait().is_err());
}
