//! CPU time and throughput.

use std::time::Instant;

use boxmeter::kernel::probe::cgroup_mount;
use boxmeter_tests::{
    agent::Agent,
    baseline::Attached,
    cases::named,
    cgroup::Cgroup,
    needs_machine,
    questions::exact,
    singbox::{Dropped, Site, VERSIONS},
    usage::{Timed, cpu_seconds, programs},
};

use super::{figure, median};

const ROUNDS: usize = 9;
const PAIRS: usize = 15;

fn server(site: &Site) -> u32 {
    site.server.as_ref().unwrap().pid()
}

fn download(site: &Site, bytes: u64) {
    site.users[0].proxy.exchange(site.target, 1_000, bytes).unwrap();
}

fn share_of_cpu(name: &str, case: &'static str, bytes: u64) {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named(case)]);
    let group = Cgroup::new("server");
    site.server = None;
    group.run(|| site.start_server());
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.attach_to(group.path());
    agent.start();
    download(&site, 1_000_000);
    let timed = Timed::new();
    let (mut shares, mut costs, mut runs, mut per_run) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, seconds) = (programs(agent.process().pid()), cpu_seconds(server(&site)));
        download(&site, bytes);
        let spent = cpu_seconds(server(&site)) - seconds;
        let after = programs(agent.process().pid());
        let ns = (after.ns - before.ns) as f64;
        shares.push(ns / 1e9 / spent * 100.0);
        costs.push(spent / (bytes as f64 / 1e9));
        runs.push((after.runs - before.runs) as f64);
        per_run.push(ns / (after.runs - before.runs) as f64);
    }
    drop(timed);
    let best = shares.iter().copied().fold(f64::MAX, f64::min);
    figure(
        &format!("CPU in the programs against sing-box, {name}"),
        format!("{:.2} %", median(shares)),
        &format!(
            "run time of the programs as the kernel counts it (with its own timing and whatever interrupts a \
             run) over the CPU time of the server; the programs meet only the server's sockets, in and out; \
             {ROUNDS} downloads of {} MB, best {best:.2} %; {:.0} runs of {:.0} ns each",
            bytes / 1_000_000,
            median(runs),
            median(per_run),
        ),
    );
    figure(&format!("CPU of sing-box, {name}"), format!("{:.2} s/GB", median(costs)), "in the same runs");
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
    drop(agent);
    drop(site);
    drop(group);
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_cpu_of_trojan() {
    share_of_cpu("bulk trojan", "trojan-tls", 300_000_000);
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_cpu_of_hysteria2() {
    share_of_cpu("hysteria2", "hysteria2", 80_000_000);
}

/// What is attached at the root of cgroup v2 during a transfer.
const KINDS: usize = 3;
const NOTHING: usize = 0;
/// Programs that only let packets pass: what any program there costs.
const EMPTY: usize = 1;
const AGENT: usize = 2;

/// Seconds of the clock and of the server's CPU for one transfer.
fn transfer(site: &Site, agent: &mut Agent, kind: usize, bytes: u64) -> [f64; 2] {
    let empty = (kind == EMPTY).then(|| Attached::empty(&cgroup_mount().expect("cgroup v2")));
    if kind == AGENT {
        agent.start();
    }
    download(site, 1_000_000);
    let (started, spent) = (Instant::now(), cpu_seconds(server(site)));
    download(site, bytes);
    let result = [started.elapsed().as_secs_f64(), cpu_seconds(server(site)) - spent];
    drop(empty);
    if kind == AGENT {
        agent.stop();
        assert!(agent.command(&["detach", "--yes"]).status.success());
    }
    result
}

fn throughput(name: &str, prepare: impl FnOnce(&Site), bytes: u64) {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    prepare(&site);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    let rounds: Vec<[[f64; 2]; KINDS]> = (0..PAIRS)
        .map(|round| {
            let mut took = [[0.0; 2]; KINDS];
            for turn in 0..KINDS {
                let kind = (turn + round) % KINDS;
                took[kind] = transfer(&site, &mut agent, kind, bytes);
            }
            took
        })
        .collect();
    let ratio = |of: usize, to: usize, what: usize| {
        median(rounds.iter().map(|took| took[of][what] / took[to][what]).collect())
    };
    let best = |kind: usize| rounds.iter().map(|took| took[kind][0]).fold(f64::MAX, f64::min);
    let mbit = |kind: usize| bytes as f64 * 8.0 / 1e6 / best(kind);
    figure(
        &format!("throughput with the agent against without, {name}"),
        format!("{:.3}", ratio(NOTHING, AGENT, 0)),
        &format!(
            "median of {PAIRS} alternating rounds of {} MB over one trojan connection, programs at the cgroup \
             root, client, relay and target on the same two cores; best runs {:.0} and {:.0} Mbit/s ({:.3}). \
             In the same rounds with programs that do nothing: {:.3} (best {:.0} Mbit/s), and the agent \
             against those: {:.3}",
            bytes / 1_000_000,
            mbit(AGENT),
            mbit(NOTHING),
            best(NOTHING) / best(AGENT),
            ratio(NOTHING, EMPTY, 0),
            mbit(EMPTY),
            ratio(EMPTY, AGENT, 0),
        ),
    );
    figure(
        &format!("CPU of sing-box with the agent against without, {name}"),
        format!("{:.3}", ratio(AGENT, NOTHING, 1)),
        &format!(
            "the same rounds, the server's CPU time; with programs that do nothing {:.3}",
            ratio(EMPTY, NOTHING, 1)
        ),
    );
    agent.start();
    site.stop_client();
    sum_is_whole(&site, &agent);
}

/// Most of the traffic went by without programs: nobody may have more than went over the relay.
fn sum_is_whole(site: &Site, agent: &Agent) {
    let audit = agent.ask(&["audit"]).unwrap();
    assert_eq!(audit["difference_bytes"], serde_json::json!(0), "{audit}");
    let said = Agent::payload(&agent.ask(&["usage"]).unwrap(), &site.users[0].name);
    let most = boxmeter_tests::wait("connections end", || {
        site.users[0].relay.truth.bounds().ok_or_else(|| "open".to_owned())
    })[1];
    assert!(said[1] <= most[1] && said[1] > 0, "{said:?} of {most:?}");
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_throughput() {
    throughput("trojan", |_| {}, 300_000_000);
}

/// Every segment passes the programs by itself.
#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_throughput_without_gso() {
    let prepare = |site: &Site| {
        let cable = site.cable.as_deref().expect("two namespaces");
        site.inside.ip(&["link", "set", "dev", cable, "gso_max_segs", "1"]);
    };
    throughput("trojan without GSO", prepare, 150_000_000);
}
