//! Monotonic time.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Exact, some 20 ns: for what happens once per flow.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments, here and below.
    unsafe { bpf_ktime_get_ns() }
}

/// As of the last timer tick, up to 10 ms ago, and cheap: for every packet.
#[inline(always)]
pub fn coarse_ns() -> u64 {
    // SAFETY: see `now_ns`.
    unsafe { bpf_ktime_get_coarse_ns() }
}
