//! The only place that reads clocks. The core gets the time as an argument.

use crate::core::event::Now;

/// Nothing is given up for its age before the clock has gone evenly for so long: one that is ahead for a moment, as
/// before the first answer of a time server, takes nothing away.
const EVEN_NS: u64 = 3_600_000_000_000;
/// What the two clocks may differ in the meantime: a second that is made longer, a machine that is moved.
const UNEVEN_MS: i64 = 60_000;

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

/// `CLOCK_BOOTTIME` in nanoseconds, by which the kernel says when a process began.
pub fn boot_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut ts) };
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

/// How far the wall clock is from the one that nobody sets.
fn apart_ms(now: Now) -> i64 {
    now.wall_ms.saturating_sub(i64::try_from(now.mono_ns / 1_000_000).unwrap_or(i64::MAX))
}

/// Since when the wall clock has not jumped.
pub struct Even {
    apart_ms: i64,
    since_ns: u64,
}

impl Even {
    pub fn since(now: Now) -> Self {
        Even { apart_ms: apart_ms(now), since_ns: now.mono_ns }
    }

    /// Can what it says be relied on for giving something up?
    pub fn is(&mut self, now: Now) -> bool {
        if apart_ms(now).abs_diff(self.apart_ms) > UNEVEN_MS.unsigned_abs() {
            *self = Even::since(now);
        }
        now.mono_ns.saturating_sub(self.since_ns) >= EVEN_NS / crate::fault::hurry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_gives_nothing_up() {
        const MINUTE_NS: u64 = 60_000_000_000;
        let at = |minutes: u64, ahead_ms: i64| Now {
            mono_ns: minutes * MINUTE_NS,
            wall_ms: i64::try_from(minutes).unwrap() * 60_000 + ahead_ms,
        };
        let mut even = Even::since(at(0, 0));
        assert!(!even.is(at(59, 0)), "an agent that has just started does not know");
        assert!(even.is(at(60, 0)));
        let days = 4 * 24 * 3_600_000;
        assert!(!even.is(at(61, days)));
        assert!(!even.is(at(62, 0)), "and back");
        assert!(!even.is(at(121, 0)));
        assert!(even.is(at(122, 1_000)));
        // One that was wrong before goes right from here on.
        assert!(!even.is(at(123, days)));
        assert!(even.is(at(183, days)));
    }
}
