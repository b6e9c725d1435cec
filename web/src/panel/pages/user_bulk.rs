//! Several users at once: who is meant, what is asked before it is done, and the forms of what takes a value.

use askama::Template;
use axum::response::Response;
use http::StatusCode;
use jiff::Zoned;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form, fresh_once},
    frame::{Answer, Frame, PageError, render_as},
    terms_values::{expiry, moment_field, size},
    user_act::Deed,
    user_list::{self, policy_names},
    view::{Choice, short},
};
use crate::{
    api::{
        policies::NewPackage,
        query::{Page as Cursor, UserFilter},
    },
    backend::ApiError,
};

/// Users that are marked in one request; a page has fewer rows.
const MARKED_MAX: usize = 500;
/// Names that are asked for at a time where everybody is meant.
const NAMES_A_PAGE: u32 = 5_000;
/// Names that a question shows.
const NAMES_SHOWN: usize = 50;
/// Ten years.
const DAYS_MAX: u32 = 3_660;

/// Who is meant.
#[derive(Clone)]
pub enum Chosen {
    Marked(Vec<String>),
    /// Everybody whom the filter takes, on every page.
    Everybody {
        /// The search, the state and the policy, as the list has them.
        asked: [String; 3],
        /// Whoever comes later by name.
        after: String,
    },
}

impl Chosen {
    /// `None` where nobody is.
    pub fn read(form: &Form) -> Option<Chosen> {
        if form.has("everybody") {
            let asked = ["q", "state", "policy_is"].map(|name| form.get(name).to_owned());
            return Some(Chosen::Everybody { asked, after: form.raw("after").to_owned() });
        }
        let mut names: Vec<String> = form.all("user").into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(MARKED_MAX);
        (!names.is_empty()).then_some(Chosen::Marked(names))
    }

    /// Everybody's names, sorted.
    pub async fn names(&self, visit: &Visit) -> Result<Vec<String>, ApiError> {
        let (asked, after) = match self {
            Chosen::Marked(names) => return Ok(names.clone()),
            Chosen::Everybody { asked, after } => (asked, after),
        };
        let mut names = Vec::new();
        let mut after = Some(after.clone()).filter(|it| !it.is_empty());
        loop {
            let page = Cursor { after: after.take(), limit: NAMES_A_PAGE };
            let list = visit.backend().users(filter(asked), page).await?;
            names.extend(list.users.into_iter().map(|user| user.name));
            match list.next {
                Some(next) => after = Some(next),
                None => return Ok(names),
            }
        }
    }

    async fn count(&self, visit: &Visit) -> Result<usize, ApiError> {
        match self {
            Chosen::Marked(names) => Ok(names.len()),
            Chosen::Everybody { after, asked } if after.is_empty() => {
                let page = Cursor { after: None, limit: 1 };
                let list = visit.backend().users(filter(asked), page).await?;
                Ok(list.matching.and_then(|it| usize::try_from(it).ok()).unwrap_or(list.users.len()))
            }
            Chosen::Everybody { .. } => Ok(self.names(visit).await?.len()),
        }
    }

    /// Who is still to come when `names` were begun with and `left` of them were not reached. By name, so that
    /// it does not matter whether those who are done still match.
    pub fn rest(&self, names: &[String], left: &[String]) -> Chosen {
        match self {
            Chosen::Marked(_) => Chosen::Marked(left.to_vec()),
            Chosen::Everybody { asked, after } => {
                let reached = names.len().saturating_sub(left.len());
                let last = reached.checked_sub(1).and_then(|at| names.get(at)).unwrap_or(after);
                Chosen::Everybody { asked: asked.clone(), after: last.clone() }
            }
        }
    }

    /// Hidden fields that say the same again.
    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Chosen::Marked(names) => names.iter().map(|name| ("user", name.clone())).collect(),
            Chosen::Everybody { asked: [search, state, policy], after } => vec![
                ("everybody", "yes".to_owned()),
                ("q", search.clone()),
                ("state", state.clone()),
                ("policy_is", policy.clone()),
                ("after", after.clone()),
            ],
        }
    }

    /// Names to be read before a question is answered, and how many more there are.
    fn shown(&self) -> (Vec<String>, usize) {
        match self {
            Chosen::Marked(names) => {
                let some = names.iter().take(NAMES_SHOWN).map(|it| short(it)).collect();
                (some, names.len().saturating_sub(NAMES_SHOWN))
            }
            Chosen::Everybody { .. } => (Vec::new(), 0),
        }
    }
}

fn filter([search, state, policy]: &[String; 3]) -> UserFilter {
    user_list::filter(search, state, policy)
}

