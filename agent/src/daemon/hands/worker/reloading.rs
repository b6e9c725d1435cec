//! Having proxies read their files, and what is shown of that.

use serde_json::json;

use super::{
    super::{
        HandsNews,
        words::{Failure, blocking, reason},
    },
    Worker,
};
use crate::{
    clock,
    enforcer::{
        reloads::Why,
        singbox::{EditError, Reload},
    },
    fault,
};

impl Worker {
    pub(super) async fn reload(&mut self, at: usize, why: Why) {
        let proxy = self.sides[at].proxy.clone();
        if self.sides[at].by_hand {
            return;
        }
        let done = blocking(move || Ok::<_, Failure>(proxy.reload(|| Ok(())))).await;
        let done: Result<bool, EditError> = match done {
            Ok(done) => done,
            Err(failure) => {
                self.sides[at].reloads.failed(false, clock::mono_ns());
                return self.outcome(Err(failure)).await;
            }
        };
        fault::point("reloaded");
        match done {
            Ok(reloaded) => {
                match reloaded {
                    true => self.sides[at].reloads.reloaded(),
                    false => self.sides[at].reloads.not_running(),
                }
                self.status.reloads = self.sides.iter().map(|side| side.reloads.counts().reloads).sum();
                if reloaded {
                    self.status.last_reload_ms = Some(clock::wall_ms());
                }
                let (reason, severity) = (reason(why), "info");
                let service = self.sides[at].service().clone();
                let name = &service.name;
                let message = match reloaded {
                    true => format!("{name} read its users anew ({reason}); open connections were dropped"),
                    false => format!("{name} does not run: it reads its users when it starts"),
                };
                let mut data = json!({"why": reason, "message": message, "severity": severity});
                let event = |kind, data| HandsNews::Event { kind, user: None, data };
                match service.is_singbox() {
                    true => self.send(event("singbox_reloaded", data)).await,
                    false => {
                        data["service"] = json!(&**name);
                        self.send(event("service_reloaded", data)).await;
                    }
                }
                self.outcome(Ok(())).await;
            }
            Err(error) => {
                let put_back = matches!(error, EditError::RolledBack { .. });
                self.sides[at].reloads.failed(put_back, clock::mono_ns());
                // What was put back and is still wanted is written again.
                self.outcome(Err(error.to_string())).await;
            }
        }
    }

    pub(super) fn tell(&mut self) {
        let (now_ns, now_ms) = (clock::mono_ns(), clock::wall_ms());
        let waits = || self.sides.iter().filter(|side| side.reloads.waiting() != (0, 0));
        self.status.waiting = waits().flat_map(|side| side.reloads.users()).map(str::to_owned).collect();
        let at_ms =
            |at_ns: u64| now_ms + i64::try_from(at_ns.saturating_sub(now_ns) / 1_000_000).unwrap_or(0);
        let latest = waits().filter_map(|side| side.latest_ns(now_ns, self.around.scene)).min().map(at_ms);
        let since = self.status.last_edit_ms.unwrap_or(now_ms);
        self.status.pending = (waits().next().is_some()).then_some((since, latest));
        let status = self.status.clone();
        self.told.send_if_modified(|told| {
            let new = *told != status;
            *told = status;
            new
        });
    }
}
