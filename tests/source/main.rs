//! Sources of owners and `doctor --fix` against real sing-box 1.12, 1.13 and 1.14 on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]
// Helpers of tests are tests.

mod edit;
mod fix;
mod managed;
mod netns;
mod owners;
mod server;
