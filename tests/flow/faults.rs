//! What may happen on a server that people depend on, under traffic: not a byte is lost or doubled.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    long, needs_machine,
    questions::{exact, sum},
    singbox::{Dropped, Site, VERSIONS},
    wait,
};
use nix::sys::signal::Signal;
use rand::RngExt;
use serde_json::json;

/// A server with one inbound, two users and an agent that knows whose connections are.
fn metered(case: &'static str) -> (Site, Agent) {
    let site = Site::new(VERSIONS[2], &[named(case)]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    (site, agent)
}

/// One exchange of one user.
fn exchange(site: &Site, user: usize) -> Result<(), String> {
    site.users[user].proxy.exchange(site.target, 10_000, 200_000).map_err(|error| error.to_string())
}

/// Both users exchange bytes, over and over, until `meanwhile` has ended.
fn under_traffic(site: &Site, meanwhile: impl FnOnce()) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for user in &site.users {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    // A connection that breaks with sing-box is no failure of the meter.
                    let _ = user.proxy.exchange(site.target, 50_000, 400_000);
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        ended.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Kills the agent at random points, the first milliseconds of its life included.
fn kill_again_and_again(agent: &mut Agent, times: usize) {
    for _ in 0..times {
        agent.kill();
        agent.spawn();
        let until = Instant::now() + Duration::from_millis(rand::rng().random_range(1..1_500));
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    agent.kill();
    agent.start();
}

fn killed(case: &'static str, times: usize) -> (Site, Agent) {
    let (mut site, mut agent) = metered(case);
    under_traffic(&site, || kill_again_and_again(&mut agent, times));
    site.stop_client();
    (site, agent)
}

fn times(short: usize, soak: usize) -> usize {
    if long() { soak } else { short }
}

/// Short connections: some live and die while no agent does.
#[test]
fn agent_killed_at_random_points_with_tcp() {
    needs_machine!();
    let (site, agent) = killed("trojan-tls", times(10, 100));
    sum(&site, &agent);
}

/// The QUIC flows outlive every agent: nothing may be unattributed.
#[test]
fn agent_killed_at_random_points_with_quic() {
    needs_machine!();
    let (site, agent) = killed("hysteria2", times(6, 100));
    exact(&site, &agent, &Dropped::new());
}

#[test]
fn sing_box_reloaded_and_restarted() {
    needs_machine!();
    let (mut site, agent) = metered("trojan-tls");
    for (connections, restart) in (2..).zip([false, true]) {
        exchange(&site, 0).unwrap();
        // What sing-box tells arrives before it is told to end.
        wait("the connection is the user's", || {
            let first = &site.users[0];
            first.relay.truth.check(Agent::payload(&agent.ask(&["usage"])?, &first.name))
        });
        if restart {
            site.server = None;
            site.start_server();
        } else {
            site.server.as_ref().unwrap().signal(Signal::SIGHUP);
        }
        wait("traffic flows again", || exchange(&site, 1));
        // Not only connected: connected again, since the old connection lives for a moment.
        wait("the source is back", || {
            let events = agent.ask(&["events"])?["events"].clone();
            let events = events.as_array().ok_or("no events")?.clone();
            let seen = events.iter().filter(|event| event["kind"] == json!("source_connected")).count();
            let status = agent.ask(&["status"])?;
            match status["source"]["connected"] == json!(true) && seen >= connections {
                true => Ok(()),
                false => Err(format!("{seen} times: {status}")),
            }
        });
        exchange(&site, 0).unwrap();
    }
    site.stop_client();
    // The second user tried while sing-box was coming back: a connection that it took and dropped before it
    // said whose it was stays unattributed. The first only came when all was well.
    sum(&site, &agent);
    let first = &site.users[0];
    wait("every byte of the first user", || {
        first.relay.truth.check(Agent::payload(&agent.ask(&["usage"])?, &first.name))
    });
}

#[test]
fn a_second_agent_is_refused() {
    needs_machine!();
    let (mut site, agent) = metered("trojan-tls");
    let second = agent.command(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another agent"), "{said}");
    exchange(&site, 0).unwrap();
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// An agent that does not get to run for seconds, or for a minute: the kernel counts on, and later knows whose it was.
#[test]
fn agent_stopped_for_a_while() {
    needs_machine!();
    let (mut site, agent) = metered("trojan-tls");
    let seconds = if long() { 60 } else { 3 };
    under_traffic(&site, || {
        agent.process().signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(seconds));
        agent.process().signal(Signal::SIGCONT);
    });
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// The agent says that it cannot write its ledger.
fn wait_degraded(agent: &Agent) {
    wait("the agent says so", || {
        let status = agent.ask(&["status"])?;
        let parts = status["degraded"].as_array().ok_or("no list")?;
        let said = parts.iter().any(|part| part["part"] == json!("ledger"));
        if said { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn ledger_locked_by_another_program() {
    needs_machine!();
    let (mut site, agent) = metered("trojan-tls");
    let other = rusqlite::Connection::open(site.scratch.join("ledger/ledger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    exchange(&site, 0).unwrap();
    wait_degraded(&agent);
    exchange(&site, 1).unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
    wait("the agent is well again", || {
        let status = agent.ask(&["status"])?;
        if status["ok"] == json!(true) { Ok(()) } else { Err(status.to_string()) }
    });
}

/// The agent dies while another program holds the ledger: what it could not write is in the kernel.
#[test]
fn agent_killed_while_the_ledger_is_locked() {
    needs_machine!();
    let (mut site, mut agent) = metered("trojan-tls");
    let other = rusqlite::Connection::open(site.scratch.join("ledger/ledger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    exchange(&site, 0).unwrap();
    wait_degraded(&agent);
    agent.kill();
    // The next one says so and ends: it would not know what was counted before.
    agent.spawn();
    agent.dies();
    let log = std::fs::read_to_string(site.scratch.join("agent.log")).unwrap();
    assert!(log.contains("is locked by another program; close it and start again"), "{log}");
    other.execute_batch("ROLLBACK").unwrap();
    agent.start();
    exchange(&site, 1).unwrap();
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// The agent dies while the ledger's disk is full: the kernel is the queue.
#[test]
fn agent_killed_while_the_disk_is_full() {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let disk = site.scratch.mount("ledger", "tmpfs", Some("size=4m"));
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![0; 16 << 20]).expect_err("the disk is smaller than that");
    exchange(&site, 0).unwrap();
    wait_degraded(&agent);
    agent.kill();
    exchange(&site, 1).unwrap();
    std::fs::remove_file(filler).unwrap();
    agent.start();
    site.stop_client();
    // Nobody could say whose the last connection was: it came and went while no agent lived.
    sum(&site, &agent);
}
