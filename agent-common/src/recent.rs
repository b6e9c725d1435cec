//! UDP flows that were seen lately, in front of `PEERS`: what nearly every packet needs, in one
//! cache line that is reached without a call.

/// Entries of `RECENT`, a power of two.
pub const RECENT_MAX: u32 = 1024;

/// One owned flow. The programs keep it as long as its packets keep coming, and give its counters
/// back to the flow when another one takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Recent {
    /// Odd while the entry is being changed; what was read holds if it is the same even number
    /// before and after.
    pub version: u32,
    /// The account slot; [`crate::user::ACCOUNT_NONE`]: the entry is free.
    pub owner: u32,
    /// Which socket, as a number that only the kernel understands: it stands for the local port
    /// and the network namespace.
    pub socket: u64,
    /// `FlowKey::peer`.
    pub peer: [u64; 2],
    /// See [`ends`].
    pub ends: u32,
    /// Low bits of the kernel's tick when the socket's namespace was last compared.
    pub compared: u32,
    /// As in `Flow`.
    pub last_ns: u64,
    /// What is to be added to `Flow::payload`.
    pub payload: [u64; 2],
}

/// A flow's client port and inbound (below `INBOUNDS_MAX`) in one word.
#[inline(always)]
pub const fn ends(peer_port: u16, inbound: u32) -> u32 {
    peer_port as u32 | inbound << 16
}

/// The place of a flow in `RECENT`. Several share one.
#[inline(always)]
pub const fn index(peer: [u64; 2], ends: u32) -> u32 {
    let mixed = (peer[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ peer[1] ^ ends as u64)
        .wrapping_mul(0xd6e8_feb8_6659_fd93);
    // Only the highest bits depend on all bits of the input.
    (mixed >> (64 - RECENT_MAX.ilog2())) as u32
}
