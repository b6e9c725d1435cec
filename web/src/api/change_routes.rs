//! The routes that change something, and those about policies and packages. Each change runs as a
//! task of its own: a caller that goes away or loses patience does not stop it half-way.

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, header};
use serde::Serialize;

use super::{
    change::{ImportRequest, NewUser, UserChange},
    error::ApiError,
    order::{Envelope, Order},
    params::{Pairs, Parameters, Params},
    policies::{NewPackage, NewPolicy, PolicyChange},
    query::Page,
    routes::{RawQuery, Shared, read, tagged},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/users", post(add_user))
        .route("/users/{name}", axum::routing::patch(change_user).delete(delete_user))
        .route("/users/{name}/reset", post(reset_user))
        .route("/users/{name}/enable", post(enable_user))
        .route("/users/{name}/disable", post(disable_user))
        .route("/users/{name}/packages", get(packages).post(add_package))
        .route("/policies", get(policies).post(add_policy))
        .route("/policies/{name}", get(policy).patch(change_policy).delete(delete_policy))
        .route("/import", post(import))
}

/// Runs a change to its end, whatever becomes of the caller.
pub(super) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change).await.map_err(|error| ApiError::internal(format!("the change failed: {error}")))?
}

fn created(answer: impl Serialize) -> Response {
    (StatusCode::CREATED, Json(answer)).into_response()
}

/// `?purge=true`: the history too.
struct Purge(bool);

impl Parameters for Purge {
    fn from_params(params: &mut Params, _now: &jiff::Zoned) -> Result<Self, ApiError> {
        Ok(Purge(params.word("purge", &[("true", true), ("false", false)])?.unwrap_or(false)))
    }

    fn to_pairs(&self) -> Pairs {
        vec![("purge".to_owned(), self.0.to_string())]
    }
}

async fn add_user(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<NewUser>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check(backend.now().timestamp())?;
    let work = async move { backend.add_user(order.envelope, order.body).await };
    let added = to_its_end(work).await?;
    // The answer holds credentials: nothing on the way may keep it.
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((headers, created(added)).into_response())
}

async fn change_user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<UserChange>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check(backend.now().timestamp())?;
    let work = async move { backend.change_user(order.envelope, &name, order.body).await };
    let changed = to_its_end(work).await?;
    Ok(tagged(changed.user.rev, changed))
}

async fn delete_user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    let Purge(purge) = read::<Purge>(&backend, query)?;
    let work = async move { backend.delete_user(order.envelope, &name, purge).await };
    Ok(Json(to_its_end(work).await?).into_response())
}

async fn reset_user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.reset_user(order.envelope, &name).await };
    let changed = to_its_end(work).await?;
    Ok(tagged(changed.user.rev, changed))
}

async fn enable_user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    set_enabled(backend, order.envelope, name, true).await
}

async fn disable_user(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    set_enabled(backend, order.envelope, name, false).await
}

async fn set_enabled(
    backend: Shared,
    envelope: Envelope,
    name: String,
    enabled: bool,
) -> Result<Response, ApiError> {
    let work = async move { backend.set_enabled(envelope, &name, enabled).await };
    let changed = to_its_end(work).await?;
    Ok(tagged(changed.user.rev, changed))
}

async fn packages(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    let page = read::<Page>(&backend, query)?;
    Ok(Json(backend.packages(&name, page).await?).into_response())
}

async fn add_package(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<NewPackage>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check(backend.now().timestamp())?;
    let work = async move { backend.add_package(order.envelope, &name, order.body).await };
    Ok(created(to_its_end(work).await?))
}

async fn policies(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    let page = read::<Page>(&backend, query)?;
    Ok(Json(backend.policies(page).await?).into_response())
}

async fn policy(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let shown = backend.policy(&name).await?;
    Ok(tagged(shown.policy.rev, shown))
}

async fn add_policy(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<NewPolicy>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check()?;
    let work = async move { backend.add_policy(order.envelope, order.body).await };
    Ok(created(to_its_end(work).await?))
}

async fn change_policy(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<PolicyChange>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.change_policy(order.envelope, &name, order.body).await };
    let changed = to_its_end(work).await?;
    Ok(tagged(changed.policy.rev, changed))
}

async fn delete_policy(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.delete_policy(order.envelope, &name).await };
    Ok(Json(to_its_end(work).await?).into_response())
}

async fn import(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<ImportRequest>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    order.body.check()?;
    let work = async move { backend.import(order.envelope, order.body).await };
    Ok(Json(to_its_end(work).await?).into_response())
}
