//! Which start of a service counters belong to: what the machine and the service say about it.

use std::fs;

use uuid::Uuid;

use crate::{clock, core::counters::Life};

/// Of the machine's kernel; `None` where /proc does not say.
pub fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Uuid::parse_str(text.trim()).ok()?.into_bytes())
}

/// Of a service that says how long it runs. Both that and this clock stand still while the machine sleeps, and
/// nobody sets them.
pub fn of_uptime(seconds: u64) -> Option<Life> {
    let now_ms = i64::try_from(clock::mono_ns() / 1_000_000).ok()?;
    let uptime_ms = i64::try_from(seconds.checked_mul(1_000)?).ok()?;
    Some(Life { boot: boot()?, pid: 0, started_ms: now_ms.checked_sub(uptime_ms)? })
}

/// Of a process, by its pid and when it began, in clock ticks after the boot.
pub fn of_process(pid: u32, start_ticks: u64) -> Option<Life> {
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()?;
    let started_ms = i64::try_from(start_ticks).ok()?.checked_mul(1_000)? / ticks_per_second.max(1);
    Some(Life { boot: boot()?, pid, started_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::singbox::process;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let ticks = process::start_ticks(std::process::id()).unwrap();
        let own = of_process(std::process::id(), ticks).unwrap();
        assert!(own.is(&of_process(std::process::id(), ticks).unwrap()));
        assert!(!own.is(&of_process(1, ticks).unwrap()));
        let uptime = of_uptime(100).unwrap();
        assert!(uptime.is(&of_uptime(101).unwrap()) && !uptime.is(&of_uptime(200).unwrap()));
    }
}
