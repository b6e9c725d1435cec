//! Real sockets for the tests: connections, exchanges, network namespaces, raw packets.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    thread,
    time::Duration,
};

/// A listener on a free port.
pub fn listen(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A connection, both ends: the client's and the server's socket.
pub fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        // What never comes is a failure, not a test that hangs.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    }
    (client, server)
}

/// Sends `up` bytes to the server and `down` to the client, at the same time, and waits for both.
pub fn exchange(client: &TcpStream, server: &TcpStream, up: u64, down: u64) {
    thread::scope(|scope| {
        scope.spawn(|| send(client, up));
        scope.spawn(|| send(server, down));
        scope.spawn(|| receive(client, down));
        receive(server, up);
    });
}

pub fn send(mut stream: &TcpStream, bytes: u64) {
    let piece = vec![0x5a; 1 << 17];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(piece.len() as u64) as usize;
        stream.write_all(&piece[..length]).unwrap();
        left -= length as u64;
    }
}

pub fn receive(mut stream: &TcpStream, bytes: u64) {
    let mut piece = vec![0; 1 << 17];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(piece.len() as u64) as usize;
        left -= stream
            .read(&mut piece[..length])
            .map(|n| if n == 0 { panic!("ended early") } else { n })
            .unwrap() as u64;
    }
}

pub fn port_of(stream: &TcpStream) -> u16 {
    stream.local_addr().unwrap().port()
}

/// Sets an integer option of a socket.
pub fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: an int, as these options want.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A TCP socket that is not connected yet.
pub fn tcp_socket() -> OwnedFd {
    // SAFETY: a new descriptor.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

pub fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Closes a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the struct that the option wants.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    assert_eq!(result, 0);
}

/// Receives `count` datagrams. A packet over loopback may still be on its way when its sender's call
/// has returned: what was received has been counted, what was only sent may not.
pub fn take(socket: &UdpSocket, count: usize) {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for _ in 0..count {
        socket.recv(&mut [0; 1]).unwrap();
    }
}

/// Runs `act` in a network namespace of its own with its loopback up; it goes with the thread.
pub fn in_new_namespace<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            act()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `act` in a namespace that is held open.
pub fn inside<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// `ip …` in the namespace of this thread.
pub fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().expect("needs iproute2");
    assert!(done.success(), "ip {arguments}");
}

/// A TCP segment that nobody's TCP made.
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub struct Raw(OwnedFd);

impl Raw {
    pub fn new() -> Self {
        // SAFETY: a new descriptor.
        unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
            assert!(fd >= 0, "needs root: a raw socket");
            Raw(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Sends the segment; returns its length as an IP packet.
    pub fn send(&self, segment: &Segment) -> u64 {
        let packet = segment.bytes();
        let to = sockaddr(segment.to);
        // SAFETY: live buffers of the told lengths.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_in>() as u32,
            )
        };
        assert_eq!(sent, packet.len() as isize, "{}", std::io::Error::last_os_error());
        packet.len() as u64
    }
}

impl Segment {
    fn bytes(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.payload);
        let sum = checksum(*self.from.ip(), *self.to.ip(), &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut packet = vec![0x45, 0];
        packet.extend((20 + tcp.len() as u16).to_be_bytes());
        // The kernel fills in the id and the checksum.
        packet.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        packet.extend(tcp);
        packet
    }
}

fn checksum(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend([0, 6]);
    bytes.extend((tcp.len() as u16).to_be_bytes());
    bytes.extend(tcp);
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
