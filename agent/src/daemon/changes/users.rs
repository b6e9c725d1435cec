//! Users and their packages.

use std::collections::BTreeMap;

use boxmeter_web::{
    api::{
        change::{Credential, Deleted, NewUser, UserAdded, UserChange, UserChanged},
        order::Envelope,
        policies::{NewPackage, Package, PackageAdded, PackageList, PackageOrigin},
        query::Page,
        types::{Schema, Time, User},
    },
    backend::{ApiError, ErrorKind},
};

use super::{asked, create::ToMake, named, refused, signed, to_api, to_core};
use crate::{
    clock,
    core::{
        event::UserId,
        policy,
        wallet::{Usage, What},
    },
    daemon::{
        answers::unsigned,
        backend::Answerer,
        gate::{billed, of_meter, wallet_of, zone_of},
        hands::{Brought, Newcomer, Want},
        shared::Tighter,
    },
    enforcer::users_edit::Credentials,
    ledger::{
        AdminChange, AdminState, CommitError, NewEntry, Refusal, SettingsChange, Settle, UserRecord,
        WalletEntry,
    },
};

fn credential(one: Credentials) -> Credential {
    let entry = one.fields.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Credential { inbound: one.inbound, kind: one.kind, entry: entry.collect() }
}

/// Users.
impl Answerer {
    pub(in crate::daemon) async fn make_user(
        &self,
        envelope: Envelope,
        new: NewUser,
    ) -> Result<UserAdded, ApiError> {
        if let Some(answer) = self.answered::<UserAdded>(&envelope).await? {
            // Credentials are kept nowhere but in sing-box's files.
            let credentials = self.hands.credentials(&answer.user.name).await?;
            let credentials = credentials.into_iter().map(credential).collect();
            return Ok(UserAdded { credentials, ..answer });
        }
        let user = ToMake { new, brought: Brought::default(), admin: AdminState::Enabled, created_ms: None };
        let made = self.create(&envelope, vec![user]).await?.pop();
        let (record, credentials) = made.ok_or_else(|| ApiError::internal("nobody was made"))??;
        let user = self.shown(record.id).await?;
        let answer = UserAdded { schema: Schema, user, credentials: Vec::new(), rev: self.rev() };
        self.remember(&envelope, &answer).await;
        Ok(UserAdded { credentials: credentials.into_iter().map(credential).collect(), ..answer })
    }

    /// The user as it is now, from the newest picture.
    pub(super) async fn shown(&self, id: UserId) -> Result<User, ApiError> {
        let picture = self.picture();
        let record = picture.directory.users.get(&id);
        let record = record.ok_or_else(|| ApiError::internal("the user went away meanwhile"))?;
        self.user_of(record, &picture).await
    }

    async fn changed(&self, envelope: &Envelope, id: UserId, changed: bool) -> Result<UserChanged, ApiError> {
        let user = self.shown(id).await?;
        let answer = UserChanged { schema: Schema, changed, user, rev: self.rev() };
        self.remember(envelope, &answer).await;
        Ok(answer)
    }

    /// The user that is to be changed, if it is still as the caller saw it.
    pub(super) async fn unchanged(&self, envelope: &Envelope, name: &str) -> Result<UserRecord, ApiError> {
        let record = self.living(name).await?;
        if envelope.if_rev.is_some_and(|rev| rev != unsigned(record.settings_rev)) {
            let current = self.shown(record.id).await?;
            envelope.check_rev(unsigned(record.settings_rev), &current)?;
        }
        Ok(record)
    }

