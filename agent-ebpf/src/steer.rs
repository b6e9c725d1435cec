//! Owns `PACES`: tells TCP sockets how fast they may go.
//!
//! A packet program may not set options of a socket. The program of connections may: it is called
//! once per round trip, and, where uploads are limited, for every packet that the machine sends.
//! The walk over the sockets does the same for those that have no such calls, because they are
//! older than the programs.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_ops},
    helpers::generated::{bpf_setsockopt, bpf_sk_storage_get, bpf_sock_ops_cb_flags_set},
    macros::btf_map,
};
use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    flow::Flow,
    rate::{Lane, Pace},
    stats::Stat,
    user::{ACCOUNT_NONE, LIMIT_RATE},
};

use crate::{
    atomic, clock, flows,
    map::{Map, NO_PREALLOC, SK_STORAGE},
    rates, sockets, stats, users,
};

#[btf_map]
static PACES: Map<i32, Pace, SK_STORAGE, 0, NO_PREALLOC> = Map::new();

const STORAGE_CREATE: u64 = 1;

/// Asks for a call once per round trip.
pub const RTT_FLAG: u32 = 1 << 3;
/// Asks for a call with every packet that is sent.
const HEADER_FLAG: u32 = 1 << 6;

const SOL_SOCKET: i32 = 1;
const SO_MAX_PACING_RATE: i32 = 47;
const SOL_TCP: i32 = 6;
const TCP_WINDOW_CLAMP: i32 = 10;

/// As `SO_MAX_PACING_RATE` has it.
const UNPACED: u32 = u32::MAX;
const UNCLAMPED: u32 = 1 << 30;

/// What a new connection may send per second until its owner is known, where anybody has a rate: an
/// owner is known within some milliseconds.
const NEW_RATE: u32 = 16 << 20;
/// After this time without an owner the connection is nobody's.
const NEW_NS: u64 = 2_000_000_000;

/// What a socket knows of its path: smoothed round-trip time and bytes per segment.
pub struct Heard {
    pub rtt_us: u32,
    pub segment: u32,
}

/// What the user of a flow has to say; `rate` and `window` are 0 for nothing.
struct Order {
    pace: u32,
    window: u32,
}

/// A new connection of a watched inbound. Returns the calls that it needs.
#[inline(always)]
pub fn opened(ops: *mut bpf_sock_ops, sk: *mut bpf_sock) -> u32 {
    if !rates::in_use(UPLOAD as u32) && !rates::in_use(DOWNLOAD as u32) {
        return RTT_FLAG;
    }
    obey(ops.cast(), sk, &Order { pace: NEW_RATE, window: 0 });
    RTT_FLAG | HEADER_FLAG
}

/// One of the calls that `opened` asked for.
#[inline(always)]
pub fn called(ops: *mut bpf_sock_ops, sk: *mut bpf_sock, heard: Heard, flags: u32) {
    let uploads = rates::in_use(UPLOAD as u32);
    // A rate that is taken away when it was the last one must still be taken from its sockets.
    if !uploads && !rates::in_use(DOWNLOAD as u32) && told(sk).is_null() {
        return;
    }
    let flow = sockets::storage(sk);
    if flow.is_null() {
        return;
    }
    let mut order = Order { pace: 0, window: 0 };
    let known = find(flow, heard.rtt_us, heard.segment, &mut order);
    obey(ops.cast(), sk, &order);
    let wanted =
        if known == 0 || (uploads && order.window != 0) { flags | HEADER_FLAG } else { flags & !HEADER_FLAG };
    if wanted != flags {
        // SAFETY: a full socket's context.
        unsafe { bpf_sock_ops_cb_flags_set(ops, wanted as i32) };
    }
}

/// A socket of the walk; `ctx` is the socket itself there.
#[inline(always)]
pub fn walked(sk: *mut bpf_sock, flow: *mut Flow) {
    let mut order = Order { pace: 0, window: 0 };
    if find(flow, 0, 0, &mut order) != 0 {
        obey(sk.cast(), sk, &order);
    }
}

