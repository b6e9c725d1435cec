//! Owns `STATS`: counters of everything that can overflow or surprise.

use aya_ebpf::macros::btf_map;
use boxmeter_common::stats::{STATS_MAX, Stat};

use crate::{
    atomic,
    map::{ARRAY, MMAPABLE, Map},
};

#[btf_map]
static STATS: Map<u32, u64, ARRAY, { STATS_MAX as usize }, MMAPABLE> = Map::new();

#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(at) = STATS.get(&(stat as u32)) {
        atomic::add(at, 1);
    }
}

/// Counts and returns the number before: every UDP flow has another one.
#[inline(always)]
pub fn number(stat: Stat) -> Option<u64> {
    STATS.get(&(stat as u32)).map(|at| atomic::fetch_add(at, 1))
}
