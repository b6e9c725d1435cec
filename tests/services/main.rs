//! Services beside sing-box: real V2Ray with real clients, one list of accounts over all proxies.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod accounts;
mod apart;
mod counting;
mod gate;
mod hostile;
mod limits;
mod metered;
mod nginx;
mod refused;
mod reported;
mod rig;
mod together;
