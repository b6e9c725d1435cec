//! What processes and kernel programs use, for benchmarks.

use std::collections::BTreeMap;
use std::fs;

/// CPU seconds of a process since its start, user and system, to the nanosecond.
pub fn cpu_seconds(pid: u32) -> f64 {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both places are valid to write to.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => error,
        }
    };
    assert_eq!(result, 0, "the CPU clock of process {pid}");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A line of /proc/PID/status in MiB, as `VmRSS`.
pub fn memory_mib(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// How much of a process's resident memory is the kernel's maps that it shares, in MiB.
pub fn mapped_counters_mib(pid: u32) -> f64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut ours, mut kib) = (false, 0.0);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            kib += if ours { size.trim().trim_end_matches(" kB").parse::<f64>().unwrap() } else { 0.0 };
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            ours = line.ends_with("bpf-map");
        }
    }
    kib / 1024.0
}

/// What kernel programs have used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ran {
    pub ns: u64,
    pub runs: u64,
}

/// What the kernel programs which a process holds have used while a [`Timed`] lived.
pub fn programs(pid: u32) -> Ran {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(ns), Some(runs)) =
            (value("prog_id:"), value("run_time_ns:"), value("run_cnt:"))
        {
            programs.insert(id, Ran { ns, runs });
        }
    }
    programs.values().fold(Ran::default(), |sum, one| Ran { ns: sum.ns + one.ns, runs: sum.runs + one.runs })
}

/// Has the kernel time programs while it lives, which costs some 30 ns per run.
pub struct Timed;

const TIMING: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Timed {
    pub fn new() -> Timed {
        fs::write(TIMING, "1").unwrap();
        Timed
    }
}

impl Default for Timed {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let _ = fs::write(TIMING, "0");
    }
}
