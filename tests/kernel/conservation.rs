//! Nothing is lost and nothing is counted twice, whatever happens at the same time.

use std::{
    net::UdpSocket,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use boxmeter::core::event::Network;
use boxmeter_common::{
    command::{Command, OP_EXPIRE, OP_OWN},
    user::Counters,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    net::{connect, exchange, listen},
    rig::{Rig, until},
};

#[test]
fn random_traffic_with_owners_at_random_moments() {
    let mut rig = Rig::with(|config| config.closed_max = Some(64));
    let (listener, port) = listen("127.0.0.1");
    let tcp = rig.watch(Network::Tcp, port);
    let slots = [rig.account(tcp), rig.account(tcp), rig.account(tcp)];
    let stop = AtomicBool::new(false);
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    // Both ends of a connection belong to one thread.
    let one = Mutex::new(&listener);
    thread::scope(|scope| {
        for seed in 0..3 {
            let (one, stop, up, down) = (&one, &stop, &up, &down);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                while !stop.load(Ordering::Relaxed) {
                    let (client, server) = connect(&one.lock().unwrap());
                    let (a, b) = (random.random_range(1..30_000u64), random.random_range(1..200_000u64));
                    exchange(&client, &server, a, b);
                    up.fetch_add(a, Ordering::Relaxed);
                    down.fetch_add(b, Ordering::Relaxed);
                }
            });
        }
        owners_at_random(&mut rig, &slots.map(|s| s.0), Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
    });
    until("all ended", || rig.kernel.walk_sockets().unwrap().is_empty());
    let mut commands: Vec<Command> = rig
        .kernel
        .closed()
        .unwrap()
        .iter()
        .map(|flow| Command { op: OP_EXPIRE, id: flow.id, ..Command::default() })
        .collect();
    rig.kernel.run(&mut commands).unwrap();
    let audit = rig.kernel.audit();
    assert_eq!(audit.pending, Counters::default(), "everything is settled");
    assert!(audit.users.payload[1] > 0 && audit.unattributed.payload[1] > 0, "both happened: {audit:?}");
    assert_eq!(audit.watched_after.payload, [up.into_inner(), down.into_inner()], "what the sockets carried");
    rig.conserved();
}

/// Gives owners to live and ended flows, or lets ended ones expire.
fn owners_at_random(rig: &mut Rig, slots: &[u32], time: Duration) {
    let mut random = StdRng::seed_from_u64(99);
    let end = Instant::now() + time;
    while Instant::now() < end {
        let mut commands = Vec::new();
        let mut flows = rig.kernel.closed().unwrap();
        flows.extend(rig.kernel.walk_sockets().unwrap());
        for flow in flows {
            let slot = slots[random.random_range(0..slots.len())];
            let op = if random.random_range(0..3) == 0 { OP_EXPIRE } else { OP_OWN };
            if random.random_range(0..2) == 0 {
                commands.push(Command { op, slot, id: flow.id, key: flow.key, ..Command::default() });
            }
        }
        rig.kernel.run(&mut commands).unwrap();
    }
}

#[test]
fn many_users_on_many_connections_are_exact() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let mut expected = Vec::new();
    for number in 1..=30u64 {
        let slot = rig.account(inbound);
        let (client, server) = connect(&listener);
        let flow = rig.socket(crate::net::port_of(&client)).unwrap();
        rig.own(&flow, slot);
        exchange(&client, &server, number * 1_000, number * 2_000);
        expected.push((slot, [number * 1_000, number * 2_000]));
    }
    for (slot, payload) in expected {
        assert_eq!(rig.kernel.counters(slot).payload, payload);
    }
    rig.conserved();
}

/// Two CPUs count into one peer while its owner changes from none to somebody.
#[test]
fn an_owner_that_comes_in_the_middle_of_a_flood_moves_every_byte_once() {
    let mut rig = Rig::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inbound = rig.watch(Network::Udp, server.local_addr().unwrap().port());
    for _ in 0..20 {
        let slot = rig.account(inbound);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.send(&[0; 10]).unwrap();
        until("the peer is known", || rig.peer(client.local_addr().unwrap().port()).is_some());
        let peer = client.local_addr().unwrap();
        let flow = rig.peer(peer.port()).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2_000).for_each(|_| drop(client.send(&[0; 10]))));
                scope.spawn(|| (0..2_000).for_each(|_| drop(server.send_to(&[0; 20], peer))));
            }
            rig.own(&flow, slot);
        });
        // Bytes that were being added to pending while the owner was set are the owner's, too.
        until("every byte is the owner's", || rig.kernel.counters(slot).payload == [10 + 40_000, 80_000]);
    }
    assert_eq!(rig.kernel.pending(inbound), Counters::default());
    rig.conserved();
}
