//! What people are told, by a real agent to a real mail server and real HTTP servers: once, whatever is killed,
//! and a server that is dead or hangs holds up nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod crash;
mod mail;
mod mail_sink;
mod reports;
mod rig;
mod sink;
mod telegram;
mod troubles;
mod webhook;
