//! Owns `SOCKETS`: one flow per accepted TCP socket, in the socket's own storage.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_ops},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_sk_fullsock, bpf_sk_storage_get, bpf_sock_ops_cb_flags_set, bpf_tcp_sock,
    },
    macros::btf_map,
};
use boxmeter_common::{
    DOWNLOAD, TCP, UPLOAD,
    event::{EVENT_FLOW_CLOSED, EVENT_FLOW_OPENED},
    flow::{FLOW_CLOSED, FLOW_OLD, Flow},
    stats::Stat,
    user::{ACCOUNT_NONE, Account, Counters},
};

use crate::{
    atomic, clock, closed, events, flows,
    map::{Inserted, Map, NO_PREALLOC, SK_STORAGE},
    owners,
    parse::{self, Body, Packet},
    reason::Reason,
    stats,
    steer::{self, Heard},
    users, watch,
};

#[btf_map]
static SOCKETS: Map<i32, Flow, SK_STORAGE, 0, NO_PREALLOC> = Map::new();

const STORAGE_CREATE: u64 = 1;

const OP_PASSIVE_ESTABLISHED: u32 = 5;
const OP_STATE: u32 = 10;
const OP_RTT: u32 = 12;
const OP_HEADER: u32 = 14;
const STATE_FLAG: u32 = 1 << 2;
const AF_INET: u32 = 2;

const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: the socket had its handshake.
const OPEN_STATES: u32 = 1 << ESTABLISHED | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const STREAM: u32 = 1;

/// No receive window is larger than this in practice (the default `tcp_rmem` ends at 6 to 32 MiB,
/// and a sender stays below): what lies further ahead is not this conversation's data.
const WINDOW_MAX: i32 = 32 << 20;

/// A mark that other CPUs move at the same time is tried this often; what is left then is counted
/// with the next segment, because the mark stays behind.
const MARK_TRIES: usize = 8;

#[inline(always)]
pub fn storage(sk: *mut bpf_sock) -> *mut Flow {
    // SAFETY: a full socket, checked by the caller.
    unsafe { bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::null_mut(), 0).cast() }
}

#[inline(always)]
pub fn full(skb: *const __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the context is readable; the helper wants a socket that is there.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() { None } else { Some(sk) }
    }
}

#[inline(always)]
pub fn packet<const DIR: usize>(skb: *mut __sk_buff, packet: &Packet, candidate: u32) -> Result<(), Reason> {
    let body = parse::tcp(skb, packet)?;
    // SAFETY: the context is readable; the helper takes any socket and knows which are full ones.
    let mut flow: *mut Flow = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return without(skb, packet, candidate, &body, DIR as u32);
        }
        bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::null_mut(), 0).cast()
    };
    if flow.is_null() {
        flow = old::<DIR>(skb, packet, candidate);
        if flow.is_null() {
            return without(skb, packet, candidate, &body, DIR as u32);
        }
    }
    // SAFETY: a checked map value, here and below.
    let (inbound, flags) = unsafe { ((*flow).key.inbound, atomic::load32(&raw const (*flow).flags)) };
    let owner = flows::owner(flow);
    if owner == ACCOUNT_NONE {
        let payload = advance::<DIR>(flow, skb, body.seq, body.payload);
        flows::unowned::<DIR>(flow, flags, inbound, payload, body.wire);
        return Ok(());
    }
    let Some(account) = users::account(owner) else {
        flows::nobody::<DIR>(inbound, body.payload, body.wire);
        return Ok(());
    };
    let user = match flows::admit::<DIR>(account, flow, body.payload, body.wire) {
        Ok(user) => user,
        Err(Reason::OverBudget) => return over(skb, packet, account, body.wire, DIR as u32),
        Err(reason) => return Err(reason),
    };
    let payload = advance::<DIR>(flow, skb, body.seq, body.payload);
    watch::add::<DIR>(inbound, payload, body.wire);
    users::add::<DIR>(account, user, payload, body.wire);
    Ok(())
}

