//! Rates over a link with a real delay. Bounds are wide here, because other work on the machine
//! disturbs them; how exact rates are is measured by `bench_rates`.

use std::{
    net::{IpAddr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use boxmeter::{
    core::event::{InboundIndex, Network, Slot},
    kernel::{Kernel, UserSlot},
};

use boxmeter_common::{DOWNLOAD, UPLOAD};

use crate::{
    link::Link,
    load::{Busy, connect, datagrams, listen, rate, settle},
    net::port_of,
    rig::{Rig, until},
};

const MBIT: u64 = 125_000;
const WIDE: f64 = 0.15;

struct Setting {
    rig: Rig,
    link: Link,
    listener: std::net::TcpListener,
    inbound: InboundIndex,
}

impl Setting {
    /// A dual-stack listener behind a link with a round trip of 10 ms.
    fn new() -> Self {
        let link = Link::new(Duration::from_millis(5));
        let mut rig = Rig::new();
        let (listener, port) = listen(&link, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let inbound = rig.watch_in(link.server.namespace.cookie(), Network::Tcp, port);
        rig.kernel.set_namespaces(vec![link.server.namespace.clone()]);
        Setting { rig, link, listener, inbound }
    }

    fn user(&mut self, rates: [u64; 2]) -> (Slot, UserSlot) {
        let slot = self.rig.account(self.inbound);
        let user = self.rig.kernel.users().last().unwrap().slot;
        self.rig.kernel.set_rates(user, rates);
        (slot, user)
    }

    fn busy(&mut self, slot: Slot, flows: usize, ipv6: bool, download: bool) -> Vec<Busy> {
        let mut busy: Vec<Busy> = Vec::new();
        for _ in 0..flows {
            let one = connect(&self.link, &self.listener, ipv6, "cubic", download);
            one.own(&mut self.rig, slot);
            busy.push(one);
        }
        busy.iter_mut().for_each(Busy::start);
        busy
    }
}

#[test]
fn each_user_has_its_own_rate_over_all_its_flows_and_others_have_none() {
    let mut set = Setting::new();
    let (many, one, free) = (set.user([0, 16 * MBIT]), set.user([0, 8 * MBIT]), set.user([0, 0]));
    let many = set.busy(many.0, 4, false, true);
    let one = set.busy(one.0, 1, true, true);
    let free = set.busy(free.0, 1, false, true);
    settle(&many, 16 * MBIT, WIDE);
    settle(&one, 8 * MBIT, WIDE);
    let fast = rate(&free, Duration::from_millis(500));
    assert!(fast > (40 * MBIT) as f64, "{fast}");
    for flow in many.iter().chain(&one) {
        let (sent, again) = flow.retransmitted();
        assert!(again * 1_000 <= sent, "{again} of {sent} sent again");
    }
    assert_eq!(set.rig.stat("packets_dropped_by_rate"), 0);
    assert_eq!(set.rig.stat("rate_options_refused"), 0);
}

#[test]
fn a_flow_that_rests_leaves_its_share_to_the_others() {
    let mut set = Setting::new();
    let (slot, _) = set.user([0, 16 * MBIT]);
    let busy = set.busy(slot, 3, false, true);
    settle(&busy, 16 * MBIT, WIDE);
    for rests in &busy[1..] {
        rests.rest.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    settle(&busy[..1], 16 * MBIT, WIDE);
    busy[1].rest.store(false, std::sync::atomic::Ordering::Relaxed);
    settle(&busy, 16 * MBIT, WIDE);
    until("both have a part", || {
        let before = [busy[0].received(), busy[1].received()];
        std::thread::sleep(Duration::from_millis(300));
        busy[0].received() > before[0] && busy[1].received() > before[1]
    });
}

#[test]
fn a_rate_changes_and_ends_while_flows_are_open() {
    let mut set = Setting::new();
    let (slot, user) = set.user([0, 32 * MBIT]);
    let busy = set.busy(slot, 2, false, true);
    settle(&busy, 32 * MBIT, WIDE);
    set.rig.kernel.set_rates(user, [0, 8 * MBIT]);
    assert_eq!(set.rig.kernel.rates(user), [0, 8 * MBIT]);
    settle(&busy, 8 * MBIT, WIDE);
    set.rig.kernel.set_rates(user, [0, 0]);
    until("nothing slows it any more", || rate(&busy, Duration::from_millis(300)) > (48 * MBIT) as f64);
    set.rig.kernel.set_rates(user, [0, 8 * MBIT]);
    settle(&busy, 8 * MBIT, WIDE);
}

#[test]
fn rates_hold_without_an_agent_and_the_next_one_knows_them() {
    let mut set = Setting::new();
    let (slot, user) = set.user([4 * MBIT, 16 * MBIT]);
    let busy = set.busy(slot, 2, false, true);
    settle(&busy, 16 * MBIT, WIDE);
    let Setting { rig, link, listener, .. } = set;
    let Rig { kernel, events, mount } = rig;
    drop((kernel, events));
    settle(&busy, 16 * MBIT, WIDE);
    let mut kernel = Kernel::open(&mount.config()).unwrap();
    assert_eq!(kernel.rates(user), [4 * MBIT, 16 * MBIT]);
    kernel.set_rates(user, [4 * MBIT, 8 * MBIT]);
    settle(&busy, 8 * MBIT, WIDE);
    drop((busy, listener, link));
}

#[test]
fn an_upload_keeps_its_rate_by_the_window_and_loses_nothing() {
    let mut set = Setting::new();
    let (slot, user) = set.user([16 * MBIT, 0]);
    // More flows than the windows that they begin with are made for.
    let busy = set.busy(slot, 6, false, false);
    settle(&busy, 16 * MBIT, WIDE);
    for flow in &busy {
        let (sent, again) = flow.retransmitted();
        assert!(again * 50 <= sent, "{again} of {sent} sent again");
    }
    set.rig.kernel.set_rates(user, [0, 0]);
    until("nothing slows it any more", || rate(&busy, Duration::from_millis(300)) > (32 * MBIT) as f64);
}

/// The programs' calls do not reach a socket that is older than they are: the walk does.
#[test]
fn an_older_socket_is_slowed_by_the_walk() {
    let link = Link::new(Duration::from_millis(5));
    let (listener, port) = listen(&link, Link::server_address(false));
    let mut busy = vec![connect(&link, &listener, false, "cubic", true)];
    let mut rig = Rig::new();
    let inbound = rig.watch_in(link.server.namespace.cookie(), Network::Tcp, port);
    rig.kernel.set_namespaces(vec![link.server.namespace.clone()]);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    rig.kernel.set_rates(user, [0, 8 * MBIT]);
    busy[0].start();
    until("the flow is there", || rig.socket(port_of(&busy[0].client)).is_some());
    let flow = rig.socket(port_of(&busy[0].client)).unwrap();
    rig.own(&flow, slot);
    rig.kernel.walk_sockets().unwrap();
    settle(&busy, 8 * MBIT, WIDE);
}

#[test]
fn datagrams_beyond_the_rate_are_dropped_without_an_error_in_both_directions() {
    let mut rig = Rig::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let inbound = rig.watch(Network::Udp, address.port());
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[1; 100], address).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 100]).unwrap();
    let flow = rig.peer(peer.port()).unwrap();
    rig.own(&flow, slot);
    rig.kernel.set_rates(user, [2_000_000, 1_000_000]);
    for (way, rate) in [(UPLOAD, 2_000_000), (DOWNLOAD, 1_000_000)] {
        let before = (rig.kernel.counters(slot), rig.kernel.user(user).limited_bytes[way]);
        let started = Instant::now();
        let time = Duration::from_secs(3);
        let sent = if way == UPLOAD {
            datagrams(&client, address, &server, 3 * rate, time)
        } else {
            datagrams(&server, peer, &client, 3 * rate, time)
        };
        let after = (rig.kernel.counters(slot), rig.kernel.user(user).limited_bytes[way]);
        let passed = (after.0.payload[way] - before.0.payload[way]) as f64;
        let part = passed / started.elapsed().as_secs_f64() / rate as f64;
        // The burst of a fifth of a second is in it.
        assert!((0.9..1.2).contains(&part), "direction {way}: {part} of the rate");
        let dropped = after.1 - before.1;
        assert_eq!(after.0.wire[way] - before.0.wire[way] + dropped, sent * 1_228, "dropped is not used");
    }
    assert_eq!(rig.kernel.user(user).dropped_packets, [0, 0], "no budget dropped anything");
    rig.kernel.set_rates(user, [0, 0]);
    let before = rig.kernel.counters(slot).wire[DOWNLOAD];
    let sent = datagrams(&server, peer, &client, 4_000_000, Duration::from_secs(1));
    assert_eq!(rig.kernel.counters(slot).wire[DOWNLOAD] - before, sent * 1_228);
    rig.conserved();
}
