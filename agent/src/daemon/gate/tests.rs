//! What the gate makes of readings, without a kernel.

use boxmeter_common::user::METER_PAYLOAD;

use super::*;
use crate::ledger::{AdminChange, AdminState, Asked, FoundInbound, FoundUser, Options};

const EPOCH: [u8; 16] = [7; 16];

struct Rig {
    ledger: Ledger,
    gate: Gate,
    user: UserId,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::new(TimeZone::UTC, 1_000);
        let ledger = Ledger::open(&folder.path().join("ledger.db"), options).expect("a ledger");
        let inbound = FoundInbound { tag: "in".into(), kind: "trojan".into(), port: 1 };
        ledger.sync_inbounds(vec![inbound], 1_000).wait().expect("an inbound");
        let alice = FoundUser { name: "alice".into(), inbounds: vec!["in".into()] };
        let users =
            ledger.sync_users(vec![alice], vec![], "unlimited".to_owned(), 2_000).wait().expect("users");
        let gate = Gate::new(ledger.clone(), TimeZone::UTC, METER_PAYLOAD, EPOCH);
        Rig { ledger, gate, user: users[0].id, _folder: folder }
    }

    fn everybody(&self) -> (Vec<PolicyRecord>, Vec<Standing>) {
        let policies = self.ledger.policies().wait().expect("policies");
        (policies, self.ledger.standings(EPOCH).wait().expect("standings"))
    }

    fn standing(&self) -> Option<Standing> {
        self.ledger.standing(self.user, EPOCH).wait().expect("a standing")
    }

    /// May the user connect, decided now?
    fn connects(&mut self) -> bool {
        let member = self.gate.members.get_mut(&self.user).expect("the user is known");
        member.decide(0, 3_000);
        member.connects()
    }
}

#[test]
fn nobody_is_told_out_or_in_before_everybody_is_known() {
    let mut rig = Rig::new();
    assert_eq!(rig.gate.kept_out(), None);
    let standing = rig.standing();
    rig.gate.reload(rig.user, standing);
    assert_eq!(rig.gate.kept_out(), None);
    assert!(rig.gate.members.is_empty(), "decided without its policy");
    let (policies, standings) = rig.everybody();
    rig.gate.load(policies, standings);
    assert_eq!(rig.gate.kept_out(), Some(BTreeSet::new()));
}

#[test]
fn an_older_reading_does_not_undo_a_newer_one() {
    let mut rig = Rig::new();
    let (policies, standings) = rig.everybody();
    rig.gate.load(policies.clone(), standings.clone());
    let before = rig.standing();
    assert!(rig.connects());
    let (asked, change) = (Asked::new("root", 2_500), AdminChange::to(AdminState::Disabled));
    rig.ledger.set_admin_state(rig.user, change, None, asked).wait().expect("disabled");
    let after = rig.standing();
    rig.gate.reload(rig.user, after);
    assert!(!rig.connects());
    rig.gate.reload(rig.user, before);
    assert!(!rig.connects(), "by a late answer");
    rig.gate.load(policies.clone(), standings);
    assert!(!rig.connects(), "by a late answer about everybody");
    rig.gate.load(policies, Vec::new());
    assert!(!rig.connects(), "somebody who was made meanwhile is forgotten");
}

/// While one of two may be in force, both are kept: budgets and rates.
#[test]
fn the_stricter_of_two_is_held() {
    let held = |cut_at, warn_at, rates| member::Held { cut_at, warn_at, rates };
    let (a, b) = (held(10, 5, [0, 7]), held(20, 4, [3, 0]));
    assert_eq!(tighten::stricter(a, b), held(10, 4, [3, 7]));
    assert_eq!(tighten::stricter(b, a), held(10, 4, [3, 7]));
    assert_eq!(tighten::stricter(held(1, 1, [9, 0]), held(1, 1, [8, 0])), held(1, 1, [8, 0]));
}

