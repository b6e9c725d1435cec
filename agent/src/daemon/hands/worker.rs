//! The worker behind [`super::Hands`].

mod orders;
mod reloading;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use boxmeter_web::backend::ApiError;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use services::Told;

use super::{
    Around, HandsNews, HandsStatus, Order,
    managed::Removed,
    steps::{self, Steps},
    words::{self, Failure, Missed, blocking, living},
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        reconcile::{self, Plan, Want, Wanted},
        reloads::{BATCH, Decision, RETRY, Reloads, Settings},
        singbox::{EditError, Singbox},
        swap,
        users_edit::{self, Parked, ParkedKey, What},
    },
    fault,
    ledger::{self, FileState, Ledger, Reader, Removing, UserRecord},
    singbox::{
        files::{self, FileText},
        servers,
    },
};

/// After an edit that failed it is planned again after this time; what failed may be over then.
const AGAIN: Duration = Duration::from_secs(10);

/// A plan is looked at again after this time though nobody asked: files change by hand.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Worker {
    ledger: Ledger,
    news: mpsc::Sender<HandsNews>,
    told: watch::Sender<HandsStatus>,
    status: HandsStatus,
    reloads: Reloads,
    within: Duration,
    around: Around,
    /// To be planned at this time (ns, monotonic).
    plan_at_ns: Option<u64>,
    /// Which sing-box the files were last known to be read by.
    process: Option<(u32, u64)>,
    /// A sing-box was there at the last look, or there was no look yet.
    runs: bool,
    /// What an agent before this one has written is not known yet.
    first: bool,
    /// Who was taken out of services, for who lists them.
    removed: Removed,
    /// The files as they were read or written last: another text is somebody else's.
    texts: Option<HashMap<Arc<PathBuf>, [u8; 32]>>,
    /// Users that could not be edited, as told.
    refused: BTreeSet<String>,
    /// `sing-box check` has refused the last edit.
    check_refused: bool,
    /// Users who are being added are left out of the plan.
    without_new: bool,
}

/// What planning needs, read at one moment.
struct Found {
    files: Vec<FileText>,
    parked: Vec<Parked>,
    users: Vec<UserRecord>,
    /// Where entries of those may be who are being removed.
    removing: Removing,
}

/// What was planned and carried out.
struct Done {
    plan: Plan,
    /// Of users who were asked for, what could not be done.
    errors: BTreeMap<String, ApiError>,
    /// What the services of managed inbounds did not do.
    missed: Vec<Missed>,
}

impl Done {
    /// What could not be done for a user. What a service did not do for others keeps nobody's change from
    /// being made; it is tried again.
    fn take_error(&mut self, name: &str) -> Option<ApiError> {
        self.errors.remove(name).or_else(|| {
            let missed = self.missed.iter().find(|missed| missed.concerns(name))?;
            Some(ApiError::unavailable(&missed.failure))
        })
    }
}

