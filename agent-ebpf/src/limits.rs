//! What a user with rates or blocked flows may still do. A user without is told by one word
//! (`User::limits`) and never comes here.

use boxmeter_common::{
    TCP,
    flow::Flow,
    stats::Stat,
    user::{Account, Counters, LIMIT_BLOCKED, LIMIT_RATE},
};

use crate::{atomic, blocks, rates, stats, users};

/// Whether the packet passes. What does not is counted here.
#[inline(never)]
pub fn pass(account: *const Account, flow: *const Flow, direction: u32, payload: u32, wire: u32) -> bool {
    let user = users::user(account);
    if user.is_null() {
        return true;
    }
    // SAFETY: checked map values, here and below.
    let (limits, id, network) =
        unsafe { (users::limits(user), atomic::load(&raw const (*flow).id), (*flow).key.network) };
    let why = if limits & LIMIT_BLOCKED != 0 && blocks::has(id) {
        Stat::DroppedByBlock
    } else if limits & LIMIT_RATE != 0
        && rates::pass(users::slot(account), direction, payload, (network == TCP) as u32) == 0
    {
        Stat::DroppedByRate
    } else {
        return true;
    };
    stats::count(why);
    // SAFETY: as above.
    unsafe {
        if direction == 0 {
            atomic::add(&raw mut (*user).limited_bytes[0], wire as u64);
        } else {
            atomic::add(&raw mut (*user).limited_bytes[1], wire as u64);
        }
    }
    false
}

/// Bytes that the user had before it was known whose they are.
#[inline(always)]
pub fn settled(account: *const Account, limits: u32, moved: &Counters) {
    if limits & LIMIT_RATE != 0 {
        rates::settled(users::slot(account), moved);
    }
}

/// A flow of an account ended.
#[inline(always)]
pub fn ended(account: *const Account, id: u64) {
    let user = users::user(account);
    if !user.is_null() && users::limits(user) & LIMIT_BLOCKED != 0 {
        blocks::forget(id);
    }
}