/// A packet of a user whose budget is used up is dropped, but for the reset of a connection that was
/// ended for that reason: without it the client would wait for ever.
#[inline(never)]
fn over(
    skb: *mut __sk_buff,
    packet: &Packet,
    account: *mut Account,
    wire: u32,
    direction: u32,
) -> Result<(), Reason> {
    if direction as usize != DOWNLOAD || !parse::is_reset(skb, packet) {
        users::dropped(account, direction, wire);
        return Err(Reason::OverBudget);
    }
    // SAFETY: a checked map value.
    watch::add::<DOWNLOAD>(unsafe { (*account).inbound }, 0, wire);
    users::add::<DOWNLOAD>(account, users::user(account), 0, wire);
    Ok(())
}

/// How far the segment moves the highest sequence number: data that was not counted before.
///
/// The kernel sends under the socket's lock, so that the mark is simply stored there. It looks at
/// what comes in before it takes the lock: two CPUs may hold segments of one socket at once, so
/// that the mark moves by compare and exchange.
#[inline(always)]
fn advance<const DIR: usize>(flow: *mut Flow, skb: *const __sk_buff, seq: u32, payload: u32) -> u32 {
    if payload == 0 {
        return 0;
    }
    let end = seq.wrapping_add(payload);
    // SAFETY: see `packet`.
    let mark = unsafe { &raw mut (*flow).mark[DIR] };
    if DIR != UPLOAD {
        let step = end.wrapping_sub(atomic::load32(mark));
        if step as i32 <= 0 {
            return 0;
        }
        // SAFETY: as above.
        unsafe { mark.write_volatile(end) };
        flows::show::<DIR>(flow, step);
        return step;
    }
    for _ in 0..MARK_TRIES {
        let now = atomic::load32(mark);
        let step = end.wrapping_sub(now);
        if step as i32 <= 0 {
            return 0;
        }
        if seq != now && beyond(skb, end) {
            stats::count(Stat::OutOfWindow);
            return 0;
        }
        if atomic::replace(mark, now, end) {
            flows::show::<DIR>(flow, step);
            return step;
        }
    }
    0
}

/// Whether a segment that leaves a gap ends where no sender may be yet.
#[inline(always)]
fn beyond(skb: *const __sk_buff, end: u32) -> bool {
    let Some(sk) = full(skb) else { return true };
    // SAFETY: a full socket; the result is checked.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        tcp.is_null() || end.wrapping_sub((*tcp).rcv_nxt) as i32 > WINDOW_MAX
    }
}

/// Handshakes, resets and TIME_WAIT: wire bytes that no flow has.
#[inline(never)]
fn without(
    skb: *mut __sk_buff,
    packet: &Packet,
    candidate: u32,
    body: &Body,
    direction: u32,
) -> Result<(), Reason> {
    let Some(inbound) = watch::inbound(candidate, skb.cast(), TCP, packet.local_port) else {
        return Err(Reason::NotWatched);
    };
    stats::count(Stat::NoSocket);
    if direction as usize == UPLOAD {
        flows::nobody::<UPLOAD>(inbound, 0, body.wire);
    } else {
        flows::nobody::<DOWNLOAD>(inbound, 0, body.wire);
    }
    Ok(())
}

/// A socket that was open before it was watched begins at its own numbers.
#[inline(never)]
fn old<const DIR: usize>(skb: *mut __sk_buff, packet: &Packet, candidate: u32) -> *mut Flow {
    let Some(sk) = full(skb) else { return ptr::null_mut() };
    // SAFETY: a full socket.
    let (state, kind) = unsafe { ((*sk).state, (*sk).type_) };
    if kind != STREAM || state > 31 || OPEN_STATES & (1 << state) == 0 {
        return ptr::null_mut();
    }
    let Some(inbound) = watch::inbound(candidate, skb.cast(), TCP, packet.local_port) else {
        return ptr::null_mut();
    };
    let Ok(peer) = parse::peer::<DIR>(skb, packet) else { return ptr::null_mut() };
    let mut flow = EMPTY;
    flows::fill(&mut flow.key, peer, packet.peer_port, TCP, inbound);
    // SAFETY: a full socket; the result is checked.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return ptr::null_mut();
        }
        flow.mark[UPLOAD] = (*tcp).rcv_nxt;
        flow.mark[DOWNLOAD] = (*tcp).snd_nxt;
        flow.id = bpf_get_socket_cookie(skb.cast());
    }
    flow.flags = FLOW_OLD;
    flow.opened_ns = clock::now_ns();
    flow.last_ns = flow.opened_ns;
    // SAFETY: a full socket and a whole value.
    let made: *mut Flow = unsafe {
        bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::from_mut(&mut flow).cast(), STORAGE_CREATE)
            .cast()
    };
    if !made.is_null() {
        stats::count(Stat::OldSockets);
        return made;
    }
    // Another CPU with a packet of the same socket was faster: the kernel refuses the second one. Both
    // began at the same numbers.
    // SAFETY: a full socket.
    let theirs: *mut Flow =
        unsafe { bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::null_mut(), 0).cast() };
    if theirs.is_null() {
        stats::count(Stat::StorageFailed);
    }
    theirs
}

