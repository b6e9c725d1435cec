//! Policies.

use boxmeter_web::{
    api::{
        change::Deleted,
        order::Envelope,
        policies::{NewPolicy, Policy, PolicyChange, PolicyChanged, PolicyList, PolicyShow},
        query::Page,
        types::Schema,
    },
    backend::ApiError,
};

use super::{asked, refused, signed, terms_to_api, translate};
use crate::{
    daemon::{answers::unsigned, backend::Answerer, shared::Tighter},
    ledger::PolicyRecord,
};

fn shown(record: &PolicyRecord) -> Policy {
    Policy {
        name: record.name.to_string(),
        id: record.id.0.to_string(),
        terms: terms_to_api(&record.terms),
        users: record.users,
        rev: unsigned(record.rev),
    }
}

impl Answerer {
    pub(in crate::daemon) async fn list_policies(&self, page: Page) -> Result<PolicyList, ApiError> {
        let mut policies: Vec<Policy> = (self.ledger.policies().await.map_err(refused)?.iter())
            .filter(|policy| policy.tombstoned_ms.is_none())
            .map(shown)
            .filter(|policy| page.after.as_ref().is_none_or(|after| policy.name > *after))
            .collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        let more = policies.len() > page.limit as usize;
        policies.truncate(page.limit as usize);
        let next = more.then(|| policies.last().map(|policy| policy.name.clone())).flatten();
        Ok(PolicyList { schema: Schema, policies, rev: self.rev(), next })
    }

    async fn policy_record(&self, name: &str) -> Result<PolicyRecord, ApiError> {
        self.policy_named(name).await?.ok_or_else(|| ApiError::no_such_policy(name))
    }

    pub(in crate::daemon) async fn show_policy(&self, name: &str) -> Result<PolicyShow, ApiError> {
        Ok(PolicyShow { schema: Schema, policy: shown(&self.policy_record(name).await?) })
    }

    pub(in crate::daemon) async fn make_policy(
        &self,
        envelope: Envelope,
        new: NewPolicy,
    ) -> Result<PolicyChanged, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let terms = translate(&new.check()?)?;
        let record = self.ledger.create_policy(new.name, terms, asked(&envelope)).await.map_err(refused)?;
        self.policy_answer(&envelope, &record, true).await
    }

    pub(in crate::daemon) async fn alter_policy(
        &self,
        envelope: Envelope,
        name: &str,
        change: PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.policy_record(name).await?;
        envelope.check_rev(unsigned(record.rev), &shown(&record))?;
        let terms: crate::core::terms::Terms = translate(&change.check(&terms_to_api(&record.terms))?)?;
        if terms == record.terms {
            return self.policy_answer(&envelope, &record, false).await;
        }
        self.tighten(Tighter::Policy(record.id, Box::new(terms.clone()))).await?;
        let if_rev = envelope.if_rev.map(signed);
        let changed =
            self.ledger.change_policy(record.id, None, Some(terms), if_rev, self.settle(), asked(&envelope));
        let record = match changed.await {
            Ok(record) => record,
            Err(error) => {
                // What was tightened for nothing is loosened again.
                self.take_over_everybody().await?;
                return Err(refused(error));
            }
        };
        self.policy_answer(&envelope, &record, true).await
    }

    async fn policy_answer(
        &self,
        envelope: &Envelope,
        record: &PolicyRecord,
        changed: bool,
    ) -> Result<PolicyChanged, ApiError> {
        if changed {
            self.take_over_everybody().await?;
        }
        let answer =
            PolicyChanged { schema: Schema, changed, policy: shown(record), rev: unsigned(record.rev) };
        self.remember(envelope, &answer).await;
        Ok(answer)
    }

    pub(in crate::daemon) async fn remove_policy(
        &self,
        envelope: Envelope,
        name: &str,
    ) -> Result<Deleted, ApiError> {
        if let Some(answer) = self.answered(&envelope).await? {
            return Ok(answer);
        }
        let record = self.policy_record(name).await?;
        envelope.check_rev(unsigned(record.rev), &shown(&record))?;
        if name == self.default_policy {
            return Err(ApiError::conflict(format!(
                "{name} is the default policy of [billing] default_policy: name another one there first"
            )));
        }
        let if_rev = envelope.if_rev.map(signed);
        self.ledger.delete_policy(record.id, if_rev, asked(&envelope)).await.map_err(refused)?;
        self.take_over_everybody().await?;
        let answer = Deleted { schema: Schema, name: name.to_owned(), purged: false, rev: self.rev() };
        self.remember(&envelope, &answer).await;
        Ok(answer)
    }
}
