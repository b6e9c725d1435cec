//! Sits between a client and sing-box, forwards, and counts what the server's sockets carried.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Payload bytes of the server's sockets.
///
/// A server that closes while its client still sends gets bytes that it never takes: whether its socket
/// was still there when they came, nobody outside can know. Upload is exact up to those.
#[derive(Debug, Default)]
pub struct Truth {
    /// Sent to the server, and acknowledged by it.
    pub up_taken: AtomicU64,
    /// Sent to the server.
    pub up: AtomicU64,
    pub down: AtomicU64,
    /// Connections whose `up_taken` is not known yet.
    pub open: AtomicU64,
}

impl Truth {
    /// The least and the most that a meter may say, by direction, once no connection is open.
    pub fn bounds(&self) -> Option<[[u64; 2]; 2]> {
        let [taken, sent, received, open] =
            [&self.up_taken, &self.up, &self.down, &self.open].map(|number| number.load(Ordering::SeqCst));
        (open == 0).then_some([[taken, received], [sent, received]])
    }

    /// Whether a meter that says `[up, down]` is right.
    pub fn allows(&self, [up, down]: [u64; 2]) -> bool {
        self.bounds().is_some_and(|[least, most]| {
            (least[0]..=most[0]).contains(&up) && (least[1]..=most[1]).contains(&down)
        })
    }
}

/// Forwards TCP and UDP of one port to the same port number's server. Threads end with the process.
pub struct Relay {
    pub port: u16,
    pub truth: Arc<Truth>,
}

impl Relay {
    pub fn new(server: SocketAddr) -> Relay {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let port = tcp.local_addr().unwrap().port();
        let truth = Arc::new(Truth::default());
        let counted = Arc::clone(&truth);
        thread::spawn(move || {
            for client in tcp.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                forward(client, upstream, &counted);
            }
        });
        let counted = Arc::clone(&truth);
        thread::spawn(move || datagrams(udp, server, &counted));
        Relay { port, truth }
    }
}

fn forward(client: TcpStream, server: TcpStream, truth: &Arc<Truth>) {
    truth.open.fetch_add(1, Ordering::SeqCst);
    let (client_in, server_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let truth = Arc::clone(truth);
    thread::spawn(move || {
        let counted = Arc::clone(&truth);
        let (back, probe) = (server.try_clone().unwrap(), server);
        let down = thread::spawn(move || copy(back, client, |n| counted.down.fetch_add(n, Ordering::SeqCst)));
        let sent = copy(client_in, server_out, |n| truth.up.fetch_add(n, Ordering::SeqCst));
        down.join().unwrap();
        truth.up_taken.fetch_add(acknowledged(&probe).min(sent), Ordering::SeqCst);
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

/// Data bytes that the other end has acknowledged: `tcpi_bytes_acked` counts the SYN as well, and the FIN
/// once that is acknowledged, which no data can follow.
fn acknowledged(socket: &TcpStream) -> u64 {
    /// Where `tcpi_bytes_acked` is in `struct tcp_info` (linux/tcp.h).
    const BYTES_ACKED: usize = 120;
    let mut info = [0_u8; 232];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO");
    u64::from_ne_bytes(info[BYTES_ACKED..BYTES_ACKED + 8].try_into().unwrap()).saturating_sub(1)
}

fn datagrams(udp: UdpSocket, server: SocketAddr, truth: &Arc<Truth>) {
    big_buffer(&udp);
    let upstreams: Arc<Mutex<HashMap<SocketAddr, UdpSocket>>> = Arc::default();
    let mut buffer = vec![0; 64 << 10];
    while let Ok((n, client)) = udp.recv_from(&mut buffer) {
        let mut upstreams = upstreams.lock().unwrap();
        let upstream = upstreams.entry(client).or_insert_with(|| {
            let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
            big_buffer(&upstream);
            upstream.connect(server).unwrap();
            let (back, udp, counted) =
                (upstream.try_clone().unwrap(), udp.try_clone().unwrap(), Arc::clone(truth));
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    // A server that restarts answers with an error once, and then goes on.
                    let Ok(n) = back.recv(&mut buffer) else { continue };
                    counted.down.fetch_add(n as u64, Ordering::SeqCst);
                    let _ = udp.send_to(&buffer[..n], client);
                }
            });
            upstream
        });
        if upstream.send(&buffer[..n]).is_ok() {
            truth.up.fetch_add(n as u64, Ordering::SeqCst);
            truth.up_taken.fetch_add(n as u64, Ordering::SeqCst);
        }
    }
}

/// What does not fit the receive buffer would be counted by the kernel and not by the relay.
fn big_buffer(socket: &UdpSocket) {
    let bytes: libc::c_int = 64 << 20;
    // SAFETY: the option takes an int.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
