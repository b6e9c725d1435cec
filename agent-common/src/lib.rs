//! The layout of everything that the kernel programs and the agent share, and nothing else.
//!
//! Every type is `#[repr(C)]`, padded by hand, without `bool` and without references.
//! [`ABI_VERSION`] grows with every change of a layout or of a meaning; it stands in the pinned
//! map `META`, so that an agent never reads maps of another layout.
#![no_std]

pub mod command;
pub mod event;
pub mod flow;
pub mod layout;
#[cfg(feature = "user")]
pub mod pod;
pub mod rate;
pub mod recent;
pub mod stats;
pub mod user;
pub mod watch;

/// Version of the layout and of the meaning of all maps.
pub const ABI_VERSION: u32 = 3;

/// Client to server, what the kernel sees as ingress. An index into every pair of counters.
pub const UPLOAD: usize = 0;
/// Server to client, what the kernel sees as egress. An index into every pair of counters.
pub const DOWNLOAD: usize = 1;

/// IP protocol numbers, as `network` has them everywhere here.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// Names of the pinned maps; also the names of their files below the pin directory.
pub mod maps {
    pub const ACCOUNTS: &str = "ACCOUNTS";
    pub const BLOCKED: &str = "BLOCKED";
    pub const CLOCK: &str = "CLOCK";
    pub const CLOSED: &str = "CLOSED";
    pub const COMMAND: &str = "COMMAND";
    pub const EVENTS: &str = "EVENTS";
    pub const INBOUNDS: &str = "INBOUNDS";
    pub const MAILBOX: &str = "MAILBOX";
    pub const META: &str = "META";
    pub const OWNERS: &str = "OWNERS";
    pub const PACES: &str = "PACES";
    pub const PEERS: &str = "PEERS";
    pub const PORTS: &str = "PORTS";
    pub const RATES: &str = "RATES";
    pub const RECENT: &str = "RECENT";
    pub const SOCKETS: &str = "SOCKETS";
    pub const STATS: &str = "STATS";
    pub const USERS: &str = "USERS";
    pub const WATCH: &str = "WATCH";
    pub const WATCHED: &str = "WATCHED";
}

/// The one entry of the map `META`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`ABI_VERSION`] of the programs that made the maps; 0 until the agent wrote it.
    pub abi_version: u32,
    pub reserved: u32,
    /// 128 random bits, new whenever the maps are new: kernel counters are only comparable within
    /// one epoch.
    pub epoch: [u8; 16],
}
