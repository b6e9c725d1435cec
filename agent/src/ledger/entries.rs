//! Wallet entries between the core's words and the ledger's columns.

use uuid::Uuid;

use super::records::{EntryKind, NewEntry, WalletEntry};
use crate::core::{
    period::AccountPeriod,
    wallet::{Entry, EntryId, What},
};

fn unsigned(bytes: i64) -> u64 {
    bytes.unsigned_abs()
}

/// Columns are signed; nobody has that many bytes.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl WalletEntry {
    /// As the core reckons with it.
    pub fn entry(&self) -> Entry {
        let account = self.account.unwrap_or(AccountPeriod::UNSET);
        let what = match self.kind {
            EntryKind::Package => What::Package { bytes: unsigned(self.bytes), expires_ms: self.expires_ms },
            EntryKind::Rollover => {
                What::Rollover { bytes: unsigned(self.bytes), expires_ms: self.expires_ms, from: account }
            }
            EntryKind::Adjustment => What::Adjustment { bytes: self.bytes },
            EntryKind::Spent => {
                let package = EntryId(self.package.unwrap_or(Uuid::nil()));
                What::Spent { package, bytes: unsigned(self.bytes), account }
            }
            EntryKind::Settled => What::Settled { base: unsigned(self.bytes), account },
        };
        Entry {
            id: EntryId(self.id),
            at_ms: self.at_ms,
            what,
            actor: self.actor.clone(),
            note: self.note.clone(),
        }
    }
}

impl NewEntry {
    /// As it is written.
    pub fn of(what: What, note: Option<String>) -> NewEntry {
        let entry =
            |kind, bytes| NewEntry { kind, bytes, expires_ms: None, package: None, account: None, note };
        match what {
            What::Package { bytes, expires_ms } => {
                NewEntry { expires_ms, ..entry(EntryKind::Package, signed(bytes)) }
            }
            What::Rollover { bytes, expires_ms, from } => {
                NewEntry { expires_ms, account: Some(from), ..entry(EntryKind::Rollover, signed(bytes)) }
            }
            What::Adjustment { bytes } => entry(EntryKind::Adjustment, bytes),
            What::Spent { package, bytes, account } => NewEntry {
                package: Some(package.0),
                account: Some(account),
                ..entry(EntryKind::Spent, -signed(bytes))
            },
            What::Settled { base, account } => {
                NewEntry { account: Some(account), ..entry(EntryKind::Settled, signed(base)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::UserId;

    #[test]
    fn every_entry_comes_back_as_it_was() {
        let account = AccountPeriod { start_ms: 7, generation: 2 };
        let package = EntryId(Uuid::from_u128(3));
        for what in [
            What::Package { bytes: 5, expires_ms: Some(9) },
            What::Rollover { bytes: 5, expires_ms: None, from: account },
            What::Adjustment { bytes: -5 },
            What::Adjustment { bytes: 5 },
            What::Spent { package, bytes: 5, account },
            What::Settled { base: 5, account },
        ] {
            let new = NewEntry::of(what, None);
            let written = WalletEntry {
                id: Uuid::from_u128(1),
                user: UserId(Uuid::from_u128(2)),
                at_ms: 0,
                kind: new.kind,
                bytes: new.bytes,
                expires_ms: new.expires_ms,
                package: new.package,
                account: new.account,
                actor: String::new(),
                note: None,
                rev: 0,
            };
            assert_eq!(written.entry().what, what);
        }
    }
}
