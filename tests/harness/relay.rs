//! Sits between a client and sing-box, forwards TCP and UDP, and knows what the server's sockets carried.
//! The relay's outgoing address and port are the peer that the server and the kernel see.

use crate::netns::Netns;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Payload bytes of the server's sockets.
///
/// A server that closes while its client still sends gets bytes that it never takes: whether its socket was
/// still there when they came, nobody outside can know. Upload is exact up to those.
#[derive(Debug, Default)]
pub struct Truth {
    /// Sent to the server and acknowledged by it.
    taken: AtomicU64,
    /// Sent to the server.
    sent: AtomicU64,
    /// Got from the server.
    received: AtomicU64,
    /// Connections whose `taken` is not known yet.
    open: AtomicU64,
}

impl Truth {
    /// The least and the most that a meter may say, as [upload, download], once no connection is open.
    pub fn bounds(&self) -> Option<[[u64; 2]; 2]> {
        let [taken, sent, received, open] =
            [&self.taken, &self.sent, &self.received, &self.open].map(|n| n.load(Ordering::SeqCst));
        (open == 0).then_some([[taken, received], [sent, received]])
    }

    /// Why a meter that says `[upload, download]` is wrong, if it is.
    ///
    /// # Errors
    /// Connections are open, or the figures are not within the bounds.
    pub fn check(&self, said: [u64; 2]) -> Result<(), String> {
        let [least, most] = self.bounds().ok_or("connections are open")?;
        let fits = |d: usize| (least[d]..=most[d]).contains(&said[d]);
        if fits(0) && fits(1) {
            Ok(())
        } else {
            Err(format!("metered {said:?}, truth {least:?} to {most:?}"))
        }
    }
}

/// One relay per user and inbound; its threads end with the process.
pub struct Relay {
    /// Where the client connects to, on loopback of the relay's namespace.
    pub address: SocketAddr,
    pub truth: Arc<Truth>,
    peers: Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>,
}

impl Relay {
    /// Forwards to `server`, from inside `netns`.
    pub fn new(netns: &Netns, server: SocketAddr) -> Relay {
        let (tcp, udp) = netns.run(bind_both);
        let address = tcp.local_addr().unwrap();
        let truth = Arc::new(Truth::default());
        let peers = Arc::default();
        let (counted, inside) = (Arc::clone(&truth), netns.clone());
        thread::spawn(move || {
            inside.run(|| {
                for client in tcp.incoming().flatten() {
                    let Ok(upstream) = TcpStream::connect(server) else { continue };
                    forward(client, upstream, &counted);
                }
            });
        });
        let (counted, inside, known) = (Arc::clone(&truth), netns.clone(), Arc::clone(&peers));
        thread::spawn(move || inside.run(|| datagrams(&udp, server, &counted, &known)));
        Relay { address, truth, peers }
    }

    /// From now on UDP comes from other ports, as behind a NAT that has forgotten its clients.
    pub fn rebind(&self) {
        // The readers of the old sockets go on.
        self.peers.lock().unwrap().clear();
    }

    /// Peer addresses of the UDP conversations that the server sees now.
    pub fn udp_peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap().values().map(|s| s.local_addr().unwrap()).collect()
    }
}

/// A TCP listener and a UDP socket on the same loopback port.
fn bind_both() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            big_buffer(&udp);
            return (tcp, udp);
        }
    }
}

fn forward(client: TcpStream, server: TcpStream, truth: &Arc<Truth>) {
    truth.open.fetch_add(1, Ordering::SeqCst);
    let (client_in, server_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let truth = Arc::clone(truth);
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    thread::spawn(move || {
        let counted = Arc::clone(&truth);
        let (back, probe) = (server.try_clone().unwrap(), server);
        let down = thread::spawn(move || {
            copy(back, client, |n| counted.received.fetch_add(n, Ordering::SeqCst));
        });
        let sent = copy(client_in, server_out, |n| truth.sent.fetch_add(n, Ordering::SeqCst));
        down.join().unwrap();
        truth.taken.fetch_add(acknowledged(&probe).min(sent), Ordering::SeqCst);
        truth.open.fetch_sub(1, Ordering::SeqCst);
    });
}

/// Reads to the end, also when nobody takes what was read any more: the server has sent it.
fn copy(mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64) -> u64) -> u64 {
    let mut buffer = vec![0; 128 << 10];
    let (mut all, mut taken) = (0, true);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        count(n as u64);
        all += n as u64;
        taken = taken && to.write_all(&buffer[..n]).is_ok();
    }
    let _ = to.shutdown(Shutdown::Write);
    all
}

/// Data bytes that the other end has acknowledged. `tcpi_bytes_acked` counts the SYN as well, and the FIN once
/// that is acknowledged, which no data can follow.
fn acknowledged(socket: &TcpStream) -> u64 {
    /// Where `tcpi_bytes_acked` is in `struct tcp_info` (linux/tcp.h).
    const BYTES_ACKED: usize = 120;
    let mut info = [0_u8; 232];
    let mut length = info.len() as libc::socklen_t;
    let place = info.as_mut_ptr().cast();
    // SAFETY: the buffer has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    assert_eq!(result, 0, "TCP_INFO");
    u64::from_ne_bytes(info[BYTES_ACKED..BYTES_ACKED + 8].try_into().unwrap()).saturating_sub(1)
}

type Peers = Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>;

fn datagrams(udp: &UdpSocket, server: SocketAddr, truth: &Arc<Truth>, peers: &Peers) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok((n, client)) = udp.recv_from(&mut buffer) {
        let mut peers = peers.lock().unwrap();
        let upstream = peers.entry(client).or_insert_with(|| upstream(udp, server, client, truth));
        if upstream.send(&buffer[..n]).is_ok() {
            truth.sent.fetch_add(n as u64, Ordering::SeqCst);
            truth.taken.fetch_add(n as u64, Ordering::SeqCst);
        }
    }
}

fn upstream(udp: &UdpSocket, server: SocketAddr, client: SocketAddr, truth: &Arc<Truth>) -> Arc<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let upstream = UdpSocket::bind(any).unwrap();
    big_buffer(&upstream);
    upstream.connect(server).unwrap();
    let upstream = Arc::new(upstream);
    let (back, udp, counted) = (Arc::clone(&upstream), udp.try_clone().unwrap(), Arc::clone(truth));
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            // A server that restarts answers with an error once, and then goes on.
            let Ok(n) = back.recv(&mut buffer) else { continue };
            counted.received.fetch_add(n as u64, Ordering::SeqCst);
            let _ = udp.send_to(&buffer[..n], client);
        }
    });
    upstream
}

/// What does not fit the receive buffer would be counted by the kernel and not by the relay.
fn big_buffer(socket: &UdpSocket) {
    let bytes: libc::c_int = 64 << 20;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const bytes).cast();
    // SAFETY: the option takes an int.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, length) };
}
