//! The users of managed inbounds, as their services tell them from time to time.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use tokio::task::JoinError;

use super::{Changes, Proxy};
use crate::{
    clock,
    enforcer::managed::{ManagedError, Manager},
};

/// Users of managed inbounds come and go without a change of any file.
const LIST_EVERY_NS: u64 = 5_000_000_000;

/// The names of each managed inbound, or why its service did not tell them.
pub(super) type Lists = Vec<(Arc<str>, Result<Vec<Arc<str>>, String>)>;

impl Proxy {
    /// Asks the services of managed inbounds for their users, from time to time.
    pub(super) fn list_managed(&mut self) {
        let (Some(config), Some(process), None) = (&self.config, &self.process, &self.listing) else {
            return;
        };
        let now_ns = clock::mono_ns();
        if self.listed_ns.is_some_and(|at| now_ns.saturating_sub(at) < LIST_EVERY_NS) {
            return;
        }
        self.listed_ns = Some(now_ns);
        self.asked_ns = now_ns;
        let manager = |tag: &Arc<str>| Manager::of(&config.managers, tag, process.netns_path());
        let managed = config.inbounds.iter().filter(|inbound| inbound.managed);
        let managers: Vec<_> = managed.map(|i| (Arc::clone(&i.tag), manager(&i.tag))).collect();
        if managers.is_empty() {
            return;
        }
        // At once: one that does not answer holds up no other.
        let ask = |(tag, manager): (Arc<str>, Result<Manager, ManagedError>)| async move {
            let list = match manager {
                Ok(manager) => manager.list().await,
                Err(error) => Err(error),
            };
            let list = list.map(|users| users.into_iter().map(|user| user.name.into()).collect());
            (tag, list.map_err(|error| error.to_string()))
        };
        self.listing = Some(tokio::spawn(join_all(managers.into_iter().map(ask))));
    }

    /// A service that does not answer changes nothing: the names that it told last stay.
    pub(super) fn take_lists(&mut self, lists: Result<Lists, JoinError>) -> Changes {
        self.listing = None;
        let mut changes = Changes::default();
        let mut trouble: Vec<String> = lists.as_ref().err().map(ToString::to_string).into_iter().collect();
        let listed_ns = std::mem::replace(&mut self.asked_ns, 0);
        for (tag, list) in lists.unwrap_or_default() {
            match list {
                Ok(names) => {
                    let names = names.into_iter().filter(|name: &Arc<str>| !name.is_empty()).collect();
                    let names = self.without_removed(&tag, names, listed_ns);
                    changes.config |= self.managed.get(&tag) != Some(&names);
                    changes.config |= self.removed.forget(&tag, listed_ns);
                    self.managed_ns.insert(Arc::clone(&tag), listed_ns);
                    self.managed.insert(tag, names);
                }
                Err(reason) => trouble.push(reason),
            }
        }
        trouble.dedup();
        changes.parts.push(("managed_users", (!trouble.is_empty()).then(|| trouble.join("; "))));
        changes
    }

    /// Names that a service told when it was asked at this time, less those taken out since.
    pub(in crate::daemon) fn without_removed(
        &self,
        tag: &Arc<str>,
        mut names: BTreeSet<Arc<str>>,
        listed_ns: u64,
    ) -> BTreeSet<Arc<str>> {
        names.retain(|name| !self.removed.since(tag, name, listed_ns));
        names
    }
}
