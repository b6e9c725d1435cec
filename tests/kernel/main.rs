//! Tests of the kernel programs on real sockets, with exact numbers.
//!
//! They need root, BPF and cgroup v2, and run one after the other (`rig` sees to that): each
//! attaches its own copy of the programs and watches ports of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod bench_cost;
mod bench_rates;
mod blocks;
mod budget;
mod conservation;
mod hostile;
mod link;
mod load;
mod net;
mod owners;
mod pins;
mod rates;
mod recent;
mod rig;
mod tcp;
mod udp;
mod wire;
