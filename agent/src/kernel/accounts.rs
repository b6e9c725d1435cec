//! Slots of accounts and users: who has which, counters, budgets. The arrays describe themselves,
//! so that a new agent learns from them whose the slots are.

use std::collections::HashMap;

use boxmeter_common::user::{
    ACCOUNT_FIRST, ACCOUNTS_MAX, Counters, EVENT_CUT, EVENT_WARNED, UNLIMITED, USERS_MAX,
};
use uuid::Uuid;

use super::{error::KernelError, load::Kernel, shared};
use crate::core::event::{InboundIndex, Slot, UserId};

/// A user's slot in the kernel's maps: 1 ≤ slot < `USERS_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserSlot(pub u32);

/// An account as it stands: of a user on an inbound, or (`user: None`) an inbound's unattributed
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountInfo {
    pub slot: Slot,
    pub inbound: InboundIndex,
    pub user: Option<UserId>,
    pub counters: Counters,
}

/// A user as the kernel has it. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserInfo {
    pub slot: UserSlot,
    pub user: UserId,
    pub meter: u32,
    pub billed: u64,
    pub cut_at: u64,
    pub warn_at: u64,
    pub dropped_packets: [u64; 2],
    pub dropped_bytes: [u64; 2],
    /// IP packet bytes dropped by a rate or because the flow is blocked.
    pub limited_bytes: [u64; 2],
}

/// Which slots are given out. Slots are given in order and never given back within an epoch: there
/// are far more than people, and a slot that is never reused can mix up nobody's bytes.
#[derive(Debug, Default)]
pub(super) struct Directory {
    accounts: HashMap<(UserId, InboundIndex), Slot>,
    users: HashMap<UserId, UserSlot>,
    accounts_next: u32,
    pub(super) users_next: u32,
}

impl Kernel {
    pub(super) fn read_directory(&self) -> Directory {
        let mut directory = Directory { accounts_next: ACCOUNT_FIRST, users_next: 1, ..Directory::default() };
        for slot in ACCOUNT_FIRST..ACCOUNTS_MAX {
            let account = self.accounts.at(slot);
            // SAFETY: a field of a mapped value, here and below. Names are written before `in_use`.
            unsafe {
                if shared::load32(&raw const (*account).in_use) == 0 {
                    break;
                }
                let user = UserId(Uuid::from_bytes((&raw const (*account).user_id).read_volatile()));
                let inbound = InboundIndex(shared::load32(&raw const (*account).inbound));
                directory.accounts.insert((user, inbound), Slot(slot));
            }
            directory.accounts_next = slot + 1;
        }
        for slot in 1..USERS_MAX {
            let user = self.users.at(slot);
            // SAFETY: as above.
            unsafe {
                if shared::load32(&raw const (*user).in_use) == 0 {
                    break;
                }
                let id = UserId(Uuid::from_bytes((&raw const (*user).user_id).read_volatile()));
                directory.users.insert(id, UserSlot(slot));
            }
            directory.users_next = slot + 1;
        }
        directory
    }

    /// The slot of a user, made if there is none; `meter` (`METER_*`) is what budgets are measured
    /// on, and only of effect for a new slot.
    ///
    /// # Errors
    /// `Full`.
    pub fn allocate_user(&mut self, id: UserId, meter: u32) -> Result<UserSlot, KernelError> {
        if let Some(slot) = self.directory.users.get(&id) {
            return Ok(*slot);
        }
        let slot = self.directory.users_next;
        if slot >= USERS_MAX {
            return Err(KernelError::Full { what: "user slots", max: USERS_MAX - 1 });
        }
        let user = self.users.at(slot);
        // SAFETY: see `read_directory`.
        unsafe {
            shared::store(&raw mut (*user).cut_at, UNLIMITED);
            shared::store(&raw mut (*user).warn_at, UNLIMITED);
            shared::store32(&raw mut (*user).meter, meter);
            (&raw mut (*user).user_id).write_volatile(id.0.into_bytes());
            shared::store32(&raw mut (*user).in_use, 1);
        }
        self.directory.users_next += 1;
        self.directory.users.insert(id, UserSlot(slot));
        Ok(UserSlot(slot))
    }

    /// The slot of a user's account on an inbound, made if there is none.
    ///
    /// # Errors
    /// `Full`.
    pub fn allocate_account(
        &mut self,
        id: UserId,
        inbound: InboundIndex,
        meter: u32,
    ) -> Result<Slot, KernelError> {
        if let Some(slot) = self.directory.accounts.get(&(id, inbound)) {
            return Ok(*slot);
        }
        let user = self.allocate_user(id, meter)?;
        let slot = self.directory.accounts_next;
        if slot >= ACCOUNTS_MAX {
            return Err(KernelError::Full { what: "account slots", max: ACCOUNTS_MAX - ACCOUNT_FIRST });
        }
        let account = self.accounts.at(slot);
        // SAFETY: see `read_directory`.
        unsafe {
            shared::store32(&raw mut (*account).user, user.0);
            shared::store32(&raw mut (*account).inbound, inbound.0);
            (&raw mut (*account).user_id).write_volatile(id.0.into_bytes());
            shared::store32(&raw mut (*account).in_use, 1);
        }
        self.directory.accounts_next += 1;
        self.directory.accounts.insert((id, inbound), Slot(slot));
        Ok(Slot(slot))
    }

