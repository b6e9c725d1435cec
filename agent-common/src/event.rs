//! Records of the ring buffer `EVENTS`. They are news, never bytes: a lost record costs time, not
//! money, because the agent finds the flow again when it walks the flows.

use crate::flow::FlowKey;

pub const EVENT_FLOW_OPENED: u32 = 1;
pub const EVENT_FLOW_CLOSED: u32 = 2;
pub const EVENT_USER_WARN: u32 = 3;
pub const EVENT_USER_CUT: u32 = 4;

/// Size of the ring buffer in bytes: 8,000 records, four seconds of 1,000 connections per second.
pub const EVENTS_BYTES: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `EVENT_*`.
    pub kind: u32,
    /// The user's slot for `EVENT_USER_*`; the flow's account slot for `EVENT_FLOW_CLOSED`.
    pub slot: u32,
    pub id: u64,
    pub key: FlowKey,
    pub opened_ns: u64,
    pub at_ns: u64,
    pub payload: [u64; 2],
    /// `User::billed` for `EVENT_USER_*`.
    pub billed: u64,
}
