//! Packets that no honest peer sends.

use std::net::{Ipv4Addr, SocketAddrV4};

use boxmeter::core::event::Network;
use boxmeter_common::{DOWNLOAD, UPLOAD};

use crate::{
    net::{ACK, Raw, SYN, Segment, connect, exchange, in_new_namespace, listen, port_of},
    rig::{Rig, until},
};

#[test]
fn a_syn_flood_makes_no_flows() {
    in_new_namespace(|| {
        let mut rig = Rig::new();
        let (_listener, port) = listen("127.0.0.1");
        let inbound = rig.watch(Network::Tcp, port);
        let raw = Raw::new();
        for number in 0..5_000u32 {
            let from = SocketAddrV4::new(Ipv4Addr::from(0x7f01_0000 + number), 1_000 + number as u16);
            let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            raw.send(&Segment { from, to, seq: number, ack: 0, flags: SYN, payload: vec![] });
        }
        // The flood, and the resets with which its forged addresses answer.
        until("the flood came in", || rig.kernel.watched(inbound).wire[UPLOAD] >= 5_000 * 40);
        rig.conserved();
        assert_eq!(rig.kernel.walk_sockets().unwrap(), []);
        assert_eq!(rig.stat("tcp_flows_opened"), 0);
        let total = rig.kernel.watched(inbound);
        assert_eq!(total.payload, [0, 0]);
        assert_eq!(rig.unattributed(inbound), total);
    });
}

#[test]
fn duplicates_and_far_segments_are_wire_but_not_payload() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 10_000, 10_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    let raw = Raw::new();
    let segment = |ahead: u32, length: usize| Segment {
        from: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port_of(&client)),
        to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        seq: flow.mark[UPLOAD].wrapping_add(ahead),
        ack: flow.mark[DOWNLOAD],
        flags: ACK,
        payload: vec![0x5a; length],
    };
    let before = rig.kernel.counters(slot);
    let mut sent = 0;
    // A segment over loopback may come in after its sender's call.
    let mut comes = |ahead: u32, length: usize| {
        sent += raw.send(&segment(ahead, length));
        until("the segment came in", || rig.kernel.counters(slot).wire[UPLOAD] >= before.wire[UPLOAD] + sent);
        assert_eq!(rig.kernel.counters(slot).wire[UPLOAD], before.wire[UPLOAD] + sent);
        rig.kernel.counters(slot).payload
    };
    comes(0u32.wrapping_sub(5_000), 1_000);
    assert_eq!(comes(0u32.wrapping_sub(1), 1), before.payload, "seen before");
    assert_eq!(comes(1 << 30, 1_000), before.payload, "no window reaches that far");
    assert_eq!(rig.stat("tcp_out_of_window_segments"), 1);
    // Half of it was seen: the other half is new, and the stream goes on after it.
    raw.send(&segment(0u32.wrapping_sub(500), 1_000));
    until("the new half is counted", || rig.kernel.counters(slot).payload[UPLOAD] == 10_500);
    // A gap is filled later: it is counted with the segment behind it, and not again.
    raw.send(&segment(1_500, 500));
    until("the segment behind a gap is counted", || rig.kernel.counters(slot).payload[UPLOAD] == 12_000);
    let before = rig.kernel.counters(slot).wire[UPLOAD];
    let sent = raw.send(&segment(500, 1_000));
    until("the gap is filled", || rig.kernel.counters(slot).wire[UPLOAD] >= before + sent);
    assert_eq!(rig.kernel.counters(slot).payload[UPLOAD], 12_000);
    rig.conserved();
}
