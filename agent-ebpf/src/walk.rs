//! The iterator over all sockets that have a flow: it gives noted owners to sockets that are
//! silent, and writes every flow for the agent to read.

use core::ffi::c_void;

use aya_ebpf::{bindings::seq_file, helpers::generated::bpf_seq_write};
use boxmeter_common::{flow::Flow, user::ACCOUNT_NONE};

use crate::flows;

/// The head of every iterator's context.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    map: *const c_void,
    sk: *const c_void,
    value: *mut Flow,
}

#[inline(always)]
pub fn socket(ctx: *const Context) {
    // SAFETY: the kernel fills the context; all pointers are null at the end of the walk.
    unsafe {
        let flow = (&raw const (*ctx).value).read_volatile();
        if flow.is_null() {
            return;
        }
        let owner = flows::owner(flow);
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
