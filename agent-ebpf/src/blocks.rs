//! Owns `BLOCKED`: flows of which every packet is dropped, by flow id. The agent writes it; a flow
//! that ends is taken out here.

use aya_ebpf::macros::btf_map;
use boxmeter_common::rate::BLOCKED_MAX;

use crate::map::{HASH, Map, NO_PREALLOC};

/// The value is the user's slot.
#[btf_map]
static BLOCKED: Map<u64, u32, HASH, { BLOCKED_MAX as usize }, NO_PREALLOC> = Map::new();

#[inline(always)]
pub fn has(id: u64) -> bool {
    BLOCKED.get(&id).is_some()
}

#[inline(always)]
pub fn forget(id: u64) {
    BLOCKED.remove(&id);
}
