//! What every request passes before a page sees it: whether it names us, where it comes from, who sent it,
//! and whether another site had it sent. And what every answer gets on its way out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    front::Front,
    options::{NOWHERE, Options},
    pages::visit::cookie,
};
use crate::{
    access::{self, Presented, Visitor, Who},
    api::{PREFIX, access_routes::bearer, routes::BODY_BYTES_MAX},
    backend::{ApiError, Backend, ErrorKind},
    share::percent,
};

/// A form's bytes: a note and a few numbers.
pub const FORM_BYTES_MAX: usize = 256 << 10;
/// The same of who is not in: a password and a code.
pub const OPEN_FORM_BYTES_MAX: usize = 16 << 10;
/// The longest that a session lasts, in seconds: the agent ends it, the browser is only not to forget it before.
const SESSION_S: u32 = 14 * 86_400;
/// How long an answer may take to begin.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
/// How long a body may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// What pages send with what they ask for by themselves.
const UNATTENDED: &str = "x-unattended";
/// Live streams at a time; a page holds one.
pub const STREAMS_MAX: usize = 200;
/// A stream's visitor is asked for again so often: an ended session ends its streams.
const STILL_IN_EVERY: Duration = Duration::from_secs(30);
/// Nothing from elsewhere, nothing inline, nobody frames us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the layers share.
pub struct Guard {
    pub front: Arc<dyn Front>,
    pub options: Options,
    streams: Arc<Semaphore>,
    hiding_told: AtomicBool,
}

/// Somebody who is in, with what answers for that one.
#[derive(Clone)]
pub struct Inside {
    pub visitor: Visitor,
    pub who: Who,
    pub backend: Arc<dyn Backend>,
    /// What forms carry; empty for a token, which no browser sends by itself.
    pub csrf: String,
}

impl Guard {
    pub fn new(front: Arc<dyn Front>, options: Options) -> Arc<Self> {
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Arc::new(Guard { front, options, streams, hiding_told: AtomicBool::new(false) })
    }

    /// The cookie of sessions. Under TLS no other host and no plain connection can set it.
    fn cookie_name(&self, headers: &HeaderMap) -> &'static str {
        if self.options.secure_at(headers) { "__Host-boxmeter" } else { "boxmeter_session" }
    }

    /// `Set-Cookie` of a session, in the answer to a request with these headers; an empty one ends it.
    pub fn session_cookie(&self, headers: &HeaderMap, session: &str) -> Option<HeaderValue> {
        let secure = if self.options.secure_at(headers) { "; Secure" } else { "" };
        let age = if session.is_empty() { 0 } else { SESSION_S };
        let name = self.cookie_name(headers);
        HeaderValue::from_str(&format!(
            "{name}={session}; Path=/; HttpOnly; SameSite=Lax{secure}; Max-Age={age}"
        ))
        .ok()
    }

    /// `below`: the path without the base.
    fn visitor(&self, request: &Request, below: &str) -> Visitor {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip());
        let headers = request.headers();
        let peer = peer.unwrap_or(NOWHERE);
        let from = self.options.visitor_address(peer, headers);
        if self.options.hides_visitors(peer, headers) && !self.hiding_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a reverse proxy on this machine names its visitors, and is not believed: everybody has the address \
                 {from} and shares its attempts to sign in. If it is yours, add {peer} to trusted_proxies in [panel]"
            );
        }
        let presented = match bearer(headers) {
            Some(token) => Some(Presented::Token(token.to_owned())),
            None => cookie(headers, self.cookie_name(headers))
                .filter(|it| !it.is_empty())
                .map(|session| Presented::Session(session.to_owned())),
        };
        let browser = headers.get(header::USER_AGENT).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let unattended = is_stream(below) || headers.contains_key(UNATTENDED);
        Visitor { presented, from, browser: browser.chars().take(200).collect(), unattended }
    }
}

