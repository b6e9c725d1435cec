//! The panel as a process beside a real agent: who gets in, what each may do, and what becomes of those who
//! try more.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod attacks;
mod bench;
mod handover;
mod life;
mod metrics;
#[path = "../../web/src/share/qr_reader.rs"]
mod qr_reader;
mod rig;
mod schema;
mod signing_in;
mod tls;
mod tokens;
mod trail;
