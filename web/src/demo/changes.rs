//! What can be changed in the made-up server, and what follows from it. The rules are a short form
//! of the agent's: enough that the faces can be tried and tested, with nothing behind them.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    data::{UNLIMITED, enforcement},
    sharing::Shared,
    standing::standing,
};
use crate::{
    api::{error::ApiError, order::Envelope, types::*},
    locale::Lang,
};

/// Answers that are kept for repeated keys; the oldest go first.
const KEYS_MAX: usize = 1_000;

pub(super) struct State {
    pub users: Vec<User>,
    pub policies: Vec<Policy>,
    pub events: Vec<Event>,
    /// By the user's name. `remaining_bytes` is what earlier periods left.
    packages: BTreeMap<String, Vec<Package>>,
    keys: Vec<Answered>,
    pub shared: Shared,
    pub sharing_rev: u64,
    pub rev: u64,
    /// Tag and type of every inbound.
    pub inbounds: Vec<(String, String)>,
}

struct Answered {
    actor: String,
    key: String,
    fingerprint: [u8; 32],
    answer: Value,
}

impl State {
    pub fn new(users: Vec<User>, policies: Vec<Policy>, events: Vec<Event>) -> Self {
        State {
            users,
            policies,
            events,
            packages: BTreeMap::new(),
            keys: Vec::new(),
            shared: Shared::default(),
            sharing_rev: 1,
            rev: 100,
            inbounds: vec![("trojan-in".to_owned(), "trojan".to_owned())],
        }
    }

    /// What was answered to the same change before.
    pub fn answered(&self, envelope: &Envelope) -> Result<Option<Value>, ApiError> {
        let Some(key) = &envelope.key else { return Ok(None) };
        let actor = envelope.actor.to_string();
        let Some(found) = self.keys.iter().find(|it| it.key == key.key && it.actor == actor) else {
            return Ok(None);
        };
        key.check(&found.fingerprint)?;
        Ok(Some(found.answer.clone()))
    }

    pub fn remember(&mut self, envelope: &Envelope, answer: &impl Serialize) -> Result<(), ApiError> {
        let Some(key) = &envelope.key else { return Ok(()) };
        if self.keys.len() >= KEYS_MAX {
            self.keys.remove(0);
        }
        self.keys.push(Answered {
            actor: envelope.actor.to_string(),
            key: key.key.clone(),
            fingerprint: key.fingerprint,
            answer: serde_json::to_value(answer).map_err(ApiError::internal)?,
        });
        Ok(())
    }

    pub fn user(&self, name: &str) -> Result<&User, ApiError> {
        self.users.iter().find(|user| user.name == name).ok_or_else(|| ApiError::no_such_user(name))
    }

    /// The place of a user that is still as the caller saw it.
    fn found(&self, envelope: &Envelope, name: &str) -> Result<usize, ApiError> {
        let user = self.user(name)?;
        envelope.check_rev(user.rev, user)?;
        let at = self.users.iter().position(|it| it.name == name);
        at.ok_or_else(|| ApiError::no_such_user(name))
    }

    pub fn policy(&self, name: &str) -> Result<&Policy, ApiError> {
        self.policies.iter().find(|it| it.name == name).ok_or_else(|| ApiError::no_such_policy(name))
    }

    /// The policy with how many users have it now.
    pub fn with_users(&self, policy: &Policy) -> Policy {
        let having = self.users.iter().filter(|it| it.policy.as_ref() == Some(&policy.name));
        Policy { users: having.count() as u64, ..policy.clone() }
    }

    fn known_inbounds(&self, tags: Option<&[String]>) -> Result<Vec<String>, ApiError> {
        let known: Vec<&str> = self.inbounds.iter().map(|(tag, _)| tag.as_str()).collect();
        let Some(tags) = tags else { return Ok(known.into_iter().map(str::to_owned).collect()) };
        match tags.iter().find(|tag| !known.contains(&tag.as_str())) {
            Some(tag) => {
                let text = format!("there is no inbound {tag:?}; there are {}", known.join(", "));
                Err(ApiError::invalid("inbounds", text))
            }
            None => Ok(tags.to_vec()),
        }
    }

    /// What a client of an inbound is given.
    fn credential(&self, user: &User, inbound: String) -> Credential {
        let kind = self.inbounds.iter().find(|(tag, _)| *tag == inbound);
        let kind = kind.map_or("trojan", |(_, kind)| kind).to_owned();
        let entry = super::sharing::entry(user, &kind).into_iter();
        Credential { inbound, kind, entry: entry.map(|(name, value)| (name, json!(value))).collect() }
    }

