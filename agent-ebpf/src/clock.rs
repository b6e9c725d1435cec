//! Owns `CLOCK`. Monotonic time.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};

use crate::{
    atomic,
    map::{ARRAY, MMAPABLE, Map},
};

/// Monotonic nanoseconds as of the agent's last tick, written by the agent.
#[btf_map]
static CLOCK: Map<u32, u64, ARRAY, 1, MMAPABLE> = Map::new();

/// Exact, some 20 ns: for what happens once per flow.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments, here and below.
    unsafe { bpf_ktime_get_ns() }
}

/// As of the last timer tick, up to 10 ms ago, some 20 ns: for what needs it at every packet.
#[inline(always)]
pub fn coarse_ns() -> u64 {
    // SAFETY: see `now_ns`.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// As of the agent's last tick, and for nothing: for every packet. It stands still while no agent
/// runs.
#[inline(always)]
pub fn agent_ns() -> u64 {
    match CLOCK.get(&0) {
        Some(at) => atomic::load(at),
        None => 0,
    }
}
