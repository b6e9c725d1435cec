//! Owns `RECENT`: owned UDP flows whose packets keep coming, found without a call of the kernel.
//! `PEERS` has every flow; an entry here is a shortcut to what nearly every packet needs of one.
//!
//! An entry is replaced under readers: they look at its version before and after. A flow that is to
//! be passed by is first marked and then taken out here; who puts a flow in looks at its marks
//! afterwards. One of the two sees the other.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, bindings::__sk_buff, helpers::generated::bpf_jiffies64, macros::btf_map};
use boxmeter_common::{
    UDP,
    flow::{FLOW_SHARED, Flow, FlowKey},
    recent::{RECENT_MAX, Recent, ends, index},
    user::ACCOUNT_NONE,
};

use crate::{
    atomic, clock, flows,
    map::{ARRAY, MMAPABLE, Map},
    parse::Body,
    peers, users, watch,
};

#[btf_map]
static RECENT: Map<u32, Recent, ARRAY, { RECENT_MAX as usize }, MMAPABLE> = Map::new();

/// Set to 1 by the loader where a processor's loads are seen in the order of the program (x86), and
/// to 0 elsewhere, where reading an entry would need barriers that programs do not have. What it is
/// before: see `watch::NETNS_COOKIE`.
#[unsafe(no_mangle)]
static ORDERED_LOADS: Global<u32> = Global::new(0x6f72_6465);

/// The memory of a socket that is gone may be another socket's, in another network namespace: not
/// before some ticks have passed, since sockets are freed after a grace period. Until then the
/// namespace needs no new comparison.
const COMPARED_TICKS: u32 = 8;

/// A packet's flow, as entries know it.
pub struct Sought {
    pub entry: *mut Recent,
    peer: [u64; 2],
    socket: u64,
    ends: u32,
}

#[inline(always)]
fn tick() -> u32 {
    // SAFETY: no arguments. The kernel puts a load in place of the call.
    unsafe { bpf_jiffies64() as u32 }
}

/// The place of the packet's flow, whoever is there.
#[inline(always)]
pub fn place(skb: *const __sk_buff, peer: [u32; 4], peer_port: u16, inbound: u32) -> Option<Sought> {
    if ORDERED_LOADS.load() != 1 {
        return None;
    }
    let peer = [peer[0] as u64 | (peer[1] as u64) << 32, peer[2] as u64 | (peer[3] as u64) << 32];
    let ends = ends(peer_port, inbound);
    let entry = RECENT.get(&index(peer, ends))?;
    // SAFETY: the context is readable. The socket is only compared.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk } as u64;
    Some(Sought { entry, peer, socket, ends })
}

/// Whether it is this flow that the entry holds.
#[inline(always)]
fn holds(sought: &Sought) -> bool {
    let entry = sought.entry;
    // SAFETY: a checked map value, here and below.
    unsafe {
        atomic::load(&raw const (*entry).socket) == sought.socket
            && atomic::load(&raw const (*entry).peer[1]) == sought.peer[1]
            && atomic::load(&raw const (*entry).peer[0]) == sought.peer[0]
            && atomic::load32(&raw const (*entry).ends) == sought.ends
    }
}

/// Counts the packet if its flow is here and its user may send: nearly always. Everything else is
/// said false to, and nothing of it was counted.
#[inline(always)]
pub fn count<const DIR: usize>(sought: &Sought, inbound: u32, body: &Body) -> bool {
    let entry = sought.entry;
    // SAFETY: see `holds`.
    let owner = unsafe {
        let version = atomic::load32(&raw const (*entry).version);
        if !holds(sought)
            || tick().wrapping_sub(atomic::load32(&raw const (*entry).compared)) > COMPARED_TICKS
        {
            return false;
        }
        let owner = atomic::load32(&raw const (*entry).owner);
        if version & 1 != 0 || atomic::load32(&raw const (*entry).version) != version {
            return false;
        }
        owner
    };
    if owner == ACCOUNT_NONE {
        return false;
    }
    let Some(account) = users::account(owner) else { return false };
    let user = users::user(account);
    // Rates and blocked flows are looked at on the longer way.
    if user.is_null() || users::exhausted(user) || users::limits(user) != 0 {
        return false;
    }
    // SAFETY: see `holds`. Should the entry be another flow's by now, that one shows a packet more.
    unsafe {
        (&raw mut (*entry).last_ns).write_volatile(clock::agent_ns());
        let shown = &raw mut (*entry).payload[DIR];
        shown.write_volatile(shown.read_volatile() + body.payload as u64);
    }
    watch::add::<DIR>(inbound, body.payload, body.wire);
    users::add::<DIR>(account, user, body.payload, body.wire);
    true
}

