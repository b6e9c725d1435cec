//! The only place that reads clocks. The core gets the time as an argument.

use crate::core::event::Now;

/// Both clocks, read together. `CLOCK_MONOTONIC` is what the kernel programs' `bpf_ktime_get_ns`
/// reads.
pub fn now() -> Now {
    Now { mono_ns: mono_ns(), wall_ms: machine_ms() }
}

/// The same for periods and expiries, whose clock a test may move: that of sing-box, whose times are
/// compared with [`now`], is the machine's.
pub fn billing() -> Now {
    Now { mono_ns: mono_ns(), wall_ms: wall_ms() }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn mono_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid place to write to, and this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Unix time in milliseconds. It may jump; nothing measures intervals with it.
pub fn wall_ms() -> i64 {
    machine_ms().saturating_add(crate::fault::clock_shift_ms())
}

fn machine_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// For the benchmarks of unit tests.
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "this module is where clocks are read")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}