/// A package that has expired while no agent ran pays for what was used before, and for nothing after.
#[test]
fn an_expiry_while_nobody_looked_is_booked_once() {
    let mut rig = Rig::new();
    let (committed, expiry, now) = (100_000, 110_000, 500_000);
    let settle = |until_ms| settle(TimeZone::UTC, of_meter(METER_PAYLOAD), until_ms);
    for (bytes, expires_ms) in [(100, expiry), (100, expiry + 5), (100, now + 1)] {
        let what = crate::core::wallet::What::Package { bytes, expires_ms: Some(expires_ms) };
        let entry = crate::ledger::NewEntry::of(what, None);
        rig.ledger
            .add_entry(rig.user, entry, settle(3_000), Asked::new("root", 3_000))
            .wait()
            .expect("a package");
    }
    let expired = |rig: &mut Rig| {
        let mut gate =
            Gate::new(rig.ledger.clone(), TimeZone::UTC, METER_PAYLOAD, EPOCH).going_on_from(Some(committed));
        let (policies, standings) = rig.everybody();
        gate.load(policies, standings);
        let before_ms = gate.before_ms;
        let member = gate.members.get_mut(&rig.user).expect("the user is known");
        let found = member.expired(before_ms, now);
        assert_eq!(member.expired(before_ms, now), [0_i64; 0], "looked at again");
        found
    };
    assert_eq!(expired(&mut rig), [expiry, expiry + 5]);
    let usage = vec![crate::ledger::ImportedBytes {
        at_ms: 4_000,
        account: rig.standing().expect("a standing").account,
        bytes: [30, 20],
    }];
    let nothing = (None, settle(4_000));
    let quota = crate::core::terms::Overrides { quota_bytes: Some(Some(10)), ..Default::default() };
    let change = crate::ledger::SettingsChange { overrides: Some(quota), ..Default::default() };
    rig.ledger
        .change_user(rig.user, change, None, settle(3_500), Asked::new("root", 3_500))
        .wait()
        .expect("a quota");
    rig.ledger
        .import_usage(rig.user, [1; 16], usage, nothing, Asked::new("root", 4_000))
        .wait()
        .expect("usage");
    rig.ledger.settle(vec![rig.user], settle(expiry - 1), expiry).wait().expect("settled");
    assert_eq!(expired(&mut rig), [expiry + 5], "the first one is booked");
    let spent = rig.standing().expect("a standing").wallet.into_iter().filter(|entry| entry.bytes < 0);
    let spent: Vec<_> = spent.map(|entry| (entry.at_ms, entry.bytes)).collect();
    assert_eq!(spent, [(expiry, -40)]);
    // An agent that lived past it has seen to it.
    let committed = expiry + BOOKED_WITHIN_MS + 5;
    let mut gate =
        Gate::new(rig.ledger.clone(), TimeZone::UTC, METER_PAYLOAD, EPOCH).going_on_from(Some(committed));
    let (policies, standings) = rig.everybody();
    gate.load(policies, standings);
    let before_ms = gate.before_ms;
    let member = gate.members.get_mut(&rig.user).expect("the user is known");
    assert_eq!(member.expired(before_ms, now), [0_i64; 0]);
}

#[test]
fn a_deleted_user_stays_out_however_often_it_is_read() {
    let mut rig = Rig::new();
    let (policies, standings) = rig.everybody();
    rig.gate.load(policies, standings);
    rig.ledger.delete_user(rig.user, None, Asked::new("root", 2_500)).wait().expect("deleted");
    for _ in 0..2 {
        let standing = rig.standing();
        rig.gate.reload(rig.user, standing);
        assert!(!rig.connects());
        let (policies, standings) = rig.everybody();
        rig.gate.load(policies, standings);
        assert!(!rig.connects());
        rig.ledger.removed(rig.user).wait().expect("out of the file");
    }
    assert_eq!(rig.gate.kept_out(), Some(BTreeSet::new()), "there is nothing to take out");
}
