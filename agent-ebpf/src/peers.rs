//! Owns `PEERS`: one flow per client address and port of a UDP inbound, whose server socket all
//! clients share.
//!
//! An entry ends in two steps that the agent asks for at least 100 ms apart: `close`, after which
//! packets pass the entry by, and `forget`, when no program run can hold it any more.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, macros::btf_map};
use boxmeter_common::{
    UDP,
    command::{RESULT_ENDED, RESULT_LIVE, RESULT_NOT_FOUND, RESULT_TAKEN},
    event::EVENT_FLOW_OPENED,
    flow::{FLOW_CLOSING, FLOW_SHARED, Flow, FlowKey, PEERS_MAX, UDP_ID},
    stats::Stat,
    user::{ACCOUNT_NONE, Account, Counters, User},
};

use crate::{
    atomic, clock, events, flows,
    map::{HASH, Inserted, Map, NO_PREALLOC},
    parse::{self, Packet},
    reason::Reason,
    recent, stats, users, watch,
};

#[btf_map]
static PEERS: Map<FlowKey, Flow, HASH, { PEERS_MAX as usize }, NO_PREALLOC> = Map::new();

#[inline(always)]
pub fn packet<const DIR: usize>(skb: *mut __sk_buff, packet: &Packet, candidate: u32) -> Result<(), Reason> {
    let body = parse::udp(skb, packet)?;
    let peer = parse::peer::<DIR>(skb, packet)?;
    let sought = recent::place(skb, peer, packet.peer_port, candidate);
    if let Some(sought) = &sought
        && recent::count::<DIR>(sought, candidate, &body)
    {
        return Ok(());
    }
    let Some(inbound) = watch::inbound(candidate, skb.cast(), UDP, packet.local_port) else {
        return Err(Reason::NotWatched);
    };
    let mut key = MaybeUninit::<FlowKey>::uninit();
    flows::fill(key.as_mut_ptr(), peer, packet.peer_port, UDP, inbound);
    // SAFETY: every byte was written.
    let key = unsafe { key.assume_init_ref() };
    let flow = match PEERS.get(key) {
        Some(flow) => flow,
        None => match open(key).and_then(|()| PEERS.get(key)) {
            Some(flow) => flow,
            None => {
                stats::count(Stat::PeersFull);
                flows::nobody::<DIR>(inbound, body.payload, body.wire);
                return Ok(());
            }
        },
    };
    // SAFETY: a checked map value, here and below.
    let (id, flags, owner) = unsafe {
        let id = atomic::load(&raw const (*flow).id);
        let flags = atomic::load32(&raw const (*flow).flags);
        (id, flags, atomic::load32(&raw const (*flow).owner))
    };
    if flags & FLOW_CLOSING != 0 {
        return closing::<DIR>(flow, id, owner, inbound, body.payload, body.wire);
    }
    if owner == ACCOUNT_NONE {
        seen::<DIR>(flow, body.payload);
        flows::unowned::<DIR>(flow, flags, inbound, body.payload, body.wire);
        return Ok(());
    }
    let Some(account) = users::account(owner) else {
        flows::nobody::<DIR>(inbound, body.payload, body.wire);
        return Ok(());
    };
    let user = admitted::<DIR>(account, flow, body.payload, body.wire)?;
    seen::<DIR>(flow, body.payload);
    watch::add::<DIR>(inbound, body.payload, body.wire);
    users::add::<DIR>(account, user, body.payload, body.wire);
    if let Some(sought) = &sought
        && inbound == candidate
    {
        recent::offer(sought, flow, owner);
    }
    Ok(())
}

#[inline(always)]
fn admitted<const DIR: usize>(
    account: *const Account,
    flow: *const Flow,
    payload: u32,
    wire: u32,
) -> Result<*mut User, Reason> {
    let user = flows::admit::<DIR>(account, flow, payload, wire);
    if user == Err(Reason::OverBudget) {
        users::dropped(account, DIR as u32, wire);
    }
    user
}

#[inline(always)]
fn seen<const DIR: usize>(flow: *mut Flow, payload: u32) {
    // SAFETY: see `packet`.
    unsafe { (&raw mut (*flow).last_ns).write_volatile(clock::agent_ns()) };
    flows::show::<DIR>(flow, payload);
}

/// The entry may be gone at any moment and its memory another peer's: nothing is written to it, and
/// the owner holds only if the entry is still the same afterwards.
#[inline(always)]
fn closing<const DIR: usize>(
    flow: *mut Flow,
    id: u64,
    owner: u32,
    inbound: u32,
    payload: u32,
    wire: u32,
) -> Result<(), Reason> {
    // SAFETY: see `packet`.
    let same = unsafe { atomic::load(&raw const (*flow).id) } == id;
    let slot = if same && owner != ACCOUNT_NONE { owner } else { inbound };
    let Some(account) = users::account(slot) else {
        flows::nobody::<DIR>(inbound, payload, wire);
        return Ok(());
    };
    let user = admitted::<DIR>(account, flow, payload, wire)?;
    watch::add::<DIR>(inbound, payload, wire);
    users::add::<DIR>(account, user, payload, wire);
    Ok(())
}