    /// The terms of a policy that a user names.
    fn terms_of(&self, policy: &str) -> Result<&Terms, ApiError> {
        let known: Vec<&str> = self.policies.iter().map(|it| it.name.as_str()).collect();
        let found = self.policies.iter().find(|it| it.name == policy);
        found.map(|it| &it.terms).ok_or_else(|| {
            let text = format!("there is no policy {policy:?}; there are {}", known.join(", "));
            ApiError::invalid("policy", text)
        })
    }

    pub fn add_user(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        new: &NewUser,
    ) -> Result<UserAdded, ApiError> {
        if self.user(&new.name).is_ok() {
            return Err(ApiError::conflict(format!("there is a user {:?} already", new.name)));
        }
        let policy = new.policy.clone().unwrap_or_else(|| UNLIMITED.to_owned());
        let terms = self.terms_of(&policy)?.with(&new.terms);
        terms.check()?;
        let inbounds = self.known_inbounds(new.inbounds.as_deref())?;
        let mut user = super::data::user(now, 0, &new.name, UserState::Pending, None);
        user.id = Some(Uuid::now_v7().to_string());
        user.policy = Some(policy);
        user.email.clone_from(&new.email);
        user.note.clone_from(&new.note);
        user.expires_at = new.expires_at;
        user.overrides = new.terms.clone();
        user.inbounds.clone_from(&inbounds);
        user.last_seen_at = None;
        user.first_used_at = None;
        user.traffic = Traffic::default();
        user.total.used_bytes = 0;
        user.period.used_bytes = 0;
        self.users.push(user);
        self.packages.remove(&new.name);
        let user = self.settle(now, self.users.len() - 1)?;
        self.tell(now, envelope, "user.added", &user, &format!("added with the policy {}", policy_of(&user)));
        let credentials = inbounds.into_iter().map(|inbound| self.credential(&user, inbound)).collect();
        Ok(UserAdded { schema: Schema, user, credentials, rev: self.rev })
    }

    pub fn change_user(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
        change: &UserChange,
    ) -> Result<UserChanged, ApiError> {
        let at = self.found(envelope, name)?;
        let mut user = self.users[at].clone();
        user.overrides = user.overrides.changed(&change.terms, &change.inherit)?;
        if let Some(policy) = &change.policy {
            user.policy = Some(policy.clone());
        }
        let terms = self.terms_of(policy_of(&user))?.with(&user.overrides);
        terms.check()?;
        if let Some(email) = &change.email {
            user.email.clone_from(email);
        }
        if let Some(note) = &change.note {
            user.note.clone_from(note);
        }
        if let Some(expires_at) = change.expires_at {
            user.expires_at = expires_at;
        }
        if let Some(inbounds) = &change.inbounds {
            user.inbounds = self.known_inbounds(Some(inbounds))?;
        }
        self.replace(now, envelope, at, user, "user.changed", "changed")
    }

    pub fn delete_user(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
        purge: bool,
    ) -> Result<Deleted, ApiError> {
        let at = self.found(envelope, name)?;
        let user = self.users.remove(at);
        self.rev += 1;
        if purge {
            self.packages.remove(name);
            self.events.retain(|event| event.user.as_deref() != Some(name));
        }
        let text = if purge { "deleted with its history" } else { "deleted" };
        self.tell(now, envelope, "user.deleted", &user, text);
        Ok(Deleted { schema: Schema, name: name.to_owned(), purged: purge, rev: self.rev })
    }

    pub fn reset_user(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
    ) -> Result<UserChanged, ApiError> {
        let at = self.found(envelope, name)?;
        let mut user = self.users[at].clone();
        // What packages gave to the period that ends stays given.
        let (packages, _) = self.packages(name, now.timestamp())?;
        self.packages.insert(name.to_owned(), packages);
        user.period.used_bytes = 0;
        user.period.start = Some(Time::from(now));
        self.replace(now, envelope, at, user, "user.reset", "the period's usage starts anew")
    }

    pub fn set_enabled(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
        enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        let at = self.found(envelope, name)?;
        let mut user = self.users[at].clone();
        let switched_off = matches!(user.cause, Some(Reason::Disabled { .. } | Reason::Suspended { .. }));
        let (kind, text) = match enabled {
            true if switched_off => {
                user.cause = None;
                ("user.enabled", "enabled")
            }
            false if !switched_off => {
                user.cause = Some(Reason::Disabled { at: Time::from(now), who: envelope.actor.to_string() });
                ("user.disabled", "disabled")
            }
            _ => return Ok(UserChanged { schema: Schema, changed: false, user, rev: self.rev }),
        };
        self.replace(now, envelope, at, user, kind, text)
    }

