//! Users of another program, taken in one by one: what is wrong with one holds up nobody else.

use boxmeter_web::{
    api::{
        change::{ImportOutcome, ImportReport, ImportRequest, ImportUser, Imported, NewUser, UserChange},
        error::ErrorKind,
        order::Envelope,
        types::{Schema, Time},
    },
    backend::ApiError,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use sha2::{Digest as _, Sha256};

use super::{asked, refused, to_api};
use crate::{
    clock,
    core::{period::AccountPeriod, wallet::What},
    daemon::{backend::Answerer, hands::Brought},
    fault,
    ledger::{AdminState, ImportedBytes, NewEntry, UserRecord},
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
        let mut users = Vec::with_capacity(request.users.len());
        // Each is a change of its own; the key is kept with the whole report.
        let each = Envelope::of(envelope.actor.clone());
        for user in &request.users {
            let done = self.take_in_one(&each, user, request.dry_run).await;
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

    async fn take_in_one(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        dry_run: bool,
    ) -> Result<ImportOutcome, ApiError> {
        let _turn = self.turn().await?;
        let known = match self.living(&user.name).await {
            Ok(record) => Some(record),
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        user.check(known.is_some())?;
        if let Some(policy) = &user.policy {
            self.policy_for(policy).await?;
        }
        match known {
            Some(record) => self.change_known(envelope, user, record, dry_run).await,
            None => self.add_new(envelope, user, dry_run).await,
        }
    }

    async fn add_new(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        dry_run: bool,
    ) -> Result<ImportOutcome, ApiError> {
        if dry_run {
            self.hands.check_new(&user.name, user.inbounds.as_deref()).await?;
            return Ok(ImportOutcome::Added);
        }
        let new = NewUser {
            name: user.name.clone(),
            policy: user.policy.clone(),
            terms: user.terms.clone(),
            email: user.email.clone(),
            note: user.note.clone(),
            expires_at: user.expires_at,
            inbounds: user.inbounds.clone(),
        };
        let brought =
            Brought { password: user.password.clone().map(Secret), uuid: user.uuid.clone().map(Secret) };
        let admin = match user.enabled {
            Some(false) => AdminState::Disabled,
            _ => AdminState::Enabled,
        };
        let (record, _) = self.create(envelope, &new, brought, admin).await?;
        self.take_usage(envelope, user, &record).await?;
        Ok(ImportOutcome::Added)
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

    /// What was used and bought elsewhere, once: the same figures again change nothing.
    async fn take_usage(
        &self,
        envelope: &Envelope,
        user: &ImportUser,
        record: &UserRecord,
    ) -> Result<bool, ApiError> {
        if user.used.is_empty() && user.package_bytes == 0 {
            return Ok(false);
        }
        let mut usage = Vec::with_capacity(user.used.len());
        for one in &user.used {
            let at_ms = match one.first_day()? {
                Some(day) => first_instant(day, &self.zone)?,
                None => user.created_at.map_or(0, |time| time.instant.as_millisecond()),
            };
            let account = self.account_at(record, at_ms);
            usage.push(ImportedBytes { at_ms, account, bytes: [one.upload_bytes, one.download_bytes] });
        }
        let package = (user.package_bytes > 0).then(|| {
            let what = What::Package { bytes: user.package_bytes, expires_ms: None };
            NewEntry::of(what, Some("imported".to_owned()))
        });
        let bought = (package, self.settle());
        let new = self.ledger.import_usage(record.id, reporter(user)?, usage, bought, asked(envelope));
        let new = new.await.map_err(refused)?;
        fault::point("usage-imported");
        self.take_over(self.living(&user.name).await?).await?;
        Ok(new)
    }
}

impl Answerer {
    /// What was used in the month in which the running account began counts against its quota; what was
    /// used before has an account of its own.
    fn account_at(&self, record: &UserRecord, at_ms: i64) -> AccountPeriod {
        let month = |ms: i64| {
            let date = Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(self.zone.clone()).date();
            (date.year(), date.month())
        };
        match month(at_ms) >= month(record.account.start_ms) {
            true => record.account,
            false => AccountPeriod { start_ms: at_ms, generation: 0 },
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
