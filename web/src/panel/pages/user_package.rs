//! `/users/{name}/package`: extra traffic, bought once.

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form, fresh_once},
    frame::{Answer, Frame, render_as},
    terms_values::{expiry, size},
    view::{segment, shown},
};
use crate::{
    api::{order::Envelope, types::NewPackage},
    backend::ErrorKind,
    units::Size,
};

const FIELDS: &[&str] = &["size", "expires", "note", "once"];

#[derive(Template)]
#[template(path = "user_package.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    form: Fields,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    visit.backend().user(&name).await?;
    let mut form = Fields::default();
    form.set("once", fresh_once());
    page(&pages, &visit, &name, form, StatusCode::OK).await
}

async fn page(pages: &Shared, visit: &Visit, name: &str, form: Fields, status: StatusCode) -> Answer {
    let f = Frame::load(pages, visit, "users", visit.lang.text("panel.package.add").to_owned()).await;
    let address = format!("{}/users/{}", f.base, segment(name));
    render_as(status, &Page { f, name: shown(name), address, form })
}

pub async fn save(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>, form: Form) -> Answer {
    let mut fields = Fields::typed(&form, FIELDS);
    let bytes = size(visit.lang, form.get("size"), "size", &mut fields).flatten();
    if bytes.is_none() && !fields.wrong() {
        fields.fail("size", visit.lang.text("panel.invalid.size"));
    }
    let expires_at = expiry(visit.lang, form.get("expires"), &visit.backend().now(), &mut fields);
    let note = form.some("note").map(str::to_owned);
    let new = NewPackage { bytes: bytes.unwrap_or_default(), expires_at, note };
    if !fields.wrong()
        && let Err(error) = new.check(visit.backend().now().timestamp())
    {
        fields.refused(visit.lang, &error);
    }
    if fields.wrong() {
        return page(&pages, &visit, &name, fields, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    let envelope = Envelope { key: form.once(&visit.path), ..visit.envelope() };
    match visit.backend().add_package(envelope, &name, new).await {
        Ok(added) => {
            let size = Size(added.package.bytes).to_string();
            let values = [("name", &*shown(&name)), ("size", &size)];
            Ok(Flash::done("panel.done.package", &values).to(&pages, &format!("/users/{}", segment(&name))))
        }
        Err(error) if error.kind == ErrorKind::Invalid => {
            fields.refused(visit.lang, &error);
            page(&pages, &visit, &name, fields, StatusCode::UNPROCESSABLE_ENTITY).await
        }
        Err(error) => Err(error.into()),
    }
}
