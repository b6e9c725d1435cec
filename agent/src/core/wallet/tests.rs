//! The wallet against a bookkeeper who pays each byte at the moment at which it is used.

use proptest::prelude::*;

use super::*;
use crate::core::period::Window;

fn account(start_ms: i64, generation: i64) -> AccountPeriod {
    AccountPeriod { start_ms, generation }
}

fn entry(number: u128, at_ms: i64, what: What) -> Entry {
    Entry { id: EntryId(Uuid::from_u128(number)), at_ms, what, actor: "admin".into(), note: None }
}

fn package(number: u128, bytes: u64, expires_ms: Option<i64>) -> Entry {
    entry(number, 0, What::Package { bytes, expires_ms })
}

fn usage(used: u64) -> Usage {
    Usage { account: account(1, 0), used, quota: Some(100) }
}

fn turn(start_ms: i64, end_ms: i64) -> Turn {
    let window = Window { start_ms, end_ms: Some(end_ms) };
    Turn { account: account(start_ms, 0), window, skipped: 0, first: false }
}

#[test]
fn the_quota_pays_first_then_the_package_that_expires_first() {
    let entries =
        [package(1, 10, None), package(2, 10, Some(900)), package(3, 10, Some(500)), package(4, 10, None)];
    let wallet = Wallet::of(&entries);
    let order: Vec<u128> = wallet.lots().iter().map(|lot| lot.id.0.as_u128()).collect();
    assert_eq!(order, [3, 2, 1, 4]);
    assert_eq!(
        wallet.running(usage(100), 100),
        Running { base: 100, packages_at: 100, paid: 0, remaining: 40 }
    );
    assert_eq!(
        wallet.running(usage(115), 100),
        Running { base: 100, packages_at: 100, paid: 15, remaining: 25 }
    );
    assert_eq!(
        wallet.running(usage(150), 100),
        Running { base: 110, packages_at: 100, paid: 40, remaining: 0 }
    );
    assert_eq!(wallet.remaining(500), 30, "at its instant a package has expired");
    assert_eq!(wallet.next_expiry(100), Some(500));
    assert_eq!(wallet.next_expiry(500), Some(900));
    let spent = wallet.spendings(usage(115), 100);
    let of = |number, bytes| What::Spent {
        package: EntryId(Uuid::from_u128(number)),
        bytes,
        account: account(1, 0),
    };
    assert_eq!(spent, [of(3, 10), of(2, 5)]);
}

#[test]
fn settling_twice_adds_nothing() {
    let mut wallet = Wallet::of(&[package(1, 10, None)]);
    let first = wallet.settle(usage(130), 5);
    assert_eq!(first.len(), 2);
    for (number, what) in (10..).zip(first) {
        wallet.add(&entry(number, 5, what));
    }
    assert_eq!(wallet.settle(usage(130), 5), []);
    assert_eq!(
        wallet.running(usage(130), 5),
        Running { base: 120, packages_at: 120, paid: 10, remaining: 0 }
    );
}

#[test]
fn a_package_pays_nothing_that_was_used_before_it_was_bought() {
    let mut wallet = Wallet::default();
    let settled = wallet.settle(usage(150), 5);
    assert_eq!(settled, [What::Settled { base: 150, account: account(1, 0) }]);
    wallet.add(&entry(1, 5, settled[0]));
    wallet.add(&package(2, 10, None));
    assert_eq!(wallet.running(usage(150), 6).remaining, 10);
    assert_eq!(wallet.running(usage(153), 6).remaining, 7);
    // The next period has nothing to do with it.
    let next = Usage { account: account(2, 0), ..usage(105) };
    assert_eq!(wallet.running(next, 6), Running { base: 100, packages_at: 100, paid: 5, remaining: 5 });
}

#[test]
fn adjustments_give_and_take_what_is_there() {
    let mut wallet = Wallet::of(&[package(1, 10, Some(500)), entry(2, 0, What::Adjustment { bytes: 20 })]);
    assert_eq!(wallet.remaining(1), 30);
    wallet.add(&entry(3, 1, What::Adjustment { bytes: -15 }));
    assert_eq!(wallet.lots().iter().map(Lot::left).collect::<Vec<_>>(), [0, 15]);
    wallet.add(&entry(4, 1, What::Adjustment { bytes: i64::MIN }));
    let expected = Sums { granted: 30, taken: 30, ..Sums::default() };
    assert_eq!(wallet.sums(1), expected);
}