/// None: there is no room.
#[inline(always)]
fn open(key: &FlowKey) -> Option<()> {
    if make(key) == 0 { Some(()) } else { None }
}

#[inline(never)]
fn make(key: &FlowKey) -> u32 {
    let Some(number) = stats::number(Stat::UdpOpened) else { return 1 };
    let now = clock::now_ns();
    let flow = Flow {
        key: *key,
        id: UDP_ID | number,
        opened_ns: now,
        last_ns: now,
        owner: ACCOUNT_NONE,
        flags: 0,
        mark: [0; 2],
        payload: [0; 2],
        pending: Counters { payload: [0; 2], wire: [0; 2] },
    };
    match PEERS.insert(key, &flow) {
        Inserted::Yes => events::of_flow(EVENT_FLOW_OPENED, &flow, now),
        // Another CPU was faster.
        Inserted::Exists => {}
        Inserted::Full => return 1,
    }
    0
}

/// The entry if it is still the flow `id`.
#[inline(always)]
fn find(key: &FlowKey, id: u64) -> Option<*mut Flow> {
    let flow = PEERS.get(key)?;
    // SAFETY: see `packet`.
    if unsafe { (*flow).id } == id { Some(flow) } else { None }
}

/// Gives the flow an owner, and the owner what was pending.
#[inline(never)]
pub fn own(key: &FlowKey, id: u64, slot: u32, moved: &mut Counters) -> u32 {
    let Some(flow) = find(key, id) else { return RESULT_NOT_FOUND };
    // SAFETY: see `packet`.
    unsafe {
        atomic::replace(&raw mut (*flow).owner, ACCOUNT_NONE, slot);
        let owner = atomic::load32(&raw const (*flow).owner);
        flows::take(flow, moved);
        flows::credit((*flow).key.inbound, owner, moved);
        if owner == slot { RESULT_LIVE } else { RESULT_TAKEN }
    }
}

#[inline(never)]
pub fn close(key: &FlowKey, id: u64, before_ns: u64) -> u32 {
    let Some(flow) = find(key, id) else { return RESULT_NOT_FOUND };
    // SAFETY: see `packet`.
    unsafe {
        // What was seen lately is not in the flow yet.
        if !recent::take_out(key) || atomic::load(&raw const (*flow).last_ns) >= before_ns {
            return RESULT_LIVE;
        }
        atomic::fetch_or(&raw mut (*flow).flags, FLOW_CLOSING);
        // It may have come in again before the mark. Who is putting it in just now sees the mark.
        recent::take_out(key);
    }
    RESULT_ENDED
}

/// Takes what `RECENT` counted for a flow.
#[inline(always)]
pub fn returned(key: &FlowKey, last_ns: u64, payload: [u64; 2]) {
    let Some(flow) = PEERS.get(key) else { return };
    // SAFETY: see `packet`.
    unsafe {
        // To a flow that may be gone at any moment nothing is written.
        if atomic::load32(&raw const (*flow).flags) & FLOW_CLOSING != 0 {
            return;
        }
        // A packet may have gone the long way since, and be later.
        let known = &raw mut (*flow).last_ns;
        if last_ns > atomic::load(known) {
            known.write_volatile(last_ns);
        }
        let shown = &raw mut (*flow).payload;
        (&raw mut (*shown)[0]).write_volatile((*shown)[0] + payload[0]);
        (&raw mut (*shown)[1]).write_volatile((*shown)[1] + payload[1]);
    }
}

#[inline(never)]
pub fn forget(key: &FlowKey, id: u64, moved: &mut Counters) -> u32 {
    let Some(flow) = find(key, id) else { return RESULT_NOT_FOUND };
    // SAFETY: see `packet`.
    unsafe {
        if atomic::load32(&raw const (*flow).flags) & FLOW_CLOSING == 0 {
            return RESULT_LIVE;
        }
        let (owner, inbound) = (atomic::load32(&raw const (*flow).owner), (*flow).key.inbound);
        flows::take(flow, moved);
        if owner == ACCOUNT_NONE {
            stats::count(Stat::EndedUnowned);
            flows::credit(inbound, inbound, moved);
        } else {
            flows::credit(inbound, owner, moved);
            flows::ended(owner, id);
        }
    }
    PEERS.remove(key);
    RESULT_ENDED
}

#[inline(never)]
pub fn shared(key: &FlowKey, id: u64) -> u32 {
    let Some(flow) = find(key, id) else { return RESULT_NOT_FOUND };
    // SAFETY: see `packet`.
    unsafe { atomic::fetch_or(&raw mut (*flow).flags, FLOW_SHARED) };
    RESULT_LIVE
}
