//! `/change-users`: the buttons of the list, for one user or for everybody who is marked. Deleting
//! several asks first.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect},
};

use super::{
    Shared, Visit,
    flash::Flash,
    form::Form,
    frame::{Answer, Frame, render},
    view::{short, shown},
    visit::is_own_path,
};
use crate::backend::ApiError;

/// Users of one request; a page has fewer rows.
const USERS_MAX: usize = 500;
/// No user is begun with after this, so that the answer comes before the browser or a proxy gives up.
const TIME_MAX: Duration = Duration::from_secs(25);
/// Refusals that are told one by one.
const TOLD_MAX: usize = 5;

#[derive(Template)]
#[template(path = "users_confirm.html")]
struct Confirm {
    f: Frame,
    names: Vec<(String, String)>,
    back: String,
}

/// What a button does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Enable,
    Disable,
    Reset,
    Delete { purge: bool },
}

impl Deed {
    fn word(self) -> &'static str {
        match self {
            Deed::Enable => "enabled",
            Deed::Disable => "disabled",
            Deed::Reset => "reset",
            Deed::Delete { purge: false } => "deleted",
            Deed::Delete { purge: true } => "purged",
        }
    }
}

pub async fn act(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let back = back(&form, "/users");
    let Some((deed, names)) = read(&form) else {
        return Ok(Flash::failed("panel.failed.nobody", &[]).to(&pages, &back));
    };
    if matches!(deed, Deed::Delete { .. }) && !form.has("sure") {
        let names = names.iter().map(|it| (it.clone(), short(it))).collect();
        let title = visit.lang.text("panel.users.delete_several").to_owned();
        let f = Frame::load(&pages, &visit, "users", title).await;
        return render(&Confirm { f, names, back });
    }
    // A task of its own: a browser that goes away does not stop it half way.
    let outcome = tokio::spawn(each(visit, names, deed)).await.map_err(ApiError::internal)?;
    Ok(outcome.told(deed).to(&pages, &back))
}

/// What became of the users.
#[derive(Default)]
struct Outcome {
    done: Vec<String>,
    /// With the reason.
    refused: Vec<(String, String)>,
    /// There was no time for so many.
    left: usize,
}

async fn each(visit: Visit, names: Vec<String>, deed: Deed) -> Outcome {
    let until = tokio::time::Instant::now() + TIME_MAX;
    let mut outcome = Outcome::default();
    for name in names {
        if tokio::time::Instant::now() > until {
            outcome.left += 1;
            continue;
        }
        match one(&visit, &name, deed).await {
            Ok(()) => outcome.done.push(name),
            Err(error) => outcome.refused.push((short(&name), shown(&error.message))),
        }
    }
    outcome
}

/// Where a form came from. Only a path of the panel is gone back to.
pub fn back(form: &Form, otherwise: &str) -> String {
    let back = form.get("back");
    if is_own_path(back) { back.to_owned() } else { otherwise.to_owned() }
}

/// A row's own button carries its user; the others are for everybody who is marked.
fn read(form: &Form) -> Option<(Deed, Vec<String>)> {
    let buttons = [("enable", Deed::Enable), ("disable", Deed::Disable), ("reset", Deed::Reset)];
    for (name, deed) in buttons {
        if let Some(user) = form.some(name) {
            return Some((deed, vec![user.to_owned()]));
        }
    }
    let deed = match form.get("do") {
        "enable" => Deed::Enable,
        "disable" => Deed::Disable,
        "reset" => Deed::Reset,
        "delete" => Deed::Delete { purge: form.has("purge") },
        _ => return None,
    };
    let mut names: Vec<String> = form.all("user").into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(USERS_MAX);
    (!names.is_empty()).then_some((deed, names))
}

async fn one(visit: &Visit, name: &str, deed: Deed) -> Result<(), ApiError> {
    let (backend, envelope) = (visit.backend(), visit.envelope());
    match deed {
        Deed::Enable => backend.set_enabled(envelope, name, true).await.map(drop),
        Deed::Disable => backend.set_enabled(envelope, name, false).await.map(drop),
        Deed::Reset => backend.reset_user(envelope, name).await.map(drop),
        Deed::Delete { purge } => backend.delete_user(envelope, name, purge).await.map(drop),
    }
}

impl Outcome {
    fn told(&self, deed: Deed) -> Flash {
        let mut flash = Flash::default();
        match &self.done[..] {
            [] => {}
            [name] if self.refused.is_empty() && self.left == 0 => {
                flash = flash.and(true, &format!("panel.done.{}", deed.word()), &[("name", &short(name))]);
            }
            done => {
                let key = format!("panel.done.{}_several", deed.word());
                flash = flash.and(true, &key, &[("count", &done.len().to_string())]);
            }
        }
        for (name, message) in self.refused.iter().take(TOLD_MAX) {
            flash = flash.and(false, "panel.failed.user", &[("name", name), ("message", message)]);
        }
        if self.refused.len() > TOLD_MAX {
            let more = (self.refused.len() - TOLD_MAX).to_string();
            flash = flash.and(false, "panel.failed.more", &[("count", &more)]);
        }
        if self.left > 0 {
            flash = flash.and(false, "panel.failed.left", &[("count", &self.left.to_string())]);
        }
        flash
    }
}

/// `GET /change-users`, for instance after signing in again: there is nothing to show.
pub async fn nothing(State(pages): State<Shared>) -> Answer {
    Ok(Redirect::to(&format!("{}/users", pages.base)).into_response())
}
