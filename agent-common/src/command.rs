//! What the agent asks of the kernel: one entry of the memory-mapped array `COMMAND`, filled by the
//! agent and worked off by the program `command`, one per run. A program run is never half done,
//! whatever happens to the agent: bytes that move from a flow to an account move once.

use crate::{flow::FlowKey, user::Counters};

/// Commands that one call works off.
pub const COMMANDS_MAX: u32 = 256;

/// The flow belongs to account `slot`. A first owner stays. Pending bytes settle to the account:
/// of a live UDP flow and of an ended TCP flow at once, of a live TCP flow with its next packet.
pub const OP_OWN: u32 = 1;
/// The ended TCP flow `id` gets no owner any more: pending bytes settle to unattributed.
pub const OP_EXPIRE: u32 = 2;
/// The UDP peer was idle since `before_ns`: from now on its bytes pass it by.
pub const OP_CLOSE_PEER: u32 = 3;
/// Forgets a UDP peer for which `OP_CLOSE_PEER` was answered at least 100 ms ago.
pub const OP_FORGET_PEER: u32 = 4;
/// Marks the flow as shared (`FLOW_SHARED`), for people.
pub const OP_SHARED: u32 = 5;

/// No such flow, or not in the state that the command needs.
pub const RESULT_NOT_FOUND: u32 = 1;
/// Done on a live flow.
pub const RESULT_LIVE: u32 = 2;
/// Done on an ended flow, which is forgotten now.
pub const RESULT_ENDED: u32 = 3;
/// The flow has another owner.
pub const RESULT_TAKEN: u32 = 4;
/// For a TCP flow that did not end: noted, the flow picks it up with its next packet.
pub const RESULT_NOTED: u32 = 5;
/// The map `OWNERS` is full.
pub const RESULT_FULL: u32 = 6;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Command {
    /// `OP_*`.
    pub op: u32,
    /// The account slot.
    pub slot: u32,
    pub id: u64,
    pub key: FlowKey,
    pub before_ns: u64,
    /// `RESULT_*`, written by the program.
    pub result: u32,
    pub pad: u32,
    /// What moved, written by the program.
    pub settled: Counters,
}

/// The head of the mailbox: the program takes `next`, adds one, and works off that entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Mailbox {
    pub next: u64,
    pub count: u64,
}
