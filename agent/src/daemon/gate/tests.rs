//! What the gate makes of readings, without a kernel.

use boxmeter_common::user::METER_PAYLOAD;

use super::*;
use crate::{
    core::{
        period::{Kept, Rule},
        terms::PeriodKind,
    },
    ledger::{AdminChange, AdminState, Asked, FoundInbound, FoundUser, Options},
};

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
        let gate = Gate::new(ledger.clone(), TimeZone::UTC, METER_PAYLOAD, EPOCH, Notices::default());
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

const EXPIRY: i64 = 110_000;
const NOW: i64 = 500_000;

/// Packages of 100 bytes each; the last one lives on.
fn with_packages(expiries: &[i64]) -> Rig {
    let rig = Rig::new();
    for &expires_ms in expiries {
        let what = crate::core::wallet::What::Package { bytes: 100, expires_ms: Some(expires_ms) };
        let entry = crate::ledger::NewEntry::of(what, None);
        rig.ledger
            .add_entry(rig.user, entry, settle_at(3_000), Asked::new("root", 3_000))
            .wait()
            .expect("a package");
    }
    let quota = crate::core::terms::Overrides { quota_bytes: Some(Some(10)), ..Default::default() };
    let change = crate::ledger::SettingsChange { overrides: Some(quota), ..Default::default() };
    rig.ledger
        .change_user(rig.user, change, None, settle_at(3_500), Asked::new("root", 3_500))
        .wait()
        .expect("a quota");
    rig
}

fn settle_at(until_ms: i64) -> crate::ledger::Settle {
    settle(TimeZone::UTC, of_meter(METER_PAYLOAD), until_ms)
}

impl Rig {
    fn uses(&self, bytes: u64) {
        let usage = crate::ledger::ImportedBytes {
            at_ms: 4_000,
            account: self.standing().expect("a standing").account,
            bytes: [bytes, 0],
        };
        let (reporter, usage) = (rand::random(), vec![usage]);
        let used = crate::ledger::UsedElsewhere { user: self.user, reporter, usage, package: None };
        let asked = Asked::new("root", 4_000);
        self.ledger.import_usage(vec![used], settle_at(4_000), asked).wait().expect("usage");
    }

    /// The expiries that an agent finds to be booked which starts now.
    fn found_by_the_next_agent(&self) -> Vec<i64> {
        let mut gate =
            Gate::new(self.ledger.clone(), TimeZone::UTC, METER_PAYLOAD, EPOCH, Notices::default());
        let (policies, standings) = self.everybody();
        gate.load(policies, standings);
        gate.members.get_mut(&self.user).expect("the user is known").expired(NOW)
    }

    fn spent(&self) -> Vec<(i64, i64)> {
        let spent = self.standing().expect("a standing").wallet.into_iter().filter(|entry| entry.bytes < 0);
        spent.map(|entry| (entry.at_ms, entry.bytes)).collect()
    }
}

/// A package that has expired while no agent ran (or one that died before it had booked it, whatever the
/// clock did meanwhile) pays for what was used before, and for nothing after.
#[test]
fn an_expiry_while_nobody_looked_is_booked_once() {
    let rig = with_packages(&[EXPIRY, EXPIRY + 5, NOW + 1]);
    assert_eq!(rig.found_by_the_next_agent(), [EXPIRY, EXPIRY + 5]);
    rig.uses(50);
    let book = |at_ms: i64| {
        rig.ledger.book_expiry(rig.user, settle_at(at_ms - 1), at_ms).wait().expect("booked");
    };
    book(EXPIRY);
    assert_eq!(rig.found_by_the_next_agent(), [EXPIRY + 5], "the first one is booked");
    assert_eq!(rig.spent(), [(EXPIRY, -40)]);
    // Nothing was used meanwhile, so that there is nothing to book: it is done all the same.
    book(EXPIRY + 5);
    rig.uses(30);
    for at_ms in [EXPIRY, EXPIRY + 5, EXPIRY] {
        book(at_ms);
    }
    assert_eq!(rig.spent(), [(EXPIRY, -40)], "again");
    // And whatever is booked next is paid by who lives.
    let reset = rig.ledger.reset_account(rig.user, settle_at(NOW), Asked::new("root", NOW));
    reset.wait().expect("a new account");
    assert_eq!(rig.spent()[1..], [(NOW, -30)]);
    let living = rig.standing().expect("a standing").wallet;
    let lot = living.iter().find(|entry| entry.expires_ms == Some(NOW + 1)).expect("the last one");
    assert_eq!(living.last().expect("an entry").package, Some(lot.id));
}