    /// The counters of one account.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn counters(&self, slot: Slot) -> Counters {
        let account = self.accounts.at(slot.0);
        // SAFETY: see `read_directory`.
        unsafe { shared::counters(&raw const (*account).counters) }
    }

    /// Every account: of users, and the unattributed one of each inbound that is in use.
    pub fn accounts(&self) -> impl Iterator<Item = AccountInfo> + '_ {
        let unattributed = self.inbounds().into_iter().map(|inbound| Slot(inbound.index.0));
        let owned = (ACCOUNT_FIRST..self.directory.accounts_next).map(Slot);
        unattributed.chain(owned).map(|slot| self.account(slot))
    }

    /// Whose an account is, and its counters.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn account(&self, slot: Slot) -> AccountInfo {
        let counters = self.counters(slot);
        if slot.0 < ACCOUNT_FIRST {
            return AccountInfo { slot, inbound: InboundIndex(slot.0), user: None, counters };
        }
        let account = self.accounts.at(slot.0);
        // SAFETY: see `read_directory`.
        unsafe {
            AccountInfo {
                slot,
                inbound: InboundIndex(shared::load32(&raw const (*account).inbound)),
                user: Some(UserId(Uuid::from_bytes((&raw const (*account).user_id).read_volatile()))),
                counters,
            }
        }
    }

    /// The accounts of one user, on every inbound of this epoch.
    pub fn accounts_of(&self, id: UserId) -> impl Iterator<Item = Slot> + '_ {
        let inbounds = self.inbounds().into_iter();
        inbounds.filter_map(move |inbound| self.directory.accounts.get(&(id, inbound.index)).copied())
    }

    /// The slot of a user that has one.
    pub fn user_slot(&self, id: UserId) -> Option<UserSlot> {
        self.directory.users.get(&id).copied()
    }

    /// # Panics
    /// The slot was not given out by this kernel.
    pub fn user(&self, slot: UserSlot) -> UserInfo {
        let user = self.users.at(slot.0);
        // SAFETY: see `read_directory`.
        unsafe {
            UserInfo {
                slot,
                user: UserId(Uuid::from_bytes((&raw const (*user).user_id).read_volatile())),
                meter: shared::load32(&raw const (*user).meter),
                billed: shared::load(&raw const (*user).billed),
                cut_at: shared::load(&raw const (*user).cut_at),
                warn_at: shared::load(&raw const (*user).warn_at),
                dropped_packets: [
                    shared::load(&raw const (*user).dropped_packets[0]),
                    shared::load(&raw const (*user).dropped_packets[1]),
                ],
                dropped_bytes: [
                    shared::load(&raw const (*user).dropped_bytes[0]),
                    shared::load(&raw const (*user).dropped_bytes[1]),
                ],
                limited_bytes: [
                    shared::load(&raw const (*user).limited_bytes[0]),
                    shared::load(&raw const (*user).limited_bytes[1]),
                ],
            }
        }
    }

    /// Every user that has a slot.
    pub fn users(&self) -> impl Iterator<Item = UserInfo> + '_ {
        (1..self.directory.users_next).map(|slot| self.user(UserSlot(slot)))
    }

    /// Sets both thresholds, absolute values of `billed`; [`UNLIMITED`] for none. Returns `billed`
    /// as read after the stores: whether it is past a lowered threshold is known at once.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn set_budget(&self, slot: UserSlot, cut_at: u64, warn_at: u64) -> u64 {
        let user = self.users.at(slot.0);
        // The event bits are cleared last: an event of the old thresholds may come once more, one of
        // the new ones is never swallowed.
        // SAFETY: see `read_directory`.
        unsafe {
            shared::store(&raw mut (*user).cut_at, cut_at);
            shared::store(&raw mut (*user).warn_at, warn_at);
            shared::clear32(&raw mut (*user).events, EVENT_WARNED | EVENT_CUT);
            shared::load(&raw const (*user).billed)
        }
    }

    /// Lets a budget end at a monotonic time even when it is not used up; 0: never.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn set_until(&self, slot: UserSlot, until_ns: u64) {
        // SAFETY: see `read_directory`.
        unsafe { shared::store(&raw mut (*self.users.at(slot.0)).until_ns, until_ns) };
    }
}
