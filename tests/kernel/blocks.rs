//! Blocked flows, and sockets that are ended from outside.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use boxmeter::{
    core::event::{FlowId, Network},
    kernel::{probe, seen},
};
use boxmeter_common::user::UNLIMITED;

use crate::{
    net::{connect, exchange, listen, port_of, receive, send, take},
    rig::{Rig, until},
};

#[test]
fn a_blocked_tcp_flow_stands_still_and_the_user_s_others_go_on() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let (stopped, fine) = (connect(&listener), connect(&listener));
    for (client, server) in [&stopped, &fine] {
        rig.own(&rig.socket(port_of(client)).unwrap(), slot);
        exchange(client, server, 1_000, 1_000);
    }
    let flow = FlowId(rig.socket(port_of(&stopped.0)).unwrap().id);
    rig.kernel.block(flow, user).unwrap();
    send(&stopped.1, 5_000);
    send(&stopped.0, 5_000);
    until("both directions are dropped", || {
        rig.kernel.user(user).limited_bytes.iter().all(|bytes| *bytes > 0)
    });
    exchange(&fine.0, &fine.1, 100_000, 100_000);
    assert_eq!(rig.kernel.counters(slot).payload, [102_000, 102_000]);
    assert!(rig.stat("packets_dropped_by_block") > 0);
    assert_eq!(rig.kernel.blocked().unwrap().into_iter().collect::<Vec<_>>(), [(flow, user)]);
    rig.kernel.unblock(flow).unwrap();
    receive(&stopped.0, 5_000);
    receive(&stopped.1, 5_000);
    assert_eq!(rig.kernel.counters(slot).payload, [107_000, 107_000]);
    rig.conserved();
}

#[test]
fn a_blocked_udp_peer_hears_nothing_and_its_sender_sees_no_error() {
    let mut rig = Rig::new();
    let server = UdpSocket::bind("[::1]:0").unwrap();
    let address = server.local_addr().unwrap();
    let inbound = rig.watch(Network::Udp, address.port());
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let clients = [UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap()];
    let mut flows = Vec::new();
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(&[1; 10], address).unwrap();
        take(&server, 1);
        let flow = rig.peer(client.local_addr().unwrap().port()).unwrap();
        rig.own(&flow, slot);
        flows.push(flow);
    }
    rig.kernel.block(FlowId(flows[0].id), user).unwrap();
    for client in &clients {
        assert_eq!(server.send_to(&[2; 20], client.local_addr().unwrap()).unwrap(), 20);
        client.send_to(&[3; 30], address).unwrap();
    }
    assert_eq!(clients[1].recv(&mut [0; 100]).unwrap(), 20);
    take(&server, 1);
    // Nobody receives what is dropped.
    until("the blocked one's is dropped", || rig.kernel.user(user).limited_bytes[0] > 0);
    assert_eq!(rig.kernel.counters(slot).payload, [50, 20]);
    assert_eq!(rig.kernel.user(user).limited_bytes, [78, 68]);
    rig.kernel.unblock(FlowId(flows[0].id)).unwrap();
    server.send_to(&[4; 40], clients[0].local_addr().unwrap()).unwrap();
    assert_eq!(clients[0].recv(&mut [0; 100]).unwrap(), 40, "the blocked one did not come");
    rig.conserved();
}

#[test]
fn blocks_outlive_the_agent_and_end_with_their_flows() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 10, 10);
    let flow = rig.socket(port_of(&client)).unwrap();
    rig.kernel.block(FlowId(flow.id), user).unwrap();
    let Rig { kernel, events, mount } = rig;
    drop((kernel, events));
    let mut kernel = boxmeter::kernel::Kernel::open(&mount.config()).unwrap();
    assert_eq!(kernel.blocked().unwrap().len(), 1);
    // Neither FIN gets through: the socket ends when it is destroyed.
    let ended = kernel.destroy(&[seen(&flow)]).unwrap();
    assert_eq!((ended.ended, ended.gone, ended.failed.len()), (1, 0, 0));
    until("the block is gone", || kernel.blocked().unwrap().is_empty());
    kernel.block(FlowId(flow.id), user).unwrap();
    kernel.sweep_blocked(&BTreeSet::from([flow.id])).unwrap();
    assert_eq!(kernel.blocked().unwrap().len(), 1, "it is said to live");
    kernel.sweep_blocked(&BTreeSet::new()).unwrap();
    assert!(kernel.blocked().unwrap().is_empty());
    drop((client, server));
}