    /// Puts a changed user in its place, if it is changed.
    fn replace(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        at: usize,
        user: User,
        kind: &str,
        text: &str,
    ) -> Result<UserChanged, ApiError> {
        let before = std::mem::replace(&mut self.users[at], user);
        let changed = before != self.users[at];
        if !changed {
            return Ok(UserChanged { schema: Schema, changed, user: before, rev: self.rev });
        }
        let user = self.settle(now, at)?;
        self.tell(now, envelope, kind, &user, text);
        Ok(UserChanged { schema: Schema, changed, user, rev: self.rev })
    }

    /// What follows for a user from its terms and usage.
    pub fn settle(&mut self, now: &Zoned, at: usize) -> Result<User, ApiError> {
        self.rev += 1;
        let mut user = self.users[at].clone();
        let terms = self.terms_of(policy_of(&user))?.with(&user.overrides);
        user.period.quota_bytes = terms.quota_bytes;
        user.total.quota_bytes = terms.total_quota_bytes;
        user.speed = Speed { up: terms.speed_up, down: terms.speed_down };
        user.max_flows = terms.max_flows.map(u64::from);
        user.max_addresses = terms.max_addresses.map(u64::from);
        self.users[at].clone_from(&user);
        let (_, remaining) = self.packages(&user.name, now.timestamp())?;
        user.packages = Packages { remaining_bytes: remaining };
        let left = |quota: u64| quota.saturating_sub(user.period.used_bytes).saturating_add(remaining);
        user.period.remaining_bytes = terms.quota_bytes.map(left);
        (user.state, user.cause) = standing(now, &user, &terms);
        user.reason = user.cause.as_ref().map(|it| it.sentence(Lang::En, user.time_zone.as_deref()));
        user.enforcement = enforcement(user.state, &terms);
        if let Some(Reason::OverQuota { rate, .. } | Reason::Shared { rate, .. }) = user.cause {
            user.enforcement.speed = Speed { up: Some(rate), down: Some(rate) };
        }
        user.terms = Some(terms);
        user.rev = self.rev;
        self.users[at].clone_from(&user);
        Ok(user)
    }

    /// The packages with what is left of them in the running period, and the sum of that.
    pub fn packages(&self, name: &str, now: Timestamp) -> Result<(Vec<Package>, u64), ApiError> {
        let period = &self.user(name)?.period;
        let quota = period.quota_bytes.unwrap_or(u64::MAX);
        let mut over = period.used_bytes.saturating_sub(quota);
        let mut packages = self.packages.get(name).cloned().unwrap_or_default();
        let usable = |it: &Package| it.expires_at.is_none_or(|at| at.instant > now);
        let mut order: Vec<usize> = (0..packages.len()).filter(|at| usable(&packages[*at])).collect();
        order.sort_by_key(|at| packages[*at].expires_at.map_or(Timestamp::MAX, |it| it.instant));
        for &at in &order {
            let spent = over.min(packages[at].remaining_bytes);
            packages[at].remaining_bytes -= spent;
            over -= spent;
        }
        let remaining = order.iter().map(|at| packages[*at].remaining_bytes).sum();
        Ok((packages, remaining))
    }

    pub fn add_package(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
        new: &NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        let at = self.found(envelope, name)?;
        let package = Package {
            id: Uuid::now_v7().to_string(),
            bought_at: Time::from(now),
            bytes: new.bytes,
            remaining_bytes: new.bytes,
            expires_at: new.expires_at,
            origin: PackageOrigin::Bought,
            who: envelope.actor.to_string(),
            note: new.note.clone(),
        };
        let id = package.id.clone();
        self.packages.entry(name.to_owned()).or_default().push(package);
        let user = self.settle(now, at)?;
        self.tell(now, envelope, "package.added", &user, &format!("{} bytes more", new.bytes));
        let (packages, remaining_bytes) = self.packages(name, now.timestamp())?;
        let package = packages.into_iter().find(|it| it.id == id);
        let package = package.ok_or_else(|| ApiError::internal("the package went away"))?;
        Ok(PackageAdded { schema: Schema, user: name.to_owned(), package, remaining_bytes, rev: self.rev })
    }

    /// A package that was bought before the demonstration began.
    pub fn bought(&mut self, name: &str, package: Package) {
        self.packages.entry(name.to_owned()).or_default().push(package);
    }

    pub fn add_policy(&mut self, new: &NewPolicy) -> Result<PolicyChanged, ApiError> {
        if self.policy(&new.name).is_ok() {
            return Err(ApiError::conflict(format!("there is a policy {:?} already", new.name)));
        }
        let terms = new.check()?;
        self.rev += 1;
        let id = Uuid::now_v7().to_string();
        let policy = Policy { name: new.name.clone(), id, terms, users: 0, rev: self.rev };
        self.policies.push(policy.clone());
        self.policies.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(PolicyChanged { schema: Schema, changed: true, policy, rev: self.rev })
    }

