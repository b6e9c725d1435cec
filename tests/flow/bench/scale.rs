//! Many users and many flows: CPU time and memory of the agent.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    direct::{connect, exchange},
    needs_machine,
    singbox::{Site, VERSIONS},
    target::head,
    usage::{cpu_seconds, mapped_counters_mib, memory_mib},
};
use serde_json::{Value, json};

use super::{counter, figure};

/// Sent to the UDP inbound by each peer this often: a peer without an owner is forgotten after 60 s.
const PEERS_EVERY: Duration = Duration::from_secs(25);
/// Seconds that are looked at.
const SECONDS: usize = 30;

/// How much there is of what.
struct Size {
    users: usize,
    connections: usize,
    peers: usize,
}

fn site(size: &Size) -> Site {
    let mut site = Site::new(VERSIONS[2], &[named("socks"), named("hysteria2")]);
    let file = site.config();
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["inbounds"][0]["users"] =
        (0..size.users).map(|number| json!({"username": user(number), "password": "password"})).collect();
    std::fs::write(&file, config.to_string()).unwrap();
    site.stop_client();
    site.server = None;
    site.start_server();
    site
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// Every user has been there once; as many connections as wanted stay open, ready to take bytes.
fn populate(site: &Site, size: &Size) -> Vec<TcpStream> {
    let visits = size.users.max(size.connections);
    site.outside.run(|| {
        let mut open = Vec::new();
        for number in 0..visits {
            let mut stream = connect(site, &user(number % size.users), "password").unwrap();
            if visits - number > size.connections {
                exchange(&mut stream, 100, 100).unwrap();
            } else {
                stream.write_all(&head(u64::MAX, 0)).unwrap();
                open.push(stream);
            }
        }
        open
    })
}

/// Each peer sends one datagram; the inbound takes none of them, the kernel sees all.
fn datagrams(site: &Site, peers: usize) {
    let server: SocketAddr = "10.77.0.1:21002".parse().unwrap();
    site.outside.run(|| {
        for number in 0..peers {
            let address = Ipv4Addr::new(10, 77, 0, 2 + (number % 2) as u8);
            let port = 2_000 + (number / 2) as u16;
            // A port may be in use; one peer less does not matter.
            if let Ok(socket) = UdpSocket::bind((address, port)) {
                let _ = socket.send_to(&[0x40; 64], server);
            }
        }
    });
}

/// CPU seconds of the agent in each second.
fn seconds(pid: u32, mut each: impl FnMut()) -> Vec<f64> {
    let mut spent = Vec::new();
    let mut before = cpu_seconds(pid);
    let started = Instant::now();
    for second in 1..=SECONDS {
        each();
        thread::sleep(Duration::from_secs(second as u64).saturating_sub(started.elapsed()));
        let now = cpu_seconds(pid);
        spent.push(now - before);
        before = now;
    }
    spent
}

fn shown(spent: &[f64]) -> String {
    let mean = spent.iter().sum::<f64>() / spent.len() as f64;
    let worst = spent.iter().copied().fold(0.0, f64::max);
    format!("{:.1} ms mean, {:.1} ms in the worst second", mean * 1e3, worst * 1e3)
}

/// Measures the agent while flows are silent and while each TCP flow moves bytes every second.
fn measure(size: &Size) -> (Site, Agent) {
    let site = site(size);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    let mut open = populate(&site, size);
    datagrams(&site, size.peers);
    boxmeter_tests::wait("all flows are known", || {
        let known = counter(&agent.ask(&["status"])?, "flows_known");
        let wanted = (size.peers + size.connections) as u64 * 99 / 100;
        if known >= wanted { Ok(()) } else { Err(format!("{known} of {wanted}")) }
    });
    let pid = agent.process().pid();
    let name = format!("tick with {} users and {} flows", size.users, size.peers + size.connections);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now() + PEERS_EVERY;
            while !ended.load(Ordering::Relaxed) {
                if size.peers > 0 && Instant::now() > next {
                    datagrams(&site, size.peers);
                    next += PEERS_EVERY;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let quiet = seconds(pid, || {});
        figure(&name, shown(&quiet), "CPU time of the agent's process per second at 1 s ticks, flows silent");
        let busy = seconds(pid, || {
            for stream in &mut open {
                let _ = stream.write_all(&[7; 100]);
            }
        });
        let how = format!("the same, each of {} TCP flows moves bytes every second", size.connections);
        figure(&format!("{name}, busy"), shown(&busy), &how);
        ended.store(true, Ordering::Relaxed);
    });
    let memory = |line| format!("{:.1}", memory_mib(pid, line));
    figure(
        &format!("resident memory with {} users and {} flows", size.users, size.peers + size.connections),
        format!("{} MiB", memory("VmRSS")),
        &format!(
            "after that; its own {} MiB, the kernel's counters as it maps them {:.1} MiB, the rest program and \
             libraries",
            memory("RssAnon"),
            mapped_counters_mib(pid)
        ),
    );
    (site, agent)
}

/// The agent's files are in the site's folder.
fn end(site: Site, agent: Agent) {
    drop(agent);
    drop(site);
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_hundred_thousand_flows() {
    needs_machine!();
    // sing-box takes about six descriptors for a connection that it splices, and this machine may allow it no
    // more than 20,000.
    let (site, agent) = measure(&Size { users: 10_000, connections: 3_000, peers: 97_000 });
    let audit = agent.ask(&["audit"]).unwrap();
    let difference = audit["difference_bytes"].as_u64().unwrap();
    figure("bytes lost or doubled with 100,000 flows", difference, "`boxmeter audit` under that traffic");
    end(site, agent);
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_hundred_users() {
    needs_machine!();
    let (site, agent) = measure(&Size { users: 100, connections: 500, peers: 0 });
    end(site, agent);
}