    pub(in crate::daemon) async fn alter_user(
        &self,
        envelope: Envelope,
        name: &str,
        change: UserChange,
    ) -> Result<UserChanged, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.unchanged(&envelope, name).await?;
        let more =
            change.inbounds.as_deref().map(|wanted| self.more_inbounds(&record, wanted)).transpose()?;
        let settings = self.changed_settings(&record, &change).await?;
        // Before anything else: what cannot be changes nothing, and an edit of files is what may well fail.
        if let Some(more) = more.filter(|more| !more.is_empty()) {
            self.put_on(&record, more).await?;
        }
        let if_rev = envelope.if_rev.map(signed);
        if settings != SettingsChange::default() {
            self.tighten(Tighter::Settings(record.id, Box::new(settings.clone()))).await?;
            let changed =
                self.ledger.change_user(record.id, settings, if_rev, self.settle(), asked(&envelope)).await;
            self.made(changed, &record).await?;
        }
        self.changed(&envelope, record.id, true).await
    }

    /// Puts a user on inbounds: on all of these or on none.
    async fn put_on(&self, record: &UserRecord, inbounds: Vec<String>) -> Result<(), ApiError> {
        let (name, brought) = (record.name.to_string(), Brought::default());
        let newcomer = Newcomer { name, inbounds: Some(inbounds.clone()), brought: brought.clone() };
        self.hands.check_new(vec![newcomer]).await?.into_iter().collect::<Result<(), ApiError>>()?;
        let want = Want::New { inbounds: Some(inbounds), brought };
        self.hands.change(&record.name, want).await?;
        Ok(())
    }

    /// Takes over what the ledger made of a user; or the user as it was before, where the ledger refused:
    /// what was tightened for nothing is loosened again.
    async fn made(&self, done: Result<UserRecord, CommitError>, before: &UserRecord) -> Result<(), ApiError> {
        match done {
            Ok(record) => self.take_over(record).await,
            Err(error) => {
                self.take_over(before.clone()).await?;
                Err(refused(error))
            }
        }
    }

    /// The inbounds that the user is to be put on as well. It is taken off none.
    fn more_inbounds(&self, record: &UserRecord, inbounds: &[String]) -> Result<Vec<String>, ApiError> {
        let directory = self.picture().directory.clone();
        let on: Vec<String> = (directory.inbounds.iter())
            .filter(|inbound| record.inbounds.contains(&inbound.no))
            .map(|inbound| inbound.tag.to_string())
            .collect();
        if let Some(tag) = on.iter().find(|tag| !inbounds.contains(tag)) {
            return Err(ApiError::unsupported(format!(
                "a user is not taken out of single inbounds: name {tag:?} too, or take the entry out of \
                 sing-box's configuration by hand"
            )));
        }
        Ok(inbounds.iter().filter(|tag| !on.contains(tag)).cloned().collect())
    }

    /// What the ledger is to change.
    async fn changed_settings(
        &self,
        record: &UserRecord,
        change: &UserChange,
    ) -> Result<SettingsChange, ApiError> {
        let policies = self.ledger.policies().await.map_err(refused)?;
        let policy = change.policy.as_deref().map(|name| named(&policies, name)).transpose()?;
        let own = to_api(&record.settings.overrides).changed(&change.terms, &change.inherit)?;
        let overrides = to_core(&own)?;
        let of = policies.iter().find(|policy| policy.id == record.settings.policy);
        let before = policy::in_force(of.map(|policy| &policy.terms), &record.settings.overrides);
        let terms = policy::in_force(policy.or(of).map(|policy| &policy.terms), &overrides);
        super::terms_to_api(&terms).check()?;
        Ok(SettingsChange {
            policy: policy.map(|policy| policy.id),
            overrides: (overrides != record.settings.overrides).then_some(overrides),
            expires_ms: change.expires_at.map(|time| time.map(|time| time.instant.as_millisecond())),
            email: change.email.clone(),
            note: change.note.clone(),
            // A new validity begins with the next use.
            forget_first_use: terms.valid_days != before.valid_days && terms.valid_days.is_some(),
        })
    }

    pub(in crate::daemon) async fn remove_user(
        &self,
        envelope: Envelope,
        name: &str,
        purge: bool,
    ) -> Result<Deleted, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = match self.unchanged(&envelope, name).await {
            Err(error) if purge && error.kind == ErrorKind::NotFound => {
                return self.purge_again(envelope, name, error).await;
            }
            found => found?,
        };
        self.tighten(Tighter::Out(record.id)).await?;
        let if_rev = envelope.if_rev.map(signed);
        let gone = self.ledger.delete_user(record.id, if_rev, asked(&envelope)).await;
        self.made(gone, &record).await?;
        if purge {
            // Noted before the entry goes: whatever happens until then, who is gone is purged.
            self.purge_now(&envelope, name).await?;
        }
        // Deleted is deleted: an entry that cannot be taken out now is cut in the kernel, and taken out
        // as soon as it can be.
        if let Err(error) = self.hands.change(name, Want::Deleted).await {
            tracing::warn!("taking out a deleted user: {}", error.message);
        }
        let purged = purge && self.purge_now(&envelope, name).await?;
        let answer = Deleted { schema: Schema, name: name.to_owned(), purged, rev: self.rev() };
        self.remember(&envelope, &answer).await;
        Ok(answer)
    }

    /// Purges the name's deleted users, or notes that they are to be: true if none of them waits for an entry to
    /// go.
    async fn purge_now(&self, envelope: &Envelope, name: &str) -> Result<bool, ApiError> {
        let by_itself = asked(&Envelope::of(envelope.actor.clone()));
        let done = self.ledger.purge_deleted(name.to_owned(), by_itself).await.map_err(refused)?;
        Ok(!done.contains(&false))
    }

    /// The user was deleted before: what is left of it goes, at once or with its entry.
    async fn purge_again(
        &self,
        envelope: Envelope,
        name: &str,
        nobody: ApiError,
    ) -> Result<Deleted, ApiError> {
        let done = match self.ledger.purge_deleted(name.to_owned(), asked(&envelope)).await {
            Err(CommitError::Refusal(Refusal::NoSuchUser)) => Vec::new(),
            done => done.map_err(refused)?,
        };
        if done.is_empty() {
            return Err(nobody);
        }
        let purged = done.into_iter().all(|done| done);
        let answer = Deleted { schema: Schema, name: name.to_owned(), purged, rev: self.rev() };
        self.remember(&envelope, &answer).await;
        Ok(answer)
    }

    pub(in crate::daemon) async fn restart_period(
        &self,
        envelope: Envelope,
        name: &str,
    ) -> Result<UserChanged, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.unchanged(&envelope, name).await?;
        // What was counted up to now belongs to the account that ends.
        self.flush().await?;
        let settle = self.settle();
        self.ledger.reset_account(record.id, settle, asked(&envelope)).await.map_err(refused)?;
        self.take_over(self.living(name).await.unwrap_or_else(|_| record.clone())).await?;
        self.changed(&envelope, record.id, true).await
    }

    pub(super) fn settle(&self) -> Settle {
        crate::daemon::gate::settle(self.zone.clone(), of_meter(self.billed), clock::wall_ms())
    }

    pub(in crate::daemon) async fn switch_user(
        &self,
        envelope: Envelope,
        name: &str,
        enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.unchanged(&envelope, name).await?;
        let to = if enabled { AdminState::Enabled } else { AdminState::Disabled };
        if record.admin.state == to {
            return self.changed(&envelope, record.id, false).await;
        }
        if !enabled {
            self.tighten(Tighter::Out(record.id)).await?;
        }
        let if_rev = envelope.if_rev.map(signed);
        let done =
            self.ledger.set_admin_state(record.id, AdminChange::to(to), if_rev, asked(&envelope)).await;
        self.made(done, &record).await?;
        self.changed(&envelope, record.id, true).await
    }
}

