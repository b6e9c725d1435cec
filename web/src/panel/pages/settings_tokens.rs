//! `/settings/tokens`: ways in for programs. The secret is in the answer to the post and nowhere else.

use askama::Template;
use axum::extract::State;
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form},
    frame::{Answer, Frame, render},
    settings::{page, scope_word},
    terms_values::expiry,
    view::shown,
};
use crate::{
    access::{NewToken, TokenAdded},
    api::{order::Envelope, routes::Access},
    backend::ErrorKind,
};

#[derive(Template)]
#[template(path = "settings_token.html")]
struct Page {
    f: Frame,
    name: String,
    secret: String,
}

pub async fn add(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let mut fields = Fields::typed(&form, &["name", "scope", "expires"]);
    let now = visit.backend().now();
    let expires_at = expiry(visit.lang, form.get("expires"), &now, &mut fields).map(|it| it.instant);
    let scope = [Access::Read, Access::Users, Access::Admin]
        .into_iter()
        .find(|it| scope_word(*it) == form.get("scope"))
        .unwrap_or(Access::Read);
    let new = NewToken { name: form.get("name").to_owned(), scope, expires_at };
    if let Err(error) = new.check(now.timestamp()) {
        fields.refused(visit.lang, &error);
    }
    if !fields.wrong() {
        let envelope = Envelope { key: form.once(&visit.path), ..visit.envelope() };
        match visit.backend().add_token(envelope, new).await {
            Ok(added) => return self::added(&pages, &visit, added).await,
            Err(error) if error.kind == ErrorKind::Conflict => {
                fields.fail("name", visit.lang.text("panel.invalid.taken"));
            }
            Err(error) if error.kind == ErrorKind::Invalid => fields.refused(visit.lang, &error),
            Err(error) => return Err(error.into()),
        }
    }
    page(&pages, &visit, "token", fields, StatusCode::UNPROCESSABLE_ENTITY).await
}

async fn added(pages: &Shared, visit: &Visit, added: TokenAdded) -> Answer {
    let f = Frame::load(pages, visit, "settings", visit.lang.text("panel.token.added").to_owned()).await;
    render(&Page { f, name: shown(&added.token.name), secret: added.secret })
}

pub async fn delete(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    visit.backend().delete_token(visit.envelope(), form.get("id")).await?;
    Ok(Flash::done("panel.done.token_deleted", &[]).to(&pages, "/settings"))
}
