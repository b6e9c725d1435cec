//! The worker's part for what is not only in files: entries made for new users, logins, and the services
//! of managed inbounds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use boxmeter_web::backend::ApiError;
use serde_json::json;

use super::{
    super::{
        Brought, HandsNews, New,
        managed::{self, Service},
        steps,
        words::{Failure, blocking, not_new},
    },
    AGAIN, Found, Worker,
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        managed::ManagedPlan,
        reconcile::{self, Prepared, Want, Wanted},
        users_edit::{self, Credentials, Parked},
    },
};

impl Worker {
    pub(super) async fn prepare(
        &self,
        name: String,
        inbounds: Option<Vec<String>>,
        brought: Brought,
    ) -> Result<New, ApiError> {
        let found = self.find().await.map_err(ApiError::unavailable)?;
        let services = self.services(&found).map_err(ApiError::unavailable)?;
        let named = |service: &Service| {
            inbounds.as_ref().is_some_and(|tags| tags.iter().any(|tag| **tag == *service.tag))
        };
        let (mut more, mut logins) = (Vec::new(), Vec::new());
        for service in services.iter().filter(|service| named(service)) {
            let (entry, credentials) = service.prepare(&found.parked, &name, &brought).await?;
            more.push(entry);
            logins.push(credentials);
        }
        let in_files = inbounds.map(|mut tags| {
            tags.retain(|tag| !services.iter().any(|service| *service.tag == **tag));
            tags
        });
        let made = match &in_files {
            // Only on inbounds whose users are not in the files.
            Some(tags) if tags.is_empty() && !more.is_empty() => Prepared::default(),
            _ => {
                let made = blocking(move || {
                    Ok(reconcile::prepare(&found.files, &found.parked, &name, in_files, brought))
                });
                made.await.map_err(ApiError::unavailable)?.map_err(not_new)?
            }
        };
        let Prepared { entries, mut credentials } = made;
        credentials.extend(logins);
        let entries: Result<Vec<_>, _> = entries.iter().chain(&more).map(steps::entry).collect();
        Ok(New { entries: entries.map_err(ApiError::internal)?, credentials })
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
        managed::services(&found.files, self.singbox()?.process.as_ref())
    }

    /// Users of managed inbounds, after the files. `own` is whose change it is.
    pub(super) async fn reach_services(
        &mut self,
        services: &[Service],
        (parked, wanted): (&[Parked], &Wanted),
        ids: &HashMap<Arc<str>, UserId>,
        own: Option<&str>,
    ) -> Result<(), Failure> {
        for service in services.iter().filter(|service| managed::concerns(parked, wanted, &service.tag)) {
            let concerned = |name: &str| {
                // Of who is deleted nothing is parked any more, and one who was not reached would be taken for
                // somebody new at the next look.
                matches!(wanted.get(name), Some(Want::Deleted | Want::Out | Want::New { .. }))
                    || parked.iter().any(|it| it.key.user == name && *it.key.inbound == *service.tag)
            };
            match service.reach(&self.ledger, (parked, wanted), ids, &self.removed).await {
                Ok(plan) => self.tell_managed(&service.tag, &plan, ids).await,
                // It keeps nobody else's change from being made; it is tried again.
                Err(failure) if own.is_some_and(|name| !concerned(name)) => {
                    tracing::warn!(inbound = &*service.tag, "users of a managed inbound: {failure}");
                    self.plan_at_ns.get_or_insert(clock::mono_ns() + AGAIN.as_nanos() as u64);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// A service took users out or let them in, at once.
    async fn tell_managed(&mut self, tag: &str, plan: &ManagedPlan, ids: &HashMap<Arc<str>, UserId>) {
        if plan.changes.is_empty() {
            return;
        }
        let names = |admits: bool| {
            let of = plan.changes.iter().filter(|change| change.what.admits() == admits);
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
