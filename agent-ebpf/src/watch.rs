//! Owns `PORTS`, `WATCH`, `INBOUNDS` and `WATCHED`: which packets are watched, and the totals of
//! everything that was seen of an inbound.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_smp_processor_id},
    macros::btf_map,
};
use boxmeter_common::{
    TCP,
    user::Counters,
    watch::{INBOUNDS_MAX, Inbound, PORTS_WORDS, WATCHED_SHARDS, WatchKey, Watched},
};

use crate::{
    atomic,
    map::{ARRAY, HASH, MMAPABLE, Map},
};

#[btf_map]
static PORTS: Map<u32, u64, ARRAY, { PORTS_WORDS as usize }, MMAPABLE> = Map::new();

/// Ports that several namespaces watch: twice the inbounds, for TCP and UDP.
#[btf_map]
static WATCH: Map<WatchKey, u32, HASH, { 2 * INBOUNDS_MAX as usize }, 0> = Map::new();

#[btf_map]
static INBOUNDS: Map<u32, Inbound, ARRAY, { INBOUNDS_MAX as usize }, MMAPABLE> = Map::new();

#[btf_map]
static WATCHED: Map<u32, Watched, ARRAY, { (INBOUNDS_MAX * WATCHED_SHARDS) as usize }, MMAPABLE> = Map::new();

/// Set to 1 by the loader where cgroup_skb programs can read the cookie of the network namespace,
/// and to 0 elsewhere.
///
/// What it is before must be like no other constant: the compiler keeps equal constants in one
/// place, and a map key would change with this one.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u32> = Global::new(0x6e65_746e);

/// An inbound that listens on the port in some namespace; 0: nobody watches it.
#[inline(always)]
pub fn candidate(network: u8, port: u16) -> u32 {
    let base = if network == TCP { 0 } else { PORTS_WORDS / 2 };
    match PORTS.get(&(base + (port >> 3) as u32)) {
        Some(word) => (atomic::load(word) >> ((port as u32 & 7) * 8)) as u32 & 0xff,
        None => 0,
    }
}

/// The inbound that listens in the namespace of the packet or socket `ctx`.
#[inline(always)]
pub fn inbound(candidate: u32, ctx: *mut c_void, network: u8, port: u16) -> Option<u32> {
    if NETNS_COOKIE.load() != 1 {
        return Some(candidate);
    }
    // SAFETY: a context of a program that has this helper: the loader asked the kernel.
    let netns = unsafe { bpf_get_netns_cookie(ctx) };
    let entry = INBOUNDS.get(&candidate)?;
    // SAFETY: a checked map value, here and below.
    if atomic::load(unsafe { &raw const (*entry).netns }) == netns {
        return Some(candidate);
    }
    elsewhere(netns, network, port)
}

#[inline(never)]
fn elsewhere(netns: u64, network: u8, port: u16) -> Option<u32> {
    let key = WatchKey { netns, port, network, pad: [0; 5] };
    WATCH.get(&key).map(|index| atomic::load32(index))
}

/// Counts a packet (or, with `wire` 0, payload whose packet was counted before).
#[inline(always)]
pub fn add<const DIR: usize>(inbound: u32, payload: u32, wire: u32) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } % WATCHED_SHARDS;
    let Some(watched) = WATCHED.get(&(inbound * WATCHED_SHARDS + cpu)) else { return };
    // SAFETY: see `inbound`.
    unsafe {
        if payload != 0 {
            atomic::add(&raw mut (*watched).counters.payload[DIR], payload as u64);
        }
        if wire != 0 {
            atomic::add(&raw mut (*watched).counters.wire[DIR], wire as u64);
        }
    }
}

/// Bytes went into a flow's pending.
#[inline(always)]
pub fn pending_in<const DIR: usize>(inbound: u32, payload: u32, wire: u32) {
    let Some(entry) = INBOUNDS.get(&inbound) else { return };
    // SAFETY: see `inbound`.
    unsafe {
        if payload != 0 {
            atomic::add(&raw mut (*entry).pending_in.payload[DIR], payload as u64);
        }
        if wire != 0 {
            atomic::add(&raw mut (*entry).pending_in.wire[DIR], wire as u64);
        }
    }
}

/// Bytes left a flow's pending for an account.
#[inline(always)]
pub fn pending_out(inbound: u32, moved: &Counters) {
    let Some(entry) = INBOUNDS.get(&inbound) else { return };
    // SAFETY: see `inbound`.
    unsafe {
        let out = &raw mut (*entry).pending_out;
        atomic::add(&raw mut (*out).payload[0], moved.payload[0]);
        atomic::add(&raw mut (*out).payload[1], moved.payload[1]);
        atomic::add(&raw mut (*out).wire[0], moved.wire[0]);
        atomic::add(&raw mut (*out).wire[1], moved.wire[1]);
    }
}
