//! `/add-user`: a form, and after it what is handed over. The answer to the post is the page itself:
//! nothing keeps the credentials in between, and a repeated post with the same key answers the same.

use askama::Template;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    Shared, Visit,
    form::{Fields, Form, fresh_once},
    frame::{Answer, Frame, render, render_as},
    user_connect::Connect,
    user_form::{self, Choices},
    view::{segment, shown},
};
use crate::{
    api::{
        order::Envelope,
        types::{Credential, NewUser, UserAdded},
    },
    backend::ErrorKind,
};

#[derive(Template)]
#[template(path = "user_new.html")]
struct Page {
    f: Frame,
    form: Fields,
    hints: Fields,
    choices: Choices,
    /// Whether an empty field means what the policy says.
    inherits: bool,
}

#[derive(Template)]
#[template(path = "user_added.html")]
struct Added {
    f: Frame,
    name: String,
    address: String,
    /// Links and QR codes.
    connect: Option<Connect>,
    /// Of inbounds that have no link.
    credentials: Vec<Entry>,
}

/// The credentials of one inbound, as sing-box names them.
struct Entry {
    inbound: String,
    kind: String,
    fields: Vec<(String, String, String)>,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let mut form = Fields::default();
    form.set("once", fresh_once());
    page(&pages, &visit, form, None, StatusCode::OK).await
}

async fn page(
    pages: &Shared,
    visit: &Visit,
    form: Fields,
    inbounds: Option<&[String]>,
    status: StatusCode,
) -> Answer {
    let choices = user_form::choices(visit, form.v("policy"), inbounds).await?;
    let f = Frame::load(pages, visit, "users", visit.lang.text("panel.users.add").to_owned()).await;
    render_as(status, &Page { f, form, hints: Fields::default(), choices, inherits: true })
}

pub async fn save(State(pages): State<Shared>, visit: Visit, headers: HeaderMap, form: Form) -> Answer {
    let mut fields = Fields::typed(&form, &user_form::all_fields());
    let now = visit.backend().now();
    let typed = user_form::read(visit.lang, &form, None, &now, &mut fields);
    let new = NewUser {
        name: form.get("name").to_owned(),
        policy: typed.policy,
        terms: typed.terms,
        email: typed.email,
        note: typed.note,
        expires_at: typed.expires_at,
        inbounds: Some(typed.inbounds.clone()).filter(|it| !it.is_empty()),
    };
    if let Err(error) = new.check(now.timestamp()) {
        fields.refused(visit.lang, &error);
    }
    if !fields.wrong() {
        let envelope = Envelope { key: form.once(&visit.path), ..visit.envelope() };
        match visit.backend().add_user(envelope, new).await {
            Ok(added) => return self::added(&pages, &visit, &headers, &added).await,
            Err(error) if error.kind == ErrorKind::Conflict => {
                fields.fail("name", visit.lang.text("panel.invalid.taken"));
            }
            Err(error) if error.kind == ErrorKind::Invalid => fields.refused(visit.lang, &error),
            Err(error) => return Err(error.into()),
        }
    }
    page(&pages, &visit, fields, Some(&typed.inbounds), StatusCode::UNPROCESSABLE_ENTITY).await
}

async fn added(pages: &Shared, visit: &Visit, headers: &HeaderMap, added: &UserAdded) -> Answer {
    let title = visit.lang.text("panel.added.title").to_owned();
    let f = Frame::load(pages, visit, "users", title).await;
    let found = visit.backend().credentials(&added.user.name).await.ok();
    let connect = match &found {
        Some(it) => Some(Connect::of(pages, visit, headers, it).await),
        None => None,
    };
    // Those of the other inbounds stand beside their links.
    let linked = |tag: &str| found.iter().flat_map(|it| &it.servers).any(|it| it.server.inbound == tag);
    let lone = added.credentials.iter().filter(|it| !linked(&it.inbound));
    let page = Added {
        connect,
        name: shown(&added.user.name),
        address: format!("{}/users/{}", f.base, segment(&added.user.name)),
        credentials: lone.enumerate().map(entry).collect(),
        f,
    };
    render(&page)
}

fn entry((number, credential): (usize, &Credential)) -> Entry {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let fields = credential
        .entry
        .iter()
        .enumerate()
        .map(|(at, (name, value))| (format!("lone-{number}-{at}"), shown(name), shown(&text(value))));
    Entry { inbound: shown(&credential.inbound), kind: shown(&credential.kind), fields: fields.collect() }
}
