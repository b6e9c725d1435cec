//! What users talk to: a TCP server that takes and sends as much as it is asked to, and a UDP echo. Contents
//! are checked on both sides, so that a byte count that is right by accident is not taken for right.

use crate::netns::Netns;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// Addresses of a target; its threads end with the process.
#[derive(Clone, Copy)]
pub struct Target {
    pub tcp: SocketAddr,
    pub udp: SocketAddr,
}

/// The contents of every stream repeat this many bytes: a period that is no power of two shows shifted or
/// repeated blocks.
const PERIOD: usize = 251;
/// Bytes that are written or read at once.
const BLOCK: usize = 32 << 10;

/// A period more than a block, so that a block of it begins at any offset of a stream.
static PATTERN: [u8; BLOCK + PERIOD] = {
    let mut pattern = [0; BLOCK + PERIOD];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at % PERIOD) as u8;
        at += 1;
    }
    pattern
};

/// `length` bytes of the pattern from an offset of the stream on; at most a block.
fn pattern(offset: u64, length: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &PATTERN[start..start + length]
}

/// Writes `bytes` bytes of the pattern.
pub fn send(stream: &mut impl Write, bytes: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let part = (bytes - sent).min(BLOCK as u64);
        stream.write_all(pattern(sent, part as usize))?;
        sent += part;
    }
    stream.flush()
}

/// Reads `bytes` bytes of the pattern.
pub fn receive(stream: &mut impl Read, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut got = 0;
    while got < bytes {
        let room = BLOCK.min(usize::try_from(bytes - got).unwrap_or(usize::MAX));
        let n = stream.read(&mut buffer[..room])?;
        if n == 0 {
            return Err(io::Error::other(format!("ended after {got} of {bytes} bytes")));
        }
        if buffer[..n] != *pattern(got, n) {
            return Err(io::Error::other(format!("wrong content after byte {got}")));
        }
        got += n as u64;
    }
    Ok(())
}

/// The head of an exchange: how much the target takes, then how much it sends.
pub fn head(up: u64, down: u64) -> [u8; 16] {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&up.to_le_bytes());
    head[8..].copy_from_slice(&down.to_le_bytes());
    head
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut numbers = [0; 16];
    stream.read_exact(&mut numbers)?;
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().unwrap_or_default());
    receive(&mut stream, number(0))?;
    send(&mut stream, number(8))
}

/// Starts a target on loopback inside `netns`.
pub fn serve(netns: &Netns) -> Target {
    serve_at(netns, Ipv4Addr::LOCALHOST)
}

/// Starts a target on an address that `netns` has.
pub fn serve_at(netns: &Netns, address: Ipv4Addr) -> Target {
    let (tcp, udp) = netns.run(|| {
        let place = (address, 0);
        (TcpListener::bind(place).unwrap(), UdpSocket::bind(place).unwrap())
    });
    let target = Target { tcp: tcp.local_addr().unwrap(), udp: udp.local_addr().unwrap() };
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..n], from);
            }
        }
    });
    target
}
