//! What systemd is told of the agent's life: that its loop comes round, or that its start takes longer. One that says
//! neither is ended and started anew.

use std::{sync::mpsc, time::Duration};

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

/// For how long a start is given more time, and how often it asks.
const MORE: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(15);

/// A part of the start that takes as long as it takes: until it is dropped, systemd is asked for more time. The unit's
/// own limit is short, since at boot sing-box waits for the end of the agent's start.
pub struct Patience(#[allow(dead_code, reason = "its end is what is told by it")] Option<mpsc::Sender<()>>);

impl Patience {
    pub fn please() -> Patience {
        let (done, waiting) = mpsc::channel::<()>();
        let ask = move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = waiting.recv_timeout(ASK_EVERY) {
                let more = u32::try_from(MORE.as_micros()).unwrap_or(u32::MAX);
                let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(more)]);
            }
        };
        // Without a thread there is the unit's own limit.
        let started = std::thread::Builder::new().name("patience".to_owned()).spawn(ask).is_ok();
        Patience(started.then_some(done))
    }
}