fn ended_by(mut stream: &TcpStream) -> ErrorKind {
    stream.read(&mut [0; 10]).expect_err("the connection still lives").kind()
}

/// Destroys one of two connections from `address` to `listener`.
fn destroys_one(listener: &TcpListener, client_of: &str) {
    let mut rig = Rig::new();
    let port = listener.local_addr().unwrap().port();
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let open = || {
        let client = TcpStream::connect((client_of, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (client, server)
    };
    let (ended, fine) = (open(), open());
    for (client, server) in [&ended, &fine] {
        rig.own(&rig.socket(port_of(client)).unwrap(), slot);
        exchange(client, server, 1_000, 1_000);
    }
    let flow = seen(&rig.socket(port_of(&ended.0)).unwrap());
    let done = rig.kernel.destroy(&[flow]).unwrap();
    assert_eq!((done.ended, done.gone, done.failed.len()), (1, 0, 0), "{done:?}");
    assert_eq!(ended_by(&ended.0), ErrorKind::ConnectionReset);
    assert_eq!(ended_by(&ended.1), ErrorKind::ConnectionAborted);
    exchange(&fine.0, &fine.1, 50_000, 50_000);
    let again = rig.kernel.destroy(&[flow]).unwrap();
    assert_eq!((again.ended, again.gone, again.failed.len()), (0, 1, 0), "{again:?}");
    assert_eq!(rig.kernel.counters(slot).payload, [52_000, 52_000]);
    rig.conserved();
}

#[test]
fn destroying_ends_one_connection_for_both_peers() {
    destroys_one(&listen("127.0.0.1").0, "127.0.0.1");
    destroys_one(&listen("::1").0, "::1");
    // An IPv4 client of a dual-stack listener.
    destroys_one(&listen("::").0, "127.0.0.1");
}

#[test]
fn a_client_that_is_cut_and_waits_for_data_hears_of_the_end() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 10, 10);
    rig.kernel.set_budget(user, 0, UNLIMITED);
    (&server).write_all(&[1; 100]).unwrap();
    until("it is cut", || rig.kernel.user(user).dropped_packets[1] > 0);
    let flow = seen(&rig.socket(port_of(&client)).unwrap());
    assert_eq!(rig.kernel.destroy(&[flow]).unwrap().ended, 1);
    assert_eq!(ended_by(&client), ErrorKind::ConnectionReset);
    assert_eq!(rig.kernel.counters(slot).payload, [10, 10]);
    rig.conserved();
}

#[test]
fn many_connections_end_in_one_call() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    rig.watch(Network::Tcp, port);
    let open: Vec<_> = (0..200).map(|_| connect(&listener)).collect();
    let flows: Vec<_> = rig.kernel.walk_sockets().unwrap().iter().map(seen).collect();
    assert_eq!(flows.len(), 200);
    let done = rig.kernel.destroy(&flows).unwrap();
    assert_eq!((done.ended, done.gone, done.failed.len()), (200, 0, 0));
    for (client, server) in &open {
        assert_eq!(ended_by(client), ErrorKind::ConnectionReset);
        assert_eq!(ended_by(server), ErrorKind::ConnectionAborted);
    }
    rig.conserved();
}

#[test]
fn doctor_is_told_whether_sockets_can_be_ended() {
    let feature = probe::features().into_iter().find(|feature| feature.name == "ending sockets").unwrap();
    assert!(feature.state.is_ok(), "{:?}", feature.state);
    assert!(!feature.required);
}
