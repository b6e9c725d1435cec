//! Telling sing-box to read its files, and what is shown of that.

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
        reloads::{Decision, Why},
        singbox::{EditError, Reload},
    },
    fault,
};

impl Worker {
    pub(super) async fn reload(&mut self, why: Why) {
        let Ok(singbox) = self.singbox() else { return };
        if singbox.reload == Reload::Never {
            return;
        }
        let done = blocking(move || Ok::<_, Failure>(singbox.reload(|| Ok(())))).await;
        let done: Result<bool, EditError> = match done {
            Ok(done) => done,
            Err(failure) => {
                self.reloads.failed(false, clock::mono_ns());
                return self.outcome(Err(failure)).await;
            }
        };
        fault::point("reloaded");
        match done {
            Ok(reloaded) => {
                match reloaded {
                    true => self.reloads.reloaded(),
                    false => self.reloads.not_running(),
                }
                self.status.reloads = self.reloads.counts().reloads;
                if reloaded {
                    self.status.last_reload_ms = Some(clock::wall_ms());
                }
                let (reason, severity) = (reason(why), "info");
                let message = match reloaded {
                    true => format!("sing-box read its users anew ({reason}); open connections were dropped"),
                    false => "sing-box does not run: it reads its users when it starts".to_owned(),
                };
                let data = json!({"why": reason, "message": message, "severity": severity});
                self.send(HandsNews::Event { kind: "singbox_reloaded", user: None, data }).await;
                self.outcome(Ok(())).await;
            }
            Err(error) => {
                let put_back = matches!(error, EditError::RolledBack { .. });
                self.reloads.failed(put_back, clock::mono_ns());
                // What was put back and is still wanted is written again.
                self.outcome(Err(error.to_string())).await;
            }
        }
    }

    pub(super) fn tell(&mut self) {
        let (now_ns, now_ms) = (clock::mono_ns(), clock::wall_ms());
        self.status.waiting = self.reloads.users().map(str::to_owned).collect();
        let (admits, removes) = self.reloads.waiting();
        self.status.pending = if admits + removes == 0 {
            None
        } else {
            let never = self.around.singbox.as_ref().is_some_and(|singbox| singbox.reload == Reload::Never);
            let within = i64::try_from(self.within.as_millis()).unwrap_or(i64::MAX);
            let since = self.status.last_edit_ms.unwrap_or(now_ms);
            let at = match self.reloads.decide(now_ns, self.around.scene) {
                Decision::At(at) => {
                    now_ms + i64::try_from(at.saturating_sub(now_ns) / 1_000_000).unwrap_or(0)
                }
                _ => since.saturating_add(within),
            };
            Some((since, (!never).then_some(at)))
        };
        let status = self.status.clone();
        self.told.send_if_modified(|told| {
            let new = *told != status;
            *told = status;
            new
        });
    }
}
