//! What people change: users, policies, packages. Each change is one transaction of the ledger; then
//! the agent's task takes it over, and the answer says how things are after that.
//!
//! Raising a limit: ledger, then kernel. Lowering one: kernel, then ledger, so that a limit that was
//! promised holds even if the agent dies in between.

mod create;
mod import;
mod policies;
mod sharing;
mod users;

use boxmeter_web::{
    api::{error::ErrorKind, order::Envelope, terms},
    backend::ApiError,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    backend::Answerer,
    shared::{Question, UserNow},
};
use crate::{
    clock,
    core::{
        event::UserId,
        terms::{Overrides, Terms},
    },
    fault,
    ledger::{Asked, CommitError, IdempotencyKey, PolicyRecord, Refusal, UserRecord},
};

/// The answers of HTTP that are stored for a repeated key.
const STORED_STATUS: u16 = 200;

/// From the contract's words to the core's: both write the same JSON.
fn to_core(own: &terms::Overrides) -> Result<Overrides, ApiError> {
    translate(own)
}

pub fn to_api(own: &Overrides) -> terms::Overrides {
    translate(own).unwrap_or_default()
}

pub fn terms_to_api(terms: &Terms) -> terms::Terms {
    translate(terms).unwrap_or_default()
}

fn translate<T: DeserializeOwned>(from: &impl Serialize) -> Result<T, ApiError> {
    let value = serde_json::to_value(from).map_err(ApiError::internal)?;
    serde_json::from_value(value).map_err(ApiError::internal)
}

/// A refusal of the ledger as people are told it.
pub(super) fn refused(error: CommitError) -> ApiError {
    let Some(refusal) = error.refusal() else { return ApiError::unavailable(error) };
    let text = refusal.to_string();
    match refusal {
        Refusal::NoSuchUser => ApiError::not_found(text),
        Refusal::NoSuchPolicy(_) => ApiError::invalid("policy", text),
        Refusal::KeyReused => ApiError::invalid("idempotency-key", text),
        Refusal::Invalid(_) => ApiError::bad_request(text),
        _ => ApiError::conflict(text),
    }
}

pub(super) fn asked(envelope: &Envelope) -> Asked {
    let key =
        envelope.key.as_ref().map(|key| IdempotencyKey { key: key.key.clone(), request: key.fingerprint });
    Asked { actor: envelope.actor.to_string(), at_ms: clock::wall_ms(), key }
}

impl Answerer {
    /// What was answered to the same change before, if there is a key and it was seen.
    async fn answered<T: DeserializeOwned>(&self, envelope: &Envelope) -> Result<Option<T>, ApiError> {
        let asked = asked(envelope);
        let Some(key) = asked.key else { return Ok(None) };
        match self.ledger.stored_answer(asked.actor, key).await {
            Ok(Some(stored)) => match stored.answer {
                Some((_, body)) => serde_json::from_str(&body).map(Some).map_err(ApiError::internal),
                None => Err(ApiError::new(
                    ErrorKind::Conflict,
                    "this change was made, but the agent ended before it had answered: look at the result",
                )),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// Keeps an answer for whoever asks with the same key again. The change is made: an answer that
    /// cannot be kept is no reason to call it failed.
    async fn remember(&self, envelope: &Envelope, answer: &impl Serialize) {
        let asked = asked(envelope);
        let (Some(key), Ok(body)) = (asked.key, serde_json::to_string(answer)) else { return };
        if let Err(error) = self.ledger.store_answer(asked.actor, key, STORED_STATUS, body).await {
            tracing::warn!("keeping an answer: {error}");
        }
    }

    /// Hands a user over to the agent's task as the ledger has it now; when this returns, the kernel
    /// holds what follows.
    async fn take_over(&self, record: UserRecord) -> Result<(), ApiError> {
        self.take_over_all(vec![record]).await
    }

    /// As [`Answerer::take_over`], of several users.
    async fn take_over_all(&self, records: Vec<UserRecord>) -> Result<(), ApiError> {
        if records.is_empty() {
            return Ok(());
        }
        let users: Vec<UserId> = records.iter().map(|record| record.id).collect();
        match self.ledger.standings_of(users.clone(), self.epoch).await {
            Ok(standings) => {
                let both = records.into_iter().zip(standings);
                let now = both.map(|(record, standing)| UserNow { record, standing }).collect();
                self.tell(|done| Question::UsersChanged(now, done)).await
            }
            Err(error) => {
                self.tell(|done| Question::Again(Some(users), done)).await?;
                Err(refused(error))
            }
        }
    }

    /// As [`Answerer::take_over`], of everybody: after a change of a policy.
    async fn take_over_everybody(&self) -> Result<(), ApiError> {
        let policies = self.ledger.policies().await;
        let standings = self.ledger.standings(self.epoch).await;
        match policies.and_then(|policies| Ok((policies, standings?))) {
            Ok((policies, standings)) => {
                self.tell(|done| Question::Everybody(policies, standings, done)).await
            }
            Err(error) => {
                self.tell(|done| Question::Again(None, done)).await?;
                Err(refused(error))
            }
        }
    }

    /// The living user of a name, from the ledger.
    async fn living(&self, name: &str) -> Result<UserRecord, ApiError> {
        let (wanted, shown) = (name.to_owned(), name.to_owned());
        let record = self.read(move |reader| reader.user_by_name(&wanted)).await?;
        match record.tombstoned_ms {
            None => Ok(record),
            Some(_) => Err(ApiError::no_such_user(&shown)),
        }
    }

    async fn policy_named(&self, name: &str) -> Result<Option<PolicyRecord>, ApiError> {
        let policies = self.ledger.policies().await.map_err(refused)?;
        Ok(policies.into_iter().find(|policy| policy.tombstoned_ms.is_none() && *policy.name == *name))
    }

    /// The policy that a user is to have.
    async fn policy_for(&self, name: &str) -> Result<PolicyRecord, ApiError> {
        let policies = self.ledger.policies().await.map_err(refused)?;
        named(&policies, name).cloned()
    }

    /// Has the kernel hold the stricter of what holds and what will: before a limit is lowered.
    async fn tighten(&self, tighter: super::shared::Tighter) -> Result<(), ApiError> {
        self.tell(|done: oneshot::Sender<()>| Question::Tighten(tighter, done)).await?;
        fault::point("tightened");
        Ok(())
    }
}

/// The living policy of a name that a user is to have.
fn named<'a>(policies: &'a [PolicyRecord], name: &str) -> Result<&'a PolicyRecord, ApiError> {
    let living = || policies.iter().filter(|policy| policy.tombstoned_ms.is_none());
    living().find(|policy| *policy.name == *name).ok_or_else(|| {
        let names: Vec<&str> = living().map(|policy| &*policy.name).collect();
        let text = format!("there is no policy {name:?}; there are {}", names.join(", "));
        ApiError::invalid("policy", text)
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
