//! What is asked of the worker: one user's change, everything at once, many who come in.

use std::collections::{BTreeMap, BTreeSet};

use boxmeter_web::backend::{ApiError, ErrorKind};

use super::{
    super::{
        HandsNews,
        words::{Failure, blocking},
    },
    Done, Worker, whole,
};
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        reconcile::{Want, Wanted},
        users_edit::Credentials,
    },
    ledger::Asked,
};

/// Checks that sing-box may refuse in one order; each takes a good part of a second, and everything else waits.
const REFUSED_MAX: usize = 64;

impl Worker {
    pub(super) async fn change(&mut self, name: String, want: Want) -> Result<Vec<Credentials>, ApiError> {
        if matches!(want, Want::New { .. }) {
            self.asked();
        }
        let mut done = match self.reconcile(Wanted::from([(name.clone(), want)])).await {
            Ok(done) => done,
            Err(failure) => {
                self.outcome(Err(failure.clone())).await;
                return Err(ApiError::unavailable(failure));
            }
        };
        if !done.failures.is_empty() {
            self.outcome(done.failure()).await;
        }
        match done.take_error(&name) {
            Some(error) => Err(error),
            None => Ok(done.plan.credentials.into_iter().filter(|one| one.user == name).collect()),
        }
    }

    pub(super) async fn follow(&mut self) -> Result<(), ApiError> {
        self.check_refused.clear();
        let done = match self.reconcile(Wanted::new()).await {
            Ok(done) => {
                let failure = done.failure();
                // What was refused had nobody new in it: they are not to blame, and wait.
                match self.check_refused.is_empty() {
                    true => self.admit_left(done.adding).await.and(failure),
                    false => failure,
                }
            }
            Err(failure) => Err(failure),
        };
        self.outcome(done.clone()).await;
        done.map_err(ApiError::unavailable)
    }

    /// An agent that died while it added users has left them on their way. Whoever cannot come in, since sing-box
    /// does not take the entry, or since a name or a credential is not free any more, is given up: who added them was
    /// never told that it was done. An inbound that is away may come back.
    async fn admit_left(&mut self, adding: BTreeMap<String, UserId>) -> Result<(), Failure> {
        if adding.is_empty() {
            return Ok(());
        }
        let failed = self.admit(adding.keys().cloned().collect()).await;
        let (hopeless, others): (Vec<_>, Vec<_>) = (failed.into_iter())
            .partition(|(_, error)| matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict));
        let mut given_up = Vec::new();
        for (name, error) in hopeless {
            let Some(&id) = adding.get(&name) else { continue };
            let asked = Asked::new("agent", clock::wall_ms());
            match self.ledger.give_up_adding(id, error.message, asked).await {
                Ok(_) => given_up.push(id),
                Err(error) => tracing::warn!(name, "giving up a user who cannot be added: {error}"),
            }
        }
        self.send(HandsNews::Moved(given_up)).await;
        let waits = |(name, error): (String, ApiError)| {
            format!("{name}, who is being added, cannot come in yet: {}", error.message)
        };
        others.into_iter().next().map_or(Ok(()), |one| Err(waits(one)))
    }

    /// Lets users in who were made, by one edit; who could not be let in. One whose entry alone is refused by
    /// sing-box is `Invalid`.
    pub(super) async fn admit(&mut self, names: Vec<String>) -> BTreeMap<String, ApiError> {
        let mut failed = BTreeMap::new();
        let names = match self.ledger.users().await {
            Ok(users) => {
                let living = users.iter().filter(|user| user.tombstoned_ms.is_none());
                let living: BTreeSet<&str> = living.map(|user| &*user.name).collect();
                let (names, gone): (Vec<_>, Vec<_>) =
                    names.into_iter().partition(|name| living.contains(name.as_str()));
                let error = |name: String| {
                    let error = ApiError::conflict(format!("{name} was given up or deleted meanwhile"));
                    (name, error)
                };
                failed.extend(gone.into_iter().map(error));
                names
            }
            Err(error) => {
                return names.into_iter().map(|name| (name, ApiError::unavailable(&error))).collect();
            }
        };
        let mut batches = if names.is_empty() { Vec::new() } else { vec![names] };
        let (mut without_them_good, mut refused) = (None, 0);
        while let Some(mut batch) = batches.pop() {
            self.check_refused.clear();
            let own = batch.iter().map(|name| (name.clone(), Want::In)).collect();
            let (mut done, failure) = match self.reconcile(own).await {
                Ok(done) => {
                    let failures = whole(&done.failures);
                    (done, (!failures.is_empty()).then_some(failures))
                }
                Err(failure) => {
                    let all = |name: &String| (name.clone(), ApiError::unavailable(&failure));
                    let errors = batch.iter().map(all).collect();
                    (Done { errors, ..Done::default() }, Some(failure))
                }
            };
            let check_refused = !self.check_refused.is_empty();
            refused += usize::from(check_refused);
            if check_refused && without_them_good.is_none() {
                without_them_good = Some(self.files_are_good().await);
            }
            let splits = batch.len() > 1 && refused <= REFUSED_MAX && without_them_good == Some(true);
            if check_refused && splits {
                // An entry that sing-box does not take keeps nobody else out.
                let rest = batch.split_off(batch.len() / 2);
                batches.extend([rest, batch]);
                continue;
            }
            let alone = check_refused && batch.len() == 1 && without_them_good == Some(true);
            failed.extend(batch.into_iter().filter_map(|name| {
                let error = done.take_error(&name)?;
                let refused = failure.as_ref().filter(|_| alone);
                Some((name, refused.map_or(error, |why| ApiError::new(ErrorKind::Invalid, why.clone()))))
            }));
            if let Some(failure) = failure {
                self.outcome(Err(failure)).await;
            }
        }
        failed
    }

    /// Somebody asks for what needs a reload.
    pub(super) fn asked(&mut self) {
        for side in &mut self.sides {
            side.reloads.asked();
        }
    }

    /// Do the proxies that have refused an edit take their files as they are?
    async fn files_are_good(&self) -> bool {
        let refused = self.sides.iter().filter(|side| self.check_refused.contains(side.service()));
        let proxies: Vec<_> = refused.map(|side| side.proxy.clone()).collect();
        let check =
            move || proxies.iter().try_for_each(|proxy| proxy.check(&[])).map_err(|error| error.to_string());
        blocking(check).await.is_ok()
    }
}
