//! What the worker says, and small questions that it asks of what it is given.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use boxmeter_web::backend::ApiError;

use crate::{
    core::event::UserId,
    enforcer::{
        reconcile::{self, Plan, Want, Wanted},
        reloads::Why,
        users_edit::{Excluded, Homeless, Parked, ParkedKey, UserRefused},
    },
    ledger::{FileState, UserRecord},
    singbox::files::FileText,
};

/// Why an edit failed, for people.
pub(super) type Failure = String;

pub(super) fn reason(why: Why) -> &'static str {
    match why {
        Why::Admits => "somebody is to be let in",
        Why::Quiet => "nobody was connected",
        Why::Waited => "it had waited for as long as reload_within or restart_within allows",
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

/// What a plan could not do for a user.
pub(super) fn error_of(plan: &Plan, name: &str, want: &Want) -> Option<ApiError> {
    if let Some(refused) = plan.refused.iter().find(|refused| concerns(refused, name)) {
        return Some(user_error(refused));
    }
    let lost = lost(plan).find(|key| key.user == name)?;
    matches!(want, Want::In | Want::New { .. }).then(|| {
        ApiError::unavailable(format!("the inbound {:?} has changed meanwhile; try again", lost.inbound))
    })
}

/// A plan with what was wanted and why others were left out of it.
pub(super) type Whole = (Plan, Wanted, BTreeMap<String, ApiError>);

/// Plans so that each of the users `new` is made everywhere or nowhere: half of one would be adopted as
/// somebody else.
pub(super) fn plan_whole(
    (files, parked, own): (&[FileText], &[Parked], &[[u8; 32]]),
    mut wanted: Wanted,
    new: &BTreeSet<String>,
) -> Result<Whole, Failure> {
    let mut errors = BTreeMap::new();
    loop {
        let plan = reconcile::plan(files, parked, &wanted, own).map_err(|error| error.to_string())?;
        let known = errors.len();
        for name in new {
            let error = wanted.get(name).and_then(|want| error_of(&plan, name, want));
            errors.extend(error.map(|error| (name.clone(), error)));
        }
        if errors.len() == known {
            return Ok((plan, wanted, errors));
        }
        wanted.retain(|name, _| !errors.contains_key(name));
    }
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

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
