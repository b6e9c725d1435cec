//! The worker behind [`super::Hands`].

mod following;
mod orders;
mod reloading;
mod services;
mod sides;

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
use sides::Side;

use super::{
    Around, HandsNews, HandsStatus, Order,
    managed::Removed,
    steps::Steps,
    words::{self, Failure, Missed, blocking, living},
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        editor::{Edit, EditError},
        reconcile::{Plan, Want, Wanted},
        reloads::{Decision, RETRY},
        swap,
        users_edit::{self, Change, Parked, ParkedKey, What},
    },
    fault,
    ledger::{self, FileState, Ledger, Removing, UserRecord},
    service::{self, Service},
    singbox::{files::FileText, servers},
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
    sides: Vec<Side>,
    within: BTreeMap<Service, Duration>,
    around: Around,
    /// To be planned at this time (ns, monotonic).
    plan_at_ns: Option<u64>,
    /// Who was taken out of services, for who lists them.
    removed: Removed,
    /// Users that could not be edited, as told.
    refused: BTreeSet<String>,
    /// The proxies whose check has refused the last edit.
    check_refused: BTreeSet<Service>,
}

/// What planning needs, read at one moment.
struct Found {
    /// Of all proxies.
    files: Vec<FileText>,
    parked: Vec<Parked>,
    users: Vec<UserRecord>,
    /// Where entries of those may be who are being removed.
    removing: Removing,
    /// What is parked of proxies whose files could not be read.
    hidden: Vec<Parked>,
    /// Why they could not be read: they are left as they are.
    failures: Failures,
}

/// What could not be done with the files of some proxies.
type Failures = BTreeMap<Service, Failure>;

fn whole(failures: &Failures) -> Failure {
    let different: BTreeSet<&str> = failures.values().map(String::as_str).collect();
    different.into_iter().collect::<Vec<_>>().join("; ")
}

/// What was planned and carried out.
#[derive(Default)]
struct Done {
    plan: Plan,
    /// Of users who were asked for, what could not be done.
    errors: BTreeMap<String, ApiError>,
    /// What the services of managed inbounds did not do.
    missed: Vec<Missed>,
    /// Proxies whose files were not read or not written. All others have what was planned.
    failures: Failures,
    /// Users who are still being added, and may come in.
    adding: BTreeMap<String, UserId>,
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

