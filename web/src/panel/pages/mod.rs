//! The pages of the panel, one file per action. A handler loads, fills a view and renders; what a
//! page shows is in its template, what may be done is decided by the backend.

pub mod assets;
mod charts;
mod error;
mod events_list;
mod flash;
mod form;
mod frame;
mod live;
mod overview;
mod policy_delete;
mod policy_list;
mod policy_save;
mod preferences;
mod settings;
mod terms_form;
mod terms_values;
#[cfg(test)]
mod tests;
mod user_act;
mod user_confirm;
mod user_edit;
mod user_flows;
mod user_form;
mod user_list;
mod user_new;
mod user_package;
mod user_show;
mod view;
mod visit;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{backend::Backend, locale::Lang};
pub use live::Hub;
pub use visit::Visit;

/// What every page needs.
pub struct Pages {
    pub backend: Arc<dyn Backend>,
    pub hub: Arc<Hub>,
    /// Where the panel lives below its host: empty, or a path without a slash at its end.
    pub base: String,
    /// The language of who says nothing about it.
    pub lang: Lang,
}

pub type Shared = Arc<Pages>;

impl Pages {
    pub fn new(backend: Arc<dyn Backend>, base: &str, lang: Lang) -> Shared {
        let hub = Arc::new(Hub::new(Arc::clone(&backend)));
        Arc::new(Pages { backend, hub, base: base.trim_end_matches('/').to_owned(), lang })
    }
}

/// Every page that asks for a session, and what they post to.
pub fn router(pages: Shared) -> Router {
    let users = Router::new()
        .route("/users", get(user_list::show))
        .route("/users/act", get(user_act::nothing).post(user_act::act))
        .route("/users/new", get(user_new::show).post(user_new::save))
        .route("/users/{name}", get(user_show::show))
        .route("/users/{name}/flows", get(user_flows::show))
        .route("/users/{name}/edit", get(user_edit::show).post(user_edit::save))
        .route("/users/{name}/package", get(user_package::show).post(user_package::save))
        .route("/users/{name}/reset", get(user_confirm::reset).post(user_confirm::do_reset))
        .route("/users/{name}/delete", get(user_confirm::delete).post(user_confirm::do_delete));
    let policies = Router::new()
        .route("/policies", get(policy_list::show))
        .route("/policies/new", get(policy_save::new).post(policy_save::create))
        .route("/policies/{name}", get(policy_save::edit).post(policy_save::change))
        .route("/policies/{name}/delete", get(policy_delete::show).post(policy_delete::delete));
    Router::new()
        .route("/", get(overview::show))
        .merge(users)
        .merge(policies)
        .route("/events", get(events_list::show))
        .route("/settings", get(settings::show))
        .route("/live", get(live::stream))
        .route("/preferences", post(preferences::save))
        .fallback(error::no_such_page)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&pages), error::pages))
        .with_state(pages)
}
