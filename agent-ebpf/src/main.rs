//! The kernel programs' entry points: which reason leads to which verdict, and nothing else.
#![no_std]
#![no_main]
#![feature(core_intrinsics, adt_const_params)]
#![allow(internal_features)]

mod atomic;
mod blocks;
mod clock;
mod closed;
mod command;
mod events;
mod flows;
mod limits;
mod map;
mod owners;
mod parse;
mod peers;
mod rates;
mod reason;
mod recent;
mod sockets;
mod stats;
mod steer;
mod users;
mod walk;
mod watch;

use aya_ebpf::bindings::{__sk_buff, bpf_sock_ops};
use boxmeter_common::{DOWNLOAD, TCP, UPLOAD};

use crate::{parse::Packet, reason::Reason};

const DROP: i32 = 0;
const PASS: i32 = 1;
/// Drops without telling the sender: an error would end QUIC connections for good.
const DROP_SILENTLY: i32 = 2;

/// Packets to the machine.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup_skb/ingress")]
pub extern "C" fn ingress(skb: *mut __sk_buff) -> i32 {
    match packet::<UPLOAD>(skb) {
        Ok(()) | Err((Reason::NotWatched | Reason::Unparsable, _)) => PASS,
        Err((Reason::OverBudget | Reason::Limited, _)) => DROP,
    }
}

/// Packets from the machine.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup_skb/egress")]
pub extern "C" fn egress(skb: *mut __sk_buff) -> i32 {
    match packet::<DOWNLOAD>(skb) {
        Ok(()) | Err((Reason::NotWatched | Reason::Unparsable, _)) => PASS,
        Err((Reason::OverBudget | Reason::Limited, TCP)) => DROP,
        Err((Reason::OverBudget | Reason::Limited, _)) => DROP_SILENTLY,
    }
}

/// Connections that open and end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "sockops")]
pub extern "C" fn sock_ops(ops: *mut bpf_sock_ops) -> i32 {
    sockets::operation(ops);
    1
}

/// Never attached: the agent runs it once per command.
#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup_skb/ingress")]
pub extern "C" fn command(_skb: *mut __sk_buff) -> i32 {
    command::run();
    PASS
}

/// Walks the sockets that have a flow.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn sockets_iter(ctx: *const walk::Context) -> i32 {
    walk::socket(ctx);
    0
}

#[inline(always)]
fn packet<const DIR: usize>(skb: *mut __sk_buff) -> Result<(), (Reason, u8)> {
    let packet = match parse::packet::<DIR>(skb) {
        Ok(packet) => packet,
        Err(Reason::Unparsable) => {
            unparsable::<DIR>(skb);
            return Err((Reason::Unparsable, 0));
        }
        Err(reason) => return Err((reason, 0)),
    };
    let candidate = watch::candidate(packet.network, packet.local_port);
    if candidate == 0 {
        return Err((Reason::NotWatched, packet.network));
    }
    let result = watched::<DIR>(skb, &packet, candidate);
    if result == Err(Reason::Unparsable) {
        unparsable::<DIR>(skb);
    }
    result.map_err(|reason| (reason, packet.network))
}

#[inline(always)]
fn watched<const DIR: usize>(skb: *mut __sk_buff, packet: &Packet, candidate: u32) -> Result<(), Reason> {
    if packet.network == TCP {
        sockets::packet::<DIR>(skb, packet, candidate)
    } else {
        peers::packet::<DIR>(skb, packet, candidate)
    }
}

#[inline(always)]
fn unparsable<const DIR: usize>(skb: *mut __sk_buff) {
    if let Some(sk) = sockets::full(skb) {
        // SAFETY: a full socket and a readable context.
        unsafe {
            flows::unparsable(
                skb.cast(),
                (*sk).protocol as u8,
                (*sk).src_port as u16,
                DIR as u32,
                (*skb).len,
            );
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What helpers the programs may call depends on this.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";