const EMPTY: Flow = Flow {
    key: boxmeter_common::flow::FlowKey { peer: [0; 16], inbound: 0, peer_port: 0, network: TCP, pad: 0 },
    id: 0,
    opened_ns: 0,
    last_ns: 0,
    owner: ACCOUNT_NONE,
    flags: 0,
    mark: [0; 2],
    payload: [0; 2],
    pending: Counters { payload: [0; 2], wire: [0; 2] },
};

/// Reads one word of the context: the verifier refuses wider reads, which a compiler would merge.
macro_rules! word {
    ($at:expr) => {
        (&raw const $at).read_volatile()
    };
}

#[inline(always)]
pub fn operation(ops: *mut bpf_sock_ops) {
    // SAFETY: the context is readable, here and below.
    match unsafe { word!((*ops).op) } {
        OP_PASSIVE_ESTABLISHED => {
            opened(ops);
        }
        OP_STATE => {
            // SAFETY: as above.
            if unsafe { word!((*ops).__bindgen_anon_1.args[1]) } == CLOSE {
                ended(ops);
            }
        }
        OP_RTT | OP_HEADER => {
            steered(ops);
        }
        _ => {}
    }
}

/// Not inlined, like `opened`: the kernel adds up the stacks of a whole chain of calls, and those of
/// a closing socket are the deepest.
#[inline(never)]
fn steered(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: see `operation`. The kernel keeps eight times the smoothed round-trip time.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if !sk.is_null() {
            let heard = Heard { rtt_us: word!((*ops).srtt_us) >> 3, segment: word!((*ops).mss_cache) };
            steer::called(ops, sk, heard, word!((*ops).bpf_sock_ops_cb_flags));
        }
    }
    0
}

#[inline(never)]
fn opened(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: see `operation`.
    let port = unsafe { word!((*ops).local_port) } as u16;
    let candidate = watch::candidate(TCP, port);
    if candidate == 0 {
        return 0;
    }
    let Some(inbound) = watch::inbound(candidate, ops.cast(), TCP, port) else { return 0 };
    let mut flow = EMPTY;
    // All words are read, whatever the family: read in branches, a compiler would merge them into
    // one read at a computed place, which the verifier refuses.
    // SAFETY: see `operation`.
    let peer = unsafe {
        let v4 = [0, 0, 0xffff_u32.to_be(), word!((*ops).remote_ip4)];
        let v6 = [
            word!((*ops).remote_ip6[0]),
            word!((*ops).remote_ip6[1]),
            word!((*ops).remote_ip6[2]),
            word!((*ops).remote_ip6[3]),
        ];
        if word!((*ops).family) == AF_INET { v4 } else { v6 }
    };
    // SAFETY: see `operation`.
    unsafe {
        let peer_port = u32::from_be(word!((*ops).remote_port)) as u16;
        flows::fill(&mut flow.key, peer, peer_port, TCP, inbound);
        flow.id = bpf_get_socket_cookie(ops.cast());
        flow.mark[UPLOAD] = word!((*ops).rcv_nxt);
        flow.mark[DOWNLOAD] = word!((*ops).snd_nxt);
    }
    flow.opened_ns = clock::now_ns();
    flow.last_ns = flow.opened_ns;
    let early = first_data(ops, &mut flow);
    // SAFETY: see `operation`; the helper wants a socket that is there and a whole value.
    let (sk, made): (*mut bpf_sock, *mut Flow) = unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return 0;
        }
        let made =
            bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::from_mut(&mut flow).cast(), STORAGE_CREATE);
        (sk, made.cast())
    };
    if made.is_null() {
        stats::count(Stat::StorageFailed);
        flows::nobody::<UPLOAD>(inbound, early, 0);
        return 0;
    }
    // SAFETY: see `operation`. Bits that others set stay.
    unsafe {
        let flags = word!((*ops).bpf_sock_ops_cb_flags) | STATE_FLAG | steer::opened(ops, sk);
        bpf_sock_ops_cb_flags_set(ops, flags as i32);
    }
    if early != 0 {
        // Nobody can know this flow yet: no one races with this addition.
        watch::add::<UPLOAD>(inbound, early, 0);
        flows::pend::<UPLOAD>(made, inbound, early, 0);
    }
    stats::count(Stat::TcpOpened);
    events::of_flow(EVENT_FLOW_OPENED, &flow, flow.opened_ns);
    0
}

