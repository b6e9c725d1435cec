//! systemd's watchdog: the agent says that it lives, and is ended and started anew when it does not.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::{clock, fault};

/// Says so four times in the time that systemd waits, so that one late turn ends nothing.
const TIMES: u32 = 4;

/// Whom to tell, and how often; nobody where the unit has no `WatchdogSec`.
pub struct Watchdog {
    every: Option<Duration>,
    told_ns: u64,
}

impl Watchdog {
    pub fn of_environment() -> Watchdog {
        Watchdog { every: sd_notify::watchdog_enabled().map(|limit| limit / TIMES), told_ns: 0 }
    }

    /// Called in every turn of the agent's loop that comes round.
    pub fn alive(&mut self) {
        let Some(every) = self.every else { return };
        fault::hang("watchdog");
        let now_ns = clock::mono_ns();
        if now_ns.saturating_sub(self.told_ns) >= every.as_nanos() as u64 {
            self.told_ns = now_ns;
            // A manager that does not hear ends this process, which is what it is for.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}
