//! UDP flows: one per peer of a socket that all clients share.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use boxmeter::{core::event::Network, kernel::PeerCursor};
use boxmeter_common::{
    command::{Command, OP_CLOSE_PEER, OP_FORGET_PEER, RESULT_ENDED, RESULT_LIVE, RESULT_NOT_FOUND},
    flow::{Flow, UDP_ID},
};

use crate::{
    net::{set_option, take},
    rig::{Rig, soon, until},
};

const UDP_SEGMENT: i32 = 103;

fn server() -> (UdpSocket, u16) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

fn client(server: &UdpSocket) -> (UdpSocket, u16) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    (client, port)
}

fn command(op: u32, flow: &Flow) -> Command {
    Command { op, id: flow.id, key: flow.key, before_ns: u64::MAX, ..Command::default() }
}

#[test]
fn each_peer_has_its_own_bytes_and_owner() {
    let mut rig = Rig::new();
    let (server, port) = server();
    let inbound = rig.watch(Network::Udp, port);
    let slot = rig.account(inbound);
    let ((a, port_a), (b, port_b)) = (client(&server), client(&server));
    for _ in 0..10 {
        a.send(&[1; 1_000]).unwrap();
        b.send(&[2; 500]).unwrap();
    }
    server.send_to(&[3; 700], ("127.0.0.1", port_a)).unwrap();
    take(&server, 20);
    let (flow_a, flow_b) = (rig.peer(port_a).unwrap(), rig.peer(port_b).unwrap());
    assert_eq!(flow_a.pending.payload, [10_000, 700]);
    assert_eq!(flow_a.pending.wire, [10_280, 728]);
    assert_eq!(flow_b.pending.payload, [5_000, 0]);
    assert!(flow_a.id & UDP_ID != 0 && flow_a.id != flow_b.id);
    assert_eq!(rig.own(&flow_a, slot), RESULT_LIVE);
    assert_eq!(rig.kernel.counters(slot), flow_a.pending, "settled at once");
    a.send(&[4; 11]).unwrap();
    take(&server, 1);
    assert_eq!(rig.kernel.counters(slot).payload, [10_011, 700]);
    assert_eq!(rig.kernel.pending(inbound), flow_b.pending);
    rig.conserved();
}

#[test]
fn the_wire_bytes_of_segmented_datagrams_have_a_header_each() {
    let mut rig = Rig::new();
    let (server, port) = server();
    let inbound = rig.watch(Network::Udp, port);
    let (client, _) = client(&server);
    set_option(&client, libc::SOL_UDP, UDP_SEGMENT, 1_200);
    client.send(&[1; 12_345]).unwrap();
    take(&server, 11);
    let total = rig.kernel.watched(inbound);
    // 11 datagrams: ten of 1,200 bytes and one of 345.
    assert_eq!(total.payload, [12_345, 0]);
    assert_eq!(total.wire, [12_345 + 11 * 28, 0]);
    rig.conserved();
}

#[test]
fn peers_beyond_the_limit_are_unattributed_and_counted() {
    let mut rig = Rig::with(|config| config.peers_max = Some(64));
    let (server, port) = server();
    let inbound = rig.watch(Network::Udp, port);
    let clients: Vec<_> = (0..400).map(|_| client(&server)).collect();
    for (client, _) in &clients {
        client.send(&[1; 100]).unwrap();
        take(&server, 1);
    }
    let (peers, end) = rig.kernel.walk_peers(PeerCursor::default(), 10_000).unwrap();
    assert_eq!(end, None);
    let refused = rig.stat("udp_peers_full_packets");
    assert_eq!(peers.len() as u64 + refused, 400);
    assert!(refused >= 400 - 64 - 128, "the map takes some more than its limit, per CPU: {refused}");
    assert_eq!(rig.unattributed(inbound).payload, [100 * refused, 0]);
    rig.conserved();
}

#[test]
fn a_walk_in_parts_sees_every_peer_once() {
    let mut rig = Rig::new();
    let (server, port) = server();
    rig.watch(Network::Udp, port);
    let clients: Vec<_> = (0..300).map(|_| client(&server)).collect();
    for (client, _) in &clients {
        client.send(&[1; 1]).unwrap();
        take(&server, 1);
    }
    let mut seen = std::collections::BTreeSet::new();
    let (mut cursor, mut parts) = (Some(PeerCursor::default()), 0);
    while let Some(at) = cursor {
        let (peers, next) = rig.kernel.walk_peers(at, 64).unwrap();
        for peer in peers {
            assert!(seen.insert(peer.id), "twice");
        }
        (cursor, parts) = (next, parts + 1);
    }
    assert_eq!(seen.len(), 300);
    assert!(parts > 3, "{parts}");
}

#[test]
fn a_peer_ends_in_two_steps_and_loses_nothing_under_traffic() {
    let mut rig = Rig::new();
    let (server, port) = server();
    let inbound = rig.watch(Network::Udp, port);
    let slot = rig.account(inbound);
    let (client, client_port) = client(&server);
    client.send(&[1; 100]).unwrap();
    take(&server, 1);
    let flow = rig.peer(client_port).unwrap();
    let mut early = [command(OP_FORGET_PEER, &flow)];
    rig.kernel.run(&mut early).unwrap();
    assert_eq!(early[0].result, RESULT_LIVE, "not closed yet");
    let mut active = [Command { before_ns: 1, ..command(OP_CLOSE_PEER, &flow) }];
    rig.kernel.run(&mut active).unwrap();
    assert_eq!(active[0].result, RESULT_LIVE, "not idle");
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                sent += client.send(&[1; 100]).unwrap() as u64;
            }
            sent
        });
        for round in 0..20 {
            // After a peer was forgotten its next packet makes it anew.
            assert!(soon(|| rig.peer(client_port).is_some()));
            let flow = rig.peer(client_port).unwrap();
            if round % 2 == 0 {
                rig.own(&flow, slot);
            }
            let mut close = [command(OP_CLOSE_PEER, &flow)];
            rig.kernel.run(&mut close).unwrap();
            assert_eq!(close[0].result, RESULT_ENDED);
            thread::sleep(Duration::from_millis(110));
            let mut forget = [command(OP_FORGET_PEER, &flow), command(OP_FORGET_PEER, &flow)];
            rig.kernel.run(&mut forget).unwrap();
            assert_eq!(forget.map(|c| c.result), [RESULT_ENDED, RESULT_NOT_FOUND]);
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    until("the last packets came in", || rig.kernel.watched(inbound).payload == [100 + sent, 0]);
    assert!(rig.kernel.counters(slot).payload[0] > 0 && rig.unattributed(inbound).payload[0] > 0);
    rig.conserved();
}
