//! TCP flows: exact payload, owners that come early and late, closes.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use boxmeter::{core::event::Network, kernel::KernelEvent};
use boxmeter_common::command::{RESULT_ENDED, RESULT_NOTED};

use crate::rig::{Rig, until};

/// A connection, both ends: the client's and the server's socket.
fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// Sends `up` bytes to the server and `down` to the client, at the same time.
fn exchange(client: &TcpStream, server: &TcpStream, up: usize, down: usize) {
    thread::scope(|scope| {
        scope.spawn(|| (&mut &*client).write_all(&vec![1; up]).unwrap());
        scope.spawn(|| (&mut &*server).write_all(&vec![2; down]).unwrap());
        scope.spawn(|| (&mut &*client).read_exact(&mut vec![0; down]).unwrap());
        (&mut &*server).read_exact(&mut vec![0; up]).unwrap();
    });
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn payload_of_an_owned_flow_is_exact_in_both_directions() {
    let mut rig = Rig::new();
    let (listener, port) = listen();
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    let peer_port = client.local_addr().unwrap().port();
    let flow = rig.socket(peer_port).expect("accepted sockets have a flow");
    assert_eq!(rig.own(&flow, slot), RESULT_NOTED);
    exchange(&client, &server, 5_000_001, 7_000_003);
    assert_eq!(rig.kernel.counters(slot).payload, [5_000_001, 7_000_003]);
    rig.conserved();
    client.shutdown(Shutdown::Both).unwrap();
    drop((client, server));
    until("the flow has ended", || rig.socket(peer_port).is_none());
    assert_eq!(rig.kernel.counters(slot).payload, [5_000_001, 7_000_003], "FIN is not payload");
    assert_eq!(rig.unattributed(inbound).payload, [0, 0]);
    rig.conserved();
    let mut opened = false;
    let mut closed = false;
    while let Some(event) = rig.events.poll() {
        match event {
            KernelEvent::Opened(seen) => {
                assert_eq!(seen.peer, format!("127.0.0.1:{peer_port}").parse().unwrap());
                opened = true;
            }
            KernelEvent::Closed { flow, payload, .. } => {
                assert_eq!((flow.owner, payload), (Some(slot), [5_000_001, 7_000_003]));
                closed = true;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(opened && closed);
}

#[test]
fn a_flow_that_ended_before_its_owner_was_known_keeps_its_bytes() {
    let mut rig = Rig::new();
    let (listener, port) = listen();
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 200_000);
    drop((client, server));
    until("the flow waits", || rig.kernel.closed().unwrap().len() == 1);
    let flow = rig.kernel.closed().unwrap()[0];
    assert_eq!(flow.pending.payload, [1_000, 200_000]);
    assert_eq!(rig.kernel.pending(inbound), flow.pending);
    rig.conserved();
    assert_eq!(rig.own(&flow, slot), RESULT_ENDED);
    assert_eq!(rig.kernel.counters(slot), flow.pending);
    assert_eq!(rig.kernel.pending(inbound).payload, [0, 0]);
    assert_eq!(rig.kernel.closed().unwrap(), []);
    rig.conserved();
}
