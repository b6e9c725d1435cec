//! Having proxies read their files, and what is shown of that.

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
        editor::{EditError, Editor},
        reconcile::{self, Wanted},
        reloads::{Failed, Why},
    },
    fault,
    ledger::ParkedStage,
};

impl Worker {
    pub(super) async fn reload(&mut self, at: usize, why: Why) {
        let proxy = self.sides[at].proxy.clone();
        if self.sides[at].by_hand {
            return;
        }
        let ledger = self.ledger.clone();
        let reload = move || proxy.reload_saving(|| Ok(()), &|now, good| steps::save(&ledger, now, good));
        let done = blocking(move || Ok::<_, Failure>(reload())).await;
        let done: Result<bool, EditError> = match done {
            Ok(done) => done,
            Err(failure) => {
                self.sides[at].reloads.failed(Failed::Untold, clock::mono_ns());
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
            Err(error) => self.failed(at, &error).await,
        }
    }

    /// A reload failed. What was put back and is still wanted is written again.
    async fn failed(&mut self, at: usize, error: &EditError) {
        let how = match error {
            EditError::RolledBack { .. } => Failed::PutBack,
            EditError::Stuck { .. } | EditError::NothingToPutBack(_) => Failed::Told,
            _ => Failed::Untold,
        };
        self.sides[at].reloads.failed(how, clock::mono_ns());
        if how == Failed::PutBack || matches!(error, EditError::Stuck { .. }) {
            self.note_put_back(at).await;
        }
        let mut failure = error.to_string();
        if self.sides[at].reloads.gave_up() {
            failure.push_str(&format!(
                ". It failed so often that boxmeter does not try again by itself, since each try drops all \
                 connections: it waits until the files of {} are edited by hand, a user is added, or boxmeter \
                 is restarted",
                self.sides[at].service().name
            ));
        }
        self.outcome(Err(failure)).await;
    }

    /// boxmeter has put texts back: whose entries are in the files with that never left, whatever is edited or
    /// restarted before they are taken out again.
    async fn note_put_back(&mut self, at: usize) {
        self.sides[at].texts = None;
        let noted = async {
            let (proxy, found) = (self.sides[at].proxy.clone(), self.find().await?);
            let ids = living(&found.users);
            let keys = blocking(move || {
                let own = proxy.own_texts().map_err(|error| error.to_string())?;
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

    /// A proxy is gone: did it end of a reload that an agent before this one had asked for?
    pub(super) async fn recover(&mut self, at: usize) {
        let (proxy, ledger) = (self.sides[at].proxy.clone(), self.ledger.clone());
        let recover = move || proxy.recover(&|now, good| steps::save(&ledger, now, good));
        match blocking(move || recover().map_err(|error| error.to_string())).await {
            Ok(None) => {}
            Ok(Some(error)) => self.failed(at, &error).await,
            Err(failure) => self.outcome(Err(failure)).await,
        }
    }

    /// What is noted of a process that is no more is forgotten when the next one has come up.
    pub(super) async fn settle_note(&self) {
        let proxies: Vec<_> = self.sides.iter().map(|side| side.proxy.clone()).collect();
        let settle = move || proxies.iter().try_for_each(Editor::settled).map_err(|error| error.to_string());
        if let Err(error) = blocking(settle).await {
            tracing::warn!("forgetting what the last process had read: {error}");
        }
    }

    pub(super) fn tell(&mut self) {
        let (now_ns, now_ms) = (clock::mono_ns(), clock::wall_ms());
        let waits = || self.sides.iter().filter(|side| side.reloads.waiting() != (0, 0));
        self.status.waiting = waits().flat_map(|side| side.reloads.users()).map(str::to_owned).collect();
        let at_ms =
            |at_ns: u64| now_ms + i64::try_from(at_ns.saturating_sub(now_ns) / 1_000_000).unwrap_or(0);
        let latest = waits()
            .filter_map(|side| side.latest_ns(now_ns, self.around.scene_of(side.service())))
            .min()
            .map(at_ms);
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
