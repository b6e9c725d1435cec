//! A link with a real delay: two network namespaces, a TUN device in each, and a thread per
//! direction that carries packets from one to the other after a time. TCP runs end to end over it;
//! segments cross in bundles, as a network card with offloads takes and gives them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use boxmeter::kernel::Namespace;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::net::{inside, ip};

/// A network namespace at one end.
pub struct End {
    pub namespace: Namespace,
    file: File,
}

impl End {
    /// Makes the namespace and a TUN device in it; `number` is the last one of its addresses.
    fn new(number: u8) -> (Self, File) {
        thread::scope(|scope| {
            let end = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let device = tun();
                ip("link set lo up");
                ip(&format!("addr add 10.99.0.{number}/24 dev wire"));
                ip(&format!("addr add fd99::{number}/64 dev wire nodad"));
                // Packets wait in the device while the relay is not running.
                ip("link set wire mtu 1500 txqueuelen 20000 up");
                let file = File::open("/proc/thread-self/ns/net").unwrap();
                (End { namespace: Namespace::own().unwrap(), file }, device)
            });
            end.join().unwrap()
        })
    }

    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.file, act)
    }
}

fn tun() -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
    /// A device for IP packets, without a header of its own but with the one of virtio.
    const KIND: i16 = 0x0001 | 0x1000 | 0x4000;
    /// Checksums and segmentation, IPv4 and IPv6.
    const OFFLOADS: libc::c_ulong = 1 | 2 | 4;
    let file = File::options().read(true).write(true).open("/dev/net/tun").expect("needs TUN");
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        pad: [u8; 22],
    }
    let mut request = Request { name: [0; 16], flags: KIND, pad: [0; 22] };
    request.name[..4].copy_from_slice(b"wire");
    // SAFETY: the struct that the call wants.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call takes a number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, OFFLOADS) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    file
}

pub struct Link {
    pub server: End,
    pub client: End,
    stop: Arc<AtomicBool>,
    relays: Vec<JoinHandle<()>>,
}

impl Link {
    /// `delay` in each direction.
    pub fn new(delay: Duration) -> Self {
        let (server, near) = End::new(1);
        let (client, far) = End::new(2);
        let stop = Arc::new(AtomicBool::new(false));
        let mut relays = Vec::new();
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to, stop) = (from.try_clone().unwrap(), to.try_clone().unwrap(), stop.clone());
            relays.push(thread::spawn(move || relay(from, to, delay, &stop)));
        }
        Link { server, client, stop, relays }
    }

    pub fn server_address(ipv6: bool) -> IpAddr {
        if ipv6 {
            IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1))
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
    }
}

fn relay(mut from: File, mut to: File, delay: Duration, stop: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let next =
            waiting.front().map_or(Duration::from_millis(20), |(due, _)| due.saturating_duration_since(now));
        let timeout = nix::sys::time::TimeSpec::from_duration(next);
        let _ = ppoll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], Some(timeout), None);
        while let Ok(length) = from.read(&mut buffer) {
            waiting.push_back((Instant::now() + delay, buffer[..length].to_vec()));
        }
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, packet)) = waiting.pop_front() {
                // A packet that the other end has no room for is lost, as on any link.
                let _ = to.write(&packet);
            }
        }
    }
}
