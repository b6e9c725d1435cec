//! Rates: how fast a user may go, by direction, over all its flows.
//!
//! The agent writes `rate` and the programs do the rest, so that a rate holds without an agent. A
//! lane's `clock_ns` says when everything that was let through would have been sent at the rate;
//! how far it is ahead of now is the debt. UDP packets are dropped while the debt is too large. TCP
//! is steered: its flows are given a common `grant`, which is corrected once per interval by what
//! all of them carried together. A flow that sends nothing therefore holds nothing.

use crate::user::USERS_MAX;

/// Entries of `RATES`: by the user's slot. Slot 0 says with `rate != 0` that somebody has one.
pub const RATES_MAX: u32 = USERS_MAX;

/// Flows that are blocked at a time.
pub const BLOCKED_MAX: u32 = 65_536;

/// One direction. Payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Lane {
    /// Bytes per second; 0: no limit. Written by the agent.
    pub rate: u64,
    /// Monotonic nanoseconds.
    pub clock_ns: u64,
    /// Download: bytes per second that each TCP flow is paced at. Upload: bytes of receive window
    /// that each TCP flow offers. 0: not yet known. The agent scales it when it changes the rate.
    pub grant: u64,
    /// When the interval began, and when it ends.
    pub since_ns: u64,
    pub until_ns: u64,
    /// In the interval: carried by TCP.
    pub tcp: u64,
    /// In the interval: offered by UDP, dropped or not.
    pub udp: u64,
    /// In the interval: packets of TCP as the hook sees them.
    pub packets: u32,
    /// The longest round-trip time of the user's flows lately, in microseconds.
    pub rtt_us: u32,
}

/// Both directions of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rate {
    pub lanes: [Lane; 2],
}

/// What a TCP socket was last told; the value of `PACES`, in socket storage. 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pace {
    /// `SO_MAX_PACING_RATE` in bytes per second.
    pub rate: u32,
    /// 1 after `TCP_WINDOW_CLAMP` was set.
    pub clamped: u32,
}
