//! The routes about what people are told. No secret is ever answered, and none is taken: the configuration
//! is not changed from here.

use axum::{
    Router,
    extract::State,
    response::Response,
    routing::{get, post},
};

use super::{
    change_routes::to_its_end,
    error::ApiError,
    notify::NotifyTest,
    order::Order,
    routes::{RawQuery, Shared, read, secret},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/notify", get(show)).route("/notify/test", post(test))
}

/// Addresses are personal: nothing on the way keeps them.
async fn show(State(backend): State<Shared>, query: RawQuery) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    Ok(secret(backend.notify().await?))
}

async fn test(
    State(backend): State<Shared>,
    query: RawQuery,
    order: Order<NotifyTest>,
) -> Result<Response, ApiError> {
    read::<()>(&backend, query)?;
    let work = async move { backend.test_notify(order.envelope, order.body).await };
    Ok(secret(to_its_end(work).await?))
}