    pub fn change_policy(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        name: &str,
        change: &PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        let before = self.policy(name)?.clone();
        envelope.check_rev(before.rev, &before)?;
        if name == UNLIMITED {
            return Err(ApiError::conflict("unlimited stays without limits: add a policy of your own"));
        }
        let terms = change.check(&before.terms)?;
        let changed = terms != before.terms;
        if changed {
            self.rev += 1;
            let rev = self.rev;
            for it in self.policies.iter_mut().filter(|it| it.name == name) {
                it.terms.clone_from(&terms);
                it.rev = rev;
            }
            for at in 0..self.users.len() {
                if self.users[at].policy.as_deref() == Some(name) {
                    self.settle(now, at)?;
                }
            }
        }
        let policy = self.with_users(self.policy(name)?);
        Ok(PolicyChanged { schema: Schema, changed, policy, rev: self.rev })
    }

    pub fn delete_policy(&mut self, envelope: &Envelope, name: &str) -> Result<Deleted, ApiError> {
        let policy = self.with_users(self.policy(name)?);
        envelope.check_rev(policy.rev, &policy)?;
        if name == UNLIMITED {
            return Err(ApiError::conflict("unlimited is the default policy: it stays"));
        }
        if policy.users > 0 {
            let text = format!("{} users have the policy {name:?}: give them another first", policy.users);
            return Err(ApiError::conflict(text));
        }
        self.policies.retain(|it| it.name != name);
        self.rev += 1;
        Ok(Deleted { schema: Schema, name: name.to_owned(), purged: false, rev: self.rev })
    }

    pub fn import(&mut self, now: &Zoned, envelope: &Envelope, request: &ImportRequest) -> ImportReport {
        let mut users = Vec::new();
        for wanted in &request.users {
            let outcome = self.import_one(now, envelope, wanted, request.dry_run);
            let (outcome, message) = match outcome {
                Ok(outcome) => (outcome, None),
                Err(error) => (ImportOutcome::Refused, Some(error.message)),
            };
            users.push(Imported { name: wanted.name.clone(), outcome, message });
        }
        ImportReport { schema: Schema, dry_run: request.dry_run, users, rev: self.rev }
    }

    fn import_one(
        &mut self,
        now: &Zoned,
        envelope: &Envelope,
        wanted: &ImportUser,
        dry_run: bool,
    ) -> Result<ImportOutcome, ApiError> {
        let exists = self.user(&wanted.name).is_ok();
        wanted.check(exists)?;
        if let Some(policy) = &wanted.policy {
            self.terms_of(policy)?;
        }
        self.known_inbounds(wanted.inbounds.as_deref())?;
        let outcome = if exists { ImportOutcome::Updated } else { ImportOutcome::Added };
        if dry_run {
            return Ok(outcome);
        }
        if !exists {
            let new = NewUser { name: wanted.name.clone(), ..NewUser::default() };
            self.add_user(now, envelope, &new)?;
        }
        let change = UserChange {
            policy: wanted.policy.clone(),
            terms: wanted.terms.clone(),
            email: wanted.email.clone().map(Some),
            note: wanted.note.clone().map(Some),
            expires_at: wanted.expires_at.map(Some),
            inbounds: wanted.inbounds.clone(),
            ..UserChange::default()
        };
        let plain = Envelope::of(envelope.actor.clone());
        let changed = self.change_user(now, &plain, &wanted.name, &change)?.changed;
        let switched = match wanted.enabled {
            None => false,
            Some(enabled) => self.set_enabled(now, &plain, &wanted.name, enabled)?.changed,
        };
        Ok(if exists && !changed && !switched { ImportOutcome::Unchanged } else { outcome })
    }

    fn tell(&mut self, now: &Zoned, envelope: &Envelope, kind: &str, user: &User, message: &str) {
        self.events.push(Event {
            id: Uuid::now_v7().to_string(),
            at: Time::from(now),
            kind: kind.to_owned(),
            severity: Severity::Info,
            user: Some(user.name.clone()),
            message: message.to_owned(),
            who: Some(envelope.actor.to_string()),
            data: user.cause.as_ref().map(|it| json!({"cause": it, "time_zone": user.time_zone})),
            rev: self.rev,
        });
    }
}

fn policy_of(user: &User) -> &str {
    user.policy.as_deref().unwrap_or(UNLIMITED)
}