/// Data in the packet that completed the handshake (or opened the connection, with fast open): the
/// packet hook saw it with the listening socket, which has no flow.
#[inline(always)]
fn first_data(ops: *mut bpf_sock_ops, flow: &mut Flow) -> u32 {
    // SAFETY: see `operation`; 20 bytes of the packet are compared with its end.
    let (seq, payload) = unsafe {
        let data = (*ops).__bindgen_anon_3.skb_data;
        let end = (*ops).__bindgen_anon_4.skb_data_end;
        if data.is_null() || data as usize + 20 > end as usize {
            return 0;
        }
        parse::segment(data.cast(), word!((*ops).skb_len))
    };
    let step = seq.wrapping_add(payload).wrapping_sub(flow.mark[UPLOAD]);
    if payload == 0 || step as i32 <= 0 || step as i32 > WINDOW_MAX {
        return 0;
    }
    flow.mark[UPLOAD] = seq.wrapping_add(payload);
    flow.payload[UPLOAD] = step as u64;
    step
}

#[inline(always)]
fn ended(ops: *mut bpf_sock_ops) {
    // SAFETY: see `operation`.
    let flow = unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        bpf_sk_storage_get(SOCKETS.as_ptr(), sk.cast(), ptr::null_mut(), 0).cast::<Flow>()
    };
    if !flow.is_null() {
        close(flow);
    }
}

#[inline(never)]
fn close(flow: *mut Flow) -> u32 {
    let now = clock::now_ns();
    // SAFETY: see `packet`.
    unsafe {
        // From here on who adds to pending takes it back, see `flows`.
        if atomic::fetch_or(&raw mut (*flow).flags, FLOW_CLOSED) & FLOW_CLOSED != 0 {
            return 0;
        }
        let owner = flows::owner(flow);
        if owner == ACCOUNT_NONE {
            wait_for_owner(flow, now);
        } else {
            flows::settle(flow, owner);
            owners::forget((*flow).id);
            flows::ended(owner, (*flow).id);
        }
        events::of_flow(EVENT_FLOW_CLOSED, flow, now);
    }
    0
}

/// Moves what is pending into `CLOSED`, where it outlives the socket.
#[inline(never)]
fn wait_for_owner(flow: *mut Flow, now: u64) -> u32 {
    let mut ended = EMPTY;
    let mut moved = Counters { payload: [0; 2], wire: [0; 2] };
    // SAFETY: see `packet`.
    let (id, inbound) = unsafe {
        ended.key = (*flow).key;
        ended.id = (*flow).id;
        ended.opened_ns = (*flow).opened_ns;
        ended.flags = FLOW_CLOSED;
        ended.payload[UPLOAD] = (*flow).payload[UPLOAD];
        ended.payload[DOWNLOAD] = (*flow).payload[DOWNLOAD];
        ((*flow).id, (*flow).key.inbound)
    };
    ended.last_ns = now;
    flows::take(flow, &mut ended.pending);
    if closed::insert(id, &ended) != Inserted::Yes {
        stats::count(Stat::ClosedFull);
        stats::count(Stat::EndedUnowned);
        flows::credit(inbound, inbound, &ended.pending);
        return 0;
    }
    // The agent notes an owner first and then looks into `CLOSED`; here it is the other way round:
    // one of the two sees the other.
    if let Some(slot) = owners::noted(id) {
        closed::claim(id, slot, &mut moved);
        owners::forget(id);
    }
    0
}
