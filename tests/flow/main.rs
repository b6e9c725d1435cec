//! The whole thing, on real input: a real sing-box, real clients of it, the real agent, and a relay in between
//! that knows what went over the client-facing sockets; and what can happen to them.
//!
//! Every test ends with the same three questions: does each user have exactly the relay's bytes, does
//! the audit find a difference of 0, and is nothing left behind.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod bench;
mod faults;
mod missing;
mod shapes;
