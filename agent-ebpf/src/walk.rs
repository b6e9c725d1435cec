//! The iterator over TCP sockets: it gives noted owners to sockets that are silent, settles what
//! they hold for a known owner, tells them their rates, and writes every flow for the agent to read.
//!
//! It is the iterator `tcp`, which sees one network namespace, and not the one over socket storage,
//! which sees all: some kernels refuse programs of the latter.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_seq_write, bpf_skc_to_tcp_sock},
};
use boxmeter_common::{flow::Flow, user::ACCOUNT_NONE};

use crate::{flows, sockets, steer};

/// The head of every iterator's context.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    sk: *mut c_void,
}

#[inline(always)]
pub fn socket(ctx: *const Context) {
    // SAFETY: the kernel fills the context; the socket is null at the end of the walk.
    unsafe {
        let sk = (&raw const (*ctx).sk).read_volatile();
        if sk.is_null() {
            return;
        }
        let sk = bpf_skc_to_tcp_sock(sk);
        if sk.is_null() {
            return;
        }
        let flow = sockets::storage(sk.cast());
        if flow.is_null() {
            return;
        }
        let owner = flows::owner(flow);
        steer::walked(sk.cast(), flow);
        let pending = &raw const (*flow).pending;
        if owner != ACCOUNT_NONE
            && (*pending).payload[0] | (*pending).payload[1] | (*pending).wire[0] | (*pending).wire[1] != 0
        {
            flows::settle(flow, owner);
        }
        let seq = (*(*ctx).meta).seq;
        bpf_seq_write(seq, flow.cast(), size_of::<Flow>() as u32);
    }
}
