//! The worker's part for what is not only in files: entries made for new users, logins, and the services
//! of managed inbounds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use boxmeter_web::backend::ApiError;
use serde_json::json;

use super::{
    super::{
        HandsNews, New, Newcomer,
        managed::{self, Service},
        steps,
        words::{Failure, Missed, blocking, user_error},
    },
    Failures, Found, Worker, again, ns, whole,
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        reconcile::{self, Prepared, Want, Wanted},
        users_edit::{self, Change, Credentials, Parked},
    },
    ledger::{FileState, Removing, UserRecord},
    service,
};

/// How far the services of managed inbounds followed.
#[derive(Default)]
pub(super) struct Told {
    pub missed: Vec<Missed>,
    /// Inbounds whose service was not asked, or not to the end.
    pub unheard: Vec<Arc<str>>,
}

/// Is somebody of this name still to be removed?
fn is_removed(found: &Found, name: &str) -> bool {
    found.users.iter().any(|user| *user.name == *name && user.file_state == FileState::Removing)
}

impl Worker {
    /// Makes new users' entries. What there is still of somebody who had a name is removed before.
    pub(super) async fn prepare(
        &mut self,
        users: Vec<Newcomer>,
    ) -> Result<Vec<Result<New, ApiError>>, ApiError> {
        let mut found = self.find().await.map_err(ApiError::unavailable)?;
        let gone: Wanted = (users.iter().filter(|user| is_removed(&found, &user.name)))
            .map(|user| (user.name.clone(), Want::Deleted))
            .collect();
        let (mut missed, mut failures) = (Vec::new(), Failures::new());
        if !gone.is_empty() {
            let done = self.reconcile(gone.clone()).await.map_err(ApiError::unavailable)?;
            (missed, failures) = (done.missed, done.failures);
            found = self.find().await.map_err(ApiError::unavailable)?;
        }
        let mut left = BTreeMap::new();
        for name in gone.into_keys().filter(|name| is_removed(&found, name)) {
            let why = missed.iter().find(|missed| missed.concerns(&name));
            let why = why.map_or("sing-box does not run", |missed| missed.failure.as_str());
            let error = ApiError::unavailable(match failures.is_empty() {
                true => format!(
                    "a user {name:?} was deleted, and the service of a managed inbound may still have it ({why}); \
                     try again when it answers, or choose another name"
                ),
                false => format!(
                    "a user {name:?} was deleted, and may still be in files that cannot be edited now ({}); correct \
                     them, or choose another name",
                    whole(&failures)
                ),
            });
            left.insert(name, error);
        }
        let names: Vec<String> = users.iter().map(|user| user.name.clone()).collect();
        let made = self.made(found, users).await?;
        Ok(names.iter().zip(made).map(|(name, made)| left.remove(name).map_or(made, Err)).collect())
    }

