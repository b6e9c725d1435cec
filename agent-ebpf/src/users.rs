//! Owns `ACCOUNTS` and `USERS`: where bytes are counted, and what budgets are compared with.

use core::ptr;

use aya_ebpf::macros::btf_map;
use boxmeter_common::{
    event::{EVENT_USER_CUT, EVENT_USER_WARN},
    stats::Stat,
    user::{ACCOUNTS_MAX, Account, Counters, EVENT_CUT, EVENT_WARNED, METER_WIRE, USERS_MAX, User},
};

use crate::{
    atomic, clock, events, limits,
    map::{ARRAY, MMAPABLE, Map},
    stats,
};

#[btf_map]
static ACCOUNTS: Map<u32, Account, ARRAY, { ACCOUNTS_MAX as usize }, MMAPABLE> = Map::new();

#[btf_map]
static USERS: Map<u32, User, ARRAY, { USERS_MAX as usize }, MMAPABLE> = Map::new();

#[inline(always)]
pub fn account(slot: u32) -> Option<*mut Account> {
    let account = ACCOUNTS.get(&slot);
    if account.is_none() {
        stats::count(Stat::BadSlot);
    }
    account
}

/// The user of an account; null for unattributed bytes.
///
/// A pointer and not an `Option` with the slot: what would be undefined in the empty case is a
/// register that the verifier finds unwritten.
#[inline(always)]
pub fn user(account: *const Account) -> *mut User {
    let slot = slot(account);
    if slot == 0 {
        return ptr::null_mut();
    }
    USERS.get(&slot).unwrap_or(ptr::null_mut())
}

/// See `User::limits`.
#[inline(always)]
pub fn limits(user: *const User) -> u32 {
    // SAFETY: see `user`.
    atomic::load32(unsafe { &raw const (*user).limits })
}

#[inline(always)]
pub fn slot(account: *const Account) -> u32 {
    // SAFETY: a checked map value, here and below.
    atomic::load32(unsafe { &raw const (*account).user })
}

/// Whether the budget was used up before this packet, or its time is over.
#[inline(always)]
pub fn exhausted(user: *const User) -> bool {
    // SAFETY: see `user`.
    let (billed, cut_at, until_ns) = unsafe {
        (
            atomic::load(&raw const (*user).billed),
            atomic::load(&raw const (*user).cut_at),
            atomic::load(&raw const (*user).until_ns),
        )
    };
    billed >= cut_at || (until_ns != 0 && clock::coarse_ns() >= until_ns)
}

/// Notes a packet that is being dropped.
#[inline(never)]
pub fn dropped(account: *const Account, direction: u32, wire: u32) {
    let slot = slot(account);
    let Some(user) = USERS.get(&slot) else { return };
    // SAFETY: see `user`.
    unsafe {
        if direction == 0 {
            atomic::add(&raw mut (*user).dropped_packets[0], 1);
            atomic::add(&raw mut (*user).dropped_bytes[0], wire as u64);
        } else {
            atomic::add(&raw mut (*user).dropped_packets[1], 1);
            atomic::add(&raw mut (*user).dropped_bytes[1], wire as u64);
        }
        stats::count(Stat::Dropped);
        tell(user, slot, EVENT_CUT, EVENT_USER_CUT, atomic::load(&raw const (*user).billed));
    }
}

/// Sends an event about a user once, until the agent clears the bit.
#[inline(always)]
fn tell(user: *mut User, slot: u32, bit: u32, kind: u32, billed: u64) {
    // SAFETY: see `user`.
    let bits = unsafe { &raw mut (*user).events };
    if atomic::load32(bits) & bit == 0 && atomic::fetch_or(bits, bit) & bit == 0 {
        events::of_user(kind, slot, billed, clock::now_ns());
    }
}

#[inline(never)]
fn crossed(account: *const Account, billed: u64) {
    let slot = slot(account);
    let Some(user) = USERS.get(&slot) else { return };
    // SAFETY: see `user`.
    let (warn_at, cut_at) =
        unsafe { (atomic::load(&raw const (*user).warn_at), atomic::load(&raw const (*user).cut_at)) };
    if billed >= warn_at {
        tell(user, slot, EVENT_WARNED, EVENT_USER_WARN, billed);
    }
    if billed >= cut_at {
        tell(user, slot, EVENT_CUT, EVENT_USER_CUT, billed);
    }
}

#[inline(always)]
fn bill(account: *const Account, user: *mut User, payload: u64, wire: u64) {
    // SAFETY: see `user`.
    unsafe {
        let bytes = if atomic::load32(&raw const (*user).meter) == METER_WIRE { wire } else { payload };
        if bytes == 0 {
            return;
        }
        let billed = atomic::fetch_add(&raw mut (*user).billed, bytes) + bytes;
        if billed >= atomic::load(&raw const (*user).warn_at)
            || billed >= atomic::load(&raw const (*user).cut_at)
        {
            crossed(account, billed);
        }
    }
}

/// Counts a packet to an account.
#[inline(always)]
pub fn add<const DIR: usize>(account: *mut Account, user: *mut User, payload: u32, wire: u32) {
    // SAFETY: see `user`.
    unsafe {
        if payload != 0 {
            atomic::add(&raw mut (*account).counters.payload[DIR], payload as u64);
        }
        if wire != 0 {
            atomic::add(&raw mut (*account).counters.wire[DIR], wire as u64);
        }
    }
    if !user.is_null() {
        bill(account, user, payload as u64, wire as u64);
    }
}

/// Counts a packet that belongs to nobody.
#[inline(always)]
pub fn unattributed<const DIR: usize>(inbound: u32, payload: u32, wire: u32) {
    if let Some(account) = account(inbound) {
        add::<DIR>(account, ptr::null_mut(), payload, wire);
    }
}

/// Counts what was pending to an account.
#[inline(always)]
pub fn settle(slot: u32, moved: &Counters) {
    let Some(account) = account(slot) else { return };
    // SAFETY: see `user`.
    unsafe {
        let counters = &raw mut (*account).counters;
        atomic::add(&raw mut (*counters).payload[0], moved.payload[0]);
        atomic::add(&raw mut (*counters).payload[1], moved.payload[1]);
        atomic::add(&raw mut (*counters).wire[0], moved.wire[0]);
        atomic::add(&raw mut (*counters).wire[1], moved.wire[1]);
    }
    let user = user(account);
    if !user.is_null() {
        bill(account, user, moved.payload[0] + moved.payload[1], moved.wire[0] + moved.wire[1]);
        limits::settled(account, self::limits(user), moved);
    }
}
