//! Tests of the kernel programs on real sockets of the loopback interface, with exact numbers.
//!
//! They need root, BPF and cgroup v2, and run one after the other: each attaches its own copy of
//! the programs and watches ports of its own.

mod rig;
mod tcp;
