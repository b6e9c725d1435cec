//! The web panel: pages, the API for programs, and subscriptions, over a [`front::Front`]. Knows no kernel, no
//! ledger and no files: whoever serves it gives it the agent's socket or made-up data.

pub mod front;
pub mod guard;
pub mod options;
pub mod pages;
pub mod public;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::any};
use tower_http::compression::CompressionLayer;

use crate::api::PREFIX;
use front::Front;
use guard::Guard;
use options::Options;

/// Everything. Requests carry their peer as `ConnectInfo<SocketAddr>`.
pub fn app(front: Arc<dyn Front>, options: Options) -> Router {
    let base = options.base_path.clone();
    let guard = Guard::new(Arc::clone(&front), options);
    let pages = pages::Pages::new(&guard);
    let private = pages::router(Arc::clone(&pages))
        .layer(DefaultBodyLimit::max(guard::FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&guard), guard::signed_in));
    let open = pages::open_router(Arc::clone(&pages))
        .layer(DefaultBodyLimit::max(guard::OPEN_FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&guard), guard::own_site));
    let api = any(guard::api).with_state(Arc::clone(&guard));
    let routes = open
        .merge(public_routes(&guard))
        .route(&format!("{PREFIX}/{{*path}}"), api)
        .merge(private)
        .layer(middleware::from_fn_with_state(Arc::clone(&pages), pages::around));
    around(based(&base, routes), guard)
}

/// Only what is below `/s/`: for a listener that everybody can reach.
pub fn public_app(front: Arc<dyn Front>, options: Options) -> Router {
    let base = options.base_path.clone();
    let guard = Guard::new(front, options);
    around(based(&base, public_routes(&guard)), guard)
}

fn public_routes(guard: &Guard) -> Router {
    let options = public::Options {
        base_path: guard.options.base_path.clone(),
        https: guard.options.secure(),
        language: guard.options.language,
    };
    public::router(guard.front.own(), options)
}

/// As a service and not merged, so that the base with a slash at its end is the overview too.
fn based(base: &str, routes: Router) -> Router {
    if base.is_empty() { routes } else { Router::new().nest_service(base, routes) }
}

fn around(routes: Router, guard: Arc<Guard>) -> Router {
    routes
        .layer(DefaultBodyLimit::max(crate::api::routes::BODY_BYTES_MAX))
        // Streams and what is compressed already stay as they are. No other site can have a browser ask for a
        // page with its cookie and see how long it is: the cookie is SameSite, and nobody frames us.
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(guard, guard::outermost))
}