    pub(super) async fn check_new(
        &self,
        users: Vec<Newcomer>,
    ) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        let found = self.find().await.map_err(ApiError::unavailable)?;
        Ok(self.made(found, users).await?.into_iter().map(|made| made.map(drop)).collect())
    }

    async fn made(&self, found: Found, users: Vec<Newcomer>) -> Result<Vec<Result<New, ApiError>>, ApiError> {
        let services = self.services(&found).map_err(ApiError::unavailable)?;
        let mut managed: Vec<Result<Prepared, ApiError>> =
            users.iter().map(|_| Ok(Prepared::default())).collect();
        for service in &services {
            service.prepare(&found.parked, &users, &mut managed).await;
        }
        let services_here = self.services_here();
        // Of an inbound whose file cannot be read nobody can say that there is none.
        let unread: Vec<Option<Failure>> = (users.iter())
            .map(|user| {
                let mut tags = user.inbounds.iter().flatten();
                tags.find_map(|tag| found.failures.get(service::of_tag(&services_here, tag)?).cloned())
            })
            .collect();
        let is_managed = |tag: &String| services.iter().any(|service| *service.tag == **tag);
        // Those who are only on inbounds whose users are not in the files are no concern of these.
        let mut in_files: Vec<Newcomer> = Vec::with_capacity(users.len());
        let places: Vec<Option<usize>> = (users.into_iter())
            .map(|mut user| {
                let named = user.inbounds.as_ref().map(Vec::len);
                if let Some(tags) = &mut user.inbounds {
                    tags.retain(|tag| !is_managed(tag));
                }
                let only_managed =
                    user.inbounds.as_ref().is_some_and(Vec::is_empty) && named.is_some_and(|n| n > 0);
                (!only_managed).then(|| {
                    in_files.push(user);
                    in_files.len() - 1
                })
            })
            .collect();
        let made = blocking(move || {
            reconcile::prepare(&found.files, &found.parked, &in_files).map_err(|error| error.to_string())
        });
        let made = made.await.map_err(ApiError::unavailable)?;
        let mut made: Vec<_> = made.into_iter().map(Some).collect();
        let one = |(place, managed): (Option<usize>, Result<Prepared, ApiError>)| {
            let in_files = match place.and_then(|at| made.get_mut(at)?.take()) {
                Some(made) => made.map_err(|refused| user_error(&refused))?,
                None => Prepared::default(),
            };
            let Prepared { mut entries, mut credentials } = in_files;
            let more = managed?;
            entries.extend(more.entries);
            credentials.extend(more.credentials);
            let entries: Result<Vec<_>, _> = entries.iter().map(steps::entry).collect();
            Ok(New { entries: entries.map_err(ApiError::internal)?, credentials })
        };
        let made = places.into_iter().zip(managed).map(one).zip(unread);
        Ok(made.map(|(made, unread)| unread.map_or(made, |why| Err(ApiError::unavailable(why)))).collect())
    }

    pub(super) async fn credentials(&self, name: &str) -> Result<Vec<Credentials>, ApiError> {
        let found = self.find().await.map_err(ApiError::unavailable)?;
        let mut logins =
            users_edit::credentials(&found.files, &found.parked, name).map_err(ApiError::unavailable)?;
        for service in self.services(&found).map_err(ApiError::unavailable)? {
            logins.extend(service.credentials(&found.parked, name).await);
        }
        Ok(logins)
    }

    pub(super) fn services(&self, found: &Found) -> Result<Vec<Service>, Failure> {
        let Some(singbox) = self.singbox() else { return Ok(Vec::new()) };
        let files: Vec<_> = found.files.iter().filter(|file| file.service.is_singbox()).cloned().collect();
        match files.is_empty() {
            true => Ok(Vec::new()),
            false => managed::services(&files, singbox.process.as_ref()),
        }
    }

    /// Users of managed inbounds, after the files: each service for itself, since one that is away must
    /// let nobody through elsewhere.
    pub(super) async fn reach_services(
        &mut self,
        services: &[Service],
        (parked, wanted): (&[Parked], &Wanted),
        ids: &HashMap<Arc<str>, UserId>,
        removing: &Removing,
    ) -> Told {
        let mut told = Told::default();
        for service in services.iter().filter(|service| managed::concerns(parked, wanted, &service.tag)) {
            let reached = service.reach(&self.ledger, (parked, wanted), ids, &self.removed).await;
            self.tell_managed(&service.tag, &reached.changes, ids).await;
            let missed = |user: Option<String>, failure| Missed { user, failure, concerned: BTreeSet::new() };
            told.missed.extend(reached.refused.into_iter().map(|(name, why)| missed(Some(name), why)));
            if let Some(failure) = reached.failed {
                // Of who is deleted nothing is parked any more.
                let parked =
                    parked.iter().filter(|it| *it.key.inbound == *service.tag).map(|it| &it.key.user);
                let acts = wanted.iter().filter(|(name, want)| match want {
                    Want::In => false,
                    Want::Out => true,
                    Want::New { inbounds, .. } => {
                        inbounds.as_ref().is_some_and(|tags| tags.iter().any(|tag| **tag == *service.tag))
                    }
                    Want::Deleted => {
                        ids.get(name.as_str()).is_some_and(|id| removing.may_be_on(*id, &service.tag))
                    }
                });
                let concerned = parked.chain(acts.map(|(name, _)| name)).cloned().collect();
                told.missed.push(Missed { concerned, ..missed(None, failure) });
                told.unheard.push(Arc::clone(&service.tag));
            }
        }
        for missed in &told.missed {
            tracing::warn!("users of a managed inbound: {}", missed.failure);
            self.plan_at_ns.get_or_insert(clock::mono_ns() + ns(again()));
        }
        told
    }

    /// Deleted users whose entries are nowhere any more, neither in the files nor with a service that may
    /// have them: from here on somebody of that name is somebody new.
    pub(super) async fn settle_removed(
        &self,
        users: &[UserRecord],
        wanted: &Wanted,
        removing: &Removing,
        told: &Told,
    ) -> Result<(), Failure> {
        for user in users.iter().filter(|user| user.file_state == FileState::Removing) {
            let planned = matches!(wanted.get(&*user.name), Some(Want::Deleted));
            let refused = told.missed.iter().any(|missed| missed.user.as_deref() == Some(&*user.name));
            let unheard = told.unheard.iter().any(|tag| removing.may_be_on(user.id, tag));
            if planned && !refused && !unheard {
                self.ledger.removed(user.id, clock::wall_ms()).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// A service took users out or let them in, at once.
    async fn tell_managed(&mut self, tag: &str, changes: &[Change], ids: &HashMap<Arc<str>, UserId>) {
        if changes.is_empty() {
            return;
        }
        let names = |admits: bool| {
            let of = changes.iter().filter(|change| change.what.admits() == admits);
            of.map(|change| change.user.as_str()).collect::<BTreeSet<&str>>()
        };
        let (out, back) = (names(false), names(true));
        let data = json!({
            "message": format!(
                "users of {tag:?} changed by its live API: {} taken out, {} put in; no reload is needed",
                out.len(),
                back.len()
            ),
            "inbound": tag,
            "taken_out": out,
            "put_in": back,
        });
        let moved: BTreeSet<UserId> =
            out.iter().chain(&back).filter_map(|name| ids.get(*name).copied()).collect();
        self.send(HandsNews::Event { kind: "users_edited", user: None, data }).await;
        self.send(HandsNews::Moved(moved.into_iter().collect())).await;
    }
}
