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

use crate::{atomic, owners, reason::Reason, users, watch};

/// Where the bytes of a packet go.
pub enum Target {
    Owned(*mut Account, Option<(u32, *mut User)>),
    Pending,
    /// Unowned, and nobody will ever settle it.
    Unattributed,
}

/// Fills a key in place.
#[inline(always)]
pub fn fill(key: &mut FlowKey, peer: [u32; 4], peer_port: u16, network: u8, inbound: u32) {
    let words = key.peer.as_mut_ptr().cast::<u32>();
    // SAFETY: the address is the first field of a type that is aligned to 4 bytes.
    unsafe {
        words.write(peer[0]);
        words.add(1).write(peer[1]);
        words.add(2).write(peer[2]);
        words.add(3).write(peer[3]);
    }
    key.peer_port = peer_port;
    key.network = network;
    key.inbound = inbound;
    key.pad = 0;
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

/// Decides where a packet's bytes go, or that it must be dropped. Nothing is counted yet.
#[inline(always)]
pub fn target<const DIR: usize>(flags: u32, owner: u32, wire: u32) -> Result<Target, Reason> {
    if owner == ACCOUNT_NONE {
        let lost = flags & (FLOW_OLD | FLOW_CLOSED | FLOW_CLOSING) != 0;
        return Ok(if lost { Target::Unattributed } else { Target::Pending });
    }
    let Some(account) = users::account(owner) else { return Ok(Target::Unattributed) };
    let user = users::user(account);
    if let Some((slot, user)) = user
        && users::exhausted(user)
    {
        users::dropped(slot, DIR as u32, wire);
        return Err(Reason::OverBudget);
    }
    Ok(Target::Owned(account, user))
}

/// Counts a packet, in the watched totals and where it belongs.
#[inline(always)]
pub fn add<const DIR: usize>(flow: *mut Flow, inbound: u32, target: Target, payload: u32, wire: u32) {
    watch::add::<DIR>(inbound, payload, wire);
    match target {
        Target::Owned(account, user) => users::add::<DIR>(account, user, payload, wire),
        Target::Unattributed => users::unattributed::<DIR>(inbound, payload, wire),
        Target::Pending => pend::<DIR>(flow, inbound, payload, wire),
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