    /// What was not done, as one failure.
    fn failure(&self) -> Result<(), Failure> {
        if self.failures.is_empty() { words::missed(&self.missed) } else { Err(whole(&self.failures)) }
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
        within: BTreeMap<Service, Duration>,
        (news, told): (mpsc::Sender<HandsNews>, watch::Sender<HandsStatus>),
        removed: Removed,
    ) -> Self {
        Worker {
            ledger,
            news,
            told,
            status: HandsStatus::default(),
            sides: Vec::new(),
            within,
            around: Around::default(),
            plan_at_ns: None,
            removed,
            refused: BTreeSet::new(),
            check_refused: BTreeSet::new(),
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
        let reload = |side: &Side| match side.reloads.decide(now_ns, self.around.scene_of(side.service())) {
            Decision::At(at) => until(at),
            // What cannot be done now is tried again in a while.
            Decision::Now(_) => again(),
            Decision::None => LOOK_EVERY,
        };
        let reload = self.sides.iter().map(reload).min().unwrap_or(LOOK_EVERY);
        let running = self.running_again_ns().map_or(LOOK_EVERY, until);
        plan.min(reload).min(running).min(LOOK_EVERY)
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
                self.asked();
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
        self.tell_running().await;
        for at in 0..self.sides.len() {
            let scene = self.around.scene_of(self.sides[at].service());
            if let Some(why) = self.sides[at].reloads_now(clock::mono_ns(), scene) {
                self.reload(at, why).await;
            }
        }
        self.tell();
    }

    async fn outcome(&mut self, done: Result<(), Failure>) {
        match done {
            // An edit that came to pass does not make up for a reload that did not.
            Ok(()) if self.sides.iter().any(|side| side.reloads.failing()) => {}
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

    /// Of sing-box only.
    async fn servers(&self, name: &str) -> Result<Vec<servers::Found>, ApiError> {
        let mut found = self.find().await.map_err(ApiError::unavailable)?;
        found.files.retain(|file| file.service.is_singbox());
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
            } else if user.file_state == FileState::Adding && (!out || !own.is_empty()) {
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
        let found = self.find().await?;
        let own_texts = self.known_texts(&found.files).await?;
        let adding = |name: &str| {
            let living = found.users.iter().filter(|user| user.tombstoned_ms.is_none());
            living.filter(|user| *user.name == *name).any(|user| user.file_state == FileState::Adding)
        };
        let new = own.iter().filter(|(name, want)| matches!(want, Want::New { .. }) || adding(name));
        let new: BTreeSet<String> = new.map(|(name, _)| name.clone()).collect();
        let wanted = self.wanted(&found, &own);
        // Nobody is let in by a service that does not run. But it may know its users again when it does: who
        // is deleted stays to be removed until it was told.
        let services = self.services(&found)?;
        let runs = self.singbox().is_some_and(|singbox| singbox.process.is_some());
        self.look_at_texts(&found.files);
        let Found { files, parked, users, removing, hidden, mut failures } = found;
        let parked = Arc::new(parked);
        let kept = Arc::clone(&parked);
        let (plan, wanted, mut errors) =
            blocking(move || words::plan_whole((&files, &kept, &own_texts), wanted, &new)).await?;
        for (name, want) in own.iter().filter(|(name, _)| wanted.contains_key(*name)) {
            errors.extend(words::error_of(&plan, name, want).map(|error| (name.clone(), error)));
        }
        let ids = living(&users);
        let may_come = |id: &UserId| self.around.kept_out.as_ref().is_some_and(|out| !out.contains(id));
        let adding = (users.iter())
            .filter(|user| user.tombstoned_ms.is_none() && user.file_state == FileState::Adding)
            .filter(|user| may_come(&user.id))
            .map(|user| (user.name.to_string(), user.id))
            .collect();
        failures.extend(self.carry_out(&plan, &ids).await?);
        let services_here = self.services_here();
        let touched = plan.changes.iter().map(|change| (&change.user, &change.inbound));
        for (name, tag) in touched.chain(hidden.iter().map(|it| (&it.key.user, &it.key.inbound))) {
            // Whoever is to be out is cut in the kernel, and taken out when that can be.
            let lets_in = matches!(own.get(name), Some(Want::In | Want::New { .. }));
            let failure = service::of_tag(&services_here, tag).and_then(|of| failures.get(of));
            if let Some(failure) = failure.filter(|_| lets_in) {
                errors.entry(name.clone()).or_insert_with(|| ApiError::unavailable(failure));
            }
        }
        self.tell_oddities(&plan, &parked, &ids).await;
        let told = match runs {
            true => self.reach_services(&services, (&parked[..], &wanted), &ids, &removing).await,
            false => {
                Told { missed: Vec::new(), unheard: services.iter().map(|one| one.tag.clone()).collect() }
            }
        };
        // Whoever is deleted may still be in files that could not be read or written.
        if failures.is_empty() {
            self.settle_removed(&users, &wanted, &removing, &told).await?;
        }
        self.settle_note().await;
        Ok(Done { plan, errors, missed: told.missed, failures, adding })
    }

    /// Which proxies' files could not be written, and why.
    async fn carry_out(&mut self, plan: &Plan, ids: &HashMap<Arc<str>, UserId>) -> Result<Failures, Failure> {
        if plan.is_empty() {
            return Ok(Failures::new());
        }
        Steps::of(&plan.park, &plan.unpark, ids)?.before(&self.ledger).await?;
        fault::point("parked");
        let mut failures = Failures::new();
        for at in 0..self.sides.len() {
            let proxy = self.sides[at].proxy.clone();
            let service = proxy.service.clone();
            let edits: Vec<Edit> =
                plan.edits.iter().filter(|edit| edit.service == service).cloned().collect();
            if edits.is_empty() {
                continue;
            }
            let kept: Result<Vec<PathBuf>, EditError> = blocking(move || Ok(proxy.write(&edits))).await?;
            if matches!(kept, Err(EditError::Refused { .. })) {
                self.check_refused.insert(service.clone());
            }
            match kept {
                Ok(kept) => {
                    fault::point("written");
                    self.written(at, plan, &kept).await;
                }
                Err(error) => drop(failures.insert(service, error.to_string())),
            }
        }
        if !plan.edits.is_empty() && fault::refuses("noting") {
            return Err("the ledger could not be told, as a test wants".to_owned());
        }
        // Of files that were not written the ledger keeps what it had: the next plan finds it.
        let services = self.services_here();
        let written = |tag: &str| service::of_tag(&services, tag).is_none_or(|of| !failures.contains_key(of));
        let park: Vec<Parked> = plan.park.iter().filter(|it| written(&it.key.inbound)).cloned().collect();
        let unpark: Vec<_> = plan.unpark.iter().filter(|key| written(&key.inbound)).cloned().collect();
        Steps::of(&park, &unpark, ids)?.after(&self.ledger).await?;
        fault::point("noted");
        let moved = plan.changes.iter().filter(|change| written(&change.inbound));
        let moved: BTreeSet<UserId> =
            moved.filter_map(|change| ids.get(change.user.as_str()).copied()).collect();
        self.send(HandsNews::Moved(moved.into_iter().collect())).await;
        Ok(failures)
    }

    /// Was something edited by hand since the last look? What made reloads fail may be over with that.
    fn look_at_texts(&mut self, files: &[FileText]) {
        for side in &mut self.sides {
            let here = files.iter().filter(|file| file.service == side.proxy.service);
            let now: HashMap<_, _> = here.map(|file| (Arc::clone(&file.path), file.sha256)).collect();
            // Files that cannot be read now are no news.
            if now.is_empty() {
                continue;
            }
            if side.texts.as_ref().is_some_and(|known| *known != now) {
                side.reloads.try_again();
            }
            side.texts = Some(now);
        }
    }

    /// A proxy's files were written.
    async fn written(&mut self, at: usize, plan: &Plan, kept: &[PathBuf]) {
        let services = self.services_here();
        for edit in plan.edits.iter().filter(|edit| edit.service == services[at]) {
            let hash = swap::sha256(edit.content.as_bytes());
            self.sides[at].texts.get_or_insert_default().insert(Arc::new(edit.path.clone()), hash);
        }
        let own = |change: &&Change| service::of_tag(&services, &change.inbound) == Some(&services[at]);
        let changes: Vec<Change> = plan.changes.iter().filter(own).cloned().collect();
        self.wait_for_reading(&changes);
        self.status.edits += 1;
        self.status.last_edit_ms = Some(clock::wall_ms());
        let names = |wanted: &[What]| {
            let of = changes.iter().filter(|change| wanted.contains(&change.what));
            of.map(|change| change.user.as_str()).collect::<BTreeSet<&str>>()
        };
        let (out, back) = (names(&[What::TakenOut, What::Deleted]), names(&[What::Added, What::PutBack]));
        let service = &services[at];
        let follows = match (self.sides[at].reloads.waiting(), service.is_singbox()) {
            ((0, 0), _) => "",
            (_, true) => "; the reload follows",
            (_, false) => "; it is told of it by its API, or restarted",
        };
        let data = json!({
            "message": format!(
                "{}'s users changed: {} taken out, {} put in{follows}",
                service.name,
                out.len(),
                back.len(),
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
