//! Many short connections straight to a socks inbound, as a busy server sees them: the client is so cheap that
//! the rate is what was asked for.

use crate::singbox::{SERVER, Site};
use crate::target::{head, receive, send};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The port of a site's first inbound.
pub const PORT: u16 = 21_000;
/// Everything is on one machine: what takes longer is broken.
const IO_LIMIT: Duration = Duration::from_secs(20);

/// A connection of a user to the target of a site whose first inbound is of type socks. To be called in the
/// site's outside.
///
/// # Errors
/// No free port, or sing-box refuses.
pub fn connect(site: &Site, user: &str, password: &str) -> io::Result<TcpStream> {
    let server: SocketAddr = SocketAddr::new(SERVER[0].parse().map_err(io::Error::other)?, PORT);
    sign_in(TcpStream::connect_timeout(&server, IO_LIMIT)?, site, user, password)
}

/// As [`connect`], over a connection that is there.
///
/// # Errors
/// sing-box refuses.
pub fn sign_in(mut stream: TcpStream, site: &Site, user: &str, password: &str) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_nodelay(true)?;
    let SocketAddr::V4(target) = site.target.tcp else { return Err(io::Error::other("an IPv4 target")) };
    let length = |text: &str| u8::try_from(text.len()).map_err(io::Error::other);
    let login = [&[1, length(user)?], user.as_bytes(), &[length(password)?], password.as_bytes()].concat();
    let request = [&[5, 1, 0, 1][..], &target.ip().octets(), &target.port().to_be_bytes()].concat();
    for (words, answer) in [(&[5, 1, 2][..], 2), (&login, 2), (&request, 10)] {
        stream.write_all(words)?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply[..answer])?;
        let refused = if answer == 2 && reply[0] == 5 { reply[1] != 2 } else { reply[1] != 0 };
        if refused {
            return Err(io::Error::other(format!("refused: {reply:?}")));
        }
    }
    Ok(stream)
}

/// One exchange over a connection.
///
/// # Errors
/// It broke.
pub fn exchange(stream: &mut TcpStream, up: u64, down: u64) -> io::Result<()> {
    stream.write_all(&head(up, down))?;
    send(stream, up)?;
    receive(stream, down)
}

/// Makes `count` connections, `per_second` of them, from a few threads; the users take turns. Answers how many
/// did not come to their end, and how long it took.
pub fn many(site: &Site, users: &[(String, String)], count: u64, per_second: u64) -> (u64, Duration) {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                site.outside.run(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        let due = Duration::from_nanos(number * 1_000_000_000 / per_second);
                        std::thread::sleep(due.saturating_sub(started.elapsed()));
                        let (user, password) = &users[number as usize % users.len()];
                        let moved = connect(site, user, password)
                            .and_then(|mut stream| exchange(&mut stream, 100 + number % 7, 2_000));
                        if moved.is_err() {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
    (failed.into_inner(), started.elapsed())
}
