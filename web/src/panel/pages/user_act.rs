//! `/change-users`: the buttons of the list, for one user, for everybody who is marked, or for everybody whom
//! the filter takes. What cannot be taken back, and what is for many, is asked about first.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect},
};
use sha2::{Digest, Sha256};

use super::{
    Shared, Visit,
    flash::Flash,
    form::Form,
    frame::Answer,
    user_bulk::{self, Chosen},
    view::{short, shown},
    visit::is_own_path,
};
use crate::{
    api::{
        change::UserChange,
        order::{Envelope, IDEMPOTENCY_KEY, IdempotencyKey},
        policies::NewPackage,
        types::Time,
    },
    backend::{ApiError, ErrorKind},
    locale::Lang,
};

/// No user is begun with after this, so that the answer comes before the browser or a proxy gives up.
const TIME_MAX: Duration = Duration::from_secs(25);
/// Refusals that are told one by one.
const TOLD_MAX: usize = 5;
const SECONDS_A_DAY: i64 = 86_400;

/// What is done to each user.
#[derive(Clone, PartialEq, Eq)]
pub enum Deed {
    Enable,
    Disable,
    Reset,
    Delete {
        purge: bool,
    },
    Package(NewPackage),
    Policy(String),
    /// Days that an expiry moves on, from now where it has passed already.
    Extend(u32),
}

impl Deed {
    /// The button that does it.
    pub fn button(&self) -> &'static str {
        match self {
            Deed::Enable => "enable",
            Deed::Disable => "disable",
            Deed::Reset => "reset",
            Deed::Delete { .. } => "delete",
            Deed::Package(_) => "package",
            Deed::Policy(_) => "policy",
            Deed::Extend(_) => "extend",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Deed::Enable => "enabled",
            Deed::Disable => "disabled",
            Deed::Reset => "reset",
            Deed::Delete { purge: false } => "deleted",
            Deed::Delete { purge: true } => "purged",
            Deed::Package(_) => "packages",
            Deed::Policy(_) => "policies",
            Deed::Extend(_) => "extended",
        }
    }

    /// Whether it may be done at once to who is marked: a second press of another button takes it back.
    fn can_be_taken_back(&self) -> bool {
        matches!(self, Deed::Enable | Deed::Disable)
    }
}

pub async fn act(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let back = back(&form, "/users");
    if let Some((deed, name)) = of_a_row(&form) {
        let outcome = each(visit, vec![name], deed.clone(), None).await;
        return Ok(outcome.told(&deed).to(&pages, &back));
    }
    let Some(chosen) = Chosen::read(&form) else {
        return Ok(Flash::failed("panel.failed.nobody", &[]).to(&pages, &back));
    };
    let deed = match form.get("do") {
        "enable" => Deed::Enable,
        "disable" => Deed::Disable,
        "reset" => Deed::Reset,
        "delete" => Deed::Delete { purge: form.has("purge") },
        "more" => return user_bulk::more(&pages, &visit, &chosen, &back).await,
        "package" | "policy" | "extend" => {
            match user_bulk::read(&pages, &visit, &form, &chosen, &back).await? {
                Ok(deed) => deed,
                Err(again) => return Ok(again),
            }
        }
        // Enter in a field is no answer to which of the buttons is meant.
        _ => return Ok(Redirect::to(&format!("{}{back}", pages.base)).into_response()),
    };
    let asked = form.has("sure") || (deed.can_be_taken_back() && matches!(chosen, Chosen::Marked(_)));
    if !asked {
        return user_bulk::confirm(&pages, &visit, &deed, &chosen, &back).await;
    }
    let names = chosen.names(&visit).await?;
    let key = form.once(&visit.path);
    // A task of its own: a browser that goes away does not stop it half way.
    let task = tokio::spawn(each(visit.clone(), names.clone(), deed.clone(), key));
    let outcome = task.await.map_err(ApiError::internal)?;
    if outcome.left.is_empty() {
        return Ok(outcome.told(&deed).to(&pages, &back));
    }
    // The same again for the rest, and for nobody twice.
    let rest = chosen.rest(&names, &outcome.left);
    user_bulk::go_on(&pages, &visit, &deed, &rest, outcome.left.len(), outcome.told(&deed), &back).await
}

/// What became of the users.
#[derive(Default)]
struct Outcome {
    done: Vec<String>,
    /// With the reason.
    refused: Vec<(String, String)>,
    /// Who has no expiry that could be moved.
    without: usize,
    /// There was no time for them.
    left: Vec<String>,
}

async fn each(visit: Visit, names: Vec<String>, deed: Deed, key: Option<IdempotencyKey>) -> Outcome {
    let until = tokio::time::Instant::now() + TIME_MAX;
    let mut outcome = Outcome::default();
    for name in names {
        if tokio::time::Instant::now() > until {
            outcome.left.push(name);
            continue;
        }
        match one(&visit, &name, &deed, key.as_ref()).await {
            Ok(true) => outcome.done.push(name),
            Ok(false) => outcome.without += 1,
            Err(error) => outcome.refused.push((short(&name), said(visit.lang, &error))),
        }
    }
    outcome
}

