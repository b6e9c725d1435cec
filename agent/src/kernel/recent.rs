//! The clock that the agent winds for the programs, and the UDP flows that they saw lately.

use boxmeter_common::{
    flow::Flow,
    recent::{Recent, ends, index},
    user::ACCOUNT_NONE,
};

use super::{load::Kernel, shared};

/// An entry that is changed just now is read again this often. What is missed then is shown by the
/// next walk.
const TRIES: usize = 8;

impl Kernel {
    /// Tells the programs the time: when a UDP flow had its last packet is known as exactly as this
    /// is called.
    pub(super) fn wind_clock(&self) {
        // SAFETY: a mapped word.
        unsafe { shared::store(self.clock.at(0), crate::clock::mono_ns()) };
    }

    /// Adds to a flow, as read from `PEERS`, what its entry in `RECENT` has counted since.
    pub(super) fn complete(&self, flow: &mut Flow) {
        // The clock stood still while there was no agent: nobody was idle in that time.
        flow.last_ns = flow.last_ns.max(flow.opened_ns).max(self.opened_ns);
        let mut words = [[0u8; 8]; 2];
        words[0].copy_from_slice(&flow.key.peer[..8]);
        words[1].copy_from_slice(&flow.key.peer[8..]);
        let peer = words.map(u64::from_ne_bytes);
        let ends = ends(flow.key.peer_port, flow.key.inbound);
        let Some(entry) = self.read_recent(index(peer, ends)) else { return };
        if entry.owner == ACCOUNT_NONE || entry.peer != peer || entry.ends != ends {
            return;
        }
        flow.last_ns = flow.last_ns.max(entry.last_ns);
        for direction in 0..2 {
            flow.payload[direction] = flow.payload[direction].wrapping_add(entry.payload[direction]);
        }
    }

    fn read_recent(&self, index: u32) -> Option<Recent> {
        let entry = self.recent.at(index);
        for _ in 0..TRIES {
            // SAFETY: fields of a mapped value, here and below.
            let version = unsafe { shared::load32(&raw const (*entry).version) };
            let found = unsafe {
                Recent {
                    version,
                    owner: shared::load32(&raw const (*entry).owner),
                    socket: 0,
                    peer: [
                        shared::load(&raw const (*entry).peer[0]),
                        shared::load(&raw const (*entry).peer[1]),
                    ],
                    ends: shared::load32(&raw const (*entry).ends),
                    compared: 0,
                    last_ns: shared::load(&raw const (*entry).last_ns),
                    payload: [
                        shared::load(&raw const (*entry).payload[0]),
                        shared::load(&raw const (*entry).payload[1]),
                    ],
                }
            };
            if version & 1 == 0 && unsafe { shared::load32(&raw const (*entry).version) } == version {
                return Some(found);
            }
        }
        None
    }
}