#[test]
fn what_is_left_of_the_quota_rolls_over_once() {
    let wallet = Wallet::of(&[package(1, 10, None)]);
    let rolled = |used, turn: &Turn| wallet.rollover(usage(used), turn, 10);
    let bytes = |bytes| Some(What::Rollover { bytes, expires_ms: Some(30), from: account(1, 0) });
    assert_eq!(rolled(40, &turn(20, 30)), bytes(60));
    assert_eq!(rolled(100, &turn(20, 30)), None);
    assert_eq!(rolled(105, &turn(20, 30)), None);
    assert_eq!(rolled(105, &Turn { skipped: 2, ..turn(20, 30) }), bytes(100));
    assert_eq!(rolled(40, &Turn { first: true, ..turn(20, 30) }), None);
    assert_eq!(wallet.rollover(Usage { quota: None, ..usage(4) }, &turn(20, 30), 10), None);
}

#[test]
fn a_damaged_wallet_is_told_and_stays_bounded() {
    let spent = What::Spent { package: EntryId(Uuid::from_u128(1)), bytes: 15, account: account(1, 0) };
    let lost = What::Spent { package: EntryId(Uuid::from_u128(9)), bytes: 4, account: account(1, 0) };
    let wallet = Wallet::of(&[package(1, 10, None), entry(2, 0, spent), entry(3, 0, lost)]);
    assert_eq!(wallet.sums(0), Sums { granted: 10, spent: 10, overdrawn: 9, ..Sums::default() });
    let huge = Wallet::of(&[package(1, u64::MAX, None), package(2, u64::MAX, None)]);
    assert_eq!(huge.remaining(0), u64::MAX);
    assert_eq!(huge.sums(0).remaining, 2 * u128::from(u64::MAX));
}

