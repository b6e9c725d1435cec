//! What is watched: sing-box's listening ports, per network namespace, and the totals per inbound.

use crate::user::Counters;

/// Inbounds at a time. Index 0 means "not watched".
pub const INBOUNDS_MAX: u32 = 256;

/// The key of `WATCH`, whose value is the inbound's index (u32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct WatchKey {
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`); 0 on kernels whose programs cannot read
    /// it, where a port is watched in every namespace.
    pub netns: u64,
    /// In host byte order.
    pub port: u16,
    pub network: u8,
    pub pad: [u8; 5],
}

/// Words of the map `PORTS`: one byte per port and network, the inbound's index or 0, so that what
/// is not watched is left after one load, and what is watched needs no hash lookup. Word
/// `network_index * 8192 + port / 8`, byte `port % 8`; TCP is network index 0, UDP 1.
///
/// A port that is watched in several network namespaces has one of its inbounds here: where
/// [`Inbound::netns`] is not the packet's, the map `WATCH` decides.
pub const PORTS_WORDS: u32 = 2 * 8192;

// An index fits the byte.
const _: () = assert!(INBOUNDS_MAX <= 256);

/// The totals of an inbound are spread over this many entries of `WATCHED`, by CPU, so that CPUs
/// do not fight over one cache line. Entry `inbound * WATCHED_SHARDS + cpu % WATCHED_SHARDS`.
pub const WATCHED_SHARDS: u32 = 8;

/// Everything that was seen of a watched inbound, owned or not: what an audit compares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Watched {
    /// Added in the same program run as the account's or pending counters.
    pub counters: Counters,
    pub reserved: [u64; 4],
}

/// One inbound. `pending_in - pending_out` is what unowned flows hold in `Flow::pending`, so that
/// an audit needs no walk over all flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Inbound {
    pub pending_in: Counters,
    pub pending_out: Counters,
    /// Written by the agent: makes the array self-describing.
    pub port: u16,
    /// [`NETWORK_TCP`] | [`NETWORK_UDP`]: an inbound that listens on one port with both has one
    /// index.
    pub networks: u8,
    /// 0: free, 1: in use, watched or not. An index is never given to another inbound within an
    /// epoch: its counters belong to this one.
    pub in_use: u8,
    pub tag_len: u32,
    pub netns: u64,
    /// The tag's UTF-8, cut at this length.
    pub tag: [u8; INBOUND_TAG_MAX],
}

pub const NETWORK_TCP: u8 = 1;
pub const NETWORK_UDP: u8 = 2;

/// Bytes of a tag that the kernel map keeps.
pub const INBOUND_TAG_MAX: usize = 112;

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            pending_in: Counters::default(),
            pending_out: Counters::default(),
            port: 0,
            networks: 0,
            in_use: 0,
            tag_len: 0,
            netns: 0,
            tag: [0; INBOUND_TAG_MAX],
        }
    }
}
