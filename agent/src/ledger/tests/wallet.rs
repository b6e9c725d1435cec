//! The wallet: what an account spent of packages is booked once, from what was really counted, and
//! money neither appears nor vanishes.

use proptest::prelude::*;

use super::*;
use crate::ledger::wallet::sums;

const QUOTA: u64 = 1000;

fn package(bytes: i64) -> NewEntry {
    NewEntry { kind: EntryKind::Package, bytes, expires_ms: None, package: None, account: None, note: None }
}

/// Payload of both directions, as the tests' counters have it.
fn billed(used: &Used) -> u64 {
    used.counted.payload.iter().sum()
}

fn left(wallet: &[WalletEntry], package: &WalletEntry) -> i64 {
    package.bytes
        + wallet
            .iter()
            .filter(|entry| entry.package == Some(package.id))
            .map(|entry| entry.bytes)
            .sum::<i64>()
}

/// As the policy does: what is beyond the quota and not settled goes to packages, the oldest first;
/// while the account goes on, what nobody paid is settled.
fn settle() -> Settle {
    Box::new(|closing| {
        let of_account = |entry: &&WalletEntry| entry.account == Some(closing.account);
        let paid = closing.wallet.iter().filter(of_account).filter(|entry| entry.kind == EntryKind::Spent);
        let paid: i64 = paid.map(|entry| -entry.bytes).sum();
        let settled =
            closing.wallet.iter().filter(of_account).filter(|entry| entry.kind == EntryKind::Settled);
        let settled = settled.map(|entry| entry.bytes).max().unwrap_or(0).max(QUOTA as i64);
        let base = i64::try_from(billed(&closing.used)).unwrap() - paid;
        let mut open = (base - settled).max(0);
        let mut entries = vec![];
        for lot in closing.wallet.iter().filter(|entry| entry.kind == EntryKind::Package) {
            let take = open.min(left(&closing.wallet, lot));
            if take > 0 {
                open -= take;
                entries.push(NewEntry {
                    kind: EntryKind::Spent,
                    package: Some(lot.id),
                    account: Some(closing.account),
                    ..package(-take)
                });
            }
        }
        if closing.next.is_none() && open > 0 {
            entries.push(NewEntry {
                kind: EntryKind::Settled,
                account: Some(closing.account),
                ..package(settled + open)
            });
        }
        entries
    })
}

fn next(account: AccountPeriod) -> AccountPeriod {
    AccountPeriod { start_ms: account.start_ms + 60_000, generation: 0 }
}

fn sum_of(rig: &Rig, kind: &str) -> i64 {
    let sums = sums(rig.reader().connection());
    sums.iter().find(|(name, _)| name == kind).map_or(0, |(_, sum)| *sum)
}

#[test]
fn a_turn_books_what_was_counted_and_only_once() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let (alice, bob) = (user(&rig, 0), user(&rig, 1));
    rig.ledger.add_entry(alice, package(300), settle(), asked()).wait().unwrap();
    rig.ledger.add_entry(alice, package(5000), settle(), asked()).wait().unwrap();
    // 11 bytes billed for each unit: 2200 in all, 1200 beyond the quota.
    rig.commit(start_ms() + 1000, &[(Some(0), 200), (Some(1), 5)]);
    let from = standing(&rig, alice).account;
    let to = next(from);
    let turns = vec![turn_of(alice, from, to), turn_of(bob, from, to)];
    let turned = rig.ledger.turn_accounts(turns.clone(), settle(), to.start_ms).wait().unwrap();
    assert_eq!(turned, [true, true]);
    // The commit was answered, and the answer lost: asked again, nothing happens.
    let again = rig.ledger.turn_accounts(turns, settle(), to.start_ms).wait().unwrap();
    assert_eq!(again, [false, false]);
    let entries = rig.reader().wallet(alice).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.bytes).collect::<Vec<_>>(), [300, 5000, -300, -900]);
    assert_eq!((entries[3].account, entries[3].actor.as_str()), (Some(from), "agent"));
    assert_eq!(rig.reader().wallet(bob).unwrap(), []);
    let now = standing(&rig, alice);
    assert_eq!((now.account, billed(&now.used), billed(&now.total)), (to, 0, 2200));
    assert_eq!(now.wallet, entries);
    let event = rig.reader().events(Some(alice), None, None, 10).unwrap().pop().unwrap();
    assert_eq!(
        (event.kind.as_str(), &event.data["payload"]),
        ("period_turned", &serde_json::json!([200, 2000]))
    );
    // What comes from here on is the new account's.
    rig.commit(start_ms() + 70_000, &[(Some(0), 210)]);
    let now = standing(&rig, alice);
    assert_eq!((billed(&now.used), now.taken_over), (110, counters(210)));
}

