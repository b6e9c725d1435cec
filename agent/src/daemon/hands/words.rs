//! What the worker says, and small questions that it asks of what it is given.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use boxmeter_web::backend::ApiError;

use crate::{
    core::event::UserId,
    enforcer::{
        reconcile::Plan,
        reloads::Why,
        users_edit::{CheckNew, Excluded, Homeless, ParkedKey, UserRefused},
    },
    ledger::{FileState, UserRecord},
};

/// Why an edit failed, for people.
pub(super) type Failure = String;

pub(super) fn reason(why: Why) -> &'static str {
    match why {
        Why::Admits => "somebody is to be let in",
        Why::Quiet => "nobody was connected",
        Why::Waited => "it had waited for as long as [singbox] reload_within allows",
        Why::SourceDown => "owners of new connections are not known now",
    }
}

/// What a managed inbound's service did not do.
pub(super) struct Missed {
    /// Of one user; else of everybody.
    pub user: Option<String>,
    /// Whose change it may be, where it is not one user's.
    pub concerned: BTreeSet<String>,
    pub failure: Failure,
}

impl Missed {
    pub fn concerns(&self, name: &str) -> bool {
        self.user.as_deref() == Some(name) || self.concerned.contains(name)
    }
}

/// What was missed, as one failure.
pub(super) fn missed(missed: &[Missed]) -> Result<(), Failure> {
    let failures: BTreeSet<&str> = missed.iter().map(|missed| missed.failure.as_str()).collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

/// Everybody who may have entries, by name: the living, and the deleted whose entry is still there.
pub fn living(users: &[UserRecord]) -> HashMap<Arc<str>, UserId> {
    let mut ids: HashMap<Arc<str>, UserId> = HashMap::new();
    for user in users.iter().filter(|user| user.file_state == FileState::Removing) {
        ids.insert(Arc::clone(&user.name), user.id);
    }
    for user in users.iter().filter(|user| user.tombstoned_ms.is_none()) {
        ids.insert(Arc::clone(&user.name), user.id);
    }
    ids
}

pub(super) fn concerns(refused: &UserRefused, name: &str) -> bool {
    match refused {
        UserRefused::Name { name: of, .. }
        | UserRefused::DuplicateName { user: of, .. }
        | UserRefused::DuplicateCredential { user: of, .. }
        | UserRefused::WrongKey { user: of, .. } => of == name,
        UserRefused::UnknownInbound { .. } | UserRefused::Excluded { .. } | UserRefused::NoInbounds => true,
    }
}

pub(super) fn user_error(refused: &UserRefused) -> ApiError {
    match refused {
        UserRefused::Name { .. } => ApiError::invalid("name", refused),
        UserRefused::DuplicateName { .. } | UserRefused::DuplicateCredential { .. } => {
            ApiError::conflict(refused)
        }
        UserRefused::WrongKey { .. } => ApiError::invalid("password", refused),
        UserRefused::UnknownInbound { .. } | UserRefused::Excluded { .. } => {
            ApiError::invalid("inbounds", refused)
        }
        UserRefused::NoInbounds => ApiError::unavailable(refused),
    }
}

/// Records whose inbound has no place for them. Those of managed inbounds have theirs in the service.
pub(super) fn lost(plan: &Plan) -> impl Iterator<Item = &ParkedKey> {
    let lost = plan.homeless.iter().filter(|(_, why)| *why != Homeless::Excluded(Excluded::Managed));
    lost.map(|(key, _)| key)
}

pub(super) fn not_new(error: CheckNew) -> ApiError {
    match error {
        CheckNew::User(refused) => user_error(&refused),
        CheckNew::Files(error) => ApiError::unavailable(error),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
