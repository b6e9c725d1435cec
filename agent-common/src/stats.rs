//! Counters of everything that can overflow or surprise: the array `STATS`, one u64 each.

/// Index into `STATS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Packets on a watched path whose headers could not be read.
    Unparsable = 0,
    /// Packets of a watched port without a full socket: handshakes, TIME_WAIT, resets.
    NoSocket = 1,
    /// Sockets for which socket storage could not be made.
    StorageFailed = 2,
    /// Packets of UDP peers for which there was no room in `PEERS`.
    PeersFull = 3,
    /// Ended flows settled to unattributed at once because `CLOSED` was full.
    ClosedFull = 4,
    /// Records lost because `EVENTS` was full.
    EventsFull = 5,
    /// TCP segments beyond any receive window, not counted as payload.
    OutOfWindow = 6,
    /// Sockets that were open before the programs.
    OldSockets = 7,
    /// TCP flows opened.
    TcpOpened = 8,
    /// UDP flows opened.
    UdpOpened = 9,
    /// Flows that ended without an owner.
    EndedUnowned = 10,
    /// Packets dropped by a budget.
    Dropped = 11,
    /// Owner slots that were out of range.
    BadSlot = 12,
    /// Packets dropped by a rate.
    DroppedByRate = 13,
    /// Packets dropped because their flow is blocked.
    DroppedByBlock = 14,
    /// Socket options that a rate needs and the kernel refused.
    SteerFailed = 15,
}

/// Number of [`Stat`]s.
pub const STATS_MAX: u32 = 32;

/// Names as `status --json` shows them, in the order of the indexes.
pub const STAT_NAMES: [&str; 16] = [
    "unparsable_packets",
    "packets_without_socket",
    "socket_storage_failed",
    "udp_peers_full_packets",
    "closed_flows_full",
    "events_lost",
    "tcp_out_of_window_segments",
    "old_sockets",
    "tcp_flows_opened",
    "udp_flows_opened",
    "flows_ended_unowned",
    "packets_dropped_by_budget",
    "bad_owner_slots",
    "packets_dropped_by_rate",
    "packets_dropped_by_block",
    "rate_options_refused",
];
