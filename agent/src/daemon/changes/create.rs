//! Users who are made, one or many at a time: what is wrong with one holds up nobody else.

use std::collections::BTreeMap;

use boxmeter_web::{
    api::{change::NewUser, order::Envelope},
    backend::ApiError,
};

use super::{asked, named, refused, to_core};
use crate::{
    clock,
    core::period::{self, Rule},
    daemon::{
        backend::Answerer,
        gate::zone_of,
        hands::{Brought, Newcomer},
    },
    enforcer::users_edit::Credentials,
    fault,
    ledger::{AdminState, NewUser as NewRecord, PolicyRecord, Settings, UserRecord},
};

/// A user to be made.
pub(super) struct ToMake {
    pub new: NewUser,
    pub brought: Brought,
    pub admin: AdminState,
    /// Elsewhere; `None`: now.
    pub created_ms: Option<i64>,
}

impl ToMake {
    pub(super) fn newcomer(&self) -> Newcomer {
        let (name, inbounds) = (self.new.name.clone(), self.new.inbounds.clone());
        Newcomer { name, inbounds, brought: self.brought.clone() }
    }
}

/// One who was made, with the logins.
pub(super) type Made = (UserRecord, Vec<Credentials>);

/// Answers in the order of the questions.
struct Answers(Vec<Option<Result<Made, ApiError>>>);

impl Answers {
    /// Keeps what went well with its place; what did not is an answer.
    fn good<T>(&mut self, all: impl IntoIterator<Item = (usize, Result<T, ApiError>)>) -> Vec<(usize, T)> {
        let mut good = Vec::new();
        for (at, one) in all {
            match one {
                Ok(one) => good.push((at, one)),
                Err(error) => self.0[at] = Some(Err(error)),
            }
        }
        good
    }
}

impl Answerer {
    /// The ledger first, with the entries, then the files by one edit: a crash in between leaves users that
    /// are being added, whose entries the next start writes as they were made.
    pub(super) async fn create(
        &self,
        envelope: &Envelope,
        users: Vec<ToMake>,
    ) -> Result<Vec<Result<Made, ApiError>>, ApiError> {
        let mut answers = Answers(users.iter().map(|_| None).collect());
        let policies = self.ledger.policies().await.map_err(refused)?;
        let drafts = users.iter().map(|user| self.draft(user, &policies));
        let drafts = answers.good(drafts.enumerate());
        let newcomers = drafts.iter().map(|(at, _)| users[*at].newcomer()).collect();
        let prepared = self.hands.prepare(newcomers).await?;
        let whole = drafts.into_iter().zip(prepared).map(|((at, draft), prepared)| {
            let with_entries = |prepared: crate::daemon::hands::New| {
                (NewRecord { entries: prepared.entries, ..draft }, prepared.credentials)
            };
            (at, prepared.map(with_entries))
        });
        let (places, records): (Vec<_>, Vec<_>) =
            answers.good(whole).into_iter().map(|(at, (record, logins))| ((at, logins), record)).unzip();
        if records.is_empty() {
            return Ok(answers.0.into_iter().flatten().collect());
        }
        let written = self.ledger.create_users(records, asked(envelope)).await.map_err(refused)?;
        fault::point("user-created");
        let made = places
            .into_iter()
            .zip(written)
            .map(|((at, logins), record)| (at, record.map(|record| (record, logins)).map_err(refused)));
        let made = answers.good(made);
        let names: Vec<String> = made.iter().map(|(_, (record, _))| record.name.to_string()).collect();
        let mut failed = match self.hands.admit(names.clone()).await {
            Ok(failed) => failed,
            Err(error) => names.into_iter().map(|name| (name, error.clone())).collect::<BTreeMap<_, _>>(),
        };
        let (mut gone, mut living) = (Vec::new(), Vec::new());
        for (at, (record, logins)) in made {
            answers.0[at] = Some(match failed.remove(&*record.name) {
                Some(error) => {
                    gone.push((record, error.clone()));
                    Err(error)
                }
                None => {
                    living.push(record.clone());
                    Ok((record, logins))
                }
            });
        }
        let taken_over = self.take_over_all(living).await;
        self.give_up(envelope, gone).await?;
        taken_over?;
        Ok(answers.0.into_iter().flatten().collect())
    }

    fn draft(&self, user: &ToMake, policies: &[PolicyRecord]) -> Result<NewRecord, ApiError> {
        let new = &user.new;
        let policy = named(policies, new.policy.as_deref().unwrap_or(&self.default_policy))?;
        let overrides = to_core(&new.terms)?;
        let terms = policy.terms.with(&overrides);
        super::terms_to_api(&terms).check()?;
        let now_ms = clock::wall_ms();
        let zone = zone_of(&terms, &self.zone);
        let created_ms = user.created_ms.unwrap_or(now_ms).clamp(0, now_ms);
        let window = period::window(Rule::of(&terms, created_ms), now_ms, &zone);
        Ok(NewRecord {
            name: new.name.clone(),
            settings: Settings {
                policy: policy.id,
                overrides,
                expires_ms: new.expires_at.map(|time| time.instant.as_millisecond()),
                email: new.email.clone(),
                note: new.note.clone(),
            },
            admin: user.admin,
            created_ms,
            account_start_ms: window.start_ms,
            entries: Vec::new(),
        })
    }

    /// Takes back what there is of users who could not be made: at once, or as soon as that can be. Until
    /// then the kernel cuts whoever uses the entries.
    async fn give_up(&self, envelope: &Envelope, users: Vec<(UserRecord, ApiError)>) -> Result<(), ApiError> {
        if users.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::with_capacity(users.len());
        for (record, why) in users {
            let asked = asked(&Envelope::of(envelope.actor.clone()));
            // One that cannot be given up keeps nobody else from it: the file may have been read with the entry
            // in it, and the user lives.
            match self.ledger.give_up_adding(record.id, why.message, asked).await {
                Ok(undone) => gone.push(undone),
                Err(error) => tracing::warn!(name = %record.name, "giving up a user: {error}"),
            }
        }
        self.take_over_all(gone).await?;
        if let Err(error) = self.hands.follow().await {
            tracing::warn!("taking back users who could not be made: {}", error.message);
        }
        Ok(())
    }
}
