//! Subscriptions as clients use them: what the real agent tells of real sing-box servers is taken by real
//! sing-box clients, and carries traffic for every inbound type that has users.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod carries;
mod life;
mod link_reader;
mod rig;