#[test]
fn a_reset_is_an_account_of_its_own_and_deletes_nothing() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    rig.ledger.add_entry(alice, package(5000), settle(), asked()).wait().unwrap();
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let from = standing(&rig, alice).account;
    let to = rig.ledger.reset_account(alice, settle(), with_key("r")).wait().unwrap();
    assert_eq!(to, AccountPeriod { generation: 1, ..from });
    assert!(matches!(
        refusal(rig.ledger.reset_account(alice, settle(), with_key("r"))),
        Refusal::DoneBefore(_)
    ));
    assert_eq!(sum_of(&rig, "spent"), -100);
    rig.commit(start_ms() + 1000, &[(Some(0), 101)]);
    let now = standing(&rig, alice);
    assert_eq!((now.account, billed(&now.used), billed(&now.total)), (to, 11, 1111));
    // A turn that was decided before the reset does not undo it.
    let late = vec![turn_of(alice, from, next(from))];
    assert_eq!(rig.ledger.turn_accounts(late, settle(), start_ms()).wait().unwrap(), [false]);
    assert_eq!(kinds(&rig, alice)[1..], ["package_added", "traffic_reset"]);
}

#[test]
fn nobody_spends_what_is_not_there() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let (alice, bob) = (user(&rig, 0), user(&rig, 1));
    let bought = rig.ledger.add_entry(alice, package(100), settle(), asked()).wait().unwrap();
    let from = standing(&rig, alice).account;
    let spend = move |user, bytes: i64| {
        let entry = NewEntry {
            kind: EntryKind::Spent,
            bytes,
            expires_ms: None,
            package: Some(bought.id),
            account: Some(from),
            note: None,
        };
        (vec![turn_of(user, from, next(from))], Box::new(move |_: &Closing| vec![entry.clone()]) as Settle)
    };
    for (who, bytes) in [(alice, -101), (bob, -1)] {
        let (turns, books) = spend(who, bytes);
        let refused = refusal(rig.ledger.turn_accounts(turns, books, start_ms()));
        assert!(matches!(refused, Refusal::Overspent { .. }), "{refused}");
        assert_eq!(standing(&rig, who).account, from, "nothing half done");
    }
    let (turns, books) = spend(alice, 5);
    assert!(matches!(refusal(rig.ledger.turn_accounts(turns, books, start_ms())), Refusal::Invalid(_)));
    for bytes in [0, -5, i64::MIN, i64::MAX] {
        assert!(matches!(
            refusal(rig.ledger.add_entry(alice, package(bytes), settle(), asked())),
            Refusal::Invalid(_)
        ));
    }
    let free = NewEntry { kind: EntryKind::Rollover, account: Some(from), ..package(5) };
    assert!(rig.ledger.add_entry(alice, free, settle(), asked()).wait().is_err());
    let nobody = UserId(uuid::Uuid::now_v7());
    assert_eq!(refusal(rig.ledger.add_entry(nobody, package(5), settle(), asked())), Refusal::NoSuchUser);
    let (turns, books) = spend(alice, -100);
    assert_eq!(rig.ledger.turn_accounts(turns, books, start_ms()).wait().unwrap(), [true]);
}