/// Why it was refused, in the reader's language.
fn said(lang: Lang, error: &ApiError) -> String {
    let key = match error.kind {
        _ if lang == Lang::En => return shown(&error.message),
        ErrorKind::NotFound => "panel.refused.not_found",
        ErrorKind::Stale => "panel.error.stale.title",
        ErrorKind::Conflict => "panel.error.conflict.title",
        ErrorKind::NotPermitted => "panel.error.not_permitted.title",
        ErrorKind::NotRunning => "panel.error.not_running.title",
        ErrorKind::Unavailable => "panel.error.unavailable.title",
        _ => return shown(&error.message),
    };
    lang.text(key).to_owned()
}

/// Where a form came from. Only a path of the panel is gone back to.
pub fn back(form: &Form, otherwise: &str) -> String {
    let back = form.get("back");
    if is_own_path(back) { back.to_owned() } else { otherwise.to_owned() }
}

/// A row's own button carries its user; the others are for everybody who is marked.
fn of_a_row(form: &Form) -> Option<(Deed, String)> {
    let buttons = [("enable", Deed::Enable), ("disable", Deed::Disable)];
    buttons.into_iter().find_map(|(name, deed)| Some((deed, form.some(name)?.to_owned())))
}

/// The key of the form for one of the users. What was typed is in it: sent again with other values, it is
/// another change.
fn key_of(key: &IdempotencyKey, name: &str) -> IdempotencyKey {
    let hash = Sha256::new().chain_update(key.key.as_bytes()).chain_update(key.fingerprint);
    let hash: [u8; 32] = hash.chain_update(name).finalize().into();
    let short: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    IdempotencyKey { key: short, fingerprint: key.fingerprint }
}

/// `false`: there was nothing to do for this one.
async fn one(visit: &Visit, name: &str, deed: &Deed, key: Option<&IdempotencyKey>) -> Result<bool, ApiError> {
    let backend = visit.backend();
    let envelope = Envelope { key: key.map(|key| key_of(key, name)), ..visit.envelope() };
    match deed {
        Deed::Enable => backend.set_enabled(envelope, name, true).await.map(drop),
        Deed::Disable => backend.set_enabled(envelope, name, false).await.map(drop),
        Deed::Reset => backend.reset_user(envelope, name).await.map(drop),
        Deed::Delete { purge } => backend.delete_user(envelope, name, *purge).await.map(drop),
        Deed::Package(new) => backend.add_package(envelope, name, new.clone()).await.map(drop),
        Deed::Policy(policy) => {
            let change = UserChange { policy: Some(policy.clone()), ..UserChange::default() };
            backend.change_user(envelope, name, change).await.map(drop)
        }
        Deed::Extend(days) => return extend(visit, name, *days, envelope).await,
    }?;
    Ok(true)
}

async fn extend(visit: &Visit, name: &str, days: u32, envelope: Envelope) -> Result<bool, ApiError> {
    let user = visit.backend().user(name).await?.user;
    let Some(ends) = user.expires_at else { return Ok(false) };
    let now = visit.backend().now();
    let from = ends.instant.max(now.timestamp());
    let later = jiff::SignedDuration::from_secs(i64::from(days) * SECONDS_A_DAY);
    let until = from.checked_add(later).map_err(|_| ApiError::invalid("days", "that is too many days"))?;
    let change = UserChange {
        expires_at: Some(Some(Time::new(until, ends.zoned().time_zone()))),
        ..UserChange::default()
    };
    match visit.backend().change_user(envelope, name, change).await {
        Ok(_) => Ok(true),
        // These days were added by the same form before: what they are counted from is another moment since, and
        // so is the moment that is asked for.
        Err(error) if error.field.as_deref() == Some(IDEMPOTENCY_KEY.as_str()) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Outcome {
    fn told(&self, deed: &Deed) -> Flash {
        let mut flash = Flash::default();
        let one = matches!(deed, Deed::Enable | Deed::Disable | Deed::Reset | Deed::Delete { .. });
        match &self.done[..] {
            [] => {}
            [name] if one && self.refused.is_empty() && self.left.is_empty() => {
                flash = flash.and(true, &format!("panel.done.{}", deed.done()), &[("name", &short(name))]);
            }
            done => {
                let key = format!("panel.done.{}_several", deed.done());
                flash = flash.and(true, &key, &[("count", &done.len().to_string())]);
            }
        }
        if self.without > 0 {
            let count = self.without.to_string();
            flash = flash.and(false, "panel.failed.no_expiry", &[("count", &count)]);
        }
        for (name, message) in self.refused.iter().take(TOLD_MAX) {
            flash = flash.and(false, "panel.failed.user", &[("name", name), ("message", message)]);
        }
        if self.refused.len() > TOLD_MAX {
            let more = (self.refused.len() - TOLD_MAX).to_string();
            flash = flash.and(false, "panel.failed.more", &[("count", &more)]);
        }
        flash
    }
}

/// `GET /change-users`, for instance after signing in again: there is nothing to show.
pub async fn nothing(State(pages): State<Shared>) -> Answer {
    Ok(Redirect::to(&format!("{}/users", pages.base)).into_response())
}
