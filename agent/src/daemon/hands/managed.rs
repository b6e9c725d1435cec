//! Users of managed shadowsocks inbounds follow what the gate wants by the service's live API: at once
//! and without a reload. The order with the ledger is that of files.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    steps::Steps,
    words::{self, Failure},
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        managed::{self, ManagedPlan, ManagedUser, Manager},
        reconcile::{Want, Wanted},
        users_edit::{Brought, Credentials, Parked},
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

    /// Lists that were asked for from this time on say it themselves.
    pub fn forget(&self, listed_ns: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, &mut at| at >= listed_ns);
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

    /// Who is out of the service's users and who is in again.
    pub async fn reach(
        &self,
        ledger: &Ledger,
        (parked, wanted): (&[Parked], &Wanted),
        ids: &HashMap<Arc<str>, UserId>,
        removed: &Removed,
    ) -> Result<ManagedPlan, Failure> {
        let plan = managed::plan(&self.tag, &self.method, &self.list().await?, parked, wanted);
        if plan.is_empty() {
            return Ok(plan);
        }
        let (manager, steps) = (self.manager()?, Steps::of(&plan.park, &plan.unpark, ids)?);
        steps.before(ledger).await?;
        for name in &plan.remove {
            manager.remove(name).await.map_err(|error| error.to_string())?;
            removed.note(&self.tag, name);
        }
        for user in &plan.add {
            manager.add(user).await.map_err(|error| error.to_string())?;
        }
        steps.after(ledger).await?;
        Ok(plan)
    }

    /// Makes a new user's entry, and changes nothing.
    pub async fn prepare(
        &self,
        parked: &[Parked],
        name: &str,
        brought: &Brought,
    ) -> Result<(Parked, Credentials), boxmeter_web::backend::ApiError> {
        let listed = self.list().await.map_err(boxmeter_web::backend::ApiError::unavailable)?;
        let made = managed::prepare(&self.tag, &self.method, (&listed, parked), name, brought);
        made.map_err(|refused| words::user_error(&refused))
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
