//! Telling sing-box to read its files, and what is shown of that.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    super::{
        HandsNews, steps,
        words::{Failure, blocking, living, reason},
    },
    Worker,
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        reconcile::{self, Wanted},
        reloads::{Decision, Failed, Why},
        singbox::{EditError, Reload},
    },
    fault,
    ledger::ParkedStage,
};

impl Worker {
    pub(super) async fn reload(&mut self, why: Why) {
        let Ok(singbox) = self.singbox() else { return };
        if singbox.reload == Reload::Never {
            return;
        }
        let ledger = self.ledger.clone();
        let reload = move || singbox.reload_saving(|| Ok(()), &|now, good| steps::save(&ledger, now, good));
        let done = blocking(move || Ok::<_, Failure>(reload())).await;
        let done: Result<bool, EditError> = match done {
            Ok(done) => done,
            Err(failure) => {
                self.reloads.failed(Failed::Untold, clock::mono_ns());
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
            Err(error) => self.failed(&error).await,
        }
    }

    /// A reload failed. What was put back and is still wanted is written again.
    async fn failed(&mut self, error: &EditError) {
        let how = match error {
            EditError::RolledBack { .. } => Failed::PutBack,
            EditError::Stuck { .. } | EditError::NothingToPutBack(_) => Failed::Told,
            _ => Failed::Untold,
        };
        self.reloads.failed(how, clock::mono_ns());
        if how == Failed::PutBack || matches!(error, EditError::Stuck { .. }) {
            self.note_put_back().await;
        }
        let mut failure = error.to_string();
        if self.reloads.gave_up() {
            failure.push_str(
                ". It failed so often that boxmeter does not try again by itself, since each try drops all \
                 connections: it waits until sing-box's files are edited by hand, a user is added, or boxmeter \
                 is restarted",
            );
        }
        self.outcome(Err(failure)).await;
    }

    /// boxmeter has put texts back: whose entries are in the files with that never left, whatever is edited or
    /// restarted before they are taken out again.
    async fn note_put_back(&mut self) {
        self.texts = None;
        let noted = async {
            let (singbox, found) = (self.singbox()?, self.find().await?);
            let ids = living(&found.users);
            let keys = blocking(move || {
                let own = singbox.own_texts().map_err(|error| error.to_string())?;
                let plan = reconcile::plan(&found.files, &found.parked, &Wanted::new(), &own);
                Ok(plan.map_err(|error| error.to_string())?.unpark)
            });
            let keys = steps::keys(&keys.await?, &ids);
            match keys.is_empty() {
                true => Ok(()),
                false => {
                    let moved: BTreeSet<UserId> = keys.iter().map(|key| key.user).collect();
                    let noted = self.ledger.set_parked(keys, ParkedStage::Leaving).await;
                    noted.map_err(|error| error.to_string())?;
                    self.send(HandsNews::Moved(moved.into_iter().collect())).await;
                    Ok(())
                }
            }
        };
        let noted: Result<(), Failure> = noted.await;
        if let Err(error) = noted {
            tracing::warn!("noting whose entries were put back: {error}");
        }
    }

    /// sing-box is gone: did it end of a reload that an agent before this one had asked for?
    pub(super) async fn recover(&mut self) {
        let Ok(singbox) = self.singbox() else { return };
        let ledger = self.ledger.clone();
        let recover = move || singbox.recover(&|now, good| steps::save(&ledger, now, good));
        match blocking(move || recover().map_err(|error| error.to_string())).await {
            Ok(None) => {}
            Ok(Some(error)) => self.failed(&error).await,
            Err(failure) => self.outcome(Err(failure)).await,
        }
    }

    /// What is noted of a sing-box that is no more is forgotten when the next one has come up.
    pub(super) async fn settle_note(&self) {
        let Ok(singbox) = self.singbox() else { return };
        if let Err(error) = blocking(move || singbox.settled().map_err(|error| error.to_string())).await {
            tracing::warn!("forgetting what the last sing-box had read: {error}");
        }
    }

    pub(super) fn tell(&mut self) {
        let (now_ns, now_ms) = (clock::mono_ns(), clock::wall_ms());
        self.status.waiting = self.reloads.users().map(str::to_owned).collect();
        let (admits, removes) = self.reloads.waiting();
        self.status.pending = if admits + removes == 0 {
            None
        } else {
            let never = self.reloads.gave_up()
                || self.around.singbox.as_ref().is_some_and(|singbox| singbox.reload == Reload::Never);
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
