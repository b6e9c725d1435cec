//! Flows: one client-facing transport conversation as the kernel sees it.

use crate::user::Counters;

/// Which conversation: an inbound stands for the local port and the network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    /// The client's address; IPv4 as `::ffff:a.b.c.d`.
    pub peer: [u8; 16],
    pub inbound: u32,
    /// The client's port, in host byte order.
    pub peer_port: u16,
    /// [`crate::TCP`] or [`crate::UDP`].
    pub network: u8,
    pub pad: u8,
}

/// The state of one flow: the value of `SOCKETS` (TCP, in socket storage), of `PEERS` (UDP, by
/// [`FlowKey`]) and of `CLOSED` (TCP flows that ended before their owner was known, by `id`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    pub key: FlowKey,
    /// Never used twice within an epoch: the socket cookie for TCP, a number with the highest bit
    /// set for UDP.
    pub id: u64,
    /// Monotonic nanoseconds (`CLOCK_MONOTONIC`) of the connection's establishment, or of its
    /// first packet.
    pub opened_ns: u64,
    /// UDP: the agent's tick before the last packet (of packets since in `RECENT`: see there). TCP: when the flow was made; in `CLOSED` when
    /// the socket closed.
    pub last_ns: u64,
    /// The account slot that its bytes go to, or [`crate::user::ACCOUNT_NONE`].
    pub owner: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
    /// TCP: the sequence number after the highest payload byte counted, by direction.
    pub mark: [u32; 2],
    /// Payload of the whole flow, by direction, owned or not: for people, not for the ledger, since
    /// two CPUs that count at the same moment may lose one of their additions here.
    pub payload: [u64; 2],
    /// Bytes counted while the owner was not known and not yet settled to an account.
    pub pending: Counters,
}

/// The socket was there before the programs: its owner may never be reported, so that its bytes go
/// to the inbound's unattributed account at once instead of to `pending`.
pub const FLOW_OLD: u32 = 1;
/// A UDP peer that is about to be forgotten: its bytes go straight to its account (or to the
/// unattributed one), so that nothing is lost when the entry is deleted one tick later.
pub const FLOW_CLOSING: u32 = 2;
/// The agent saw a second user on the flow.
pub const FLOW_SHARED: u32 = 4;
/// An ended flow, in `CLOSED`.
pub const FLOW_CLOSED: u32 = 8;

/// Highest bit of the ids of UDP flows.
pub const UDP_ID: u64 = 1 << 63;

/// UDP peers at a time. More are counted as unattributed, and in `Stat::PeersFull`.
pub const PEERS_MAX: u32 = 262_144;

/// Ended TCP flows that wait for their owner. More are settled to unattributed at once, and counted
/// in `Stat::ClosedFull`.
pub const CLOSED_MAX: u32 = 32_768;

/// Owners told by the agent that the flow has not picked up yet.
pub const OWNERS_MAX: u32 = 131_072;
