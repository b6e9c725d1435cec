//! The decisions: who owns a flow, what goes to which account, what a user may still have.
//!
//! Nothing here does IO, reads a clock or is asynchronous, and nothing here can fail: the time is an
//! argument, input comes as events, output as effects that the daemon carries out.

pub mod account;
pub mod attribute;
pub mod clock_map;
pub mod crowd;
pub mod event;
mod few;
pub mod notice;
pub mod period;
pub mod policy;
pub mod snapshot;
pub mod terms;
pub mod wallet;
