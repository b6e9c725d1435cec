//! Users of managed shadowsocks inbounds follow what the gate wants by the service's live API: at once
//! and without a reload. The order with the ledger is that of files.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use boxmeter_web::backend::ApiError;

use super::{
    steps::Steps,
    words::{self, Failure},
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        managed::{self, ManagedError, ManagedPlan, ManagedUser, Manager},
        reconcile::{Prepared, Want, Wanted},
        users_edit::{Change, Credentials, Newcomer, Parked},
    },
    ledger::Ledger,
    singbox::{
        files::{self, FileText},
        process::Process,
        tree::{self, Node},
    },
};

/// A managed inbound and who has its users.
pub struct Service {
    pub tag: Arc<str>,
    method: String,
    manager: Result<Manager, Failure>,
}

/// How far a service followed.
#[derive(Default)]
pub struct Reached {
    /// What was done.
    pub changes: Vec<Change>,
    /// Users of whom it refused something, and why.
    pub refused: Vec<(String, Failure)>,
    /// Why it could not be asked, or not to the end.
    pub failed: Option<Failure>,
}

/// By tag and name, nanoseconds of the monotonic clock.
type Times = HashMap<(Arc<str>, Arc<str>), u64>;

/// When names were taken out of a service (tag, name; ns, monotonic): what was listed before says nothing
/// about them.
#[derive(Clone, Debug, Default)]
pub struct Removed(Arc<Mutex<Times>>);

impl Removed {
    fn note(&self, tag: &Arc<str>, name: &str) {
        let key = (Arc::clone(tag), Arc::from(name));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, clock::mono_ns());
    }

    /// Was the name taken out after a list was asked for at this time?
    pub fn since(&self, tag: &Arc<str>, name: &Arc<str>, listed_ns: u64) -> bool {
        let removed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        removed.get(&(Arc::clone(tag), Arc::clone(name))).is_some_and(|&at| at >= listed_ns)
    }

    /// Lists of this inbound that were asked for from this time on say it themselves. Was there anything
    /// to forget?
    pub fn forget(&self, tag: &Arc<str>, listed_ns: u64) -> bool {
        let mut removed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = removed.len();
        removed.retain(|(of, _), &mut at| of != tag || at >= listed_ns);
        removed.len() != before
    }
}

/// The managed inbounds of a configuration.
pub fn services(files: &[FileText], process: Option<&Process>) -> Result<Vec<Service>, Failure> {
    let config = files::parse(files).map_err(|error| error.to_string())?;
    let service = |inbound: &crate::singbox::config::Inbound| {
        let text = files.iter().find(|file| *file.path == inbound.file)?.text.get(inbound.range.clone())?;
        let (node, _) = tree::parse(&Arc::new(inbound.file.clone()), text).ok()?;
        let method = node.get("method").and_then(Node::str).unwrap_or_default().to_owned();
        let netns = process.and_then(Process::netns_path);
        let manager = Manager::of(&config.managers, &inbound.tag, netns).map_err(|error| error.to_string());
        Some(Service { tag: Arc::clone(&inbound.tag), method, manager })
    };
    Ok(config.inbounds.iter().filter(|inbound| inbound.managed).filter_map(service).collect())
}

impl Service {
    fn manager(&self) -> Result<&Manager, Failure> {
        self.manager.as_ref().map_err(Clone::clone)
    }

    async fn list(&self) -> Result<Vec<ManagedUser>, Failure> {
        self.manager()?.list().await.map_err(|error| error.to_string())
    }

    /// Takes users out of the service and lets them in again. What it refuses of one user is not done, and
    /// keeps nothing from the others.
    pub async fn reach(
        &self,
        ledger: &Ledger,
        (parked, wanted): (&[Parked], &Wanted),
        ids: &HashMap<Arc<str>, UserId>,
        removed: &Removed,
    ) -> Reached {
        let mut reached = Reached::default();
        reached.failed = self.follow(ledger, (parked, wanted), ids, removed, &mut reached).await.err();
        reached
    }

