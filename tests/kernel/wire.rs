//! Wire bytes against the interface's own count, with one packet per segment on it.

use std::{fs, fs::File, net::TcpListener, os::fd::AsRawFd};

use boxmeter::{core::event::Network, kernel::Namespace};

use crate::{
    net::{exchange, in_new_namespace, inside, ip},
    rig::Rig,
};

const SIOCETHTOOL: u64 = 0x8946;
/// Set: transmit checksum, TSO, GSO, GRO off. The old single commands, which every driver has.
const SET_OFF: [u32; 3] = [0x1f, 0x24, 0x2c];
const ETHERNET: u64 = 14;

/// Turns segmentation and merging off, so that the interface counts what a wire would carry.
pub fn no_offload(interface: &str) {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    for command in SET_OFF {
        let mut value = [command, 0u32];
        let mut request = [0u8; 40];
        request[..interface.len()].copy_from_slice(interface.as_bytes());
        request[16..24].copy_from_slice(&(value.as_mut_ptr() as u64).to_ne_bytes());
        // SAFETY: a `struct ifreq` whose data points to a live `struct ethtool_value`.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, request.as_mut_ptr()) };
        assert_eq!(result, 0, "{command:#x}: {}", std::io::Error::last_os_error());
    }
}

fn statistic(interface: &str, name: &str) -> u64 {
    // Of the namespace that this thread is in: /sys shows the mounter's, /proc the reader's.
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line =
        text.lines().find_map(|l| l.trim().strip_prefix(&format!("{interface}:"))).unwrap().to_string();
    let column = ["rx_bytes", "rx_packets", "", "", "", "", "", "", "tx_bytes", "tx_packets"];
    let index = column.iter().position(|c| *c == name).unwrap();
    line.split_whitespace().nth(index).unwrap().parse().unwrap()
}

fn ip_bytes(interface: &str) -> [u64; 2] {
    let of = |way: &str| {
        statistic(interface, &format!("{way}_bytes"))
            - ETHERNET * statistic(interface, &format!("{way}_packets"))
    };
    [of("rx"), of("tx")]
}

#[test]
fn wire_bytes_are_what_the_interface_counts() {
    let mut rig = Rig::new();
    in_new_namespace(|| {
        let here = File::open("/proc/thread-self/ns/net").unwrap();
        in_new_namespace(|| {
            let there = File::open("/proc/thread-self/ns/net").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            ip("link add s type veth peer name c address 02:00:00:00:00:02");
            ip("link set s address 02:00:00:00:00:01");
            // The client's end goes to the other namespace.
            let path = format!("/proc/{}/fd/{}", std::process::id(), here.as_raw_fd());
            ip(&format!("link set c netns {path}"));
            no_offload("s");
            ip("addr add 10.99.0.1/24 dev s");
            ip("link set s up");
            inside(&here, || {
                fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
                fs::write("/proc/sys/net/ipv6/conf/c/disable_ipv6", "1").unwrap();
                no_offload("c");
                ip("addr add 10.99.0.2/24 dev c");
                ip("link set c up");
                ip("neigh add 10.99.0.1 lladdr 02:00:00:00:00:01 dev c nud permanent");
            });
            ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:02 dev s nud permanent");
            let before = ip_bytes("s");
            let listener = TcpListener::bind("10.99.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let cookie = Namespace::own().unwrap().cookie();
            let inbound = rig.watch_in(cookie, Network::Tcp, address.port());
            let client = inside(&here, || std::net::TcpStream::connect(address).unwrap());
            let (server, _) = listener.accept().unwrap();
            exchange(&client, &server, 20_000_000, 30_000_000);
            let settled = || {
                let total = rig.kernel.watched(inbound);
                let now = ip_bytes("s");
                (total.wire, [now[0] - before[0], now[1] - before[1]])
            };
            // The last acknowledgements may still be on their way.
            crate::rig::until("both counts agree", || settled().0 == settled().1);
            assert!(settled().0[1] > 30_000_000 + 30_000_000 / 1_460 * 40);
            rig.conserved();
            drop(there);
        });
    });
}
