//! Budgets: the kernel cuts at the byte, says so once, and counts what it drops nowhere else.

use std::{net::UdpSocket, time::Duration};

use boxmeter::{core::event::Network, kernel::KernelEvent};
use boxmeter_common::user::{METER_PAYLOAD, METER_WIRE, UNLIMITED};

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
    // Nobody receives what is dropped.
    until("the upload is dropped", || rig.kernel.user(user).dropped_packets[0] > 0);
    let cut = rig.kernel.user(user);
    assert_eq!((cut.billed, cut.dropped_packets, cut.dropped_bytes), (100, [1, 1], [98, 78]));
    rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
    assert_eq!(server.send_to(&[4; 60], peer).unwrap(), 60);
    assert_eq!(client.recv(&mut [0; 100]).unwrap(), 60);
    assert_eq!(rig.kernel.counters(slot).payload, [100, 60]);
    rig.conserved();
}

/// However many flows send at once, what passes beyond the budget is less than a packet per CPU.
#[test]
fn many_flows_at_once_overshoot_by_a_packet_per_cpu_at_most() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let open: Vec<_> = (0..64).map(|_| connect(&listener)).collect();
    for (client, _) in &open {
        rig.own(&rig.socket(port_of(client)).unwrap(), slot);
    }
    rig.kernel.set_budget(user, 20_000_000, UNLIMITED);
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let billed = std::thread::scope(|scope| {
        for (client, server) in &open {
            scope.spawn(|| send(server, 1_000_000));
            scope.spawn(|| receive(client, 1_000_000));
        }
        let cut = soon(|| {
            let before = rig.kernel.user(user).billed;
            std::thread::sleep(Duration::from_millis(50));
            before >= 20_000_000 && rig.kernel.user(user).billed == before
        });
        let billed = rig.kernel.user(user).billed;
        rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
        assert!(cut, "it went on");
        billed
    });
    assert!((20_000_000..20_000_000 + cpus * PACKET_MAX).contains(&billed), "{billed}");
    assert_eq!(rig.kernel.counters(slot).payload, [0, 64_000_000]);
    rig.conserved();
}

#[test]
fn a_budget_is_lowered_and_raised_live_and_each_cut_is_told_once() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 1_000, 1_000);
    let cuts = |rig: &mut Rig| {
        let mut cuts = 0;
        while let Some(event) = rig.events.poll() {
            cuts += usize::from(matches!(event, KernelEvent::Cut { .. }));
        }
        cuts
    };
    for round in 1..=3u64 {
        // Lowered below what was used: what is returned says so at once.
        let billed = rig.kernel.set_budget(user, 100, UNLIMITED);
        assert_eq!(billed, 2_000 * round);
        send(&server, 1_000);
        send(&client, 1_000);
        until("both directions are dropped", || {
            rig.kernel.user(user).dropped_packets.iter().all(|packets| *packets > round)
        });
        assert_eq!(cuts(&mut rig), 1);
        assert_eq!(rig.kernel.user(user).billed, billed);
        rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
        receive(&client, 1_000);
        receive(&server, 1_000);
        assert_eq!(cuts(&mut rig), 0);
    }
    rig.conserved();
}

#[test]
fn without_any_budget_nothing_gets_through_from_the_first_byte() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    rig.kernel.set_budget(user, 0, UNLIMITED);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    send(&client, 1_000);
    send(&server, 1_000);
    until("both directions are dropped", || {
        rig.kernel.user(user).dropped_packets.iter().all(|packets| *packets > 1)
    });
    assert_eq!(rig.kernel.counters(slot).payload, [0, 0]);
    assert_eq!(rig.kernel.user(user).billed, 0);
    rig.conserved();
}

#[test]
fn a_budget_goes_on_in_the_other_meter_from_where_it_is() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 1_000, 2_000);
    assert_eq!(rig.kernel.user(user).billed, 3_000);
    let before = rig.kernel.counters(slot).wire;
    assert_eq!(rig.kernel.set_meter(user, METER_WIRE), 3_000);
    exchange(&client, &server, 1_000, 2_000);
    let wire = rig.kernel.counters(slot).wire;
    let more = wire[0] + wire[1] - before[0] - before[1];
    assert!(more > 3_000);
    assert_eq!(rig.kernel.user(user).billed, 3_000 + more);
    assert_eq!(rig.kernel.set_meter(user, METER_PAYLOAD), 3_000 + more);
    exchange(&client, &server, 100, 0);
    assert_eq!(rig.kernel.user(user).billed, 3_100 + more);
}
