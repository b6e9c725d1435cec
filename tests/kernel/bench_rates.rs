//! How exactly rates hold: figures, not assertions. Run by `cargo xtask bench`.

use std::time::{Duration, Instant};

use boxmeter::core::event::Network;
use boxmeter_common::{DOWNLOAD, UPLOAD};

use crate::{
    link::Link,
    load::{Busy, connect, listen, rate},
    rig::Rig,
};

const MBIT: u64 = 125_000;

/// One case: the ratio to the target after two seconds, that of the first two, and the part of bytes
/// sent again.
fn case(download: bool, delay_ms: u64, mbit: u64, flows: usize, control: &str) -> (f64, f64, f64) {
    let link = Link::new(Duration::from_micros(delay_ms * 500));
    let mut rig = Rig::new();
    let (listener, port) = listen(&link, Link::server_address(false));
    let inbound = rig.watch_in(link.server.namespace.cookie(), Network::Tcp, port);
    rig.kernel.set_namespaces(vec![link.server.namespace.clone()]);
    let slot = rig.account(inbound);
    let user = rig.kernel.users().next().unwrap().slot;
    let target = mbit * MBIT;
    let mut rates = [0; 2];
    rates[if download { DOWNLOAD } else { UPLOAD }] = target;
    if std::env::var_os("FREE").is_none() {
        rig.kernel.set_rates(user, rates);
    }
    let mut busy: Vec<Busy> =
        (0..flows).map(|_| connect(&link, &listener, false, control, download)).collect();
    busy.iter().for_each(|one| one.own(&mut rig, slot));
    busy.iter_mut().for_each(Busy::start);
    let started = Instant::now();
    let first = rate(&busy, Duration::from_secs(2)) / target as f64;
    let mut parts = Vec::new();
    while started.elapsed() < Duration::from_secs(7) {
        parts.push(rate(&busy, Duration::from_millis(500)) / target as f64);
        if std::env::var_os("TRACE").is_some() {
            let map = aya::maps::MapData::from_pin(rig.mount.pins().join("RATES")).unwrap();
            let array: aya::maps::Array<_, boxmeter_common::rate::Rate> =
                aya::maps::Map::from_map_data(map).unwrap().try_into().unwrap();
            let lane = array.get(&1, 0).unwrap().lanes[usize::from(download)];
            let now: f64 =
                std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
            let now = (now * 1e9) as u64;
            eprintln!(
                "  {:.3} grant {:.3} debt {} ms, interval {} ms, rtt {}",
                parts.last().unwrap(),
                lane.grant as f64 / target as f64,
                lane.clock_ns.saturating_sub(now) / 1_000_000,
                (lane.until_ns - lane.since_ns) / 1_000_000,
                lane.rtt_us
            );
        }
    }
    let steady = parts.iter().sum::<f64>() / parts.len() as f64;
    let (sent, again) =
        busy.iter().map(Busy::retransmitted).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let low = parts.iter().copied().fold(f64::MAX, f64::min);
    let high = parts.iter().copied().fold(0.0, f64::max);
    eprintln!(
        "download {download} rtt {delay_ms} ms {mbit} Mbit/s {flows} flows {control}: {steady:.3} \
         ({low:.3}..{high:.3}), first {first:.3}, again {:.4}, dropped {}",
        again as f64 / sent.max(1) as f64,
        rig.stat("packets_dropped_by_rate"),
    );
    (steady, first, again as f64 / sent.max(1) as f64)
}

fn all(download: bool) {
    for control in ["cubic", "bbr"] {
        for mbit in [8, 80, 400] {
            for flows in [1, 8] {
                let (steady, first, again) = case(download, 20, mbit, flows, control);
                let way = if download { "download" } else { "upload" };
                println!(
                    "FIGURE\tspeed: {way}, {flows} flows, {mbit} Mbit/s, {control}, 20 ms\t{steady:.3} of the \
                     rate ({first:.3} in the first 2 s), sent again {:.2} %",
                    again * 100.0
                );
            }
        }
    }
}

#[test]
#[ignore = "debug"]
fn debug_one() {
    let args: Vec<String> = std::env::var("CASE").unwrap().split(',').map(String::from).collect();
    for _ in 0..args[5].parse().unwrap() {
        case(
            args[0] == "d",
            args[1].parse().unwrap(),
            args[2].parse().unwrap(),
            args[3].parse().unwrap(),
            &args[4],
        );
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