    async fn follow(
        &self,
        ledger: &Ledger,
        (parked, wanted): (&[Parked], &Wanted),
        ids: &HashMap<Arc<str>, UserId>,
        removed: &Removed,
        reached: &mut Reached,
    ) -> Result<(), Failure> {
        let mut plan = managed::plan(&self.tag, &self.method, &self.list().await?, parked, wanted);
        if plan.is_empty() {
            return Ok(());
        }
        Steps::of(&plan.park, &plan.unpark, ids)?.before(ledger).await?;
        let mut open: BTreeSet<String> = plan.remove.iter().cloned().collect();
        open.extend(plan.add.iter().map(|user| user.name.clone()));
        let told = self.tell(&plan, removed, &mut open, &mut reached.refused).await;
        // Of whom the service did not follow, the ledger keeps what it had.
        plan.park.retain(|record| !open.contains(&record.key.user));
        plan.unpark.retain(|key| !open.contains(&key.user));
        plan.changes.retain(|change| !open.contains(&change.user));
        reached.changes = plan.changes;
        Steps::of(&plan.park, &plan.unpark, ids)?.after(ledger).await?;
        told
    }

    /// Says a plan to the service; `open` is left with those for whom that was not possible.
    async fn tell(
        &self,
        plan: &ManagedPlan,
        removed: &Removed,
        open: &mut BTreeSet<String>,
        refused: &mut Vec<(String, Failure)>,
    ) -> Result<(), Failure> {
        let manager = self.manager()?;
        let mut done = |name: &str, answer: Result<(), ManagedError>| match answer {
            Ok(()) => {
                open.remove(name);
                Ok(())
            }
            Err(error @ ManagedError::Refused { .. }) => {
                refused.push((name.to_owned(), error.to_string()));
                Ok(())
            }
            // It would not take the next one either, and each may last until its time is over.
            Err(error) => Err(error.to_string()),
        };
        for name in &plan.remove {
            let answer = manager.remove(name).await;
            if answer.is_ok() {
                removed.note(&self.tag, name);
            }
            done(name, answer)?;
        }
        for user in &plan.add {
            done(&user.name, manager.add(user).await)?;
        }
        Ok(())
    }

    /// Makes the entries of those new users who are to be here, and changes nothing.
    pub async fn prepare(
        &self,
        parked: &[Parked],
        users: &[Newcomer],
        made: &mut [Result<Prepared, ApiError>],
    ) {
        let named = |user: &Newcomer| {
            user.inbounds.as_ref().is_some_and(|tags| tags.iter().any(|tag| **tag == *self.tag))
        };
        if !users.iter().any(named) {
            return;
        }
        let listed = self.list().await;
        // Those of this list are as if they were there.
        let mut parked: Vec<Parked> =
            parked.iter().filter(|record| *record.key.inbound == *self.tag).cloned().collect();
        for (user, made) in users.iter().zip(made).filter(|(user, _)| named(user)) {
            let Ok(prepared) = made else { continue };
            let entry = match &listed {
                Ok(listed) => {
                    let known = (&listed[..], &parked[..]);
                    managed::prepare(&self.tag, &self.method, known, &user.name, &user.brought)
                        .map_err(|refused| words::user_error(&refused))
                }
                Err(failure) => Err(ApiError::unavailable(failure)),
            };
            match entry {
                Ok((entry, credentials)) => {
                    parked.push(entry.clone());
                    prepared.entries.push(entry);
                    prepared.credentials.push(credentials);
                }
                Err(error) => *made = Err(error),
            }
        }
    }

    /// A user's login, in or out.
    pub async fn credentials(&self, parked: &[Parked], name: &str) -> Option<Credentials> {
        // A service that does not answer has no login to show.
        let listed = self.list().await.unwrap_or_default();
        managed::credentials(&self.tag, (&listed, parked), name)
    }
}

/// Is anything kept, or wanted of somebody, that services would have to be asked for?
pub fn concerns(parked: &[Parked], wanted: &Wanted, tag: &str) -> bool {
    let acts = |want: &Want| matches!(want, Want::Out | Want::Deleted | Want::New { .. });
    parked.iter().any(|record| record.key.inbound == tag) || wanted.values().any(acts)
}
