//! What a packet costs in the programs, beside an empty program, two plain counters and the lookup
//! of a flow (socket storage for TCP, a hash with a key of 24 bytes for UDP) in the same run, as the
//! kernel's own statistics time them (`cargo xtask bench`).
//!
//! Each kind of program is attached to a cgroup of its own, which holds nothing but the server
//! sockets of that kind: rounds alternate without anything being attached or detached, and neither
//! the clients nor the rest of the machine are counted. A run's nanoseconds hold what the kernel
//! needs to time it, which is what the empty program shows; the ratio is of the whole figures, as
//! the statistics show them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

use boxmeter::{core::event::Network, kernel::PeerCursor};
use boxmeter_common::{
    command::{Command, OP_OWN},
    flow::Flow,
};

use boxmeter_tests::{baseline::Attached, cgroup::Cgroup};

use crate::{
    net::{exchange, in_new_namespace, inside, ip, port_of, sockaddr},
    rig::Rig,
    wire::no_offload,
};

const ROUNDS: usize = 21;
const KINDS: usize = 4;
const EMPTY: usize = 0;
const PLAIN: usize = 1;
const LOOKUP: usize = 2;
const OURS: usize = 3;
const NAMES: [&str; KINDS] = ["empty", "two plain counters", "the lookup alone", "boxmeter"];

/// The kinds of program, each with its cgroup.
struct Lanes {
    rig: Rig,
    empty: Attached,
    plain: Attached,
    lookup: Attached,
    // After the programs: a cgroup goes last.
    groups: [Cgroup; KINDS],
}

/// What the programs took: nanoseconds and runs, by direction.
type Spent = [(u64, u64); 2];

impl Lanes {
    fn new(network: Network) -> Self {
        let groups = ["empty", "plain", "lookup", "ours"].map(Cgroup::new);
        let rig = Rig::with(|config| config.cgroup = Some(groups[OURS].path().to_path_buf()));
        let lookup = match network {
            Network::Tcp => {
                let pin = rig.mount.pins().join(boxmeter_common::maps::SOCKETS);
                Attached::storage_lookup(groups[LOOKUP].path(), &pin)
            }
            Network::Udp => Attached::hash_lookup(groups[LOOKUP].path()),
        };
        Lanes {
            rig,
            lookup,
            empty: Attached::empty(groups[EMPTY].path()),
            plain: Attached::counters(groups[PLAIN].path()),
            groups,
        }
    }

    fn spent(&self, kind: usize) -> Spent {
        match kind {
            EMPTY => self.empty.run_time(),
            PLAIN => self.plain.run_time(),
            LOOKUP => self.lookup.run_time(),
            _ => self.rig.kernel.run_time(),
        }
    }

    /// Lets every kind carry the same traffic, in turns, and prints what came out.
    fn compare(&self, name: &str, mut traffic: impl FnMut(usize)) {
        let _timed = self.rig.kernel.measure().unwrap();
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..=ROUNDS {
            let mut spent = [[(0, 0); 2]; KINDS];
            for turn in 0..KINDS {
                let kind = (turn + round) % KINDS;
                let before = self.spent(kind);
                traffic(kind);
                let after = self.spent(kind);
                spent[kind] = [0, 1].map(|way| (after[way].0 - before[way].0, after[way].1 - before[way].1));
            }
            // The first round fills caches and makes what is missing.
            if round > 0 {
                rounds.push(spent);
            }
        }
        let audit = self.rig.kernel.audit();
        assert_eq!(audit.difference_bytes(), 0, "{audit:?}");
        report(name, &rounds);
    }
}

