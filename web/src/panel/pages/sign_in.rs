//! `/sign-in` and `/sign-out`.

use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    response::{IntoResponse, Redirect},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::{
    Pages, Shared, Visit,
    form::Form,
    frame::{Answer, Frame, render_as},
    visit::is_own_path,
};
use crate::{
    access::{Presented, SignIn, Visitor},
    api::order::{Actor, Envelope, Identity, Origin},
    backend::ErrorKind,
};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page {
    f: Frame,
    /// Where to go afterwards.
    next: String,
    error: Option<String>,
    /// The password of made-up data.
    demo: Option<&'static str>,
}

#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    next: String,
    /// A form was sent without a session.
    #[serde(default)]
    lost: String,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, asked: Query<Asked>) -> Answer {
    let lost = !asked.lost.is_empty();
    let error = lost.then(|| visit.lang.text("panel.sign_in.lost").to_owned());
    page(&pages, &visit, own_path(&asked.next), error, StatusCode::OK)
}

fn page(pages: &Pages, visit: &Visit, next: String, error: Option<String>, status: StatusCode) -> Answer {
    let f = Frame::bare(pages, visit, "", visit.lang.text("panel.sign_in.title").to_owned());
    render_as(status, &Page { next, error, demo: pages.guard.front.demo_password(), f })
}

pub async fn save(
    State(pages): State<Shared>,
    visit: Visit,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    form: Form,
) -> Answer {
    let next = own_path(form.get("next"));
    let code = form.some("code").map(|it| it.chars().filter(|c| !c.is_whitespace()).collect());
    let sign_in = SignIn { password: form.raw("password").to_owned(), code };
    // Whatever the browser still presents is none of this.
    let stranger = Visitor { presented: None, ..visitor };
    match pages.guard.front.own().sign_in(&stranger, sign_in).await {
        Ok(signed_in) => {
            let mut response = Redirect::to(&format!("{}{next}", pages.base)).into_response();
            if let Some(cookie) = pages.guard.session_cookie(&headers, &signed_in.session) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Ok(response)
        }
        Err(error) => {
            let (key, status) = match error.kind {
                ErrorKind::Invalid if error.field.as_deref() == Some("code") => {
                    ("panel.sign_in.need_code", StatusCode::FORBIDDEN)
                }
                ErrorKind::NotPermitted => ("panel.sign_in.wrong", StatusCode::FORBIDDEN),
                ErrorKind::TooMany => ("panel.sign_in.too_many", StatusCode::TOO_MANY_REQUESTS),
                ErrorKind::Unavailable => ("panel.sign_in.busy", StatusCode::SERVICE_UNAVAILABLE),
                ErrorKind::Conflict => ("panel.sign_in.no_password", StatusCode::CONFLICT),
                _ => return Err(error.into()),
            };
            page(&pages, &visit, next, Some(visit.lang.text(key).to_owned()), status)
        }
    }
}

/// Ends the session; a browser without one is out already.
pub async fn out(
    State(pages): State<Shared>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
) -> Answer {
    if let Some(Presented::Session(_)) = &visitor.presented {
        let front = &pages.guard.front;
        match front.own().who(&visitor).await {
            Ok(who) => {
                let identity = Identity::Visitor { by: who.by, name: who.name.clone(), from: visitor.from };
                let envelope = Envelope::of(Actor { identity, origin: Origin::Panel });
                front.acting_for(&visitor).sign_out(envelope, &who).await?;
            }
            Err(error) if error.kind == ErrorKind::NotPermitted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut response = Redirect::to(&format!("{}/sign-in", pages.base)).into_response();
    if let Some(cookie) = pages.guard.session_cookie(&headers, "") {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Only a path of ours: anything else would send who signs in to another site.
fn own_path(next: &str) -> String {
    if is_own_path(next) { next.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn signing_in_goes_on_to_own_pages_only() {
        assert_eq!(own_path("/users?state=active"), "/users?state=active");
        for foreign in
            ["//evil.example", "https://evil.example", "/\\evil.example", "", "javascript:x", "/\t/evil"]
        {
            assert_eq!(own_path(foreign), "/", "{foreign}");
        }
    }
}
