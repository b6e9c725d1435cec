//! `/add-policy` and `/policies/{name}`: the terms of a plan.

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form, fresh_once},
    frame::{Answer, Frame, render_as},
    terms_form,
    view::{segment, shown},
};
use crate::{
    api::{
        order::Envelope,
        types::{NewPolicy, Overrides, Policy, PolicyChange, Terms},
    },
    backend::ErrorKind,
};

/// The policy that stays what its name says.
pub const FIXED: &str = "unlimited";

#[derive(Template)]
#[template(path = "policy_save.html")]
struct Page {
    f: Frame,
    /// Empty for a new one.
    name: String,
    address: String,
    form: Fields,
    hints: Fields,
    inherits: bool,
    zones: Vec<&'static str>,
    /// What somebody else made of it meanwhile: label, now, typed here.
    clashes: Vec<(String, String, String)>,
    users: u64,
}

pub async fn new(State(pages): State<Shared>, visit: Visit) -> Answer {
    let mut form = Fields::default();
    terms_form::fill(&mut form, &terms_form::of_terms(&Terms::default()));
    form.set("once", fresh_once());
    page(&pages, &visit, None, form, Vec::new(), StatusCode::OK).await
}

pub async fn edit(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    let policy = visit.backend().policy(&name).await?.policy;
    let form = fields_of(&policy);
    page(&pages, &visit, Some(&policy), form, Vec::new(), StatusCode::OK).await
}

fn fields_of(policy: &Policy) -> Fields {
    let mut form = Fields::default();
    terms_form::fill(&mut form, &terms_form::of_terms(&policy.terms));
    form.set("rev", policy.rev.to_string());
    form
}

async fn page(
    pages: &Shared,
    visit: &Visit,
    policy: Option<&Policy>,
    form: Fields,
    clashes: Vec<(String, String, String)>,
    status: StatusCode,
) -> Answer {
    let key = if policy.is_some() { "panel.policy.edit" } else { "panel.policy.add" };
    let f = Frame::load(pages, visit, "policies", visit.lang.text(key).to_owned()).await;
    let address = match policy {
        Some(it) => format!("{}/policies/{}", f.base, segment(&it.name)),
        None => format!("{}/add-policy", f.base),
    };
    let page = Page {
        name: policy.map(|it| shown(&it.name)).unwrap_or_default(),
        users: policy.map_or(0, |it| it.users),
        address,
        form,
        hints: Fields::default(),
        inherits: false,
        zones: super::user_form::ZONES.to_vec(),
        clashes,
        f,
    };
    render_as(status, &page)
}

fn fields() -> Vec<&'static str> {
    ["name", "once", "rev"].iter().chain(terms_form::FIELDS).copied().collect()
}

pub async fn create(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let mut typed = Fields::typed(&form, &fields());
    let own = terms_form::read(visit.lang, &form, &Overrides::default(), &mut typed);
    let new = NewPolicy { name: form.get("name").to_owned(), terms: terms_form::whole(own) };
    if let Err(error) = new.check() {
        typed.refused(visit.lang, &error);
    }
    if !typed.wrong() {
        let envelope = Envelope { key: form.once(&visit.path), ..visit.envelope() };
        match visit.backend().add_policy(envelope, new).await {
            Ok(done) => {
                let values = [("name", &*shown(&done.policy.name))];
                return Ok(Flash::done("panel.done.policy_added", &values).to(&pages, "/policies"));
            }
            Err(error) if error.kind == ErrorKind::Conflict => {
                typed.fail("name", visit.lang.text("panel.invalid.taken"));
            }
            Err(error) if error.kind == ErrorKind::Invalid => typed.refused(visit.lang, &error),
            Err(error) => return Err(error.into()),
        }
    }
    page(&pages, &visit, None, typed, Vec::new(), StatusCode::UNPROCESSABLE_ENTITY).await
}

pub async fn change(
    State(pages): State<Shared>,
    visit: Visit,
    Path(name): Path<String>,
    form: Form,
) -> Answer {
    let policy = visit.backend().policy(&name).await?.policy;
    let mut typed = Fields::typed(&form, &fields());
    let before = terms_form::of_terms(&policy.terms);
    let own = terms_form::read(visit.lang, &form, &before, &mut typed);
    let change = PolicyChange { terms: terms_form::whole(own) };
    if !typed.wrong()
        && let Err(error) = change.check(&policy.terms)
    {
        typed.refused(visit.lang, &error);
    }
    if typed.wrong() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return page(&pages, &visit, Some(&policy), typed, Vec::new(), status).await;
    }
    let envelope = Envelope { if_rev: form.get("rev").parse().ok(), ..visit.envelope() };
    match visit.backend().change_policy(envelope, &name, change).await {
        Ok(_) => {
            let values = [("name", &*shown(&name))];
            Ok(Flash::done("panel.done.changed", &values).to(&pages, "/policies"))
        }
        Err(error) if error.kind == ErrorKind::Stale => {
            let current = visit.backend().policy(&name).await?.policy;
            let clashes = clashes(&visit, &fields_of(&current), &typed);
            typed.set("rev", current.rev.to_string());
            page(&pages, &visit, Some(&current), typed, clashes, StatusCode::PRECONDITION_FAILED).await
        }
        Err(error) if error.kind == ErrorKind::Invalid => {
            typed.refused(visit.lang, &error);
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            page(&pages, &visit, Some(&policy), typed, Vec::new(), status).await
        }
        Err(error) => Err(error.into()),
    }
}

fn clashes(visit: &Visit, there: &Fields, typed: &Fields) -> Vec<(String, String, String)> {
    let lang = visit.lang;
    let text = |value: &str| {
        if value.is_empty() { lang.text("panel.form.empty").to_owned() } else { shown(value) }
    };
    let differs = |name: &&&str| there.v(name).trim() != typed.v(name).trim();
    let clash = |name: &&str| {
        let label = lang.text(&format!("panel.field.{name}")).to_owned();
        (label, text(there.v(name)), text(typed.v(name)))
    };
    terms_form::FIELDS.iter().filter(differs).map(clash).collect()
}