#[test]
fn entries_survive_the_ledger() {
    let entry = entry(7, 5, What::Rollover { bytes: 3, expires_ms: None, from: account(1, 2) });
    let json = serde_json::to_string(&entry).expect("json");
    assert!(json.contains(r#""kind":"rollover","bytes":3"#), "{json}");
    assert_eq!(serde_json::from_str::<Entry>(&json).expect("an entry"), entry);
}

#[derive(Clone, Debug)]
enum Step {
    Buy {
        bytes: u64,
        lasts: Option<i64>,
    },
    Adjust(i64),
    Use(u64),
    Wait(i64),
    Turn {
        skipped: u32,
    },
    Reset,
    Quota(Option<u64>),
    /// Settling at any other time changes nothing.
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..60, proptest::option::of(1_i64..80)).prop_map(|(bytes, lasts)| Step::Buy { bytes, lasts }),
        1 => (-50_i64..30).prop_map(Step::Adjust),
        8 => (0_u64..70).prop_map(Step::Use),
        4 => (1_i64..40).prop_map(Step::Wait),
        2 => (0_u32..3).prop_map(|skipped| Step::Turn { skipped: skipped / 2 }),
        1 => Just(Step::Reset),
        1 => proptest::option::weighted(0.9, 0_u64..200).prop_map(Step::Quota),
        1 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Pays at once, byte for byte.
#[derive(Default)]
struct Bookkeeper {
    /// Number, left, expiry.
    packages: Vec<(u128, u64, Option<i64>)>,
    base: u64,
    paid: u64,
    spent: u128,
    taken: u128,
    expired: u128,
    granted: u128,
}

impl Bookkeeper {
    fn grant(&mut self, number: u128, bytes: u64, expires: Option<i64>) {
        self.granted += u128::from(bytes);
        self.packages.push((number, bytes, expires));
        self.packages.sort_by_key(|&(number, _, expires)| (expires.unwrap_or(i64::MAX), number));
    }

    fn use_bytes(&mut self, bytes: u64, quota: Option<u64>) {
        for _ in 0..bytes {
            let room = quota.is_none_or(|quota| self.base < quota);
            match self.packages.iter_mut().find(|(_, left, _)| *left > 0).filter(|_| !room) {
                Some((_, left, _)) => {
                    *left -= 1;
                    self.paid += 1;
                    self.spent += 1;
                }
                None => self.base += 1,
            }
        }
    }

    fn take(&mut self, mut bytes: u64) {
        for (_, left, _) in &mut self.packages {
            let part = bytes.min(*left);
            *left -= part;
            bytes -= part;
            self.taken += u128::from(part);
        }
    }

    fn expire(&mut self, now: i64) {
        let gone = |expires: Option<i64>| expires.is_some_and(|expires| expires <= now);
        let lost = self.packages.iter().filter(|(.., expires)| gone(*expires));
        self.expired += lost.map(|(_, left, _)| u128::from(*left)).sum::<u128>();
        self.packages.retain(|(.., expires)| !gone(*expires));
    }
}

/// Does what the daemon does.
struct Clerk {
    entries: Vec<Entry>,
    wallet: Wallet,
    usage: Usage,
    now: i64,
    number: u128,
    book: Bookkeeper,
}

impl Clerk {
    fn add(&mut self, what: What) -> u128 {
        self.number += 1;
        let entry = entry(self.number, self.now, what);
        self.wallet.add(&entry);
        self.entries.push(entry);
        self.number
    }

    fn settle(&mut self, until_ms: i64) {
        for what in self.wallet.settle(self.usage, until_ms) {
            self.add(what);
        }
    }

    fn begin(&mut self, account: AccountPeriod) {
        self.usage = Usage { account, used: 0, ..self.usage };
        (self.book.base, self.book.paid) = (0, 0);
    }

    fn turn(&mut self, skipped: u32) {
        for what in self.wallet.spendings(self.usage, self.now) {
            self.add(what);
        }
        let turn = Turn { skipped, ..turn(self.now + 1, self.now + 50) };
        let left = self.usage.quota.map(|quota| match skipped {
            0 => quota.saturating_sub(self.book.base),
            _ => quota,
        });
        match self.wallet.rollover(self.usage, &turn, self.now) {
            Some(what) => {
                let number = self.add(what);
                let What::Rollover { bytes, expires_ms, .. } = what else { panic!("{what:?}") };
                assert_eq!(Some(bytes), left);
                self.book.grant(number, bytes, expires_ms);
            }
            None => assert_eq!(left.unwrap_or(0), 0),
        }
        self.wait(1);
        self.begin(turn.account);
    }

    fn wait(&mut self, ms: i64) {
        let until = self.now + ms;
        while let Some(expiry) = self.wallet.next_expiry(self.now).filter(|&expiry| expiry <= until) {
            self.settle(expiry - 1);
            self.now = expiry;
            self.book.expire(expiry);
        }
        self.now = until;
        self.book.expire(until);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Buy { bytes, lasts } => {
                self.settle(self.now);
                let expires_ms = lasts.map(|lasts| self.now + lasts);
                let number = self.add(What::Package { bytes, expires_ms });
                self.book.grant(number, bytes, expires_ms);
            }
            Step::Adjust(bytes) => {
                self.settle(self.now);
                let number = self.add(What::Adjustment { bytes });
                match u64::try_from(bytes) {
                    Ok(bytes) => self.book.grant(number, bytes, None),
                    Err(_) => self.book.take(bytes.unsigned_abs()),
                }
            }
            Step::Use(bytes) => {
                self.usage.used += bytes;
                self.book.use_bytes(bytes, self.usage.quota);
            }
            Step::Wait(ms) => self.wait(ms),
            Step::Turn { skipped } => self.turn(skipped),
            Step::Reset => {
                for what in self.wallet.spendings(self.usage, self.now) {
                    self.add(what);
                }
                self.begin(self.usage.account.reset());
            }
            Step::Quota(quota) => {
                self.settle(self.now);
                self.usage.quota = quota;
            }
            Step::Settle => self.settle(self.now),
        }
    }

    fn assert_balanced(&self) -> Result<(), TestCaseError> {
        let running = self.wallet.running(self.usage, self.now);
        let left: u64 = self.book.packages.iter().map(|(_, left, _)| left).sum();
        prop_assert_eq!(
            (running.base, running.paid, running.remaining),
            (self.book.base, self.book.paid, left)
        );
        prop_assert_eq!(running.base + running.paid, self.usage.used);
        let sums = self.wallet.sums(self.now);
        prop_assert_eq!(sums.granted, sums.taken + sums.spent + sums.expired + sums.remaining);
        let open = u128::from(sums.remaining as u64 - running.remaining);
        let book = &self.book;
        prop_assert_eq!(
            (sums.granted, sums.taken, sums.spent + open, sums.expired, sums.overdrawn),
            (book.granted, book.taken, book.spent, book.expired, 0)
        );
        prop_assert_eq!(&Wallet::of(&self.entries), &self.wallet);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if std::env::var_os("BOXMETER_LONG").is_some() { 20_000 } else { 500 })
    })]

    #[test]
    fn money_neither_appears_nor_vanishes(steps in steps()) {
        let usage = Usage { account: account(1, 0), used: 0, quota: Some(100) };
        let (entries, wallet, book) = (Vec::new(), Wallet::default(), Bookkeeper::default());
        let mut clerk = Clerk { entries, wallet, usage, now: 1, number: 0, book };
        for step in &steps {
            clerk.step(step);
            clerk.assert_balanced()?;
        }
    }
}
