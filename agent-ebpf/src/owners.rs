//! Owns `OWNERS`: what the agent knows about live TCP flows, until the flow picks it up.

use aya_ebpf::macros::btf_map;
use boxmeter_common::flow::OWNERS_MAX;

use crate::{
    atomic,
    map::{HASH, Inserted, Map, NO_PREALLOC},
};

#[btf_map]
static OWNERS: Map<u64, u32, HASH, { OWNERS_MAX as usize }, NO_PREALLOC> = Map::new();

#[inline(always)]
pub fn noted(id: u64) -> Option<u32> {
    OWNERS.get(&id).map(|slot| atomic::load32(slot))
}

#[inline(always)]
pub fn note(id: u64, slot: u32) -> Inserted {
    OWNERS.insert(&id, &slot)
}

#[inline(always)]
pub fn forget(id: u64) {
    OWNERS.remove(&id);
}
