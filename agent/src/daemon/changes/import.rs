//! Users of another program: those who are new together, the others one by one. What is wrong with one
//! holds up nobody else.

use std::collections::{BTreeMap, BTreeSet};

use boxmeter_web::{
    api::{
        change::{
            ImportLogin, ImportOutcome, ImportReport, ImportRequest, ImportUsage, ImportUser, Imported,
            NewUser, UserChange,
        },
        error::ErrorKind,
        order::Envelope,
        types::{Schema, Time},
    },
    backend::ApiError,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use sha2::{Digest as _, Sha256};

use super::{asked, create::ToMake, named, refused, to_api};
use crate::{
    clock,
    core::{period::AccountPeriod, wallet::What},
    daemon::{backend::Answerer, hands::Brought, shared::Question},
    fault,
    ledger::{AdminState, ImportedBytes, NewEntry, UsedElsewhere, UserRecord},
    singbox::config::Secret,
};

/// The first bytes of a hash, by which the ledger knows what it has taken over already.
const REPORTER_BYTES: usize = 16;

impl Answerer {
    pub(in crate::daemon) async fn take_in(
        &self,
        envelope: Envelope,
        request: ImportRequest,
    ) -> Result<ImportReport, ApiError> {
        request.check()?;
        match self.answered(&envelope).await {
            Ok(Some(answer)) => return Ok(answer),
            // Claimed by an agent that has died in the middle: what it had done is found done.
            Err(error) if error.kind != ErrorKind::Conflict => return Err(error),
            Ok(None) | Err(_) => {}
        }
        if !request.dry_run {
            self.ledger.begin_import(asked(&envelope)).await.map_err(refused)?;
        }
        // Each is a change of its own; the key is kept with the whole report.
        let each = Envelope::of(envelope.actor.clone());
        let mut outcomes = self.add_new(&each, &request).await?;
        let mut users = Vec::with_capacity(request.users.len());
        for (at, user) in request.users.iter().enumerate() {
            let done = match outcomes.remove(&at) {
                Some(done) => done,
                None => self.take_in_one(&each, user, request.dry_run).await,
            };
            let (outcome, message) = match done {
                Ok(outcome) => (outcome, None),
                Err(error) => (ImportOutcome::Refused, Some(error.message)),
            };
            users.push(Imported { name: user.name.clone(), outcome, message });
        }
        let report = ImportReport { schema: Schema, dry_run: request.dry_run, users, rev: self.rev() };
        self.remember(&envelope, &report).await;
        Ok(report)
    }

    /// One whom the ledger has.
    async fn take_in_one(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        dry_run: bool,
    ) -> Result<ImportOutcome, ApiError> {
        let _turn = self.turn().await?;
        let record = self.living(&user.name).await;
        if dry_run && matches!(&record, Err(error) if error.kind == ErrorKind::NotFound) {
            // The second of a name: the first one is not made in a trial.
            return Ok(ImportOutcome::Updated);
        }
        let record = record?;
        user.check(true)?;
        if let Some(policy) = &user.policy {
            self.policy_for(policy).await?;
        }
        self.change_known(envelope, user, record, dry_run).await
    }

    /// Those who are new, by their place in the request: all by one edit of the files. The second one of a
    /// name is not among them.
    async fn add_new(
        &self,
        envelope: &Envelope,
        request: &ImportRequest,
    ) -> Result<BTreeMap<usize, Result<ImportOutcome, ApiError>>, ApiError> {
        let _turn = self.turn().await?;
        let users = self.read(|reader| reader.users()).await?;
        let living = users.iter().filter(|user| user.tombstoned_ms.is_none());
        let mut known: BTreeSet<&str> = living.map(|user| &*user.name).collect();
        let new = request.users.iter().enumerate().filter(|(_, user)| known.insert(user.name.as_str()));
        let (mut outcomes, mut good) = (BTreeMap::new(), Vec::new());
        for (at, user) in new {
            match user.check(false) {
                Ok(()) => good.push((at, user)),
                Err(error) => drop(outcomes.insert(at, Err(error))),
            }
        }
        let to_make: Vec<ToMake> = good.iter().map(|(_, user)| to_make(user)).collect();
        if request.dry_run {
            let policies = self.ledger.policies().await.map_err(refused)?;
            let checked = self.hands.check_new(to_make.iter().map(ToMake::newcomer).collect()).await?;
            let policy = |user: &ImportUser| user.policy.as_ref().map(|policy| named(&policies, policy));
            for ((at, user), checked) in good.into_iter().zip(checked) {
                let checked = policy(user).transpose().and(checked);
                outcomes.insert(at, checked.map(|()| ImportOutcome::Added));
            }
            return Ok(outcomes);
        }
        let made = match self.create(envelope, to_make).await {
            Ok(made) => made,
            // Nobody new: those whom the ledger has may be changed all the same.
            Err(error) => good.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut living = Vec::new();
        for ((at, user), made) in good.into_iter().zip(made) {
            match made {
                Ok((record, _)) => living.push((at, user, record)),
                Err(error) => drop(outcomes.insert(at, Err(error))),
            }
        }
        let booked = self.book_usage(envelope, living.iter().map(|(_, user, record)| (*user, record))).await;
        let (mut used, mut booked) = (Vec::new(), booked.into_iter());
        for (at, _, record) in living {
            let done = booked.next().unwrap_or(Ok(false));
            used.extend(matches!(done, Ok(true)).then_some(record));
            outcomes.insert(at, done.map(|_| ImportOutcome::Added));
        }
        self.take_over_all(used).await?;
        Ok(outcomes)
    }

    async fn change_known(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        record: UserRecord,
        dry_run: bool,
    ) -> Result<ImportOutcome, ApiError> {
        let own = to_api(&record.settings.overrides);
        let wanted = own.changed(&user.terms, &[])?;
        let expires = |time: Option<Time>| time.map(|time| time.instant.as_millisecond());
        let settings = &record.settings;
        let same = wanted == own
            && user.policy.as_ref().is_none_or(|policy| *policy == record.policy)
            && user.email.is_none() | (user.email == settings.email)
            && user.note.is_none() | (user.note == settings.note)
            && user.expires_at.is_none() | (expires(user.expires_at) == settings.expires_ms);
        let change = UserChange {
            policy: user.policy.clone(),
            terms: user.terms.clone(),
            inherit: Vec::new(),
            email: user.email.clone().map(Some),
            note: user.note.clone().map(Some),
            expires_at: user.expires_at.map(Some),
            inbounds: None,
        };
        let enabled = user.enabled.filter(|&on| on != (record.admin.state == AdminState::Enabled));
        let more = !user.used.is_empty() || user.package_bytes > 0;
        if same && enabled.is_none() && !more {
            return Ok(ImportOutcome::Unchanged);
        }
        if dry_run {
            return Ok(ImportOutcome::Updated);
        }
        if !same {
            self.alter_user(envelope.clone(), &user.name, change).await?;
        }
        if let Some(enabled) = enabled {
            self.switch_user(envelope.clone(), &user.name, enabled).await?;
        }
        let taken = self.take_usage(envelope, user, &record).await?;
        Ok(if same && enabled.is_none() && !taken {
            ImportOutcome::Unchanged
        } else {
            ImportOutcome::Updated
        })
    }

    async fn take_usage(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        record: &UserRecord,
    ) -> Result<bool, ApiError> {
        let new = self.book_usage(envelope, [(user, record)]).await.pop().unwrap_or(Ok(false))?;
        if new {
            self.take_over(self.living(&user.name).await?).await?;
        }
        Ok(new)
    }

    /// What was used and bought elsewhere, once: the same figures again change nothing. In the order of the
    /// users, what was new.
    async fn book_usage<'u>(
        &self,
        envelope: &Envelope,
        users: impl IntoIterator<Item = (&'u ImportUser, &'u UserRecord)>,
    ) -> Vec<Result<bool, ApiError>> {
        let (mut answers, mut places, mut used) = (Vec::new(), Vec::new(), Vec::new());
        for (user, record) in users {
            answers.push(match self.used_elsewhere(user, record) {
                Ok(None) => Ok(false),
                Ok(Some(one)) => {
                    places.push(answers.len());
                    used.push(one);
                    Ok(false)
                }
                Err(error) => Err(error),
            });
        }
        if used.is_empty() {
            return answers;
        }
        let booked = self.ledger.import_usage(used, self.settle(), asked(envelope)).await;
        fault::point("usage-imported");
        // Some of it may be there, whatever the answer is. An agent that is ending reads it at its next start.
        let _ = self.tell(Question::UsageImported).await;
        let booked: Vec<_> = match booked {
            Ok(booked) => booked.into_iter().map(|new| new.map_err(refused)).collect(),
            Err(error) => {
                let error = refused(error);
                places.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (at, new) in places.into_iter().zip(booked) {
            answers[at] = new;
        }
        answers
    }

    fn used_elsewhere(
        &self,
        user: &ImportUser,
        record: &UserRecord,
    ) -> Result<Option<UsedElsewhere>, ApiError> {
        if user.used.is_empty() && user.package_bytes == 0 {
            return Ok(None);
        }
        let mut usage = Vec::with_capacity(user.used.len());
        for one in &user.used {
            let (at_ms, account) = self.when(user, one, record)?;
            usage.push(ImportedBytes { at_ms, account, bytes: [one.upload_bytes, one.download_bytes] });
        }
        let package = (user.package_bytes > 0).then(|| {
            let what = What::Package { bytes: user.package_bytes, expires_ms: None };
            NewEntry::of(what, Some("imported".to_owned()))
        });
        Ok(Some(UsedElsewhere { user: record.id, reporter: reporter(user)?, usage, package }))
    }
}

fn to_make(user: &ImportUser) -> ToMake {
    let new = NewUser {
        name: user.name.clone(),
        policy: user.policy.clone(),
        terms: user.terms.clone(),
        email: user.email.clone(),
        note: user.note.clone(),
        expires_at: user.expires_at,
        inbounds: user.inbounds.clone(),
    };
    let on = user.logins.iter().map(|(tag, login)| (tag.clone(), brought(login.clone(), BTreeMap::new())));
    let login =
        ImportLogin { password: user.password.clone(), uuid: user.uuid.clone(), flow: user.flow.clone() };
    let brought = brought(login, on.collect());
    let admin = match user.enabled {
        Some(false) => AdminState::Disabled,
        _ => AdminState::Enabled,
    };
    let created_ms = user.created_at.map(|time| time.instant.as_millisecond());
    ToMake { new, brought, admin, created_ms }
}

fn brought(login: ImportLogin, on: BTreeMap<String, Brought>) -> Brought {
    Brought { password: login.password.map(Secret), uuid: login.uuid.map(Secret), flow: login.flow, on }
}

impl Answerer {
    /// Where usage is shown, and what it counts against: the running account, if it is of the present month or
    /// without one; what was used before has an account of its own.
    fn when(
        &self,
        user: &ImportUser,
        used: &ImportUsage,
        record: &UserRecord,
    ) -> Result<(i64, AccountPeriod), ApiError> {
        let now_ms = clock::wall_ms();
        // Not as traffic of this minute.
        let began_ms = record.account.start_ms.clamp(0, now_ms);
        let at_ms = match used.first_day()? {
            Some(day) => first_instant(day, &self.zone)?,
            None if used.month.is_none() => return Ok((began_ms, record.account)),
            None => user.created_at.map_or(0, |time| time.instant.as_millisecond()),
        };
        let month = |ms: i64| {
            let date = Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(self.zone.clone()).date();
            (date.year(), date.month())
        };
        match used.month.as_deref() != Some(ImportUsage::EARLIER) && month(at_ms) == month(now_ms) {
            true => Ok((at_ms.max(began_ms), record.account)),
            false => Ok((at_ms, AccountPeriod { start_ms: at_ms, generation: 0 })),
        }
    }
}

fn first_instant(day: Date, zone: &TimeZone) -> Result<i64, ApiError> {
    let start = day.to_zoned(zone.clone()).map_err(ApiError::bad_request)?;
    let now = Timestamp::from_millisecond(clock::wall_ms()).unwrap_or_default();
    Ok(start.timestamp().min(now).as_millisecond())
}

/// Names these figures of this user.
fn reporter(user: &ImportUser) -> Result<[u8; REPORTER_BYTES], ApiError> {
    let figures =
        serde_json::to_vec(&(&user.name, &user.used, user.package_bytes)).map_err(ApiError::internal)?;
    let hash: [u8; 32] = Sha256::digest(figures).into();
    let mut reporter = [0; REPORTER_BYTES];
    reporter.copy_from_slice(&hash[..REPORTER_BYTES]);
    Ok(reporter)
}
