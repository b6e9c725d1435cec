//! What comes into the core and goes out of it, in types that every part of the agent speaks.

use std::{fmt, net::SocketAddr, sync::Arc};

use uuid::Uuid;

pub use boxmeter_common::user::Counters;

/// A user's id (UUID v7). Names may change, ids never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A policy's id (UUID v7). Names may change, ids never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub Uuid);

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A flow's id: unique within a kernel epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// An inbound's index in the kernel's maps: 1 ≤ index < `INBOUNDS_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundIndex(pub u32);

/// An account slot in the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// The transport protocol of a flow, or the network of a proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    Tcp,
    Udp,
}

/// Both clocks, read together by the shell: intervals come from `mono_ns`, instants from `wall_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_MONOTONIC` in nanoseconds, the kernel programs' clock.
    pub mono_ns: u64,
    /// Unix time in milliseconds.
    pub wall_ms: i64,
}

/// Where a sighting came from, in falling order of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    Api,
    ClashLogs,
    LogFile,
}

/// A flow as the kernel reports it: opened, or found on a walk over all flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSeen {
    pub id: FlowId,
    pub inbound: InboundIndex,
    pub network: Network,
    /// The client's true address, IPv4 never as a mapped IPv6 address.
    pub peer: SocketAddr,
    pub opened_ns: u64,
    /// The account slot that the kernel has for it, if any.
    pub owner: Option<Slot>,
}

/// sing-box says that a connection of a user came from an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub source: SourceKind,
    /// The source's own id of the connection: sightings are idempotent by it.
    pub connection: Arc<str>,
    /// The inbound's tag.
    pub inbound: Arc<str>,
    /// The tags of others that it may be on as well: not every source tells that.
    pub or_inbounds: Arc<[Arc<str>]>,
    /// The proxied connection's network, which is not always the flow's transport: UDP may be
    /// carried over TCP, and QUIC carries TCP streams.
    pub network: Network,
    /// As reported: a client can forge the address through X-Forwarded-For. IPv4 never mapped.
    pub peer: SocketAddr,
    pub user: Arc<str>,
    /// When sing-box created the connection, Unix milliseconds; `None` where the source does not
    /// say, and the time of arrival is meant.
    pub created_ms: Option<i64>,
    /// It was created up to so much later than `created_ms`: a log may name the second only.
    pub within_ms: i64,
    /// The connection has ended already.
    pub closed: bool,
    /// Proxied bytes so far (client to target, target to client), where the source says them.
    pub totals: Option<[u64; 2]>,
}

/// What a source tells, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// Connected; what follows begins with a replay of the open connections if `replay`.
    Connected {
        source: SourceKind,
        replay: bool,
    },
    Sighting(Sighting),
    /// The connection ended, with its totals where the source says them.
    Ended {
        source: SourceKind,
        connection: Arc<str>,
        totals: Option<[u64; 2]>,
    },
    /// The source is gone, with a reason for people; it tries again by itself.
    Disconnected {
        source: SourceKind,
        reason: String,
    },
    /// Something was lost or refused on the way: the name of a counter, and how many.
    Lost {
        counter: &'static str,
        count: u64,
    },
}

/// How a flow's owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerBy {
    Api,
    ClashLogs,
    LogFile,
    /// The reported address matched no flow, but the port matched exactly one.
    ByPort,
    /// More than one user was seen on the flow; the first one owns it.
    Shared,
    /// From sing-box's own totals, not from the kernel.
    Reported,
}
