//! What a user has beyond the quota of a period: packages, what was spent of them, what is left.
//!
//! The wallet is a list of entries that is only ever added to; everything else is computed from it.
//! Bytes of a period are paid in this order: the period's quota, then packages, the one that expires
//! first before those that expire later or never, of equal ones the older. What comes after that is
//! paid by nobody: the steps of `over_quota` begin.
//!
//! **When spending is booked.** While an account runs, what it takes from packages is computed from its
//! usage ([`Wallet::running`]) and not written down. [`Wallet::settle`] (or [`Wallet::spendings`] where
//! the account ends) writes it down, in the
//! transaction of what makes it final; called once more it adds nothing:
//!
//! | before | why |
//! |---|---|
//! | the account turns, or "reset traffic" | the next one begins at 0; what packages paid stays paid |
//! | a package expires | else the next package would pay once more for what the expired one paid |
//! | an entry is added | a new package pays for bytes that are still to come, never for those that were used while nobody paid |
//! | the period's quota changes | a lower quota must not take from packages what the higher one had paid |
//!
//! Three numbers describe an account: `used`, what `Spent` entries took of it, and the *base*, which is
//! the rest: bytes that the quota bears, and past it, nobody. `Settled` notes the base up to which
//! packages are not asked any more.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::period::{AccountPeriod, Turn};

#[cfg(test)]
mod tests;

/// The id of an entry (UUID v7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId(pub Uuid);

/// One line of the wallet. Entries are never changed and never removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EntryId,
    /// UTC milliseconds. The order of entries is that of the ledger, whatever the clock did.
    pub at_ms: i64,
    #[serde(flatten)]
    pub what: What,
    /// Who did it: the name of an admin, or `boxmeter` for what follows from a rule.
    pub actor: String,
    pub note: Option<String>,
}

/// What an entry says. Sizes are bytes, instants UTC milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// Bought or given.
    Package { bytes: u64, expires_ms: Option<i64> },
    /// What was left of a period's quota.
    Rollover { bytes: u64, expires_ms: Option<i64>, from: AccountPeriod },
    /// An admin's correction. More than 0 is a package that never expires; less is taken from the
    /// packages that are there, in the order of spending, and never more than what is left of them.
    Adjustment { bytes: i64 },
    /// A package (or rollover, or adjustment) paid for bytes of an account.
    Spent { package: EntryId, bytes: u64, account: AccountPeriod },
    /// No package pays for bytes of the account below this base.
    Settled { base: u64, account: AccountPeriod },
}

/// A package and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    pub id: EntryId,
    pub granted: u64,
    /// By adjustments.
    pub taken: u64,
    pub spent: u64,
    pub expires_ms: Option<i64>,
}

impl Lot {
    /// Bytes, expired or not.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.granted.saturating_sub(self.taken).saturating_sub(self.spent)
    }

    #[must_use]
    pub fn expired(&self, at_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= at_ms)
    }
}

/// The whole wallet in five numbers: granted = taken + spent + expired + remaining, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub granted: u128,
    pub taken: u128,
    pub spent: u128,
    pub expired: u128,
    pub remaining: u128,
    /// Spent on packages that did not have it, or that are not there: 0 unless a ledger was damaged.
    pub overdrawn: u128,
}

/// Usage of an account that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub account: AccountPeriod,
    /// Billed bytes since the account began.
    pub used: u64,
    /// The period's quota; `None`: packages are never asked.
    pub quota: Option<u64>,
}

/// What an account that runs means for the wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Bytes that the quota bears, and past it, nobody: what percentages of the quota are taken of.
    pub base: u64,
    /// The base at which packages begin to pay: the quota, or more if bytes past it were settled
    /// before there was a package. `u64::MAX` without a quota.
    pub packages_at: u64,
    /// Bytes that packages paid for, booked or not.
    pub paid: u64,
    /// Bytes left in packages that have not expired.
    pub remaining: u64,
}

/// What is left, from the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wallet {
    /// In the order in which they are spent.
    lots: Vec<Lot>,
    overdrawn: u128,
    /// What was booked of accounts: bytes spent, and the base that is settled.
    booked: Vec<(AccountPeriod, u64, u64)>,
}

impl Wallet {
    /// From all entries of a user, in the order of the ledger.
    #[must_use]
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Wallet {
        let mut wallet = Wallet::default();
        for entry in entries {
            wallet.add(entry);
        }
        wallet
    }

    /// The next entry.
    pub fn add(&mut self, entry: &Entry) {
        let lot = |granted, expires_ms| Lot { id: entry.id, granted, taken: 0, spent: 0, expires_ms };
        match entry.what {
            What::Package { bytes, expires_ms } | What::Rollover { bytes, expires_ms, .. } => {
                self.put(lot(bytes, expires_ms));
            }
            What::Adjustment { bytes } if bytes >= 0 => self.put(lot(bytes.unsigned_abs(), None)),
            What::Adjustment { bytes } => self.take(bytes.unsigned_abs(), entry.at_ms),
            What::Spent { package, bytes, account } => {
                self.spend(package, bytes);
                let booked = self.booked_mut(account);
                booked.1 = booked.1.saturating_add(bytes);
            }
            What::Settled { base, account } => {
                let booked = self.booked_mut(account);
                booked.2 = booked.2.max(base);
            }
        }
    }

    /// The packages, in the order in which they are spent.
    #[must_use]
    pub fn lots(&self) -> &[Lot] {
        &self.lots
    }

