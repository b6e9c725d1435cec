//! Pages for what went wrong, and what happens around every page: the visit is read once before
//! it, and messages of the page before are put away after it.

use askama::Template;
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use super::{
    Shared, Visit, flash,
    frame::{Frame, PageError, render_as},
    view::shown,
};
use crate::{
    backend::{ApiError, ErrorKind},
    panel::guard::Inside,
};

#[derive(Template)]
#[template(path = "error.html")]
struct Page {
    f: Frame,
    heading: String,
    text: String,
    /// The agent's own words, in English.
    detail: Option<String>,
}

/// Around every page.
pub async fn pages(State(pages): State<Shared>, mut request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut visit = Visit::read(&parts, &pages);
    request = Request::from_parts(parts, body);
    request.extensions_mut().insert(visit.clone());
    let mut response = next.run(request).await;
    // A page about an error has the frame of who is signed in.
    visit.inside = response.extensions_mut().remove::<Inside>();
    let error = response.extensions_mut().remove::<PageError>();
    if let Some(error) = error {
        let cookies: Vec<HeaderValue> =
            response.headers().get_all(header::SET_COOKIE).iter().cloned().collect();
        response = page(&pages, &visit, &error).await;
        for cookie in cookies {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    let html = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
    if html {
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("Cookie, Accept-Language"));
        if visit.flash.is_some()
            && let Some(cookie) = flash::forget(&pages)
        {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    response
}

async fn page(pages: &Shared, visit: &Visit, PageError(error): &PageError) -> Response {
    if matches!(error.kind, ErrorKind::Internal | ErrorKind::Failed) {
        tracing::error!(path = visit.path, error = %error, "a page failed");
    }
    let word = match error.kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::NotPermitted => "not_permitted",
        ErrorKind::NotRunning => "not_running",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Stale => "stale",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::TooMany => "too_many",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::BadRequest | ErrorKind::Invalid | ErrorKind::Reserved => "bad_request",
        ErrorKind::Failed | ErrorKind::Internal => "internal",
    };
    let text = |part: &str| visit.lang.text(&format!("panel.error.{word}.{part}")).to_owned();
    let known = matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotRunning | ErrorKind::Internal);
    let page = Page {
        f: Frame::bare(pages, visit, "", text("title")),
        heading: text("title"),
        text: text("text"),
        detail: (!known || error.kind == ErrorKind::NotFound).then(|| shown(&error.message)),
    };
    match render_as(error.kind.status(), &page) {
        Ok(response) => response,
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, page.heading).into_response(),
    }
}

pub async fn no_such_page(visit: Visit) -> PageError {
    PageError(ApiError::not_found(format!("there is no page {:?}", visit.path)))
}

pub async fn wrong_method() -> PageError {
    PageError(ApiError::bad_request("this address takes another kind of request"))
}