/// Puts an owned flow in, if the place is free or its holder was silent since the agent's last tick.
#[inline(always)]
pub fn offer(sought: &Sought, flow: *mut Flow, owner: u32) {
    let entry = sought.entry;
    // SAFETY: see `holds`.
    unsafe {
        if atomic::load32(&raw const (*entry).owner) != ACCOUNT_NONE {
            if holds(sought) {
                // Its namespace was just compared. Should the entry be another flow's by now, that
                // one's was too.
                (&raw mut (*entry).compared).write_volatile(tick());
                return;
            }
            if atomic::load(&raw const (*entry).last_ns) == clock::agent_ns() {
                return;
            }
        }
    }
    put(sought, flow, owner);
}

#[inline(never)]
fn put(sought: &Sought, flow: *mut Flow, owner: u32) -> u32 {
    let entry = sought.entry;
    let Some(version) = begin(entry) else { return 0 };
    give_back(entry);
    // SAFETY: see `holds`; the flow is one too.
    unsafe {
        (&raw mut (*entry).owner).write_volatile(owner);
        (&raw mut (*entry).socket).write_volatile(sought.socket);
        (&raw mut (*entry).peer[0]).write_volatile(sought.peer[0]);
        (&raw mut (*entry).peer[1]).write_volatile(sought.peer[1]);
        (&raw mut (*entry).ends).write_volatile(sought.ends);
        (&raw mut (*entry).compared).write_volatile(tick());
        (&raw mut (*entry).last_ns).write_volatile(atomic::load(&raw const (*flow).last_ns));
        (&raw mut (*entry).payload[0]).write_volatile(0);
        (&raw mut (*entry).payload[1]).write_volatile(0);
        end(entry, version);
        if atomic::load32(&raw const (*flow).flags) & !FLOW_SHARED != 0 {
            empty(entry);
        }
    }
    0
}

/// Takes a flow out, wherever its packets are; false: the entry was being changed at that moment.
#[inline(always)]
pub fn take_out(key: &FlowKey) -> bool {
    let ends = ends(key.peer_port, key.inbound);
    // SAFETY: the address is the first field, 16 bytes long.
    let words = unsafe { (key as *const FlowKey).cast::<[u32; 4]>().read() };
    let peer = [words[0] as u64 | (words[1] as u64) << 32, words[2] as u64 | (words[3] as u64) << 32];
    let Some(entry) = RECENT.get(&index(peer, ends)) else { return true };
    // SAFETY: see `holds`.
    let (version, same) = unsafe {
        (
            atomic::load32(&raw const (*entry).version),
            atomic::load(&raw const (*entry).peer[0]) == peer[0]
                && atomic::load(&raw const (*entry).peer[1]) == peer[1]
                && atomic::load32(&raw const (*entry).ends) == ends,
        )
    };
    if version & 1 != 0 {
        return false;
    }
    !same || empty(entry)
}

#[inline(always)]
fn empty(entry: *mut Recent) -> bool {
    let Some(version) = begin(entry) else { return false };
    give_back(entry);
    // SAFETY: see `holds`.
    unsafe { (&raw mut (*entry).owner).write_volatile(ACCOUNT_NONE) };
    end(entry, version);
    true
}

/// Begins a change; none if somebody else is at it.
#[inline(always)]
fn begin(entry: *mut Recent) -> Option<u32> {
    // SAFETY: see `holds`.
    let at = unsafe { &raw mut (*entry).version };
    let version = atomic::load32(at);
    if version & 1 == 0 && atomic::replace(at, version, version + 1) { Some(version) } else { None }
}

#[inline(always)]
fn end(entry: *mut Recent, version: u32) {
    // SAFETY: see `holds`. Only who began is here.
    atomic::replace(unsafe { &raw mut (*entry).version }, version + 1, version.wrapping_add(2));
}

/// Adds what the entry counted to its flow.
#[inline(never)]
fn give_back(entry: *mut Recent) -> u32 {
    // SAFETY: see `holds`.
    unsafe {
        if atomic::load32(&raw const (*entry).owner) == ACCOUNT_NONE {
            return 0;
        }
        let mut key = MaybeUninit::<FlowKey>::uninit();
        let (low, high) =
            (atomic::load(&raw const (*entry).peer[0]), atomic::load(&raw const (*entry).peer[1]));
        let peer = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
        let ends = atomic::load32(&raw const (*entry).ends);
        flows::fill(key.as_mut_ptr(), peer, ends as u16, UDP, ends >> 16);
        let payload =
            [atomic::load(&raw const (*entry).payload[0]), atomic::load(&raw const (*entry).payload[1])];
        peers::returned(key.assume_init_ref(), atomic::load(&raw const (*entry).last_ns), payload);
    }
    0
}
