//! What is asked of the worker: one user's change, everything at once, many who come in.

use std::collections::BTreeMap;

use boxmeter_web::backend::ApiError;

use super::{
    super::words::{self, blocking},
    Worker,
};
use crate::enforcer::{
    reconcile::{Want, Wanted},
    users_edit::Credentials,
};

impl Worker {
    pub(super) async fn change(&mut self, name: String, want: Want) -> Result<Vec<Credentials>, ApiError> {
        let mut done = match self.reconcile(Wanted::from([(name.clone(), want)])).await {
            Ok(done) => done,
            Err(failure) => {
                self.outcome(Err(failure.clone())).await;
                return Err(ApiError::unavailable(failure));
            }
        };
        match done.take_error(&name) {
            Some(error) => Err(error),
            None => Ok(done.plan.credentials.into_iter().filter(|one| one.user == name).collect()),
        }
    }

    pub(super) async fn follow(&mut self) -> Result<(), ApiError> {
        let done = match self.reconcile(Wanted::new()).await {
            Ok(done) => words::missed(&done.missed),
            Err(failure) => Err(failure),
        };
        self.outcome(done.clone()).await;
        done.map_err(ApiError::unavailable)
    }

    /// Lets users in who were made, by one edit; who could not be let in.
    pub(super) async fn admit(&mut self, names: Vec<String>) -> BTreeMap<String, ApiError> {
        let (mut failed, mut batches) = (BTreeMap::new(), vec![names]);
        let mut without_them_good = None;
        while let Some(mut batch) = batches.pop() {
            self.check_refused = false;
            let own = batch.iter().map(|name| (name.clone(), Want::In)).collect();
            let failure = match self.reconcile(own).await {
                Ok(mut done) => {
                    failed.extend(batch.into_iter().filter_map(|name| {
                        let error = done.take_error(&name)?;
                        Some((name, error))
                    }));
                    continue;
                }
                Err(failure) => failure,
            };
            if self.check_refused && batch.len() > 1 {
                if without_them_good.is_none() {
                    without_them_good = Some(self.files_are_good().await);
                }
                if without_them_good == Some(true) {
                    // An entry that sing-box does not take keeps nobody else out.
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                    continue;
                }
            }
            self.outcome(Err(failure.clone())).await;
            failed.extend(batch.into_iter().map(|name| (name, ApiError::unavailable(failure.clone()))));
        }
        failed
    }

    /// Does sing-box take its files as they are?
    async fn files_are_good(&self) -> bool {
        let Ok(singbox) = self.singbox() else { return false };
        blocking(move || singbox.check(&[]).map_err(|error| error.to_string())).await.is_ok()
    }
}