fn per_run(spent: &[(u64, u64)]) -> f64 {
    let (ns, runs) = spent.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    ns as f64 / runs as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The figure and the aim are of the medians; the least values show what is left of it when nothing
/// else runs.
fn report(name: &str, rounds: &[[Spent; KINDS]]) {
    let each = |kind: usize, ways: std::ops::Range<usize>| {
        rounds.iter().map(move |spent| per_run(&spent[kind][ways.clone()]))
    };
    let least = |kind: usize| each(kind, 0..2).fold(f64::INFINITY, f64::min);
    let ratio = median(rounds.iter().map(|spent| per_run(&spent[OURS]) / per_run(&spent[PLAIN])));
    println!(
        "FIGURE\tcost per {name} against two plain counters\t{ratio:.2} × (median of {} paired rounds; least \
         against least {:.2} ×)",
        rounds.len(),
        least(OURS) / least(PLAIN),
    );
    let empty = median(each(EMPTY, 0..2));
    let shown = |kind: usize| {
        let all = median(each(kind, 0..2));
        let [inward, outward] = [0..1, 1..2].map(|ways| median(each(kind, ways)));
        format!(
            "{} {all:.0} ({inward:.0} in, {outward:.0} out; {:.0} above empty; least {:.0})",
            NAMES[kind],
            all - empty,
            least(kind)
        )
    };
    let kinds: Vec<String> = (0..KINDS).map(shown).collect();
    println!("FIGURE\tns per run, {name}\t{}", kinds.join(", "));
}

/// Runs `act` in a namespace that is joined by a veth pair, one segment per packet, to another one:
/// `10.99.0.1` is here, `10.99.0.2` in the one that `act` gets.
fn between_namespaces(act: impl FnOnce(&File) + Send) {
    in_new_namespace(|| {
        let client = File::open("/proc/thread-self/ns/net").unwrap();
        in_new_namespace(|| {
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            ip("link add s gso_max_segs 1 type veth peer name c gso_max_segs 1");
            ip(&format!("link set c netns /proc/{}/fd/{}", std::process::id(), client.as_raw_fd()));
            no_offload("s");
            ip("addr add 10.99.0.1/24 dev s");
            ip("link set s up");
            inside(&client, || {
                no_offload("c");
                ip("addr add 10.99.0.2/24 dev c");
                ip("link set c up");
            });
            act(&client);
        });
    });
}

/// A connection per kind, all of ours owned by one user with a budget.
fn connections(lanes: &mut Lanes, client: &File) -> Vec<(TcpStream, TcpStream)> {
    let mut made = Vec::new();
    for kind in 0..KINDS {
        let listener = lanes.groups[kind].run(|| TcpListener::bind("10.99.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let inbound = (kind == OURS).then(|| lanes.rig.watch(Network::Tcp, address.port()));
        let ours = inside(client, || TcpStream::connect(address).unwrap());
        let (theirs, _) = listener.accept().unwrap();
        for stream in [&ours, &theirs] {
            stream.set_nodelay(true).unwrap();
        }
        if let Some(inbound) = inbound {
            let slot = lanes.rig.account(inbound);
            budget(lanes);
            let cookie = boxmeter::kernel::Namespace::own().unwrap();
            lanes.rig.kernel.set_namespaces(vec![cookie]);
            let flow = lanes.rig.socket(port_of(&ours)).unwrap();
            lanes.rig.own(&flow, slot);
        }
        made.push((ours, theirs));
    }
    made
}

/// A budget that is compared with every packet and never used up.
fn budget(lanes: &Lanes) {
    let user = lanes.rig.kernel.users().next().unwrap().slot;
    lanes.rig.kernel.set_budget(user, 1 << 60, 1 << 59);
}

fn ping_pong((mut client, mut server): (&TcpStream, &TcpStream), rounds: usize) {
    let mut bytes = [7; 100];
    for _ in 0..rounds {
        client.write_all(&bytes).unwrap();
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
        client.read_exact(&mut bytes).unwrap();
    }
}

#[test]
#[ignore = "a benchmark"]
fn bench_cost_tcp() {
    let mut lanes = Lanes::new(Network::Tcp);
    between_namespaces(|client| {
        let pairs = connections(&mut lanes, client);
        let lanes = &lanes;
        lanes.compare("TCP packet, download, one segment per packet", |kind| {
            exchange(&pairs[kind].0, &pairs[kind].1, 0, 20_000_000);
        });
        lanes.compare("TCP packet, upload, one segment per packet", |kind| {
            exchange(&pairs[kind].0, &pairs[kind].1, 20_000_000, 0);
        });
        lanes.compare("TCP packet, 100-byte ping-pong", |kind| {
            ping_pong((&pairs[kind].0, &pairs[kind].1), 5_000);
        });
    });
}

/// Datagrams per burst: less than a socket's buffer takes.
const BURST: usize = 32;

/// One UDP socket that is many peers: each datagram goes from an address of its own.
struct Crowd {
    socket: UdpSocket,
    size: u32,
    state: u32,
}

impl Crowd {
    fn new(size: u32) -> Self {
        Crowd { socket: UdpSocket::bind("0.0.0.0:0").unwrap(), size, state: 1 }
    }

    /// Any member, in no order.
    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) % self.size
    }

    fn send(&self, member: u32, to: SocketAddrV4) {
        #[repr(C)]
        struct Control {
            head: libc::cmsghdr,
            info: libc::in_pktinfo,
        }
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + member);
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let head = libc::cmsghdr { cmsg_len: 16 + 12, cmsg_level: libc::SOL_IP, cmsg_type: libc::IP_PKTINFO };
        let mut control = Control { head, info };
        let mut to = sockaddr(to);
        let payload = [0x5a; 1_200];
        let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        // SAFETY: every pointer is to a live value of the told length.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw mut to).cast();
            message.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = size_of::<Control>();
            let sent = libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0);
            assert_eq!(sent, payload.len() as isize, "{}", std::io::Error::last_os_error());
        }
    }
}