/// What the ledger could not take is tried again until it is there.
#[test]
fn an_expiry_that_could_not_be_booked_is_tried_again() {
    let mut rig = with_packages(&[EXPIRY]);
    rig.uses(50);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (policies, standings) = rig.everybody();
    rig.gate.load(policies, standings);
    let expired =
        |rig: &mut Rig| rig.gate.members.get_mut(&rig.user).expect("the user is known").expired(NOW);
    for (answer, left) in [(Err("the disk is full".to_owned()), 1), (Ok(()), 0)] {
        assert_eq!(expired(&mut rig), [EXPIRY]);
        // However often it is read anew meanwhile.
        let standing = rig.standing();
        rig.gate.reload(rig.user, standing);
        assert_eq!(expired(&mut rig), [EXPIRY]);
        rig.gate.settling.insert(rig.user);
        let (committed, waits) = tokio::sync::oneshot::channel();
        committed.send(answer).expect("somebody waits");
        rig.gate.settle(vec![(rig.user, EXPIRY)], waits);
        let News::Settled(users, booked, error) = runtime.block_on(rig.gate.next()) else {
            panic!("another job");
        };
        assert_eq!((booked.len(), error.is_some()), (1 - left, left == 1));
        rig.gate.settled(users, &booked);
        assert!(rig.gate.settling.is_empty() && rig.gate.dirty.contains(&rig.user));
        assert_eq!(expired(&mut rig).len(), left);
    }
    assert_eq!(rig.spent(), [(EXPIRY, -40)]);
}

/// The clock jumps over an expiry and the end of the account: whichever is booked first.
#[test]
fn a_clock_that_jumps_over_expiry_and_turn_loses_no_payment() {
    for expiry_first in [false, true] {
        let rig = with_packages(&[EXPIRY, NOW + 1]);
        rig.uses(50);
        let from = rig.standing().expect("a standing").account;
        let to = crate::core::period::AccountPeriod { start_ms: NOW - 1, generation: 0 };
        let turn = || {
            let rule = Rule { kind: PeriodKind::Month, reset_day: 1, created_ms: 0 };
            let kept = Kept::of(rule, &TimeZone::UTC);
            let turns = vec![crate::ledger::Turn { user: rig.user, from, to, kept }];
            rig.ledger.turn_accounts(turns, settle_at(NOW), NOW).wait().expect("turned");
        };
        let book = || rig.ledger.book_expiry(rig.user, settle_at(EXPIRY - 1), EXPIRY).wait().expect("booked");
        if expiry_first {
            book();
            turn();
        } else {
            turn();
            book();
        }
        let wallet = rig.standing().expect("a standing").wallet;
        let spent: Vec<_> = wallet.iter().filter(|entry| entry.bytes < 0).collect();
        let expired = wallet.iter().find(|entry| entry.expires_ms == Some(EXPIRY)).expect("the first one");
        assert_eq!(
            spent.iter().map(|entry| (entry.bytes, entry.package)).collect::<Vec<_>>(),
            [(-40, Some(expired.id))]
        );
    }
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
        rig.ledger.removed(rig.user, 2_600).wait().expect("out of the file");
    }
    assert_eq!(rig.gate.kept_out(), Some(BTreeSet::new()), "there is nothing to take out");
}
