//! The routes about credentials, subscriptions and the settings of links. Nothing here is for those who
//! may only look: an answer holds what lets somebody in.

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};

use super::{
    change_routes::to_its_end,
    error::ApiError,
    order::Order,
    routes::{RawQuery, Shared, read, secret, tagged},
    sharing::SharingChange,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/users/{name}/credentials", get(credentials))
        .route("/users/{name}/subscription/rotate", post(rotate))
        .route("/subscriptions/{token}", get(subscription))
        .route("/settings/sharing", get(sharing).patch(change_sharing))
}

async fn credentials(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.credentials(&name).await?))
}

async fn rotate(
    State(backend): State<Shared>,
    Path(name): Path<String>,
    query: RawQuery,
    order: Order<()>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.rotate_subscription(order.envelope, &name).await };
    Ok(secret(to_its_end(work).await?))
}

async fn subscription(
    State(backend): State<Shared>,
    Path(token): Path<String>,
    query: RawQuery,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.subscription(&token).await?))
}

async fn sharing(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let shown = backend.sharing().await?;
    Ok(tagged(shown.rev, shown))
}

async fn change_sharing(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<SharingChange>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.change_sharing(order.envelope, order.body).await };
    let shown = to_its_end(work).await?;
    Ok(tagged(shown.rev, shown))
}