#[derive(Template)]
#[template(path = "users_confirm.html")]
struct Confirm {
    f: Frame,
    question: String,
    text: &'static str,
    button: &'static str,
    label: &'static str,
    danger: bool,
    purge: bool,
    purged: bool,
    fields: Vec<(&'static str, String)>,
    names: Vec<String>,
    more_names: usize,
    once: String,
    back: String,
}

/// Asks whether it is to be done.
pub async fn confirm(pages: &Shared, visit: &Visit, deed: &Deed, chosen: &Chosen, back: &str) -> Answer {
    let f = Frame::load(pages, visit, "users", visit.lang.text("panel.users.several").to_owned()).await;
    asked(f, visit, deed, chosen, back).await
}

/// The question of a deed whose values are fields too.
async fn asked(f: Frame, visit: &Visit, deed: &Deed, chosen: &Chosen, back: &str) -> Answer {
    let count = chosen.count(visit).await?.to_string();
    let (key, text, label) = match deed {
        Deed::Enable => ("panel.bulk.enable", "panel.bulk.enable_text", "panel.act.enable"),
        Deed::Disable => ("panel.bulk.disable", "panel.bulk.disable_text", "panel.act.disable"),
        Deed::Reset => ("panel.bulk.reset", "panel.bulk.reset_text", "panel.act.reset"),
        Deed::Delete { .. } => ("panel.bulk.delete", "panel.user.delete_text", "panel.act.delete"),
        Deed::Package(_) => ("panel.bulk.package", "panel.bulk.package_text", "panel.act.package"),
        Deed::Policy(_) => ("panel.bulk.policy", "panel.bulk.policy_text", "panel.bulk.change"),
        Deed::Extend(_) => ("panel.bulk.extend", "panel.bulk.extend_text", "panel.bulk.change"),
    };
    let (names, more_names) = chosen.shown();
    let page = Confirm {
        question: f.t1(key, "count", count),
        text,
        button: deed.button(),
        label,
        danger: matches!(deed, Deed::Delete { .. } | Deed::Reset),
        purge: matches!(deed, Deed::Delete { .. }),
        purged: matches!(deed, Deed::Delete { purge: true }),
        fields: chosen.fields().into_iter().chain(values(deed, &visit.backend().now())).collect(),
        names,
        more_names,
        once: fresh_once(),
        back: back.to_owned(),
        f,
    };
    render_as(StatusCode::OK, &page)
}

/// There was no time for everybody: what is done is told, and the rest is a press of a button away.
pub async fn go_on(
    pages: &Shared,
    visit: &Visit,
    deed: &Deed,
    rest: &Chosen,
    left: usize,
    told: Flash,
    back: &str,
) -> Answer {
    let title = visit.lang.text("panel.users.several").to_owned();
    let mut f = Frame::load(pages, visit, "users", title).await;
    f.messages.extend(told.lines(visit.lang));
    f.messages.push((false, f.t1("panel.failed.left", "count", left)));
    asked(f, visit, deed, rest, back).await
}

/// What the form of a deed was filled in with.
fn values(deed: &Deed, now: &Zoned) -> Vec<(&'static str, String)> {
    match deed {
        Deed::Package(new) => {
            vec![
                ("size", format!("{} B", new.bytes)),
                ("expires", moment_field(new.expires_at.as_ref(), now)),
                ("note", new.note.clone().unwrap_or_default()),
            ]
        }
        Deed::Policy(policy) => vec![("policy", policy.clone())],
        Deed::Extend(days) => vec![("days", days.to_string())],
        Deed::Enable | Deed::Disable | Deed::Reset | Deed::Delete { .. } => Vec::new(),
    }
}

#[derive(Template)]
#[template(path = "users_more.html")]
struct More {
    f: Frame,
    form: Fields,
    count: usize,
    names: Vec<String>,
    more_names: usize,
    fields: Vec<(&'static str, String)>,
    policies: Vec<Choice>,
    once: String,
    back: String,
}

/// The forms of what takes a value.
pub async fn more(pages: &Shared, visit: &Visit, chosen: &Chosen, back: &str) -> Answer {
    forms(pages, visit, chosen, back, Fields::default(), StatusCode::OK).await
}

async fn forms(
    pages: &Shared,
    visit: &Visit,
    chosen: &Chosen,
    back: &str,
    form: Fields,
    status: StatusCode,
) -> Answer {
    let title = visit.lang.text("panel.users.several").to_owned();
    let (f, policies, count) =
        tokio::join!(Frame::load(pages, visit, "users", title), policy_names(visit), chosen.count(visit));
    let (names, more_names) = chosen.shown();
    let chosen_policy = form.v("policy").to_owned();
    let page = More {
        f,
        form,
        count: count?,
        names,
        more_names,
        fields: chosen.fields(),
        policies: policies?.iter().map(|it| Choice::new(it, short(it), *it == chosen_policy)).collect(),
        once: fresh_once(),
        back: back.to_owned(),
    };
    render_as(status, &page)
}

/// The deed of a form, or the form again with what is wrong.
pub async fn read(
    pages: &Shared,
    visit: &Visit,
    form: &Form,
    chosen: &Chosen,
    back: &str,
) -> Result<Result<Deed, Response>, PageError> {
    let mut fields = Fields::typed(form, &["size", "expires", "note", "policy", "days"]);
    let wrong = |fields: &mut Fields, name: &str, key: &str| fields.fail(name, visit.lang.text(key));
    let deed = match form.get("do") {
        "package" => {
            let now = visit.backend().now();
            let bytes = size(visit.lang, form.get("size"), "size", &mut fields).flatten();
            if bytes.is_none() && !fields.wrong() {
                wrong(&mut fields, "size", "panel.invalid.size");
            }
            let expires_at = expiry(visit.lang, form.get("expires"), &now, &mut fields);
            let note = form.some("note").map(str::to_owned);
            let new = NewPackage { bytes: bytes.unwrap_or_default(), expires_at, note };
            if !fields.wrong()
                && let Err(error) = new.check(now.timestamp())
            {
                fields.refused(visit.lang, &error);
            }
            Deed::Package(new)
        }
        "policy" => {
            let policy = form.get("policy").to_owned();
            if !policy_names(visit).await?.contains(&policy) {
                wrong(&mut fields, "policy", "panel.invalid.policy");
            }
            Deed::Policy(policy)
        }
        _ => {
            let days = form.get("days").parse().ok().filter(|it| (1..=DAYS_MAX).contains(it));
            if days.is_none() {
                wrong(&mut fields, "days", "panel.invalid.days");
            }
            Deed::Extend(days.unwrap_or(1))
        }
    };
    if fields.wrong() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return forms(pages, visit, chosen, back, fields, status).await.map(Err);
    }
    Ok(Ok(deed))
}
