//! Connections and datagrams that carry as much as they are let, and what they carried.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use boxmeter::core::event::Slot;

use crate::{
    link::Link,
    net::port_of,
    rig::{Rig, until},
};

/// One connection in use.
pub struct Busy {
    pub client: TcpStream,
    pub server: TcpStream,
    download: bool,
    received: Arc<AtomicU64>,
    /// The sender rests while this is set.
    pub rest: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A connection over the link, with the sender's congestion control.
pub fn connect(link: &Link, listener: &TcpListener, ipv6: bool, control: &str, download: bool) -> Busy {
    let to = SocketAddr::new(Link::server_address(ipv6), listener.local_addr().unwrap().port());
    let client = link.client.run(|| TcpStream::connect(to).unwrap());
    let (server, _) = listener.accept().unwrap();
    set_control(if download { &server } else { &client }, control);
    Busy { client, server, download, received: Arc::default(), rest: Arc::default(), threads: Vec::new() }
}

pub fn listen(link: &Link, address: IpAddr) -> (TcpListener, u16) {
    let listener = link.server.run(|| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn set_control(stream: &TcpStream, name: &str) {
    // SAFETY: a live string of the told length.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as u32,
        )
    };
    assert_eq!(result, 0, "{name}: {}", std::io::Error::last_os_error());
}

impl Busy {
    /// Gives the flow its owner.
    pub fn own(&self, rig: &mut Rig, slot: Slot) {
        let port = port_of(&self.client);
        until("the flow is there", || rig.socket(port).is_some());
        let flow = rig.socket(port).unwrap();
        rig.own(&flow, slot);
    }

    pub fn start(&mut self) {
        let (from, to) =
            if self.download { (&self.server, &self.client) } else { (&self.client, &self.server) };
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (received, rest) = (self.received.clone(), self.rest.clone());
        self.threads.push(thread::spawn(move || {
            let piece = vec![0x5a; 1 << 15];
            loop {
                if rest.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                } else if from.write_all(&piece).is_err() {
                    return;
                }
            }
        }));
        self.threads.push(thread::spawn(move || {
            let mut piece = vec![0; 1 << 16];
            while let Ok(length @ 1..) = to.read(&mut piece) {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
        }));
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that the sender sent, and of these the ones that it sent again.
    pub fn retransmitted(&self) -> (u64, u64) {
        let sender = if self.download { &self.server } else { &self.client };
        let mut info = [0u8; 256];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: room for `length` bytes.
        let result = unsafe {
            libc::getsockopt(
                sender.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut length,
            )
        };
        assert_eq!(result, 0);
        // `tcpi_bytes_sent` and `tcpi_bytes_retrans`.
        let word = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().unwrap());
        (word(200), word(208))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.rest.store(false, Ordering::Relaxed);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Payload bytes per second that the connections receive together during `time`.
pub fn rate(busy: &[Busy], time: Duration) -> f64 {
    let sum = || busy.iter().map(Busy::received).sum::<u64>();
    let (started, before) = (Instant::now(), sum());
    thread::sleep(time);
    (sum() - before) as f64 / started.elapsed().as_secs_f64()
}

/// Waits until the connections together are within `tolerance` of `target` bytes per second over half a
/// second.
#[track_caller]
pub fn settle(busy: &[Busy], target: u64, tolerance: f64) {
    let mut last = 0.0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        last = rate(busy, Duration::from_millis(500)) / target as f64;
        if (last - 1.0).abs() <= tolerance {
            return;
        }
    }
    panic!("the rate never came near: {last:.3} of it");
}

/// Sends datagrams of 1,200 bytes at `offered` bytes per second for `time`, reads them at `at`, and
/// returns how many were sent. The receiver may lose some.
pub fn datagrams(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, offered: u64, time: Duration) -> u64 {
    at.set_nonblocking(true).unwrap();
    let (started, mut sent) = (Instant::now(), 0);
    let mut buffer = [0; 2_000];
    while started.elapsed() < time {
        while sent * 1_200 < (started.elapsed().as_secs_f64() * offered as f64) as u64 {
            assert_eq!(from.send_to(&[7; 1_200], to).unwrap(), 1_200, "a drop is no error");
            sent += 1;
        }
        let timeout = nix::poll::PollTimeout::from(1u8);
        let waiting = nix::poll::PollFd::new(at.as_fd(), nix::poll::PollFlags::POLLIN);
        let _ = nix::poll::poll(&mut [waiting], timeout);
        while at.recv(&mut buffer).is_ok() {}
    }
    sent
}
