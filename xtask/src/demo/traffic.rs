//! Real traffic of the demonstration: a small web server as the target, and downloads and uploads through each
//! user's SOCKS port. Bounded in bytes, so it ends by itself.

use super::config::Ports;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What each user moves: bytes down and up. Different for each, so that the table tells them apart.
const PLAN: [(u64, u64); 2] = [(20 << 20, 2 << 20), (8 << 20, 6 << 20)];
/// More than the demonstration's quota: in bytes.
pub const TOO_MUCH: u64 = 256 << 20;
/// No single read or write of a loopback transfer takes this long.
const IO_LIMIT: Duration = Duration::from_secs(20);
/// Size of one read or write.
const CHUNK: usize = 32 * 1024;

/// Starts the target: a request is how many bytes to send back and how many will come.
pub fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(IO_LIMIT))?;
    let mut request = [0; 16];
    stream.read_exact(&mut request)?;
    let (down, up) = request.split_at(8);
    let (down, up) = (u64::from_be_bytes(down.try_into()?), u64::from_be_bytes(up.try_into()?));
    receive(&mut stream, up)?;
    send(&mut stream, down)
}

fn send(stream: &mut TcpStream, mut bytes: u64) -> Result<()> {
    let chunk = [0x5a; CHUNK];
    while bytes > 0 {
        let part = usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..part])?;
        bytes -= part as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let got = std::io::copy(&mut stream.take(bytes), &mut std::io::sink())?;
    if got != bytes {
        bail!("the connection ended after {got} of {bytes} bytes");
    }
    Ok(())
}

/// A connection to `target` through a SOCKS5 proxy without a password.
fn through(proxy: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    let SocketAddr::V4(target) = target else { bail!("the demonstration's target has an IPv4 address") };
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.write_all(&[5, 1, 0])?;
    let mut hello = [0; 2];
    stream.read_exact(&mut hello)?;
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if hello != [5, 0] || reply[1] != 0 {
        bail!("the client's SOCKS port refused: {}", reply[1]);
    }
    Ok(stream)
}

fn ask(proxy: SocketAddr, target: SocketAddr, down: u64) -> Result<TcpStream> {
    let mut stream = through(proxy, target)?;
    stream.write_all(&down.to_be_bytes())?;
    stream.write_all(&0_u64.to_be_bytes())?;
    Ok(stream)
}

/// Loads so many bytes; how many came until the connection ended.
pub fn load(proxy: SocketAddr, target: SocketAddr, down: u64) -> Result<u64> {
    let stream = ask(proxy, target, down)?;
    let mut got = 0;
    let mut chunk = [0; CHUNK];
    let mut reader = &stream;
    while let Ok(n @ 1..) = reader.read(&mut chunk) {
        got += n as u64;
    }
    Ok(got)
}

/// A download that goes on until it is stopped.
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Stream {
    pub fn start(proxy: SocketAddr, target: SocketAddr) -> Result<Stream> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut stream, told) = (ask(proxy, target, u64::MAX)?, Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut got, mut chunk) = (0, [0; CHUNK]);
            while !told.load(Ordering::Relaxed) {
                match stream.read(&mut chunk)? {
                    0 => bail!("it ended after {got} bytes"),
                    n => got += n as u64,
                }
                // A film, not a flood: alice's download has the machine.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(got)
        });
        Ok(Stream { stop, thread })
    }

    /// How many bytes came; an error if it had ended before.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the stream panicked"))?
    }
}

/// Both users at once, each with its own plan; the connections are open until everything is moved.
pub fn drive(ports: &Ports, target: SocketAddr) -> Result<()> {
    let mut users = Vec::new();
    for ((name, port), (down, up)) in ports.clients().into_iter().zip(PLAN) {
        let proxy = ports.loopback(port);
        users.push(std::thread::spawn(move || -> Result<()> {
            let mut stream = through(proxy, target).with_context(|| format!("{name}'s client"))?;
            stream.write_all(&down.to_be_bytes())?;
            stream.write_all(&up.to_be_bytes())?;
            send(&mut stream, up)?;
            receive(&mut stream, down)
        }));
    }
    for user in users {
        user.join().map_err(|_| anyhow::anyhow!("the traffic of a user panicked"))??;
    }
    Ok(())
}
