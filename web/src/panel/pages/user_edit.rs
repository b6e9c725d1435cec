//! `/users/{name}/edit`. The form carries the revision that it was made from, and what stood in it then: if
//! somebody changed the user meanwhile, fields that were not touched here take what is there now, those
//! that both changed are shown with both values, and the decision is made anew.

use std::collections::BTreeMap;

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
    fields.set("inbounds", listed(&user.inbounds));
    let before = fields.json(&[&own_fields()[..], &["inbounds"]].concat());
    fields.set("before", before);
    fields
}

/// Inbounds in a fixed order.
fn listed(inbounds: &[String]) -> String {
    let mut sorted: Vec<&str> = inbounds.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.join("\n")
}

/// The fields that say something about the user.
fn own_fields() -> Vec<&'static str> {
    let all = user_form::all_fields().into_iter();
    all.filter(|name| !matches!(*name, "name" | "once" | "rev" | "before")).collect()
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
            let before: BTreeMap<String, String> =
                serde_json::from_str(fields.v("before")).unwrap_or_default();
            let clashes = merge(visit.lang, &before, &there, &mut fields);
            if clashes.is_empty() {
                fields.fail("", visit.lang.text("panel.stale.taken_over"));
            }
            let untouched = before.get("inbounds") == Some(&listed(&typed.inbounds));
            let inbounds = if untouched { &current.inbounds } else { &typed.inbounds };
            let status = StatusCode::PRECONDITION_FAILED;
            page(&pages, &visit, &current, fields, inbounds, clashes, status).await
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

/// Takes over what somebody else changed and this form did not; gives the fields that both changed.
fn merge(lang: Lang, before: &BTreeMap<String, String>, there: &Fields, typed: &mut Fields) -> Vec<Clash> {
    let none = || lang.text("panel.form.empty").to_owned();
    let text = |value: &str| if value.is_empty() { none() } else { shown(value) };
    let normal = |value: &str| value.trim().replace("\r\n", "\n");
    let mut clashes = Vec::new();
    for name in own_fields() {
        let (now, ours) = (there.v(name).to_owned(), typed.v(name).to_owned());
        let was = before.get(name).map_or("", String::as_str);
        if normal(&now) == normal(&ours) || normal(&now) == normal(was) {
            continue;
        }
        if normal(&ours) == normal(was) {
            typed.set(name, now);
            continue;
        }
        let label = lang.text(&format!("panel.field.{name}")).to_owned();
        clashes.push(Clash { label, now: text(&now), typed: text(&ours) });
    }
    for name in ["rev", "before"] {
        typed.set(name, there.v(name));
    }
    clashes
}