    /// What the account means for the wallet at an instant.
    #[must_use]
    pub fn running(&self, usage: Usage, at_ms: i64) -> Running {
        let (spent, packages_at, open) = self.open(usage);
        let remaining = self.remaining(at_ms);
        let drawn = open.min(remaining);
        Running {
            base: usage.used.saturating_sub(spent).saturating_sub(drawn),
            packages_at,
            paid: spent.saturating_add(drawn),
            remaining: remaining - drawn,
        }
    }

    /// The entries to add when an account ends, at a turn or a reset: what packages paid of it.
    /// `until_ms`: the last instant at which the usage may have happened.
    #[must_use]
    pub fn spendings(&self, usage: Usage, until_ms: i64) -> Vec<What> {
        let (_, _, mut open) = self.open(usage);
        let mut entries = Vec::new();
        for lot in self.alive(until_ms) {
            let bytes = lot.left().min(open);
            if bytes > 0 {
                open -= bytes;
                entries.push(What::Spent { package: lot.id, bytes, account: usage.account });
            }
        }
        entries
    }

    /// The entries to add to an account that goes on: [`Self::spendings`], and the base that packages
    /// are not asked for any more. Where a package expires, `until_ms` is the instant before.
    #[must_use]
    pub fn settle(&self, usage: Usage, until_ms: i64) -> Vec<What> {
        let mut entries = self.spendings(usage, until_ms);
        let base = self.running(usage, until_ms).base;
        if base > self.booked(usage.account).1 {
            entries.push(What::Settled { base, account: usage.account });
        }
        entries
    }

    /// The entry for what is left of an account's quota at its turn, whether its spendings are booked
    /// or not. `None` if nothing is left. If periods were skipped, the last one was not used at all.
    /// Nothing comes over from [`AccountPeriod::UNSET`].
    #[must_use]
    pub fn rollover(&self, usage: Usage, turn: &Turn, until_ms: i64) -> Option<What> {
        let quota = usage.quota.filter(|_| !turn.first)?;
        let base = self.running(usage, until_ms).base;
        let bytes = if turn.skipped > 0 { quota } else { quota.saturating_sub(base) };
        let entry = What::Rollover { bytes, expires_ms: turn.window.end_ms, from: usage.account };
        (bytes > 0).then_some(entry)
    }

    /// Bytes in packages that have not expired, without what a running account takes.
    #[must_use]
    pub fn remaining(&self, at_ms: i64) -> u64 {
        self.alive(at_ms).fold(0, |sum, lot| sum.saturating_add(lot.left()))
    }

    /// When the next package that has something left expires.
    #[must_use]
    pub fn next_expiry(&self, at_ms: i64) -> Option<i64> {
        self.alive(at_ms).filter(|lot| lot.left() > 0).find_map(|lot| lot.expires_ms)
    }

    #[must_use]
    pub fn sums(&self, at_ms: i64) -> Sums {
        let mut sums = Sums { overdrawn: self.overdrawn, ..Sums::default() };
        for lot in &self.lots {
            sums.granted += u128::from(lot.granted);
            sums.taken += u128::from(lot.taken);
            sums.spent += u128::from(lot.spent);
            let rest = if lot.expired(at_ms) { &mut sums.expired } else { &mut sums.remaining };
            *rest += u128::from(lot.left());
        }
        sums
    }

    /// Of an account: what was booked as spent, the base at which packages begin to pay, and the bytes
    /// past it.
    fn open(&self, usage: Usage) -> (u64, u64, u64) {
        let (spent, settled) = self.booked(usage.account);
        let packages_at = usage.quota.map_or(u64::MAX, |quota| quota.max(settled));
        let open = usage.used.saturating_sub(spent).saturating_sub(packages_at);
        (spent, packages_at, open)
    }

    fn alive(&self, at_ms: i64) -> impl Iterator<Item = &Lot> {
        self.lots.iter().filter(move |lot| !lot.expired(at_ms))
    }

    fn put(&mut self, lot: Lot) {
        let key = |lot: &Lot| lot.expires_ms.unwrap_or(i64::MAX);
        let at = self.lots.partition_point(|other| key(other) <= key(&lot));
        self.lots.insert(at, lot);
    }

    fn take(&mut self, mut bytes: u64, at_ms: i64) {
        for lot in self.lots.iter_mut().filter(|lot| !lot.expired(at_ms)) {
            let part = lot.left().min(bytes);
            lot.taken += part;
            bytes -= part;
        }
    }

    fn spend(&mut self, package: EntryId, bytes: u64) {
        let mut over = bytes;
        if let Some(lot) = self.lots.iter_mut().find(|lot| lot.id == package) {
            let part = lot.left().min(bytes);
            lot.spent += part;
            over -= part;
        }
        self.overdrawn += u128::from(over);
    }

    fn booked(&self, account: AccountPeriod) -> (u64, u64) {
        let found = self.booked.iter().rev().find(|(key, ..)| *key == account);
        found.map_or((0, 0), |&(_, spent, settled)| (spent, settled))
    }

    fn booked_mut(&mut self, account: AccountPeriod) -> &mut (AccountPeriod, u64, u64) {
        let at = self.booked.iter().rposition(|(key, ..)| *key == account);
        let at = at.unwrap_or_else(|| {
            self.booked.push((account, 0, 0));
            self.booked.len() - 1
        });
        &mut self.booked[at]
    }
}
