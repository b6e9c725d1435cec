//! Accounts and users: where bytes are counted, and what a user may still have.
//!
//! An *account* is one (user, inbound) pair and holds the counters that the ledger reads. A *user*
//! holds what a budget is compared with, over all its accounts. Both are slots of memory-mapped
//! arrays, written by the programs with atomic additions and read by the agent without a call.

/// Slots for (user, inbound) pairs, those of [`crate::watch::INBOUNDS_MAX`] included.
pub const ACCOUNTS_MAX: u32 = 65_536;

/// Slots for users. Slot 0 is nobody: it has no limits and is not counted on.
pub const USERS_MAX: u32 = 16_384;

/// The account slot that means "owner not known". The unattributed bytes of inbound `i`
/// (1 ≤ i < `INBOUNDS_MAX`) are in account slot `i`; users' accounts follow after those.
pub const ACCOUNT_NONE: u32 = 0;

/// First account slot that may belong to a user.
pub const ACCOUNT_FIRST: u32 = crate::watch::INBOUNDS_MAX;

/// No limit: a counter never gets there.
pub const UNLIMITED: u64 = u64::MAX;

/// Bytes, by direction ([`crate::UPLOAD`], [`crate::DOWNLOAD`]). They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Bytes carried by TCP or UDP, without headers and retransmissions.
    pub payload: [u64; 2],
    /// IP packet bytes: every segment's headers, and retransmissions, included.
    pub wire: [u64; 2],
}

/// One (user, inbound) pair, or the unattributed bytes of one inbound.
///
/// Everything but `counters` is written by the agent, before the slot number is given to any flow,
/// and makes the array self-describing: a new agent learns from it whose the slots are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Account {
    pub counters: Counters,
    /// The user's slot, 0 for unattributed bytes.
    pub user: u32,
    /// The inbound's index.
    pub inbound: u32,
    /// The user's id (UUID v7), zero for unattributed bytes.
    pub user_id: [u8; 16],
    /// 0: free. 1: in use. Written last.
    pub in_use: u32,
    /// Grows each time the slot is given to another pair.
    pub generation: u32,
}

/// What a user has used and may use. `billed` is the counter that both thresholds are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct User {
    /// Both directions of the meter that `meter` names, over all accounts of the user. Only grows.
    pub billed: u64,
    /// At or past it every packet of the user is dropped. [`UNLIMITED`] where there is no budget.
    pub cut_at: u64,
    /// Passing it makes one event. [`UNLIMITED`] where no warning is wanted.
    pub warn_at: u64,
    /// Monotonic nanoseconds after which the budget ends even when it is not used up; 0: never.
    /// Room for budgets that are granted for a time.
    pub until_ns: u64,
    /// [`METER_PAYLOAD`] or [`METER_WIRE`].
    pub meter: u32,
    /// `LIMIT_*`: what else is to be looked at before a packet passes. In the cache line that every
    /// packet needs anyway, so that a user without rates and blocks costs nothing more.
    pub limits: u32,
    /// [`EVENT_WARNED`] | [`EVENT_CUT`]: events already sent; the agent clears them when it moves a
    /// threshold.
    pub events: u32,
    pub in_use: u32,
    pub generation: u32,
    pub pad: u32,
    pub reserved: u64,
    /// Dropped by the budget.
    pub dropped_packets: [u64; 2],
    /// IP packet bytes that the budget dropped; they are in no other counter.
    pub dropped_bytes: [u64; 2],
    /// IP packet bytes that a rate or a block dropped; they are in no other counter.
    pub limited_bytes: [u64; 2],
    /// The user's id (UUID v7).
    pub user_id: [u8; 16],
}

/// The user has a rate: see [`crate::rate`].
pub const LIMIT_RATE: u32 = 1;
/// Some flow of the user is in the map `BLOCKED`.
pub const LIMIT_BLOCKED: u32 = 2;

pub const METER_PAYLOAD: u32 = 0;
pub const METER_WIRE: u32 = 1;

pub const EVENT_WARNED: u32 = 1;
pub const EVENT_CUT: u32 = 2;