#[test]
fn entries_cannot_be_changed_or_deleted_even_by_hand() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.ledger.add_entry(user(&rig, 0), package(100), settle(), asked()).wait().unwrap();
    let by_hand = rusqlite::Connection::open(rig.path()).unwrap();
    for sql in ["DELETE FROM wallet_entries", "UPDATE wallet_entries SET bytes = 200"] {
        assert!(by_hand.execute(sql, []).is_err(), "{sql}");
    }
}

#[test]
fn a_new_package_pays_for_what_is_still_to_come() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    // 1100 used and nobody paid for the last 100; then a package, and 110 more.
    rig.commit(start_ms(), &[(Some(0), 100)]);
    rig.ledger.add_entry(alice, package(500), settle(), with_key("p")).wait().unwrap();
    rig.commit(start_ms() + 1000, &[(Some(0), 110)]);
    for user in [alice, UserId(uuid::Uuid::now_v7())] {
        rig.ledger.book_expiry(user, settle(), start_ms() + 2000).wait().unwrap();
    }
    assert_eq!(sum_of(&rig, "spent"), -110);
    let before = rig.ledger.info().wait().unwrap().rev;
    rig.ledger.book_expiry(alice, settle(), start_ms() + 2000).wait().unwrap();
    assert_eq!(rig.ledger.info().wait().unwrap().rev, before, "what is booked is booked");
    // A change of the quota books first: what the old quota made packages pay stays paid.
    rig.commit(start_ms() + 3000, &[(Some(0), 120)]);
    let change = SettingsChange { policy: Some(policy(&rig, "free").id), ..SettingsChange::default() };
    rig.ledger.change_user(alice, change, None, settle(), asked()).wait().unwrap();
    assert_eq!(sum_of(&rig, "spent"), -220);
    rig.commit(start_ms() + 4000, &[(Some(0), 130)]);
    let free = policy(&rig, "free");
    let terms = Terms { quota_bytes: Some(1), ..free.terms };
    rig.ledger.change_policy(free.id, None, Some(terms), None, settle(), asked()).wait().unwrap();
    assert_eq!(sum_of(&rig, "spent"), -330);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Bought = spent + left, and what was spent is what was used beyond each account's quota, as far
    /// as there were packages: whatever the order of ticks, purchases, turns and resets.
    #[test]
    fn money_is_conserved(steps in prop::collection::vec((0_u8..4, 1_u64..400), 1..30)) {
        let rig = Rig::new("UTC", &["alice"]);
        let alice = user(&rig, 0);
        let (mut total, mut bought, mut account, mut in_account) = (0, 0, standing(&rig, alice).account, 0);
        // What packages paid, of that in this account, and what nobody paid before there was a package.
        let (mut due, mut paid, mut unpaid, mut wall) = (0, 0, 0, start_ms());
        let mut book = |in_account: u64, bought: i64, ends: bool| {
            let open = (in_account as i64 - QUOTA as i64 - paid - unpaid).max(0);
            let take = open.min(bought - due);
            due += take;
            (paid, unpaid) = if ends { (0, 0) } else { (paid + take, unpaid + open - take) };
            due
        };
        let mut spent = 0;
        for (what, n) in steps {
            wall += 1000;
            match what {
                0 | 1 => {
                    total += n;
                    in_account += 11 * n;
                    rig.commit(wall, &[(Some(0), total)]);
                }
                2 => {
                    spent = book(in_account, bought, false);
                    bought += n as i64;
                    rig.ledger.add_entry(alice, package(n as i64), settle(), asked()).wait().unwrap();
                }
                _ => {
                    spent = book(in_account, bought, true);
                    in_account = 0;
                    account = if n % 2 == 0 {
                        rig.ledger.reset_account(alice, settle(), asked()).wait().unwrap()
                    } else {
                        let turns = vec![turn_of(alice, account, next(account))];
                        rig.ledger.turn_accounts(turns, settle(), wall).wait().unwrap();
                        next(account)
                    };
                }
            }
            prop_assert_eq!(sum_of(&rig, "package"), bought);
            prop_assert_eq!(sum_of(&rig, "spent"), -spent);
            prop_assert_eq!(billed(&standing(&rig, alice).used), in_account);
        }
        prop_assert_eq!(rig.checked_sum(), total as i64);
    }
}