/// Packages.
impl Answerer {
    pub(in crate::daemon) async fn list_packages(
        &self,
        name: &str,
        page: Page,
    ) -> Result<PackageList, ApiError> {
        let record = self.living(name).await?;
        let (mut packages, remaining_bytes) = self.packages_of(&record).await?;
        if let Some(after) = &page.after {
            packages.retain(|package| package.id > *after);
        }
        let more = packages.len() > page.limit as usize;
        packages.truncate(page.limit as usize);
        let next = more.then(|| packages.last().map(|package| package.id.clone())).flatten();
        let user = name.to_owned();
        Ok(PackageList { schema: Schema, user, packages, remaining_bytes, rev: self.rev(), next })
    }

    /// Everything that was bought or carried over, by id, with what is left of it after what the
    /// running account took; and what is left over all.
    async fn packages_of(&self, record: &UserRecord) -> Result<(Vec<Package>, u64), ApiError> {
        self.flush().await?;
        let standing = self.ledger.standing(record.id, self.epoch).await.map_err(refused)?;
        let standing = standing.ok_or_else(|| ApiError::no_such_user(&record.name))?;
        let policies = self.ledger.policies().await.map_err(refused)?;
        let of = policies.iter().find(|policy| policy.id == standing.settings.policy);
        let terms = policy::in_force(of.map(|policy| &policy.terms), &standing.settings.overrides);
        let zone = zone_of(&terms, &self.zone);
        let now_ms = clock::wall_ms();
        let entries: Vec<_> = standing.wallet.iter().map(WalletEntry::entry).collect();
        let wallet = wallet_of(&standing.wallet);
        let usage = Usage {
            account: standing.account,
            used: billed(&standing.used, of_meter(self.billed)),
            quota: terms.quota_bytes,
        };
        // What is left of one that has expired is nothing.
        let lots = wallet.lots().iter().filter(|lot| !lot.expired(now_ms));
        let mut left: BTreeMap<_, u64> = lots.map(|lot| (lot.id, lot.left())).collect();
        for spending in wallet.spendings(usage, now_ms) {
            if let What::Spent { package, bytes, .. } = spending
                && let Some(left) = left.get_mut(&package)
            {
                *left = left.saturating_sub(bytes);
            }
        }
        let package = |entry: &crate::core::wallet::Entry| {
            let (bytes, expires_ms, origin) = match entry.what {
                What::Package { bytes, expires_ms } => (bytes, expires_ms, PackageOrigin::Bought),
                What::Rollover { bytes, expires_ms, .. } => (bytes, expires_ms, PackageOrigin::Rollover),
                _ => return None,
            };
            Some(Package {
                id: entry.id.0.to_string(),
                bought_at: Time::from_ms(entry.at_ms, &zone),
                bytes,
                remaining_bytes: left.get(&entry.id).copied().unwrap_or(0),
                expires_at: expires_ms.map(|ms| Time::from_ms(ms, &zone)),
                origin,
                who: entry.actor.clone(),
                note: entry.note.clone(),
            })
        };
        let packages: Vec<Package> = entries.iter().filter_map(package).collect();
        Ok((packages, wallet.running(usage, now_ms).remaining))
    }

    pub(in crate::daemon) async fn buy_package(
        &self,
        envelope: Envelope,
        name: &str,
        new: NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.unchanged(&envelope, name).await?;
        self.flush().await?;
        let expires_ms = new.expires_at.map(|time| time.instant.as_millisecond());
        let what = What::Package { bytes: new.bytes, expires_ms };
        let added =
            self.ledger.add_entry(record.id, NewEntry::of(what, new.note), self.settle(), asked(&envelope));
        let entry = added.await.map_err(refused)?;
        self.take_over(self.living(name).await.unwrap_or_else(|_| record.clone())).await?;
        let (packages, remaining_bytes) = self.packages_of(&record).await?;
        let id = entry.id.to_string();
        let package = packages.into_iter().find(|package| package.id == id);
        let package = package.ok_or_else(|| ApiError::internal("the package went away meanwhile"))?;
        let user = name.to_owned();
        let answer = PackageAdded { schema: Schema, user, package, remaining_bytes, rev: self.rev() };
        self.remember(&envelope, &answer).await;
        Ok(answer)
    }
}
