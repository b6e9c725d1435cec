//! The user's side: SOCKS5 to a client of sing-box, without a password. TCP and UDP.

use crate::netns::Netns;
use crate::target::{Target, head, receive, send};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// One read or write through a proxy on the same machine takes no longer.
const IO_LIMIT: Duration = Duration::from_secs(20);
/// One answer of the echo comes sooner, else the datagram counts as lost and is sent again.
const ECHO_LIMIT: Duration = Duration::from_secs(2);
/// Datagrams get lost while a session is being made; after this many the session is broken.
const ECHO_TRIES: u32 = 3;

fn request(stream: &mut TcpStream, command: u8, address: SocketAddr) -> io::Result<SocketAddr> {
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0])?;
    let mut hello = [0; 2];
    stream.read_exact(&mut hello)?;
    let SocketAddr::V4(address) = address else {
        return Err(io::Error::other("targets have IPv4 addresses"));
    };
    let words = [&[5, command, 0, 1][..], &address.ip().octets(), &address.port().to_be_bytes()].concat();
    stream.write_all(&words)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("the client refuses: {}", reply[1])));
    }
    let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
    Ok((ip, u16::from_be_bytes([reply[8], reply[9]])).into())
}

/// A user's client, reached inside its namespace.
#[derive(Clone)]
pub struct Proxy {
    pub netns: Netns,
    pub address: SocketAddr,
    /// The inbound wants naive's padding, which sing-box's http client does not add.
    pub padded: bool,
}

impl Proxy {
    /// A connection to `target` through the client.
    pub fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        self.netns.run(|| {
            let mut stream = TcpStream::connect(self.address)?;
            request(&mut stream, 1, target)?;
            Ok(stream)
        })
    }

    /// Sends `up` bytes, then takes `down` bytes, over one TCP connection.
    pub fn exchange(&self, target: Target, up: u64, down: u64) -> io::Result<()> {
        let stream = self.connect(target.tcp)?;
        if self.padded {
            return exchange(&mut Padded::new(stream), up, down);
        }
        let mut stream = stream;
        exchange(&mut stream, up, down)
    }

    /// Sends `count` datagrams of `size` bytes, each answered before the next.
    pub fn echo(&self, target: Target, count: u32, size: usize) -> io::Result<()> {
        let (socket, _control) = self.netns.run(|| -> io::Result<_> {
            let mut control = TcpStream::connect(self.address)?;
            let relay = request(&mut control, 3, (Ipv4Addr::UNSPECIFIED, 0).into())?;
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect((Ipv4Addr::LOCALHOST, relay.port()))?;
            Ok((socket, control))
        })?;
        socket.set_read_timeout(Some(ECHO_LIMIT))?;
        let SocketAddr::V4(to) = target.udp else { return Err(io::Error::other("an IPv4 target")) };
        let header = [&[0, 0, 0, 1][..], &to.ip().octets(), &to.port().to_be_bytes()].concat();
        for number in 0..count {
            let mut datagram = header.clone();
            datagram.extend(number.to_be_bytes());
            datagram.resize(header.len() + size, number as u8);
            round_trip(&socket, &datagram, header.len())?;
        }
        Ok(())
    }
}

/// Sends until the same datagram comes back.
fn round_trip(socket: &UdpSocket, datagram: &[u8], header: usize) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..ECHO_TRIES {
        socket.send(datagram)?;
        while let Ok(n) = socket.recv(&mut buffer) {
            if n >= header && buffer[header..n] == datagram[header..] {
                return Ok(());
            }
        }
    }
    Err(io::Error::other("no answer to a datagram"))
}

fn exchange(stream: &mut (impl Read + Write), up: u64, down: u64) -> io::Result<()> {
    stream.write_all(&head(up, down))?;
    send(stream, up)?;
    receive(stream, down)
}

/// naive's padding: the first eight writes of each side are framed as length, size of padding, data, padding.
struct Padded {
    stream: TcpStream,
    written: u32,
    read: u32,
    /// Data of a frame that is not taken yet, and the padding that comes after it.
    left: (usize, usize),
}

/// Frames at the start of each direction.
const PADDED_FRAMES: u32 = 8;

impl Padded {
    fn new(stream: TcpStream) -> Padded {
        Padded { stream, written: 0, read: 0, left: (0, 0) }
    }
}

impl Write for Padded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.written >= PADDED_FRAMES {
            return self.stream.write(data);
        }
        self.written += 1;
        let part = &data[..data.len().min(16 << 10)];
        let padding = 17;
        let length = u16::try_from(part.len()).unwrap_or_default().to_be_bytes();
        let frame = [&length[..], &[padding], part, &vec![0; usize::from(padding)]].concat();
        self.stream.write_all(&frame)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Padded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.0 == 0 && self.read < PADDED_FRAMES {
            let mut head = [0; 3];
            self.stream.read_exact(&mut head)?;
            self.read += 1;
            self.left = (usize::from(u16::from_be_bytes([head[0], head[1]])), usize::from(head[2]));
        }
        let limit = if self.left.0 > 0 { self.left.0.min(buffer.len()) } else { buffer.len() };
        let n = self.stream.read(&mut buffer[..limit])?;
        if self.left.0 > 0 {
            self.left.0 -= n;
            if self.left.0 == 0 {
                let mut padding = vec![0; self.left.1];
                self.stream.read_exact(&mut padding)?;
            }
        }
        Ok(n)
    }
}
