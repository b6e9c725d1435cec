//! The agent's side of the kernel programs, and the only place that knows how they are loaded:
//! load and pin, watch ports, read counters, drain flows, give owners and budgets.
//!
//! Bytes are moved by the programs alone. The agent reads counters that only grow, and asks for
//! moves by commands: it can die at any line here and nothing is lost or counted twice.

mod accounts;
mod audit;
mod commands;
mod destroy;
mod drain;
mod error;
mod kept;
mod limits;
mod load;
mod netns;
mod pins;
pub mod probe;
mod recent;
mod shared;
mod sys;
mod watch;

pub use accounts::{AccountInfo, UserInfo, UserSlot};
pub use audit::Audit;
pub use destroy::Destroyed;
pub use drain::{Events, KernelEvent, PeerCursor, key, seen};
pub use error::KernelError;
pub use limits::RATE_MIN;
pub use load::{Kernel, KernelConfig};
pub use netns::{MAY_NOT_ENTER, Namespace};
pub use pins::present_epoch;
pub use watch::{InboundInfo, WatchPort, cut};
