//! The panel as a process beside a real agent: who gets in, what each may do, and what becomes of those who
//! try more.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod attacks;
mod bench;
mod life;
mod metrics;
mod rig;
mod schema;
mod signing_in;
mod tls;
mod tokens;
mod trail;
