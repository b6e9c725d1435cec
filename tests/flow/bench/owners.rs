//! How soon and how surely owners are known when connections come fast.

use std::time::{Duration, Instant};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    direct::many,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::{Value, json};

use super::{counter, figure, of_all_users};

fn metered() -> (Site, Agent) {
    let site = Site::new(VERSIONS[2], &[named("socks")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    (site, agent)
}

fn users() -> Vec<(String, String)> {
    [("alice-socks", "password-0"), ("bob-socks", "password-1")]
        .map(|(name, password)| (name.to_owned(), password.to_owned()))
        .to_vec()
}

/// Classes of `owners_told_…`, in rising order of milliseconds.
const CLASSES: [(&str, &str); 7] = [
    ("owners_told_within_1_ms", "≤ 1 ms"),
    ("owners_told_within_2_ms", "≤ 2 ms"),
    ("owners_told_within_5_ms", "≤ 5 ms"),
    ("owners_told_within_10_ms", "≤ 10 ms"),
    ("owners_told_within_20_ms", "≤ 20 ms"),
    ("owners_told_within_50_ms", "≤ 50 ms"),
    ("owners_told_later", "> 50 ms"),
];

/// Where the `part`th of a thousand is.
fn quantile(counts: &[u64], part: u64) -> &'static str {
    let all: u64 = counts.iter().sum();
    let mut below = 0;
    for (count, (_, class)) in counts.iter().zip(CLASSES) {
        below += count;
        if below * 1_000 >= all * part {
            return class;
        }
    }
    "unknown"
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_owner_latency() {
    needs_machine!();
    let (site, agent) = metered();
    let read = |status: &Value| CLASSES.map(|(name, _)| counter(status, name));
    let before = read(&agent.ask(&["status"]).unwrap());
    let (count, per_second) = (10_000, 1_000);
    let (failed, took) = many(&site, &users(), count, per_second);
    let counts = wait("all sightings are counted", || {
        let now = read(&agent.ask(&["status"])?);
        let counts: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
        let all: u64 = counts.iter().sum();
        if all >= count - failed { Ok(counts) } else { Err(format!("{all} of {count}")) }
    });
    figure(
        "owner known after the report, 1,000 connections/s, p99",
        quantile(&counts, 990),
        &format!(
            "from sing-box's creation time of a connection until the kernel was told its owner; {count} socks \
             connections in {:.1} s, {failed} failed; median {}, p99.9 {}",
            took.as_secs_f64(),
            quantile(&counts, 500),
            quantile(&counts, 999)
        ),
    );
}

/// Longer than a flow that ended waits for its owner.
const SETTLED: Duration = Duration::from_secs(15);

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_short_connections() {
    needs_machine!();
    let (site, agent) = metered();
    site.outside.run(|| {
        let set =
            |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
        set("ip_local_port_range", "40000 43999");
        set("tcp_tw_reuse", "1");
    });
    let (count, seconds) = (16_000, 12);
    let (failed, took) = many(&site, &users(), count, count / seconds + 1);
    // Ended flows wait for their owners for a while; nobody's bytes are what is left after that.
    let mut before = None;
    let mut since = Instant::now();
    let (audit, status) = wait("every flow is settled", || {
        let (audit, status) = (agent.ask(&["audit"])?, agent.ask(&["status"])?);
        let nobodys = audit["unattributed"]["download_payload_bytes"].as_u64();
        if nobodys != before {
            (before, since) = (nobodys, Instant::now());
        }
        let whole = audit["difference_bytes"] == json!(0) && since.elapsed() > SETTLED;
        if whole { Ok((audit, status)) } else { Err(audit.to_string()) }
    });
    let unattributed = audit["unattributed"]["download_payload_bytes"].as_u64().unwrap();
    let owned = of_all_users(&agent, "download_payload_bytes");
    let flows = counter(&status, "tcp_flows_opened");
    let named = ["flows_expired", "sightings_unmatched", "sightings_ambiguous", "sightings_waiting_full"]
        .map(|name| format!("{name} {}", counter(&status, name)));
    figure(
        "16,000 short connections in 12 s, owned",
        format!("{:.3} % of bytes", owned as f64 / (owned + unattributed) as f64 * 100.0),
        &format!(
            "{flows} flows from 4,000 ports in {:.1} s ({failed} not finished), API source; unattributed \
             {unattributed} bytes of download, audit difference 0; {}",
            took.as_secs_f64(),
            named.join(", ")
        ),
    );
}
