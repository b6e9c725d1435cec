//! What is asked of the worker: one user's change, everything at once, many who come in.

use std::collections::BTreeMap;

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
    ledger::{Asked, FileState},
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
            Ok(done) if self.check_refused.is_empty() => done.failure(),
            Err(failure) if self.check_refused.is_empty() => Err(failure),
            _ => self.follow_without_new().await,
        };
        self.outcome(done.clone()).await;
        done.map_err(ApiError::unavailable)
    }

    /// sing-box does not take what is wanted of everybody: an agent that died while it added users may have left
    /// one whose entry is refused. Everybody else first, then those who are being added; who is refused alone
    /// is given up.
    async fn follow_without_new(&mut self) -> Result<(), Failure> {
        self.without_new = true;
        let done = self.reconcile(Wanted::new()).await;
        self.without_new = false;
        let missed = done?.failure();
        let users = self.find().await?.users.into_iter();
        let new: BTreeMap<String, UserId> = users
            .filter(|user| user.file_state == FileState::Adding && user.tombstoned_ms.is_none())
            .map(|user| (user.name.to_string(), user.id))
            .collect();
        let failed = self.admit(new.keys().cloned().collect()).await;
        let mut given_up = Vec::new();
        for (name, error) in failed.iter().filter(|(_, error)| error.kind == ErrorKind::Invalid) {
            let Some(&id) = new.get(name) else { continue };
            let asked = Asked::new("agent", clock::wall_ms());
            match self.ledger.give_up_adding(id, error.message.clone(), asked).await {
                Ok(_) => given_up.push(id),
                Err(error) => tracing::warn!(name, "giving up a user who cannot be added: {error}"),
            }
        }
        self.send(HandsNews::Moved(given_up)).await;
        match failed.into_values().find(|error| error.kind != ErrorKind::Invalid) {
            Some(error) => Err(error.message),
            None => missed,
        }
    }

    /// Lets users in who were made, by one edit; who could not be let in. One whose entry alone is refused by
    /// sing-box is `Invalid`.
    pub(super) async fn admit(&mut self, names: Vec<String>) -> BTreeMap<String, ApiError> {
        self.asked();
        let (mut failed, mut batches) = (BTreeMap::new(), vec![names]);
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
    fn asked(&mut self) {
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