/// See [`AGAIN`].
fn again() -> Duration {
    AGAIN / u32::try_from(fault::hurry()).unwrap_or(1)
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// See [`RETRY`].
fn retry() -> Duration {
    RETRY / u32::try_from(fault::hurry()).unwrap_or(1)
}

impl Worker {
    pub fn new(
        ledger: Ledger,
        within: Duration,
        (news, told): (mpsc::Sender<HandsNews>, watch::Sender<HandsStatus>),
        removed: Removed,
    ) -> Self {
        Worker {
            ledger,
            news,
            told,
            status: HandsStatus::default(),
            reloads: Reloads::new(Settings { batch: BATCH, within, retry: retry() }),
            within,
            around: Around::default(),
            plan_at_ns: None,
            process: None,
            runs: true,
            first: true,
            removed,
            texts: None,
            refused: BTreeSet::new(),
            check_refused: false,
            without_new: false,
        }
    }

    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>, mut around: watch::Receiver<Around>) {
        loop {
            let wait = self.wait();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order).await,
                    None => return,
                },
                changed = around.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = around.borrow_and_update().clone();
                    self.look_around(now).await;
                }
                () = tokio::time::sleep(wait) => {}
            }
            self.due().await;
        }
    }

    /// Until something is due by itself.
    fn wait(&self) -> Duration {
        let now_ns = clock::mono_ns();
        let until = |at: u64| Duration::from_nanos(at.saturating_sub(now_ns));
        let plan = self.plan_at_ns.map_or(LOOK_EVERY, until);
        let reload = match self.reloads.decide(now_ns, self.around.scene) {
            Decision::At(at) => until(at),
            // What cannot be done now is tried again in a while.
            Decision::Now(_) => again(),
            Decision::None => LOOK_EVERY,
        };
        plan.min(reload).min(LOOK_EVERY)
    }

    async fn look_around(&mut self, now: Around) {
        let process = now.singbox.as_ref().and_then(|singbox| singbox.process.as_ref());
        if let Some(process) = process
            && self.process != Some((process.pid, process.start_ticks))
        {
            // Another process has read the files as they were when it began.
            self.reloads.restarted(clock::mono_ns().saturating_sub(ns(process.age())));
            self.process = Some((process.pid, process.start_ticks));
        }
        let gone = now.singbox.is_some() && process.is_none() && self.runs;
        self.runs = process.is_some() || now.singbox.is_none();
        let wanted = self.around.kept_out != now.kept_out || self.around.looks != now.looks;
        self.around = now;
        if wanted && self.around.kept_out.is_some() {
            self.plan_at_ns.get_or_insert(clock::mono_ns());
        }
        if gone {
            self.recover().await;
        }
    }

    async fn order(&mut self, order: Order) {
        match order {
            Order::Change(name, want, answer) => {
                let _ = answer.send(self.change(name, want).await);
            }
            Order::CheckNew(users, answer) => {
                let _ = answer.send(self.check_new(users).await);
            }
            Order::Prepare(users, answer) => {
                let _ = answer.send(self.prepare(users).await);
            }
            Order::Admit(names, answer) => {
                let _ = answer.send(Ok(self.admit(names).await));
            }
            Order::Follow(answer) => {
                let _ = answer.send(self.follow().await);
            }
            Order::Credentials(name, answer) => {
                let _ = answer.send(self.credentials(&name).await);
            }
            Order::Servers(name, answer) => {
                let _ = answer.send(self.servers(&name).await);
            }
        }
    }

    /// What is due: an edit, a reload.
    async fn due(&mut self) {
        if self.plan_at_ns.is_some_and(|at| at <= clock::mono_ns()) {
            self.plan_at_ns = None;
            // What fails is told and tried again.
            let _ = self.follow().await;
        }
        if let Decision::Now(why) = self.reloads.decide(clock::mono_ns(), self.around.scene) {
            self.reload(why).await;
        }
        self.tell();
    }

    async fn outcome(&mut self, done: Result<(), Failure>) {
        match done {
            // An edit that came to pass does not make up for a reload that did not.
            Ok(()) if self.reloads.failing() => {}
            Ok(()) => {
                if self.status.last_error.take().is_some() {
                    self.send(HandsNews::Trouble(None)).await;
                }
            }
            Err(failure) => {
                self.plan_at_ns = Some(clock::mono_ns() + ns(again()));
                let new = self.status.last_error.as_ref().is_none_or(|(_, known)| *known != failure);
                if new {
                    let data = json!({"message": failure, "severity": "error"});
                    self.send(HandsNews::Event { kind: "edit_failed", user: None, data }).await;
                    self.send(HandsNews::Trouble(Some(failure.clone()))).await;
                    self.status.last_error = Some((clock::wall_ms(), failure));
                }
            }
        }
    }

    async fn send(&self, news: HandsNews) {
        // The agent is ending if nobody takes it.
        let _ = self.news.send(news).await;
    }

    fn singbox(&self) -> Result<Singbox, Failure> {
        let found = self.around.singbox.clone();
        found
            .ok_or_else(|| "sing-box's configuration could not be read yet; see `boxmeter status`".to_owned())
    }

    async fn find(&self) -> Result<Found, Failure> {
        let config = self.singbox()?.config;
        let users = self.ledger.users().await.map_err(|error| error.to_string())?;
        let removing = self.ledger.removing().await.map_err(|error| error.to_string())?;
        let path = self.ledger.path().to_owned();
        blocking(move || {
            let files = files::read(&config).map_err(|error| error.to_string())?;
            let reader = Reader::open(&path).map_err(|error| error.to_string())?;
            let records = reader.parked().map_err(|error| error.to_string())?;
            let parked = steps::parked(&records)?;
            Ok(Found { files, parked, users, removing })
        })
        .await
    }

    async fn servers(&self, name: &str) -> Result<Vec<servers::Found>, ApiError> {
        let found = self.find().await.map_err(ApiError::unavailable)?;
        let own =
            users_edit::credentials(&found.files, &found.parked, name).map_err(ApiError::unavailable)?;
        let own: Vec<servers::Entry> =
            own.into_iter().map(|one| servers::entry_of(&one.inbound, one.fields)).collect();
        servers::found(&found.files, &own).map_err(ApiError::unavailable)
    }

    /// What is wanted of everybody, and of some users in particular.
    fn wanted(&self, found: &Found, own: &Wanted) -> Wanted {
        let mut wanted = Wanted::new();
        let kept_out = self.around.kept_out.as_ref();
        let parked: BTreeSet<&str> = found.parked.iter().map(|parked| parked.key.user.as_str()).collect();
        let living = found.users.iter().filter(|user| user.tombstoned_ms.is_none());
        let living: BTreeSet<&str> = living.map(|user| &*user.name).collect();
        for user in &found.users {
            let name = user.name.to_string();
            let removing = user.file_state == FileState::Removing;
            let out = kept_out.is_some_and(|out| out.contains(&user.id));
            if removing {
                // The entry of a living user of that name is theirs.
                if !living.contains(name.as_str()) {
                    wanted.insert(name, Want::Deleted);
                }
            } else if user.tombstoned_ms.is_some() {
            } else if user.file_state == FileState::Adding && (self.without_new || !own.is_empty()) {
                // Each comes in by an edit that says so: one that sing-box does not take would hold up others.
            } else if out {
                wanted.insert(name, Want::Out);
            } else if kept_out.is_some() && parked.contains(name.as_str()) {
                wanted.insert(name, Want::In);
            }
        }
        wanted.extend(own.iter().map(|(name, want)| (name.clone(), want.clone())));
        wanted
    }

    /// Plans and carries it out.
    async fn reconcile(&mut self, own: Wanted) -> Result<Done, Failure> {
        let singbox = self.singbox()?;
        let found = self.find().await?;
        let adding = |name: &str| {
            let living = found.users.iter().filter(|user| user.tombstoned_ms.is_none());
            living.filter(|user| *user.name == *name).any(|user| user.file_state == FileState::Adding)
        };
        let new = own.iter().filter(|(name, want)| matches!(want, Want::New { .. }) || adding(name));
        let new: BTreeSet<String> = new.map(|(name, _)| name.clone()).collect();
        let wanted = self.wanted(&found, &own);
        // Nobody is let in by a service that does not run. But it may know its users again when it does: who
        // is deleted stays to be removed until it was told.
        let (services, runs) = (self.services(&found)?, singbox.process.is_some());
        self.look_at_texts(&found.files);
        let Found { files, parked, users, removing } = found;
        let parked = Arc::new(parked);
        let first = self.first;
        let kept = Arc::clone(&parked);
        let (asked, (plan, wanted, mut errors), unread) = blocking(move || {
            let texts = singbox.own_texts().map_err(|error| error.to_string())?;
            let plan = words::plan_whole((&files, &kept, &texts), wanted, &new)?;
            let unread = match first {
                true => {
                    let loaded = singbox.loaded_texts().map_err(|error| error.to_string())?;
                    reconcile::unread(&loaded, &files).map_err(|error| error.to_string())?
                }
                false => Vec::new(),
            };
            Ok((singbox, plan, unread))
        })
        .await?;
        self.first = false;
        // What an agent before this one has written and sing-box has not read.
        for change in &unread {
            self.reloads.changed(change, clock::mono_ns());
        }
        for (name, want) in own.iter().filter(|(name, _)| wanted.contains_key(*name)) {
            errors.extend(words::error_of(&plan, name, want).map(|error| (name.clone(), error)));
        }
        let ids = living(&users);
        self.carry_out(asked, &plan, &ids).await?;
        self.tell_oddities(&plan, &parked, &ids).await;
        let told = match runs {
            true => self.reach_services(&services, (&parked[..], &wanted), &ids, &removing).await,
            false => {
                Told { missed: Vec::new(), unheard: services.iter().map(|one| one.tag.clone()).collect() }
            }
        };
        self.settle_removed(&users, &wanted, &removing, &told).await?;
        self.settle_note().await;
        Ok(Done { plan, errors, missed: told.missed })
    }

    async fn carry_out(
        &mut self,
        singbox: Singbox,
        plan: &Plan,
        ids: &HashMap<Arc<str>, UserId>,
    ) -> Result<(), Failure> {
        if plan.is_empty() {
            return Ok(());
        }
        let steps = Steps::of(&plan.park, &plan.unpark, ids)?;
        steps.before(&self.ledger).await?;
        fault::point("parked");
        if !plan.edits.is_empty() {
            let edits = plan.edits.clone();
            let kept: Result<Vec<PathBuf>, EditError> = blocking(move || Ok(singbox.write(&edits))).await?;
            self.check_refused = matches!(kept, Err(EditError::Refused(_)));
            let kept = kept.map_err(|error| error.to_string())?;
            fault::point("written");
            self.written(plan, &kept).await;
            if fault::refuses("noting") {
                return Err("the ledger could not be told, as a test wants".to_owned());
            }
        }
        steps.after(&self.ledger).await?;
        fault::point("noted");
        let moved: BTreeSet<UserId> =
            plan.changes.iter().filter_map(|change| ids.get(change.user.as_str()).copied()).collect();
        self.send(HandsNews::Moved(moved.into_iter().collect())).await;
        Ok(())
    }

    /// Was something edited by hand since the last look? What made reloads fail may be over with that.
    fn look_at_texts(&mut self, files: &[FileText]) {
        let now: HashMap<_, _> = files.iter().map(|file| (Arc::clone(&file.path), file.sha256)).collect();
        if self.texts.as_ref().is_some_and(|known| *known != now) {
            self.reloads.try_again();
        }
        self.texts = Some(now);
    }

    async fn written(&mut self, plan: &Plan, kept: &[PathBuf]) {
        for edit in &plan.edits {
            let hash = swap::sha256(edit.content.as_bytes());
            self.texts.get_or_insert_default().insert(Arc::new(edit.path.clone()), hash);
        }
        let now_ns = clock::mono_ns();
        for change in &plan.changes {
            self.reloads.changed(change, now_ns);
        }
        self.status.edits += 1;
        self.status.last_edit_ms = Some(clock::wall_ms());
        let names = |wanted: &[What]| {
            let of = plan.changes.iter().filter(|change| wanted.contains(&change.what));
            of.map(|change| change.user.as_str()).collect::<BTreeSet<&str>>()
        };
        let (out, back) = (names(&[What::TakenOut, What::Deleted]), names(&[What::Added, What::PutBack]));
        let data = json!({
            "message": format!(
                "sing-box's users changed: {} taken out, {} put in{}",
                out.len(),
                back.len(),
                if self.reloads.waiting() == (0, 0) { "" } else { "; the reload follows" }
            ),
            "taken_out": out,
            "put_in": back,
            "kept": kept,
        });
        self.send(HandsNews::Event { kind: "users_edited", user: None, data }).await;
    }

    /// What is told once: entries put back by hand, and users that could not be edited.
    async fn tell_oddities(&mut self, plan: &Plan, parked: &[Parked], ids: &HashMap<Arc<str>, UserId>) {
        let known = |key: &ParkedKey| parked.iter().any(|record| record.key == *key && record.returned);
        let mut found = Vec::new();
        for key in plan.returned.iter().filter(|key| !known(key)) {
            let (name, inbound) = (&key.user, &key.inbound);
            let data = json!({
                "inbound": inbound,
                "message": format!("somebody put {name:?} back into {inbound:?}; it is still cut in the kernel"),
                "severity": "warning",
            });
            let Some(&user) = ids.get(name.as_str()) else { continue };
            found
                .push((ledger::ParkedKey { user, inbound: Arc::from(inbound.as_str()), nth: key.nth }, data));
        }
        if !found.is_empty() {
            let moved = found.iter().map(|(key, _)| key.user).collect();
            match self.ledger.found_back(found, clock::wall_ms()).await {
                Ok(()) => self.send(HandsNews::Moved(moved)).await,
                // The next plan finds it again.
                Err(error) => tracing::warn!("noting that entries were put back by hand: {error}"),
            }
        }
        let refused: BTreeSet<String> = plan.refused.iter().map(ToString::to_string).collect();
        for text in refused.difference(&self.refused) {
            let data = json!({"message": text, "severity": "warning"});
            self.send(HandsNews::Event { kind: "edit_refused", user: None, data }).await;
        }
        self.refused = refused;
    }
}