/// Around everything: names, times, and the headers of each answer.
pub async fn outermost(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let secure = guard.options.secure_at(request.headers());
    let below = request.uri().path().strip_prefix(&*guard.options.base_path).unwrap_or_default();
    // Pages of users have no cookie that another name could be a way to; their secret is in the address.
    let mut response = if super::public::has(below) || guard.options.knows_host(host) {
        let visitor = guard.visitor(&request, below);
        request.extensions_mut().insert(super::public::Visitor(visitor.from));
        request.extensions_mut().insert(visitor);
        match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time; try again\n").into_response(),
        }
    } else {
        let text = "this is boxmeter's panel, but it does not know this name for itself: open it at its address, or set \
            public_url under [panel] in boxmeter's configuration\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    let headers = response.headers_mut();
    let always = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // Not "no-referrer": browsers then send `Origin: null` with our own forms.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in always {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if secure {
        let value = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    response
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a browser says that another site had this request sent.
fn foreign(options: &Options, headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").and_then(|it| it.to_str().ok());
    match (options.own_origin(headers), site) {
        (Some(false), _) => true,
        (_, Some(site)) => !matches!(site, "same-origin" | "none"),
        (_, None) => false,
    }
}

/// Around what needs no session but changes something: signing in and out, preferences.
pub async fn own_site(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if changes(request.method()) && foreign(&guard.options, request.headers()) {
        return super::pages::refused(ApiError::not_permitted("another site had this request sent"));
    }
    next.run(request).await
}

/// Around the pages: who is not in goes to the page of signing in and comes back later.
pub async fn signed_in(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>().cloned() else {
        return super::pages::refused(ApiError::internal("a request without a visitor"));
    };
    // Pages are for sessions; a token in a browser would not pass the check of forms.
    let session = match &visitor.presented {
        Some(Presented::Session(session)) => session.clone(),
        _ => return to_sign_in(&guard, &request),
    };
    let who = match guard.front.own().who(&visitor).await {
        Ok(who) => who,
        Err(error) if error.kind == ErrorKind::NotPermitted => return to_sign_in(&guard, &request),
        Err(error) => return super::pages::refused(error),
    };
    let csrf = access::csrf(&session);
    if changes(request.method()) {
        if foreign(&guard.options, request.headers()) {
            return super::pages::refused(ApiError::not_permitted("another site had this request sent"));
        }
        request = match with_token(request, &csrf).await {
            Ok(request) => request,
            Err(error) => return super::pages::refused(error),
        };
    }
    let permit = match stream_place(&guard, &request) {
        Ok(permit) => permit,
        Err(error) => return error.into_response(),
    };
    let backend = guard.front.acting_for(&visitor);
    let asker = visitor.clone();
    let inside = Inside { visitor, who, backend, csrf };
    request.extensions_mut().insert(inside.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(inside);
    held(&guard, asker, response, permit)
}

fn to_sign_in(guard: &Guard, request: &Request) -> Response {
    let base = &guard.options.base_path;
    match (request.method(), request.headers().get("hx-request")) {
        // htmx would put the page of signing in into a part of this one.
        (_, Some(_)) => {
            let mut response = StatusCode::UNAUTHORIZED.into_response();
            if let Ok(to) = HeaderValue::from_str(&format!("{base}/sign-in")) {
                response.headers_mut().insert("hx-redirect", to);
            }
            response
        }
        (method, None) => {
            let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
            let lost = if changes(method) { "&lost=1" } else { "" };
            Redirect::to(&format!("{base}/sign-in?next={}{lost}", percent(path))).into_response()
        }
    }
}

/// Looks for the session's token in the header or the form, and gives the request back with its body.
async fn with_token(request: Request, csrf: &str) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    if parts.headers.get("x-csrf-token").is_some_and(|it| it.as_bytes() == csrf.as_bytes()) {
        return Ok(Request::from_parts(parts, body));
    }
    let bytes = read_form(body).await?;
    let said = form_field(&bytes, "csrf");
    if said.as_deref() != Some(csrf) {
        return Err(ApiError::not_permitted(
            "this form is of another session or was not made by this panel: load the page again",
        ));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

async fn read_form(body: Body) -> Result<Bytes, ApiError> {
    let read = axum::body::to_bytes(body, FORM_BYTES_MAX);
    match tokio::time::timeout(BODY_TIME_MAX, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ApiError::new(ErrorKind::TooLarge, "the form is too long")),
        Err(_) => Err(ApiError::unavailable("the form did not come in time")),
    }
}

/// The first value of a form's field. Ours are plain, so that what is written oddly is not ours.
fn form_field(form: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(form).ok()?;
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Whether a path, without the base, is that of a stream, which goes on by itself.
fn is_stream(path: &str) -> bool {
    path == "/live" || path.strip_prefix(PREFIX) == Some("/stream")
}

/// A place for a stream, if the request is for one.
fn stream_place(guard: &Guard, request: &Request) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if !is_stream(request.uri().path()) {
        return Ok(None);
    }
    match Arc::clone(&guard.streams).try_acquire_owned() {
        Ok(permit) => Ok(Some(permit)),
        Err(_) => {
            tracing::warn!("more than {STREAMS_MAX} live pages are open; another one is refused");
            Err(ApiError::unavailable(format!("more than {STREAMS_MAX} live pages are open")))
        }
    }
}

/// A stream keeps its place until it has ended, which is at the latest soon after its visitor is not in any more.
fn held(
    guard: &Guard,
    visitor: Visitor,
    response: Response,
    permit: Option<OwnedSemaphorePermit>,
) -> Response {
    let Some(permit) = permit else { return response };
    let (parts, body) = response.into_parts();
    let body = body.into_data_stream().take_until(gone(guard.front.own(), visitor)).map(move |piece| {
        let _held = &permit;
        piece
    });
    Response::from_parts(parts, Body::from_stream(body))
}

/// Ready when the visitor's session or token opens nothing any more.
async fn gone(backend: Arc<dyn Backend>, visitor: Visitor) {
    loop {
        tokio::time::sleep(STILL_IN_EVERY).await;
        if backend.who(&visitor).await.is_err_and(|error| error.kind == ErrorKind::NotPermitted) {
            return;
        }
    }
}

/// `/api/v1` for programs with tokens, and for the panel's own pages.
pub async fn api(State(guard): State<Arc<Guard>>, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>().cloned() else {
        return ApiError::internal("a request without a visitor").into_response();
    };
    match &visitor.presented {
        None => return unauthorized(),
        Some(Presented::Token(_)) => {}
        Some(Presented::Session(session)) if changes(request.method()) => {
            let token = request.headers().get("x-csrf-token").map(HeaderValue::as_bytes);
            let right = token == Some(access::csrf(session).as_bytes());
            if foreign(&guard.options, request.headers()) || !right {
                let text = "a session's request needs its X-CSRF-Token; programs use a token";
                return ApiError::not_permitted(text).into_response();
            }
        }
        Some(Presented::Session(_)) => {}
    }
    // Signing in is for the page, which says the address.
    if request.uri().path() == format!("{PREFIX}/session") && request.method() == Method::POST {
        return ApiError::not_permitted("sign in by the panel's page").into_response();
    }
    // Before anything is kept of it, so that strangers hold neither memory nor places.
    if let Err(error) = guard.front.own().who(&visitor).await {
        return error.into_response();
    }
    let permit = match stream_place(&guard, &request) {
        Ok(permit) => permit,
        Err(error) => return error.into_response(),
    };
    let (parts, body) = request.into_parts();
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX);
    let body = match tokio::time::timeout(BODY_TIME_MAX, read).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let text = format!("the body is longer than {BODY_BYTES_MAX} bytes: send it in parts");
            return ApiError::new(ErrorKind::TooLarge, text).into_response();
        }
        Err(_) => return ApiError::unavailable("the body did not come in time").into_response(),
    };
    let request = Request::from_parts(parts, Body::from(body));
    let asker = visitor.clone();
    held(&guard, asker, guard.front.api(visitor, request).await, permit)
}

fn unauthorized() -> Response {
    let mut response = ApiError::not_permitted("present a token: Authorization: Bearer …").into_response();
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
