//! What TCP sockets and UDP peers have in common: a flow's bytes go to its owner's account, or to
//! `pending` until the owner is known.
//!
//! Bytes that were pending move by an atomic exchange: whoever takes them counts them, so that
//! races move bytes and never copy or drop them. Who adds to `pending` looks at the flow again
//! afterwards, and takes back what the one who settled or closed the flow meanwhile cannot have
//! seen.

use core::ffi::c_void;

use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    flow::{FLOW_CLOSED, FLOW_CLOSING, FLOW_OLD, Flow, FlowKey},
    user::{ACCOUNT_NONE, Account, Counters, User},
};

use crate::{atomic, limits, owners, reason::Reason, users, watch};

/// Fills a key in place, without clearing it first: what clears and copies here is a loop over
/// bytes.
#[inline(always)]
pub fn fill(key: *mut FlowKey, peer: [u32; 4], peer_port: u16, network: u8, inbound: u32) {
    // SAFETY: the caller's own key. The address is the first field of a type that is aligned to 4
    // bytes.
    unsafe {
        let words = key.cast::<u32>();
        words.write(peer[0]);
        words.add(1).write(peer[1]);
        words.add(2).write(peer[2]);
        words.add(3).write(peer[3]);
        (*key).inbound = inbound;
        (*key).peer_port = peer_port;
        (*key).network = network;
        (*key).pad = 0;
    }
}

/// The flow's owner, picked up from `OWNERS` if the agent has noted one.
#[inline(always)]
pub fn owner(flow: *mut Flow) -> u32 {
    // SAFETY: a checked map value, here and below.
    let owner = atomic::load32(unsafe { &raw const (*flow).owner });
    if owner != ACCOUNT_NONE { owner } else { pick_up(flow) }
}

#[inline(always)]
fn pick_up(flow: *mut Flow) -> u32 {
    // SAFETY: see `owner`.
    let id = unsafe { (*flow).id };
    let Some(slot) = owners::noted(id) else { return ACCOUNT_NONE };
    adopt(flow, slot, id)
}

#[inline(never)]
fn adopt(flow: *mut Flow, slot: u32, id: u64) -> u32 {
    // SAFETY: see `owner`.
    unsafe {
        atomic::replace(&raw mut (*flow).owner, ACCOUNT_NONE, slot);
        owners::forget(id);
        let owner = atomic::load32(&raw const (*flow).owner);
        settle(flow, owner);
        owner
    }
}

/// The user whose budget an owned packet is measured on (null: none), or that it must be dropped.
/// Nothing is counted yet, but by a rate.
#[inline(always)]
pub fn admit<const DIR: usize>(
    account: *const Account,
    flow: *const Flow,
    payload: u32,
    wire: u32,
) -> Result<*mut User, Reason> {
    let user = users::user(account);
    if user.is_null() {
        return Ok(user);
    }
    if users::exhausted(user) {
        return Err(Reason::OverBudget);
    }
    if users::limits(user) != 0 && !limits::pass(account, flow, DIR as u32, payload, wire) {
        return Err(Reason::Limited);
    }
    Ok(user)
}

/// Adds to what the flow shows people. Not atomic: two CPUs may lose each other's addition here,
/// and an atomic one would cost a tenth of the whole program. Accounts are what counts.
#[inline(always)]
pub fn show<const DIR: usize>(flow: *mut Flow, payload: u32) {
    // SAFETY: see `owner`.
    unsafe {
        let at = &raw mut (*flow).payload[DIR];
        at.write_volatile(at.read_volatile() + payload as u64);
    }
}

/// Counts a packet of a flow without an owner, in the watched totals and where it belongs.
#[inline(always)]
pub fn unowned<const DIR: usize>(flow: *mut Flow, flags: u32, inbound: u32, payload: u32, wire: u32) {
    watch::add::<DIR>(inbound, payload, wire);
    if flags & (FLOW_OLD | FLOW_CLOSED | FLOW_CLOSING) != 0 {
        // Nobody would ever settle what is pending.
        users::unattributed::<DIR>(inbound, payload, wire);
    } else {
        pend::<DIR>(flow, inbound, payload, wire);
    }
}

#[inline(always)]
pub fn pend<const DIR: usize>(flow: *mut Flow, inbound: u32, payload: u32, wire: u32) {
    watch::pending_in::<DIR>(inbound, payload, wire);
    // SAFETY: see `owner`.
    unsafe {
        if payload != 0 {
            atomic::add(&raw mut (*flow).pending.payload[DIR], payload as u64);
        }
        // A fetching addition is a full barrier: what follows sees what the other side did before
        // it took the pending bytes, or the other side took these bytes too.
        let _before =
            core::hint::black_box(atomic::fetch_add(&raw mut (*flow).pending.wire[DIR], wire as u64));
        let owner = atomic::load32(&raw const (*flow).owner);
        let flags = atomic::load32(&raw const (*flow).flags);
        if owner != ACCOUNT_NONE {
            settle(flow, owner);
        } else if flags & (FLOW_CLOSED | FLOW_CLOSING) != 0 {
            settle(flow, inbound);
        }
    }
}

/// Moves what is pending to an account: the owner's, or the unattributed one (the inbound's index).
#[inline(never)]
pub fn settle(flow: *mut Flow, slot: u32) {
    let mut moved = Counters { payload: [0; 2], wire: [0; 2] };
    take(flow, &mut moved);
    // SAFETY: see `owner`.
    credit(unsafe { (*flow).key.inbound }, slot, &moved);
}

#[inline(always)]
pub fn take(flow: *mut Flow, moved: &mut Counters) {
    // SAFETY: see `owner`.
    unsafe {
        let pending = &raw mut (*flow).pending;
        moved.payload[UPLOAD] = atomic::take(&raw mut (*pending).payload[UPLOAD]);
        moved.payload[DOWNLOAD] = atomic::take(&raw mut (*pending).payload[DOWNLOAD]);
        moved.wire[UPLOAD] = atomic::take(&raw mut (*pending).wire[UPLOAD]);
        moved.wire[DOWNLOAD] = atomic::take(&raw mut (*pending).wire[DOWNLOAD]);
    }
}

/// Counts bytes that the caller took out of a flow's pending.
#[inline(always)]
pub fn credit(inbound: u32, slot: u32, moved: &Counters) {
    if moved.payload[0] | moved.payload[1] | moved.wire[0] | moved.wire[1] == 0 {
        return;
    }
    users::settle(slot, moved);
    watch::pending_out(inbound, moved);
}

/// The flow `id` of account `slot` is forgotten.
#[inline(always)]
pub fn ended(slot: u32, id: u64) {
    if let Some(account) = users::account(slot) {
        limits::ended(account, id);
    }
}

/// A packet of a watched inbound that belongs to no flow.
#[inline(always)]
pub fn nobody<const DIR: usize>(inbound: u32, payload: u32, wire: u32) {
    watch::add::<DIR>(inbound, payload, wire);
    users::unattributed::<DIR>(inbound, payload, wire);
}

/// A packet whose headers could not be read: of a watched inbound if its socket's port is.
#[inline(never)]
pub fn unparsable(ctx: *mut c_void, network: u8, port: u16, direction: u32, wire: u32) {
    let candidate = watch::candidate(network, port);
    if candidate == 0 {
        return;
    }
    let Some(inbound) = watch::inbound(candidate, ctx, network, port) else { return };
    crate::stats::count(boxmeter_common::stats::Stat::Unparsable);
    if direction as usize == UPLOAD {
        nobody::<UPLOAD>(inbound, 0, wire);
    } else {
        nobody::<DOWNLOAD>(inbound, 0, wire);
    }
}
