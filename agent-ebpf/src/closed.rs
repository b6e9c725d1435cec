//! Owns `CLOSED`: TCP flows that ended before their owner was known, with the bytes that they held.
//!
//! An entry never changes. Whoever removes it has its bytes, and of several at the same time one
//! does: so an entry is read first, and counted only by the one whose removal succeeded.

use aya_ebpf::macros::btf_map;
use boxmeter_common::{
    flow::{CLOSED_MAX, Flow},
    user::Counters,
};

use crate::{
    flows,
    map::{HASH, Inserted, Map, NO_PREALLOC},
};

#[btf_map]
static CLOSED: Map<u64, Flow, HASH, { CLOSED_MAX as usize }, NO_PREALLOC> = Map::new();

#[inline(always)]
pub fn insert(id: u64, flow: &Flow) -> Inserted {
    CLOSED.insert(&id, flow)
}

/// Settles the ended flow to `slot` (0: to unattributed) and forgets it; says whether this call did.
#[inline(never)]
pub fn claim(id: u64, slot: u32, moved: &mut Counters) -> bool {
    let Some(flow) = CLOSED.get(&id) else { return false };
    // SAFETY: a checked map value.
    let inbound = unsafe {
        moved.payload[0] = (*flow).pending.payload[0];
        moved.payload[1] = (*flow).pending.payload[1];
        moved.wire[0] = (*flow).pending.wire[0];
        moved.wire[1] = (*flow).pending.wire[1];
        (*flow).key.inbound
    };
    if !CLOSED.remove(&id) {
        return false;
    }
    flows::credit(inbound, if slot == 0 { inbound } else { slot }, moved);
    true
}
