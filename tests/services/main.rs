//! Services beside sing-box: real V2Ray with real clients, one list of accounts over all proxies.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod apart;
mod gate;
mod hostile;
mod metered;
mod rig;
mod running;