/// Fills in what the flow's user has to say; 0: its owner may still become known.
#[inline(never)]
fn find(flow: *mut Flow, rtt_us: u32, segment: u32, order: &mut Order) -> u32 {
    let owner = flows::owner(flow);
    if owner == ACCOUNT_NONE {
        // SAFETY: a checked map value, here and below.
        let opened = unsafe { (*flow).opened_ns };
        if clock::now_ns().saturating_sub(opened) < NEW_NS {
            order.pace = NEW_RATE;
            return 0;
        }
        return 1;
    }
    let Some(account) = users::account(owner) else { return 1 };
    let user = users::user(account);
    if user.is_null() || users::limits(user) & LIMIT_RATE == 0 {
        return 1;
    }
    let slot = users::slot(account);
    if let Some(lane) = rates::lane(slot, DOWNLOAD as u32) {
        order.pace = pace(lane, rtt_us);
    }
    if let Some(lane) = rates::lane(slot, UPLOAD as u32) {
        order.window = window(lane, rtt_us, segment);
    }
    1
}

#[inline(always)]
fn pace(lane: *mut Lane, rtt_us: u32) -> u32 {
    let (rate, grant) = asked(lane, rtt_us);
    let pace = if grant == 0 { rate } else { grant };
    if pace >= UNPACED as u64 { UNPACED - 1 } else { pace as u32 }
}

/// Less than a segment would stop the sender; before anything is known it is half of what one flow
/// needs, because others may begin at the same time.
#[inline(always)]
fn window(lane: *mut Lane, rtt_us: u32, segment: u32) -> u32 {
    let (rate, grant) = asked(lane, rtt_us);
    if rate == 0 {
        return 0;
    }
    let first = (rate / 1_000 * rtt_us as u64 / 2_000).max(4 * segment as u64);
    let window = (if grant == 0 { first } else { grant }).max(segment as u64);
    if window >= UNCLAMPED as u64 { UNCLAMPED } else { window as u32 }
}

/// The rate and the grant; and tells the lane what the flow heard.
#[inline(always)]
fn asked(lane: *mut Lane, rtt_us: u32) -> (u64, u64) {
    // SAFETY: see `find`.
    unsafe {
        let known = &raw mut (*lane).rtt_us;
        if rtt_us > atomic::load32(known) {
            known.write_volatile(rtt_us);
        }
        (atomic::load(&raw const (*lane).rate), atomic::load(&raw const (*lane).grant))
    }
}

#[inline(always)]
fn told(sk: *mut bpf_sock) -> *mut Pace {
    // SAFETY: a full socket.
    unsafe { bpf_sk_storage_get(PACES.as_ptr(), sk.cast(), ptr::null_mut(), 0).cast() }
}

/// Sets what is not yet so. `ctx` is what the helper wants in the calling program.
#[inline(always)]
fn obey(ctx: *mut c_void, sk: *mut bpf_sock, order: &Order) {
    let pace = told(sk);
    let pace = if !pace.is_null() {
        pace
    } else if order.pace == 0 && order.window == 0 {
        return;
    } else {
        // SAFETY: a full socket; the result is checked.
        unsafe { bpf_sk_storage_get(PACES.as_ptr(), sk.cast(), ptr::null_mut(), STORAGE_CREATE).cast() }
    };
    if pace.is_null() {
        stats::count(Stat::StorageFailed);
        return;
    }
    // SAFETY: a checked map value.
    unsafe {
        if order.pace != (*pace).rate {
            (*pace).rate = order.pace;
            set(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, if order.pace == 0 { UNPACED } else { order.pace });
        }
        // The kernel moves the clamp itself when it enlarges the buffer: it is set every time.
        if order.window != 0 || (*pace).clamped != 0 {
            (*pace).clamped = (order.window != 0) as u32;
            set(ctx, SOL_TCP, TCP_WINDOW_CLAMP, if order.window == 0 { UNCLAMPED } else { order.window });
        }
    }
}

#[inline(always)]
fn set(ctx: *mut c_void, level: i32, option: i32, value: u32) {
    let mut value = value;
    // SAFETY: an option of four bytes.
    let result = unsafe {
        bpf_setsockopt(ctx, level, option, ptr::from_mut(&mut value).cast(), size_of::<u32>() as i32)
    };
    if result != 0 {
        stats::count(Stat::SteerFailed);
    }
}
