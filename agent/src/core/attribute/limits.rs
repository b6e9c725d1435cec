//! The limits of attribution, each with its reason, and the counters of what they turned away.

/// Flows known at a time: the kernel's UDP peers (`PEERS_MAX`) and room for TCP.
pub const FLOWS_MAX: usize = 300_000;

/// Sightings that wait for their flow or for the configuration: eight seconds of the 2,000
/// connections per second that two cores of sing-box were seen to take.
pub const SIGHTINGS_WAITING_MAX: usize = 16_384;

/// How long a sighting waits. The flow's event and the sighting take separate ways of milliseconds;
/// seconds pass only when a reader was stopped or the flow is found by the next walk.
pub const SIGHTING_AGE_NS: u64 = 5_000_000_000;

/// How long an ended flow waits for its owner, twice the age of sightings: a source may be late for
/// as long as its buffers hold.
pub const ENDED_GRACE_NS: u64 = 10_000_000_000;

/// How long a decision is put off that rests on *no other* flow being there: the event of the other
/// flow may be on its way. Until then the flow's bytes are pending, not lost.
pub const DECIDE_AFTER_NS: u64 = 250_000_000;

/// How late a line of a log may arrive, where it does not say its time. Flows of this window are
/// candidates; a larger one makes more ambiguous, a smaller one could give a late line to the next
/// flow of the same address and port.
pub const LOG_LAG_NS: u64 = 5_000_000_000;

/// How long after a connection began its line is written to a log that names the second: by a thread of
/// its own, so that a short connection has ended by then.
pub const LOG_WRITTEN_NS: u64 = 1_000_000_000;

/// Flows with one port on one inbound that are looked at for a forwarded address, and sightings that
/// are looked at when a flow opens. Behind one address ports are unique, so that there are rarely more
/// than a few; somebody with many addresses could make it many, and gets no match then.
pub const SAME_PORT_MAX: usize = 64;

/// Open connections over UDP that are remembered, to tell a hand-over of a peer address from sharing.
pub const UDP_CONNECTIONS_MAX: usize = 131_072;

/// A new flow of a UDP peer belongs to the user whose connections were open there when the last one
/// ended, if that was not longer ago than this: sing-box itself ends UDP sessions after 5 minutes.
pub const UDP_RESUME_NS: u64 = 300_000_000_000;

/// After a source has begun to replay its open connections, it has told them all after this time.
pub const REPLAY_NS: u64 = 5_000_000_000;

/// Connections whose reported totals are remembered, the ended ones included: sing-box tells the last
/// ended connections again, and they must not count twice.
pub const REPORTED_CONNECTIONS_MAX: usize = 65_536;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened to sightings and flows, since the start of the agent.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct AttributeCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AttributeCounters {
            /// Names and values, as `status --json` shows them.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Sightings, each of which has exactly one of the following ends or is waiting.
    sightings,
    /// … gave a flow its owner.
    sightings_owned,
    /// … repeated what was known.
    sightings_repeated,
    /// … named a second user of a flow.
    sightings_shared,
    /// … named the next user of a UDP peer whose earlier user had gone.
    sightings_handed_over,
    /// … are of connections whose flow nothing tells, or that have none: counted by their reported totals.
    sightings_reported,
    /// … are of such connections, and the source does not tell totals: nobody is charged for them.
    sightings_without_totals,
    /// … had no user name: inbounds without users, users without names.
    sightings_without_user,
    /// … had port 0 as the client's.
    sightings_without_port,
    /// … named an inbound that is not watched.
    sightings_unknown_inbound,
    /// … named a user that did not become known in time.
    sightings_unknown_user,
    /// … matched no flow in time.
    sightings_unmatched,
    /// … could be of more than one flow, and were given to none.
    sightings_ambiguous,
    /// … came when the UDP flow had ended and its bytes were settled.
    sightings_late,
    /// … found the waiting room full.
    sightings_waiting_full,
    /// Flows whose owner is known by the port alone.
    flows_by_port,
    /// Flows seen with a second user.
    flows_shared,
    /// UDP flows that were ended because another user came from the peer's address.
    flows_handed_over,
    /// New flows of a UDP peer that belong to whose connections were still open there.
    flows_resumed,
    /// TCP flows that ended and found no owner in time.
    flows_expired,
    /// Flows not taken in because too many were known.
    flows_full,
    /// Flows that a complete walk did not find any more: their closing was not reported.
    flows_close_lost,
    /// Flows whose end is known only from the next one with the same addresses.
    flows_close_implied,
    /// Closings of flows that were not known.
    flows_close_unknown,
    /// Owners told to the kernel again, because a walk found the flow still without.
    flows_owner_repeated,
    /// Open connections over UDP not remembered because there were too many.
    udp_connections_full,
    /// Connections outside the watched sockets not counted because there were too many.
    reported_connections_full,
    /// Connections outside the watched sockets that were known when the agent started: their bytes up
    /// to then are not counted again.
    reported_connections_old,
}
