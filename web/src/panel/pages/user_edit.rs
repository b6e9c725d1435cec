//! `/users/{name}/edit`. The form carries the revision that it was made from: if somebody changed
//! the user meanwhile, both values are shown, and the decision is made anew.

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form},
    frame::{Answer, Frame, render_as},
    terms_form,
    terms_values::moment_field,
    user_form::{self, Choices, Typed},
    view::{segment, shown},
};
use crate::{
    api::{
        order::Envelope,
        types::{User, UserChange},
    },
    backend::{ApiError, ErrorKind},
    locale::Lang,
};

#[derive(Template)]
#[template(path = "user_edit.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    form: Fields,
    hints: Fields,
    choices: Choices,
    inherits: bool,
    /// Fields that somebody else changed: label, what it is now, what was typed here.
    clashes: Vec<Clash>,
}

struct Clash {
    label: String,
    now: String,
    typed: String,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    let user = visit.backend().user(&name).await?.user;
    let form = fields_of(&visit, &user);
    page(&pages, &visit, &user, form, &user.inbounds, Vec::new(), StatusCode::OK).await
}

/// The user as it stands in the form.
fn fields_of(visit: &Visit, user: &User) -> Fields {
    let mut fields = Fields::default();
    terms_form::fill(&mut fields, &user.overrides);
    fields.set("policy", user.policy.clone().unwrap_or_default());
    fields.set("email", user.email.clone().unwrap_or_default());
    fields.set("note", user.note.clone().unwrap_or_default());
    fields.set("expires", moment_field(user.expires_at.as_ref(), &visit.backend().now()));
    fields.set("rev", user.rev.to_string());
    fields
}

async fn page(
    pages: &Shared,
    visit: &Visit,
    user: &User,
    form: Fields,
    inbounds: &[String],
    clashes: Vec<Clash>,
    status: StatusCode,
) -> Answer {
    let policy = form.v("policy").to_owned();
    let title = visit.lang.text("panel.user.edit").to_owned();
    let (choices, f, policy) = tokio::join!(
        user_form::choices(visit, &policy, Some(inbounds)),
        Frame::load(pages, visit, "users", title),
        visit.backend().policy(&policy),
    );
    let hints = policy.map(|it| user_form::policy_hint(&f, &it.policy)).unwrap_or_default();
    let address = format!("{}/users/{}", f.base, segment(&user.name));
    let name = shown(&user.name);
    let page = Page { f, name, address, form, hints, choices: choices?, inherits: true, clashes };
    render_as(status, &page)
}

pub async fn save(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>, form: Form) -> Answer {
    let now = visit.backend().now();
    let user = visit.backend().user(&name).await?.user;
    let mut fields = Fields::typed(&form, &user_form::all_fields());
    let typed = user_form::read(visit.lang, &form, Some(&user), &now, &mut fields);
    let change = change(&user, &typed);
    if let Err(error) = check(&change, &user, now.timestamp()) {
        fields.refused(visit.lang, &error);
    }
    if fields.wrong() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return page(&pages, &visit, &user, fields, &typed.inbounds, Vec::new(), status).await;
    }
    let path = format!("/users/{}", segment(&name));
    let told = |key: &str| Flash::done(key, &[("name", &shown(&name))]).to(&pages, &path);
    if change.is_empty() {
        return Ok(told("panel.done.unchanged"));
    }
    let envelope = Envelope { if_rev: form.get("rev").parse().ok(), ..visit.envelope() };
    match visit.backend().change_user(envelope, &name, change).await {
        Ok(done) if done.changed => Ok(told("panel.done.changed")),
        Ok(_) => Ok(told("panel.done.unchanged")),
        Err(error) if error.kind == ErrorKind::Stale => {
            let current = visit.backend().user(&name).await?.user;
            let there = fields_of(&visit, &current);
            let clashes = clashes(visit.lang, &there, &fields);
            fields.set("rev", current.rev.to_string());
            let status = StatusCode::PRECONDITION_FAILED;
            page(&pages, &visit, &current, fields, &typed.inbounds, clashes, status).await
        }
        Err(error) if error.kind == ErrorKind::Invalid => {
            fields.refused(visit.lang, &error);
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            page(&pages, &visit, &user, fields, &typed.inbounds, Vec::new(), status).await
        }
        Err(error) => Err(error.into()),
    }
}

/// An expiry that stays may lie in the past; a new one may not.
fn check(change: &UserChange, user: &User, now: jiff::Timestamp) -> Result<(), ApiError> {
    if change.is_empty() {
        return Ok(());
    }
    let mut checked = change.clone();
    if checked.expires_at == Some(user.expires_at) {
        checked.expires_at = None;
    }
    if checked.is_empty() { Ok(()) } else { checked.check(now) }
}

/// What differs between the user and what was typed.
fn change(user: &User, typed: &Typed) -> UserChange {
    let differs = |own: &Option<String>, new: &Option<String>| (own != new).then(|| new.clone());
    let mut sorted = (user.inbounds.clone(), typed.inbounds.clone());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    UserChange {
        policy: typed.policy.clone().filter(|it| user.policy.as_ref() != Some(it)),
        inherit: terms_form::given_back(&user.overrides, &typed.terms),
        terms: typed.terms.without(&user.overrides),
        email: differs(&user.email, &typed.email),
        note: differs(&user.note, &typed.note),
        expires_at: (user.expires_at != typed.expires_at).then_some(typed.expires_at),
        inbounds: (sorted.0 != sorted.1 && !typed.inbounds.is_empty()).then(|| typed.inbounds.clone()),
    }
}

/// The fields in which what is there differs from what was typed.
fn clashes(lang: Lang, there: &Fields, typed: &Fields) -> Vec<Clash> {
    let none = || lang.text("panel.form.empty").to_owned();
    let text = |value: &str| if value.is_empty() { none() } else { shown(value) };
    let normal = |value: &str| value.trim().replace("\r\n", "\n");
    user_form::all_fields()
        .into_iter()
        .filter(|name| !matches!(*name, "name" | "once" | "rev"))
        .filter(|name| normal(there.v(name)) != normal(typed.v(name)))
        .map(|name| Clash {
            label: lang.text(&format!("panel.field.{name}")).to_owned(),
            now: text(there.v(name)),
            typed: text(typed.v(name)),
        })
        .collect()
}
