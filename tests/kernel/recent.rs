//! UDP flows that were seen lately: the shortcut counts as the long way does, and only what is its.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use boxmeter::{
    core::event::{InboundIndex, Network, Slot},
    kernel::PeerCursor,
};
use boxmeter_common::{
    command::{Command, OP_CLOSE_PEER, RESULT_ENDED, RESULT_LIVE},
    flow::Flow,
    recent::{ends, index},
};

use crate::{
    net::{in_new_namespace, ip, take},
    rig::{Rig, until},
};

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Where a client of 127.0.0.1 has its place.
fn place(client: &UdpSocket, inbound: InboundIndex) -> u32 {
    let peer = [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, 127, 0, 0, 1])];
    index(peer, ends(port(client), inbound.0))
}

/// A client whose flow has an owner.
fn owned(rig: &mut Rig, server: &UdpSocket, client: &UdpSocket, slot: Slot) {
    client.connect(server.local_addr().unwrap()).unwrap();
    client.send(&[1; 10]).unwrap();
    take(server, 1);
    let flow = rig.peer(port(client)).unwrap();
    rig.own(&flow, slot);
}

#[test]
fn what_the_shortcut_counted_is_shown_with_the_flow() {
    let mut rig = Rig::new();
    let (server, client) = (bound(), bound());
    let inbound = rig.watch(Network::Udp, port(&server));
    let slot = rig.account(inbound);
    owned(&mut rig, &server, &client, slot);
    let began = rig.peer(port(&client)).unwrap();
    for _ in 0..100 {
        client.send(&[2; 100]).unwrap();
        server.send_to(&[3; 50], client.local_addr().unwrap()).unwrap();
    }
    take(&server, 100);
    let flow = rig.peer(port(&client)).unwrap();
    assert_eq!(flow.payload, [10 + 10_000, 5_000]);
    assert_eq!(rig.kernel.counters(slot).payload, flow.payload);
    // The walk before said what time it is.
    assert!(flow.last_ns >= began.last_ns);
    let before = rig.peer(port(&client)).unwrap().last_ns;
    client.send(&[4; 1]).unwrap();
    take(&server, 1);
    assert!(rig.peer(port(&client)).unwrap().last_ns > before, "a packet after a walk is later than it");
    rig.conserved();
}

/// Ends the flow if it had no packet since it was read; the `RESULT_*`.
fn close_if_silent_since(rig: &mut Rig, flow: &Flow) -> u32 {
    let mut commands = [Command {
        op: OP_CLOSE_PEER,
        id: flow.id,
        key: flow.key,
        before_ns: flow.last_ns + 1,
        ..Command::default()
    }];
    rig.kernel.run(&mut commands).unwrap();
    commands[0].result
}

/// The shortcut holds it, but has not compared its namespace for too long: the packet goes the long way,
/// and what the shortcut gives back is older.
#[test]
fn a_flow_whose_last_packet_went_the_long_way_is_not_idle() {
    let mut rig = Rig::new();
    let (server, client) = (bound(), bound());
    let inbound = rig.watch(Network::Udp, port(&server));
    let slot = rig.account(inbound);
    owned(&mut rig, &server, &client, slot);
    client.send(&[2; 100]).unwrap();
    take(&server, 1);
    let flow = rig.peer(port(&client)).unwrap();
    // Eight ticks of the kernel, of which a second has 100 at least.
    std::thread::sleep(Duration::from_millis(200));
    client.send(&[2; 100]).unwrap();
    take(&server, 1);
    assert_eq!(close_if_silent_since(&mut rig, &flow), RESULT_LIVE);
    assert_eq!(rig.peer(port(&client)).unwrap().payload, [210, 0]);
    rig.conserved();
}

#[test]
fn a_flow_that_only_the_shortcut_saw_is_not_idle() {
    let mut rig = Rig::new();
    let (server, client) = (bound(), bound());
    let inbound = rig.watch(Network::Udp, port(&server));
    let slot = rig.account(inbound);
    owned(&mut rig, &server, &client, slot);
    client.send(&[2; 100]).unwrap();
    take(&server, 1);
    let flow = rig.peer(port(&client)).unwrap();
    client.send(&[2; 100]).unwrap();
    take(&server, 1);
    assert_eq!(close_if_silent_since(&mut rig, &flow), RESULT_LIVE, "it had a packet after the walk");
    assert_eq!(rig.peer(port(&client)).unwrap().payload, [210, 0]);
}

