//! What the users talk to: a server that sends and takes as many bytes as it is asked to, and the
//! user's side of it through a SOCKS5 proxy.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// Takes two numbers (bytes to take, bytes to send), takes, sends, ends.
pub fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut numbers = [0; 16];
    stream.read_exact(&mut numbers)?;
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().unwrap());
    io::copy(&mut (&mut stream).take(number(0)), &mut io::sink())?;
    io::copy(&mut io::repeat(7).take(number(8)), &mut stream)?;
    Ok(())
}

/// Exchanges bytes with the target through the SOCKS5 proxy of a client.
///
/// # Errors
/// Whatever breaks on the way; a test decides whether that may be.
pub fn exchange(proxy: SocketAddr, target: SocketAddr, up: u64, down: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&[5, 1, 0])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    let SocketAddr::V4(target) = target else { return Err(io::Error::other("an IPv4 target")) };
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("the proxy refuses: {}", reply[1])));
    }
    stream.write_all(&up.to_le_bytes())?;
    stream.write_all(&down.to_le_bytes())?;
    io::copy(&mut io::repeat(3).take(up), &mut stream)?;
    let got = io::copy(&mut (&mut stream).take(down), &mut io::sink())?;
    if got == down { Ok(()) } else { Err(io::Error::other(format!("{got} of {down} bytes"))) }
}
