//! boxmeter: meters and limits each user of a stock sing-box server, in the kernel.
//!
//! Data flows from `kernel` and `source` through `core` to `ledger`; `daemon` wires them together
//! and answers the API, whose contract is the crate `boxmeter-web`; `cli` is a client of that API, and so
//! is `panel`, a process of its own.

pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod daemon;
pub mod doctor;
pub mod enforcer;
mod fault;
pub mod import;
pub mod kernel;
pub mod ledger;
pub mod notify;
pub mod panel;
pub mod service;
pub mod singbox;
pub mod source;
pub mod v2ray;
pub use boxmeter_web::units;