/// Two clients that have one place, each with an owner of its own, from two threads, while the
/// place changes hands: every byte is its sender's.
#[test]
fn flows_that_share_a_place_keep_their_owners() {
    let mut rig = Rig::new();
    let server = bound();
    let inbound = rig.watch(Network::Udp, port(&server));
    let mut clients: Vec<UdpSocket> = vec![bound()];
    let wanted = place(&clients[0], inbound);
    let mut others = Vec::new();
    while clients.len() < 2 {
        let client = bound();
        if place(&client, inbound) == wanted { clients.push(client) } else { others.push(client) }
    }
    let slots = [rig.account(inbound), rig.account(inbound)];
    for (client, slot) in clients.iter().zip(slots) {
        owned(&mut rig, &server, client, slot);
    }
    let stop = AtomicBool::new(false);
    let sent: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let mut sent = 10;
                    while !stop.load(Ordering::Relaxed) {
                        sent += client.send(&[7; 100]).unwrap() as u64;
                    }
                    sent
                })
            })
            .collect();
        for round in 0..300 {
            // Each walk makes the place free for the other; each close takes its holder out.
            let (flows, _) = rig.kernel.walk_peers(PeerCursor::default(), 100).unwrap();
            let mut commands: Vec<Command> = flows
                .iter()
                .filter(|_| round % 3 == 0)
                .map(|flow| Command { op: OP_CLOSE_PEER, id: flow.id, key: flow.key, ..Command::default() })
                .collect();
            rig.kernel.run(&mut commands).unwrap();
            assert!(commands.iter().all(|command| command.result == RESULT_LIVE));
        }
        stop.store(true, Ordering::Relaxed);
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    for (slot, sent) in slots.iter().zip(&sent) {
        until("every byte came to its sender", || rig.kernel.counters(*slot).payload == [*sent, 0]);
    }
    rig.conserved();
}

#[test]
fn a_closed_flow_is_not_in_the_shortcut_any_more() {
    let mut rig = Rig::new();
    let (server, client) = (bound(), bound());
    let inbound = rig.watch(Network::Udp, port(&server));
    let slot = rig.account(inbound);
    owned(&mut rig, &server, &client, slot);
    client.send(&[2; 100]).unwrap();
    take(&server, 1);
    let flow = rig.peer(port(&client)).unwrap();
    let mut close = [Command {
        op: OP_CLOSE_PEER,
        id: flow.id,
        key: flow.key,
        before_ns: u64::MAX,
        ..Command::default()
    }];
    rig.kernel.run(&mut close).unwrap();
    assert_eq!(close[0].result, RESULT_ENDED);
    for _ in 0..10 {
        client.send(&[3; 100]).unwrap();
    }
    take(&server, 10);
    let after = rig.peer(port(&client)).unwrap();
    assert_eq!(after.payload, flow.payload, "bytes pass a closed flow by");
    assert_eq!(rig.kernel.counters(slot).payload, [10 + 100 + 1_000, 0]);
    rig.conserved();
}

/// The same addresses and ports in another namespace are another conversation.
#[test]
fn the_same_addresses_in_another_namespace_are_not_counted() {
    let mut rig = Rig::new();
    let (server, client) = (bound(), bound());
    let inbound = rig.watch(Network::Udp, port(&server));
    let slot = rig.account(inbound);
    owned(&mut rig, &server, &client, slot);
    let (server_port, client_port) = (port(&server), port(&client));
    let (theirs, send) = in_new_namespace(|| {
        ip("link set lo up");
        let theirs = UdpSocket::bind(("127.0.0.1", server_port)).unwrap();
        let send = UdpSocket::bind(("127.0.0.1", client_port)).unwrap();
        send.connect(theirs.local_addr().unwrap()).unwrap();
        (theirs, send)
    });
    for _ in 0..100 {
        // Just counted: the shortcut holds it when the other one's packet comes.
        client.send(&[2; 100]).unwrap();
        send.send(&[3; 77]).unwrap();
        take(&server, 1);
        take(&theirs, 1);
    }
    assert_eq!(rig.kernel.counters(slot).payload, [10 + 10_000, 0]);
    assert_eq!(rig.kernel.watched(inbound).payload, [10 + 10_000, 0]);
    drop((theirs, send));
    rig.conserved();
}
