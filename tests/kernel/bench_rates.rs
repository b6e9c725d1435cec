//! How exactly rates and budgets hold: figures, not assertions. Run by `cargo xtask bench`.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use boxmeter::core::event::Network;
use boxmeter_common::{DOWNLOAD, UPLOAD, user::UNLIMITED};

use crate::{
    link::Link,
    load::{Busy, connect, datagrams, listen, rate},
    net,
    rig::{Rig, until},
};

const MBIT: u64 = 125_000;

/// One speed that was asked for.
struct Case {
    download: bool,
    mbit: u64,
    flows: usize,
    control: &'static str,
}

/// What came of it: parts of the rate in half seconds, after two seconds in which TCP finds its own
/// speed; what was sent again, as a part of what was sent.
struct Outcome {
    first: f64,
    parts: Vec<f64>,
    again: f64,
    dropped: u64,
}

impl Case {
    fn run(&self) -> Outcome {
        let link = Link::new(Duration::from_millis(10));
        let mut rig = Rig::new();
        let (listener, port) = listen(&link, Link::server_address(false));
        let inbound = rig.watch_in(link.server.namespace.cookie(), Network::Tcp, port);
        rig.kernel.set_namespaces(vec![link.server.namespace.clone()]);
        let slot = rig.account(inbound);
        let user = rig.kernel.users().next().unwrap().slot;
        let target = self.mbit * MBIT;
        let mut rates = [0; 2];
        rates[if self.download { DOWNLOAD } else { UPLOAD }] = target;
        rig.kernel.set_rates(user, rates);
        let open = || connect(&link, &listener, false, self.control, self.download);
        let mut busy: Vec<Busy> = (0..self.flows).map(|_| open()).collect();
        busy.iter().for_each(|one| one.own(&mut rig, slot));
        busy.iter_mut().for_each(Busy::start);
        let part = |ms| rate(&busy, Duration::from_millis(ms)) / target as f64;
        let first = part(2_000);
        let parts = (0..10).map(|_| part(500)).collect();
        let (sent, again) =
            busy.iter().map(Busy::retransmitted).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let again = again as f64 / sent.max(1) as f64;
        Outcome { first, parts, again, dropped: rig.stat("packets_dropped_by_rate") }
    }

    fn print(&self) {
        let outcome = self.run();
        let way = if self.download { "download" } else { "upload" };
        let parts = &outcome.parts;
        println!(
            "FIGURE\tspeed: {way} over 20 ms, {} flows, {} Mbit/s, {}\t{:.3} of the rate (half seconds {:.2}–{:.2}, \
             the first two seconds {:.2}), sent again {:.3} %, {} packets dropped",
            self.flows,
            self.mbit,
            self.control,
            parts.iter().sum::<f64>() / parts.len() as f64,
            parts.iter().copied().fold(f64::MAX, f64::min),
            parts.iter().copied().fold(0.0, f64::max),
            outcome.first,
            outcome.again * 100.0,
            outcome.dropped,
        );
    }
}

fn all(download: bool) {
    for control in ["cubic", "bbr"] {
        for mbit in [8, 80, 400] {
            for flows in [1, 8] {
                Case { download, mbit, flows, control }.print();
            }
        }
    }
}

#[test]
#[ignore = "a benchmark"]
fn bench_downloads() {
    all(true);
}

#[test]
#[ignore = "a benchmark"]
fn bench_uploads() {
    all(false);
}

#[test]
#[ignore = "a benchmark"]
fn bench_datagrams() {
    let mut rig = Rig::new();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inbound = rig.watch(Network::Udp, server.local_addr().unwrap().port());
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[1; 100], server.local_addr().unwrap()).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 100]).unwrap();
    let flow = rig.peer(peer.port()).unwrap();
    rig.own(&flow, slot);
    for mbit in [8, 80, 400] {
        let target = mbit * MBIT;
        rig.kernel.set_rates(user, [0, target]);
        // The burst that a user who rested has.
        datagrams(&server, peer, &client, 2 * target, Duration::from_secs(1));
        let passed = || rig.kernel.counters(slot).payload[DOWNLOAD];
        let (started, before) = (Instant::now(), passed());
        // The receiver may lose some at this speed: what the programs let through is counted there.
        datagrams(&server, peer, &client, 2 * target, Duration::from_secs(4));
        let came = (passed() - before) as f64 / started.elapsed().as_secs_f64();
        println!(
            "FIGURE\tspeed: datagrams at twice the rate, {mbit} Mbit/s\t{:.3} of the rate",
            came / target as f64
        );
    }
}

/// What passes beyond a budget that is used up at full speed.
fn overshoot(flows: usize) -> u64 {
    const BUDGET: u64 = 100_000_000;
    let mut rig = Rig::new();
    let (listener, port) = net::listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let open: Vec<_> = (0..flows).map(|_| net::connect(&listener)).collect();
    for (client, _) in &open {
        rig.own(&rig.socket(net::port_of(client)).unwrap(), slot);
    }
    rig.kernel.set_budget(user, BUDGET, UNLIMITED);
    let each = 2 * BUDGET / flows as u64;
    std::thread::scope(|scope| {
        for (client, server) in &open {
            scope.spawn(move || net::send(server, each));
            scope.spawn(move || net::receive(client, each));
        }
        let cut = || rig.kernel.user(user).billed >= BUDGET;
        until("the budget is used up", cut);
        // What was on its way when the first packet was dropped is dropped, too.
        std::thread::sleep(Duration::from_millis(200));
        let billed = rig.kernel.user(user).billed;
        rig.kernel.set_budget(user, UNLIMITED, UNLIMITED);
        billed - BUDGET
    })
}

#[test]
#[ignore = "a benchmark"]
fn bench_budgets() {
    for flows in [1, 64] {
        println!("FIGURE\tbytes beyond the budget, {flows} flows at full speed\t{}", overshoot(flows));
    }
    let mut rig = Rig::new();
    let (listener, port) = net::listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    rig.account(inbound);
    let open: Vec<_> = (0..1_000).map(|_| net::connect(&listener)).collect();
    let flows: Vec<_> = rig.kernel.walk_sockets().unwrap().iter().map(boxmeter::kernel::seen).collect();
    let started = Instant::now();
    let done = rig.kernel.destroy(&flows).unwrap();
    println!(
        "FIGURE\tending {} connections in one call\t{:.1} ms",
        done.ended,
        started.elapsed().as_secs_f64() * 1e3
    );
    drop(open);
}
