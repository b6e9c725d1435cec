//! What it costs, measured beside sing-box itself in one run. Run by `cargo xtask bench`, which reads the
//! lines that begin with `FIGURE`; nothing is asserted here but that the traffic went through.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    rig::{Rig, Shape},
    shapes::{VERSIONS, hysteria2, trojan},
};

fn figure(name: &str, value: impl std::fmt::Display) {
    println!("FIGURE\t{name}\t{value}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU seconds of a process, user and system.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // SAFETY: asks a number.
    ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Nanoseconds that the programs which a process holds have run, while the kernel times programs.
fn programs_ns(pid: u32) -> u64 {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let times = texts.filter_map(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("run_time_ns:"))?;
        line.trim().parse::<u64>().ok()
    });
    times.sum()
}

/// Has the kernel time programs while it lives.
struct Timed;

impl Timed {
    fn new() -> Timed {
        fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").unwrap();
        Timed
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let _ = fs::write("/proc/sys/kernel/bpf_stats_enabled", "0");
    }
}

fn share_of_cpu(name: &str, shape: &Shape, bytes: u64) {
    let mut rig = Rig::new(VERSIONS[2], shape);
    rig.start_agent();
    let timed = Timed::new();
    let (agent, server) = (rig.agent.as_ref().unwrap().0.id(), rig.server.as_ref().unwrap().0.id());
    let mut shares = Vec::new();
    for _ in 0..7 {
        let (ns, seconds) = (programs_ns(agent), cpu(server));
        rig.exchange(0, 1_000, bytes).unwrap();
        shares.push((programs_ns(agent) - ns) as f64 / 1e9 / (cpu(server) - seconds) * 100.0);
    }
    drop(timed);
    figure(&format!("CPU in the programs against sing-box, {name}, %"), format!("{:.2}", median(shares)));
    rig.check();
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_cpu() {
    share_of_cpu("bulk trojan", &trojan(), 300_000_000);
    share_of_cpu("hysteria2", &hysteria2(), 60_000_000);
}

/// Seconds for one transfer, with the agent attached or not.
fn seconds(rig: &mut Rig, with: bool, bytes: u64) -> f64 {
    if with {
        rig.start_agent();
    }
    rig.exchange(0, 1_000, 1_000_000).unwrap();
    let started = Instant::now();
    rig.exchange(0, 1_000, bytes).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    if with {
        rig.agent = None;
        assert!(rig.command(&["detach", "--yes"]).status.success());
    }
    seconds
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_throughput() {
    let mut rig = Rig::new(VERSIONS[2], &trojan());
    let mut ratios = Vec::new();
    for pair in 0..15 {
        let first = seconds(&mut rig, pair % 2 == 0, 300_000_000);
        let second = seconds(&mut rig, pair % 2 == 1, 300_000_000);
        let (with, without) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        ratios.push(without / with);
    }
    figure("throughput with the agent against without, trojan, 15 pairs", format!("{:.3}", median(ratios)));
    rig.start_agent();
    let pid = rig.agent.as_ref().unwrap().0.id();
    let (before, started) = (cpu(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let idle = (cpu(pid) - before) / started.elapsed().as_secs_f64() * 100.0;
    figure("agent at 1 s ticks, idle, % of a core", format!("{idle:.2}"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
    figure("resident memory of the agent, 2 users", resident);
    let compiler = Command::new("uname").arg("-r").stdout(Stdio::piped()).output().unwrap();
    figure("kernel", String::from_utf8_lossy(&compiler.stdout).trim());
}
