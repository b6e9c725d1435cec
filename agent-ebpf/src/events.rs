//! Owns `EVENTS`: news for the agent. A lost record is counted and costs time, never bytes.

use core::ptr;

use aya_ebpf::{helpers::generated::bpf_ringbuf_output, macros::btf_map};
use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    event::{EVENTS_BYTES, Event},
    flow::Flow,
    stats::Stat,
};

use crate::{atomic, stats};

const RINGBUF: usize = 27;

/// A ring buffer has neither keys nor values.
#[repr(C)]
struct Ring {
    r#type: *const [i32; RINGBUF],
    max_entries: *const [i32; EVENTS_BYTES as usize],
}

// SAFETY: a declaration without content.
unsafe impl Sync for Ring {}

#[btf_map]
static EVENTS: Ring = Ring { r#type: ptr::null(), max_entries: ptr::null() };

#[inline(never)]
pub fn of_flow(kind: u32, flow: *const Flow, at_ns: u64) {
    // SAFETY: `flow` is a map value or lies on the caller's stack.
    let event = unsafe {
        Event {
            kind,
            slot: atomic::load32(&raw const (*flow).owner),
            id: (*flow).id,
            key: (*flow).key,
            opened_ns: (*flow).opened_ns,
            at_ns,
            payload: [
                atomic::load(&raw const (*flow).payload[UPLOAD]),
                atomic::load(&raw const (*flow).payload[DOWNLOAD]),
            ],
            billed: 0,
        }
    };
    send(&event);
}

#[inline(never)]
pub fn of_user(kind: u32, slot: u32, billed: u64, at_ns: u64) {
    send(&Event { kind, slot, at_ns, billed, ..Event::default() });
}

#[inline(always)]
fn send(event: &Event) {
    // SAFETY: the record is copied out of the stack.
    let result = unsafe {
        bpf_ringbuf_output(
            ptr::from_ref(&EVENTS).cast_mut().cast(),
            ptr::from_ref(event).cast_mut().cast(),
            size_of::<Event>() as u64,
            0,
        )
    };
    if result != 0 {
        stats::count(Stat::EventsFull);
    }
}
