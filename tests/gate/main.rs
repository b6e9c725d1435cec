//! Limits on real users of a real sing-box: whoever is over the quota is cut at the byte, everybody else
//! streams on, and people can read why.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod addresses;
mod bench;
mod changes;
mod crash;
mod guard;
mod hand;
mod leave;
mod limits;
mod managed;
mod many;
mod quota;
mod rig;
mod rollback;
mod running;
mod stopped;
mod troubles;
