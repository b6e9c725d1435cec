//! TCP payload: exact in both directions, whatever the connection does.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use boxmeter::{core::event::Network, kernel::KernelEvent};
use boxmeter_common::command::RESULT_NOTED;

use crate::{
    net::{connect, exchange, in_new_namespace, listen, port_of, reset, set_option, sockaddr, tcp_socket},
    rig::{Rig, until},
};

#[test]
fn payload_of_an_owned_flow_is_exact_in_both_directions() {
    let mut rig = Rig::new();
    for address in ["127.0.0.1", "::1"] {
        let (listener, port) = listen(address);
        let inbound = rig.watch(Network::Tcp, port);
        let slot = rig.account(inbound);
        let (client, server) = connect(&listener);
        let peer = client.local_addr().unwrap();
        let flow = rig.socket(peer.port()).expect("accepted sockets have a flow");
        assert_eq!(rig.own(&flow, slot), RESULT_NOTED);
        exchange(&client, &server, 5_000_001, 7_000_003);
        assert_eq!(rig.kernel.counters(slot).payload, [5_000_001, 7_000_003]);
        client.shutdown(Shutdown::Both).unwrap();
        drop((client, server));
        until("the flow has ended", || rig.socket(peer.port()).is_none());
        assert_eq!(rig.kernel.counters(slot).payload, [5_000_001, 7_000_003], "FIN is not payload");
        assert_eq!(rig.unattributed(inbound).payload, [0, 0]);
        rig.conserved();
        let mut news = Vec::new();
        while let Some(event) = rig.events.poll() {
            news.push(event);
        }
        assert!(matches!(news[0], KernelEvent::Opened(seen) if seen.peer == peer && seen.inbound == inbound));
        let KernelEvent::Closed { flow, payload, .. } = news[1] else { panic!("{news:?}") };
        assert_eq!((flow.owner, payload), (Some(slot), [5_000_001, 7_000_003]));
        assert_eq!(news.len(), 2);
    }
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_an_ipv4_peer() {
    let mut rig = Rig::new();
    let (listener, port) = listen("::");
    let inbound = rig.watch(Network::Tcp, port);
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    exchange(&client, &server, 10_000, 20_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    let expected: SocketAddr = client.local_addr().unwrap();
    assert_eq!(boxmeter::kernel::seen(&flow).peer, expected);
    assert_eq!(flow.pending.payload, [10_000, 20_000]);
    assert_eq!(rig.kernel.pending(inbound), flow.pending);
    rig.conserved();
}

#[test]
fn payload_is_exact_when_either_side_resets() {
    for by_server in [false, true] {
        let mut rig = Rig::new();
        let (listener, port) = listen("127.0.0.1");
        let inbound = rig.watch(Network::Tcp, port);
        let slot = rig.account(inbound);
        let (client, server) = connect(&listener);
        let peer_port = port_of(&client);
        rig.own(&rig.socket(peer_port).unwrap(), slot);
        exchange(&client, &server, 300_000, 400_000);
        let (first, second) = if by_server { (server, client) } else { (client, server) };
        reset(first);
        until("the flow has ended", || rig.socket(peer_port).is_none());
        drop(second);
        assert_eq!(rig.kernel.counters(slot).payload, [300_000, 400_000]);
        assert_eq!(rig.unattributed(inbound).payload, [0, 0]);
        rig.conserved();
    }
}

/// The packet hook sees the third packet of the handshake with the listening socket.
#[test]
fn data_in_the_packet_that_completes_the_handshake_is_counted() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let socket = tcp_socket();
    // A client that waits for data before its first acknowledgement sends both in one packet.
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5);
    let address = sockaddr(format!("127.0.0.1:{port}").parse().unwrap());
    // SAFETY: a live address of the told length.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), 16) };
    assert_eq!(connected, 0);
    let mut client = TcpStream::from(socket);
    client.write_all(&[7; 1_234]).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.read_exact(&mut [0; 1_234]).unwrap();
    let flow = rig.socket(port_of(&client)).unwrap();
    assert_eq!(flow.pending.payload, [1_234, 0]);
    exchange(&client, &server, 50_000, 60_000);
    assert_eq!(rig.kernel.pending(inbound).payload, [51_234, 60_000]);
    // Two packets of the handshake had no flow: SYN, and the third one with the data.
    assert_eq!(rig.stat("packets_without_socket"), 3);
    rig.conserved();
}

#[test]
fn data_in_a_fast_open_syn_is_counted() {
    in_new_namespace(|| {
        // Client and server, without cookies.
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543").unwrap();
        let mut rig = Rig::new();
        let (listener, port) = listen("127.0.0.1");
        set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
        let inbound = rig.watch(Network::Tcp, port);
        let socket = tcp_socket();
        let address = sockaddr(format!("127.0.0.1:{port}").parse().unwrap());
        let data = [9u8; 900];
        // SAFETY: live buffers of the told lengths.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                data.as_ptr().cast(),
                data.len(),
                libc::MSG_FASTOPEN,
                std::ptr::from_ref(&address).cast(),
                16,
            )
        };
        assert_eq!(sent, 900);
        let client = TcpStream::from(socket);
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 900]).unwrap();
        let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap();
        assert!(text.contains("TCPFastOpenPassive"));
        exchange(&client, &server, 100_000, 200_000);
        assert_eq!(rig.kernel.pending(inbound).payload, [100_900, 200_000]);
        rig.conserved();
    });
}

#[test]
fn a_port_is_watched_in_its_own_namespace_only() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    if !rig.kernel.netns_aware() {
        return;
    }
    in_new_namespace(|| {
        let other = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (client, server) = connect(&other);
        exchange(&client, &server, 10_000, 10_000);
    });
    assert_eq!(rig.kernel.watched(inbound).wire, [0, 0]);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 10_000, 10_000);
    assert_eq!(rig.kernel.watched(inbound).payload, [10_000, 10_000]);
}

/// Sequence numbers wrap at 4 GiB.
#[test]
#[ignore = "long: moves 5 GB"]
fn payload_is_exact_beyond_the_wrap_of_sequence_numbers() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 4_500_000_000, 4_600_000_000);
    assert_eq!(rig.kernel.counters(slot).payload, [4_500_000_000, 4_600_000_000]);
    rig.conserved();
}
