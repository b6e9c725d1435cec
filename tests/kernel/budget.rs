//! Budgets: the kernel cuts at the byte, says so once, and counts what it drops nowhere else.

use std::{net::UdpSocket, time::Duration};

use boxmeter::{core::event::Network, kernel::KernelEvent};
use boxmeter_common::user::UNLIMITED;

use crate::{
    net::{connect, exchange, listen, port_of, receive, send},
    rig::{Rig, soon, until},
};

/// No packet is larger: what loopback lets TCP put into one (`tso_max_size`).
const PACKET_MAX: u64 = 524_280;

#[test]
fn a_download_is_cut_within_one_packet_and_goes_on_without_loss_when_the_budget_grows() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    rig.kernel.set_budget(user, 2_000_000, 500_000);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    // Nothing is asserted before the budget is lifted: the threads would never end.
    let (billed, counted, news) = std::thread::scope(|scope| {
        scope.spawn(|| send(&server, 9_000_000));
        scope.spawn(|| receive(&client, 9_000_000));
        let cut = soon(|| rig.kernel.user(user).dropped_packets[1] > 0);
        let billed = rig.kernel.user(user).billed;
        let counted = rig.kernel.counters(slot).payload[1];
        let mut news = Vec::new();
        while let Some(event) = rig.events.poll() {
            news.push(event);
        }
        rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
        assert!(cut, "nothing was dropped");
        (billed, counted, news)
    });
    assert!((2_000_000..2_000_000 + PACKET_MAX).contains(&billed), "{billed}");
    assert_eq!(counted, billed, "what was dropped is not used");
    let warned = |e: &&KernelEvent| matches!(e, KernelEvent::Warned { user: u, .. } if *u == user);
    let cut = |e: &&KernelEvent| matches!(e, KernelEvent::Cut { user: u, .. } if *u == user);
    assert_eq!((news.iter().filter(warned).count(), news.iter().filter(cut).count()), (1, 1), "{news:?}");
    assert_eq!(rig.kernel.counters(slot).payload, [0, 9_000_000]);
    assert_eq!(rig.kernel.user(user).billed, 9_000_000);
    rig.conserved();
}

#[test]
fn an_upload_is_cut_and_its_retransmissions_are_counted_once() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    rig.kernel.set_budget(user, 200_000, UNLIMITED);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    std::thread::scope(|scope| {
        scope.spawn(|| send(&client, 2_000_000));
        scope.spawn(|| receive(&server, 2_000_000));
        let cut = soon(|| rig.kernel.user(user).dropped_packets[0] > 0);
        rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
        assert!(cut, "nothing was dropped");
    });
    assert_eq!(rig.kernel.counters(slot).payload, [2_000_000, 0]);
    rig.conserved();
}

#[test]
fn only_the_limited_user_is_cut() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let (slow, free) = (rig.account(inbound), rig.account(inbound));
    let user = rig.kernel.users().next().unwrap().slot;
    let (cut, fine) = (connect(&listener), connect(&listener));
    rig.own(&rig.socket(port_of(&cut.0)).unwrap(), slow);
    rig.own(&rig.socket(port_of(&fine.0)).unwrap(), free);
    exchange(&cut.0, &cut.1, 10, 10);
    assert_eq!(rig.kernel.set_budget(user, 5, UNLIMITED), 20, "the counter, read after the store");
    send(&cut.1, 1_000);
    until("packets are dropped", || rig.kernel.user(user).dropped_packets[1] > 0);
    exchange(&fine.0, &fine.1, 100_000, 100_000);
    assert_eq!(rig.kernel.counters(free).payload, [100_000, 100_000]);
    assert_eq!(rig.kernel.counters(slow).payload, [10, 10]);
    rig.conserved();
}

/// An error would end QUIC connections for good.
#[test]
fn a_cut_udp_sender_sees_no_error() {
    let mut rig = Rig::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inbound = rig.watch(Network::Udp, server.local_addr().unwrap().port());
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.send(&[1; 100]).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 100]).unwrap();
    let flow = rig.peer(peer.port()).unwrap();
    rig.own(&flow, slot);
    rig.kernel.set_budget(user, 100, UNLIMITED);
    assert_eq!(server.send_to(&[2; 50], peer).unwrap(), 50);
    client.send(&[3; 70]).unwrap();
    let cut = rig.kernel.user(user);
    assert_eq!((cut.billed, cut.dropped_packets, cut.dropped_bytes), (100, [1, 1], [98, 78]));
    rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
    assert_eq!(server.send_to(&[4; 60], peer).unwrap(), 60);
    assert_eq!(client.recv(&mut [0; 100]).unwrap(), 60);
    assert_eq!(rig.kernel.counters(slot).payload, [100, 60]);
    rig.conserved();
}