/// A datagram of 1,200 bytes from each member and one back, in bursts.
fn datagrams(server: &UdpSocket, crowd: &mut Crowd, members: impl Iterator<Item = u32>) {
    let std::net::SocketAddr::V4(to) = server.local_addr().unwrap() else { panic!() };
    let mut bytes = [0; 2_000];
    let mut members = members.peekable();
    while members.peek().is_some() {
        let burst: Vec<u32> = members.by_ref().take(BURST).collect();
        for member in &burst {
            crowd.send(*member, to);
        }
        let from: Vec<_> = burst.iter().map(|_| server.recv_from(&mut bytes).unwrap().1).collect();
        for peer in from {
            server.send_to(&bytes[..1_200], peer).unwrap();
        }
        for _ in burst {
            crowd.socket.recv_from(&mut bytes).unwrap();
        }
    }
}

fn own_all_peers(rig: &mut Rig, slot: boxmeter::core::event::Slot) -> usize {
    let (flows, _) = rig.kernel.walk_peers(PeerCursor::default(), 400_000).unwrap();
    let own =
        |flow: &Flow| Command { op: OP_OWN, slot: slot.0, id: flow.id, key: flow.key, ..Command::default() };
    let mut commands: Vec<Command> = flows.iter().map(own).collect();
    rig.kernel.run(&mut commands).unwrap();
    commands.len()
}

fn udp(name: &str, peers: u32, datagrams_per_round: usize) {
    let mut lanes = Lanes::new(Network::Udp);
    in_new_namespace(|| {
        ip("link set lo up");
        let servers: Vec<UdpSocket> = (0..KINDS)
            .map(|kind| lanes.groups[kind].run(|| UdpSocket::bind("127.0.0.1:0").unwrap()))
            .collect();
        let mut crowds: Vec<Crowd> = (0..KINDS).map(|_| Crowd::new(peers)).collect();
        for server in &servers {
            server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        }
        let inbound = lanes.rig.watch(Network::Udp, servers[OURS].local_addr().unwrap().port());
        let slot = lanes.rig.account(inbound);
        budget(&lanes);
        datagrams(&servers[OURS], &mut crowds[OURS], 0..peers);
        assert_eq!(own_all_peers(&mut lanes.rig, slot), peers as usize);
        lanes.compare(name, |kind| {
            let crowd = &mut crowds[kind];
            let members: Vec<u32> = (0..datagrams_per_round).map(|_| crowd.next()).collect();
            datagrams(&servers[kind], crowd, members.into_iter());
        });
    });
}

#[test]
#[ignore = "a benchmark"]
fn bench_cost_udp_one_peer() {
    udp("UDP packet, one peer,", 1, 10_000);
}

#[test]
#[ignore = "a benchmark"]
fn bench_cost_udp_many_peers() {
    udp("UDP packet, 100,000 peers at random,", 100_000, 10_000);
}
