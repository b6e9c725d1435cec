//! The router under `/api/v1`. It parses, asks the backend and serialises; it decides nothing. What
//! changes something is in [`super::change_routes`].
//!
//! Who may ask is decided by the listener, which puts an [`Access`] into the request's extensions;
//! a request without one is refused.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::QueryRejection},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::get,
};
use futures_util::{Stream, StreamExt};
use http::{Method, header};
use serde::{Deserialize, Serialize};

use super::{
    PREFIX, access_routes, change_routes,
    error::ApiError,
    live::{LiveSnapshot, LiveUpdate},
    metrics, notify_routes, openapi,
    params::{self, Pairs, Parameters},
    query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
    sharing_routes,
};
use crate::backend::{Backend, LiveStream};

/// What the caller may do, from the credentials of its connection, or of the visitor that the panel speaks
/// for. Each can do what those before it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Looking, never at credentials: members of the group `boxmeter`.
    Read,
    /// The panel's own user: lets visitors in and speaks for them. What they may do is theirs.
    Panel,
    /// Users, their packages and credentials.
    Users,
    /// Everything.
    Admin,
}

/// The longest that an answer may take; a stream is exempt.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// The largest body that is read; the longest one will be an import of accounts.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// A comment is sent after this silence, so that both ends notice a dead peer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) type Shared = Arc<dyn Backend>;
type Answer<T> = Result<Json<T>, ApiError>;

/// Every route, for whoever puts [`Access`] and, with it, an [`super::order::Identity`] into the
/// requests.
pub fn router(backend: Shared) -> Router {
    let timed = Router::new()
        .route("/status", get(status))
        .route("/users", get(users))
        .route("/users/{name}", get(user))
        .route("/usage", get(usage))
        .route("/flows", get(flows))
        .route("/events", get(events))
        .route("/audit", get(audit))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(openapi_document))
        .merge(access_routes::routes())
        .merge(change_routes::routes())
        .merge(sharing_routes::routes())
        .merge(notify_routes::routes())
        .layer(middleware::from_fn(limit_time));
    let api = timed
        .route("/stream", get(stream))
        .layer(middleware::from_fn_with_state(Arc::clone(&backend), access_routes::need_access))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(backend);
    Router::new().nest(PREFIX, api).fallback(no_such_route).method_not_allowed_fallback(wrong_method)
}

/// [`router`] for the unix socket, which no browser ever speaks to directly: a request that a web
/// page caused carries `Origin` or `Referer`, and is refused before anything looks at it.
pub fn unix_router(backend: Shared) -> Router {
    router(backend).layer(middleware::from_fn(refuse_web_pages))
}

async fn refuse_web_pages(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key(header::REFERER) {
        let text = "requests with Origin or Referer are refused: web pages may not use this socket";
        return ApiError::not_permitted(text).into_response();
    }
    next.run(request).await
}

async fn limit_time(request: Request, next: Next) -> Response {
    let advice = match request.method() {
        &Method::GET => "ask for less, or look at `boxmeter status`",
        _ => {
            "the change goes on; look again before you repeat it, or repeat it with the same Idempotency-Key"
        }
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = ANSWER_TIME_MAX.as_secs();
            ApiError::unavailable(format!("no answer within {seconds} s; {advice}")).into_response()
        }
    }
}

async fn no_such_route(uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("no such path {:?}; see {PREFIX}/openapi.json", uri.path()))
}

pub(super) async fn wrong_method() -> Response {
    let problem = ApiError::bad_request(format!("wrong method here; see {PREFIX}/openapi.json"));
    let mut response = problem.into_response();
    *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// The query string of a request, parsed as `Q`.
pub(super) fn read<Q: Parameters>(backend: &Shared, pairs: RawQuery) -> Result<Q, ApiError> {
    let Query(pairs) =
        pairs.map_err(|error| ApiError::bad_request(format!("the query string cannot be read: {error}")))?;
    params::read(pairs, &backend.now())
}

pub(super) type RawQuery = Result<Query<Pairs>, QueryRejection>;

/// An answer about one object, with its revision as the tag that `If-Match` takes.
pub(super) fn tagged(rev: u64, answer: impl Serialize) -> Response {
    ([(header::ETAG, format!("\"{rev}\""))], Json(answer)).into_response()
}

/// An answer that nothing on the way may keep.
pub(super) fn secret(answer: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

fn json<T: Serialize>(answer: T) -> Answer<T> {
    Ok(Json(answer))
}

async fn status(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    read::<()>(&backend, query)?;
    json(backend.status().await?)
}

async fn users(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    let (filter, page) = read::<(UserFilter, Page)>(&backend, query)?;
    json(backend.users(filter, page).await?)
}

async fn user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let shown = backend.user(&name).await?;
    Ok(tagged(shown.user.rev, shown))
}

async fn usage(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    let query = read::<UsageQuery>(&backend, query)?;
    json(backend.usage(query).await?)
}

async fn flows(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    let filter = read::<FlowFilter>(&backend, query)?;
    json(backend.flows(filter).await?)
}

async fn events(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    let query = read::<EventQuery>(&backend, query)?;
    json(backend.events(query).await?)
}

async fn audit(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    let query = read::<AuditQuery>(&backend, query)?;
    json(backend.audit(query).await?)
}

async fn stats(State(backend): State<Shared>, query: RawQuery) -> Answer<impl Serialize + use<>> {
    read::<()>(&backend, query)?;
    json(backend.stats().await?)
}

async fn metrics_text(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let text = backend.metrics().await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn openapi_document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::DOCUMENT).into_response()
}

async fn stream(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let live = backend.subscribe().await?;
    Ok(Sse::new(messages(live)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Full state first, then what changed. An error of the backend is the stream's last message.
fn messages(live: LiveStream) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let start: Option<Arc<LiveSnapshot>> = None;
    live.scan(start, |last, item| {
        let event = match item {
            Err(error) => Some(problem_event(&error)),
            Ok(snapshot) => {
                let update = match last.take() {
                    None => LiveUpdate::State((*snapshot).clone()),
                    Some(old) => LiveUpdate::between(&old, &snapshot),
                };
                *last = Some(snapshot);
                Some(update_event(&update))
            }
        };
        std::future::ready(event.map(Ok))
    })
}

fn update_event(update: &LiveUpdate) -> sse::Event {
    match serde_json::to_string(update) {
        Ok(data) => sse::Event::default().event(update.event()).data(data),
        Err(error) => problem_event(&ApiError::internal(error)),
    }
}

fn problem_event(error: &ApiError) -> sse::Event {
    let problem = super::error::Problem::from(error);
    sse::Event::default().event("error").data(serde_json::to_string(&problem).unwrap_or_default())
}
