//! The public part of the panel, below `/s/`: whoever has the secret of a subscription gets it, in the
//! form that the program asks for, or as a page. No session, no cookie, no script; nothing is kept.
//!
//! A secret that opens nothing is answered as any other; looking secrets up is limited per address.

mod limit;
mod page;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    api::{
        error::{ApiError, ErrorKind},
        params::Pairs,
        sharing::Subscription,
    },
    backend::Backend,
    locale::Lang,
    share::{
        self, Wanted,
        choose::{self, Asked},
        headers,
    },
};
use limit::Limit;

/// No script runs, nothing is loaded from elsewhere, nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Secrets are 43 characters; longer ones are not looked for.
const TOKEN_BYTES_MAX: usize = 100;

/// The style of the pages, below `/s/`.
const STYLE: &str = "-/public.css";

/// Where a request came from, as the listener knows it: the peer, or what a trusted proxy says.
#[derive(Clone, Copy, Debug)]
pub struct Visitor(pub IpAddr);

/// How visitors reach the panel, where `[panel] public_url` does not say it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// In front of every path; empty or `/panel`.
    pub base_path: String,
    /// The panel itself speaks TLS.
    pub https: bool,
    /// Instead of the browser's wish.
    pub language: Option<Lang>,
}

struct Public {
    backend: Arc<dyn Backend>,
    options: Options,
    limit: Limit,
}

type Shared = Arc<Public>;

/// Whether a path, without the base, is one of [`router`]'s.
pub fn has(path: &str) -> bool {
    path.strip_prefix("/s/").is_some_and(|rest| rest == STYLE || !rest.contains('/'))
}

/// The routes below `/s/`. Requests carry a [`Visitor`]; those without are limited together.
pub fn router(backend: Arc<dyn Backend>, options: Options) -> Router {
    let public = Arc::new(Public { backend, options, limit: Limit::default() });
    Router::new()
        .route("/s/{token}", get(subscription))
        .route(&format!("/s/{STYLE}"), get(style))
        .with_state(public)
}

async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, include_str!("../../../static/public.css")).into_response()
}

fn text<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn subscription(
    State(public): State<Shared>,
    visitor: Option<Extension<Visitor>>,
    Path(token): Path<String>,
    query: Result<Query<Pairs>, QueryRejection>,
    request: HeaderMap,
) -> Response {
    let pairs = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let lang = language(&public.options, &pairs, &request);
    let asked = match Asked::read(pairs.into_iter().filter(|(key, _)| key != "lang").collect()) {
        Ok(asked) => asked,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error.message),
    };
    let wanted = choose::choose(asked, text(&request, &header::USER_AGENT), text(&request, &header::ACCEPT));
    let visitor = visitor.map(|Extension(Visitor(address))| address);
    if !public.limit.take(visitor, tokio::time::Instant::now().into_std()) {
        return too_many(&public, lang, wanted);
    }
    let found = match token.len() <= TOKEN_BYTES_MAX {
        true => public.backend.subscription(&token).await,
        false => Err(ApiError::no_such_subscription()),
    };
    match (found, wanted) {
        (Ok(subscription), Wanted::Page) => {
            let url = address(&public, &subscription, &token, &request);
            html(StatusCode::OK, page::render(&subscription, &url, lang, &public.options.base_path))
        }
        (Ok(subscription), Wanted::Body { format, tun }) => {
            let mut answer = headers::of(&subscription, format);
            answer.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            (answer, share::body(&subscription, format, tun)).into_response()
        }
        (Err(error), wanted) => failed(&public, lang, wanted, &error),
    }
}

fn failed(public: &Public, lang: Lang, wanted: Wanted, error: &ApiError) -> Response {
    let (status, key) = match error.kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "self.unknown"),
        _ => {
            tracing::warn!("answering a subscription: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "self.unavailable")
        }
    };
    match wanted {
        Wanted::Page => refused(public, lang, status, key),
        // A client shows the text to nobody; its status says enough.
        Wanted::Body { .. } => plain(status, Lang::En.text(key)),
    }
}

fn refused(public: &Public, lang: Lang, status: StatusCode, key: &str) -> Response {
    html(status, page::nothing(lang, &public.options.base_path, lang.text(key)))
}

fn too_many(public: &Public, lang: Lang, wanted: Wanted) -> Response {
    const STATUS: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    let mut response = match wanted {
        Wanted::Page => refused(public, lang, STATUS, "self.too_many"),
        Wanted::Body { .. } => plain(STATUS, Lang::En.text("self.too_many")),
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    response
}

fn html(status: StatusCode, page: String) -> Response {
    let mut headers = headers::secret();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    (status, headers, Html(page)).into_response()
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut headers = headers::secret();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    (status, headers, format!("{text}\n")).into_response()
}

/// The address that a client is to keep: the one of the configuration, or the one it was asked at.
fn address(public: &Public, subscription: &Subscription, token: &str, request: &HeaderMap) -> String {
    if let Some(url) = &subscription.profile.url {
        return url.clone();
    }
    let host: String = text(request, &header::HOST)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
        .collect();
    let scheme = if public.options.https { "https" } else { "http" };
    format!("{scheme}://{host}{}/s/{}", public.options.base_path, share::percent(token))
}

/// `lang` of the address, the configuration, then the browser's wish.
fn language(options: &Options, pairs: &Pairs, request: &HeaderMap) -> Lang {
    let said = pairs.iter().find(|(key, _)| key == "lang").and_then(|(_, value)| Lang::of(value));
    let wished = || {
        let wishes = text(request, &header::ACCEPT_LANGUAGE).split(',');
        wishes.filter_map(|wish| Lang::of(wish.split(';').next().unwrap_or_default().trim())).next()
    };
    said.or(options.language).or_else(wished).unwrap_or_default()
}

#[cfg(test)]
mod tests;
