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
mod settings_links;
mod settings_notify;
mod settings_password;
mod settings_sessions;
mod settings_tokens;
mod settings_totp;
mod sign_in;
mod terms_form;
mod terms_values;
#[cfg(test)]
mod tests;
mod user_act;
mod user_bulk;
mod user_confirm;
mod user_connect;
mod user_edit;
mod user_flows;
mod user_form;
mod user_list;
mod user_new;
mod user_package;
mod user_show;
mod view;
pub mod visit;

use std::sync::Arc;

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::guard::Guard;
use crate::{backend::ApiError, locale::Lang};
pub use error::pages as around;
pub use live::Hub;
pub use visit::Visit;

/// What every page needs. Who answers for a visitor is in its [`Visit`].
pub struct Pages {
    pub guard: Arc<Guard>,
    pub hub: Arc<Hub>,
    /// Where the panel lives below its host: empty, or a path without a slash at its end.
    pub base: String,
    /// The language of who says nothing about it.
    pub lang: Lang,
}

pub type Shared = Arc<Pages>;

impl Pages {
    pub fn new(guard: &Arc<Guard>) -> Shared {
        let hub = Arc::new(Hub::new(guard.front.own()));
        let base = guard.options.base_path.clone();
        let lang = guard.options.language.unwrap_or_default();
        Arc::new(Pages { guard: Arc::clone(guard), hub, base, lang })
    }
}

/// Every page that asks for a session, and what they post to.
pub fn router(pages: Shared) -> Router {
    let users = Router::new()
        .route("/users", get(user_list::show))
        .route("/change-users", get(user_act::nothing).post(user_act::act))
        .route("/add-user", get(user_new::show).post(user_new::save))
        .route("/users/{name}", get(user_show::show))
        .route("/users/{name}/flows", get(user_flows::show))
        .route("/users/{name}/connect", get(user_connect::show).post(user_connect::rotate))
        .route("/users/{name}/edit", get(user_edit::show).post(user_edit::save))
        .route("/users/{name}/package", get(user_package::show).post(user_package::save))
        .route("/users/{name}/reset", get(user_confirm::reset).post(user_confirm::do_reset))
        .route("/users/{name}/delete", get(user_confirm::delete).post(user_confirm::do_delete));
    let policies = Router::new()
        .route("/policies", get(policy_list::show))
        .route("/add-policy", get(policy_save::new).post(policy_save::create))
        .route("/policies/{name}", get(policy_save::edit).post(policy_save::change))
        .route("/policies/{name}/delete", get(policy_delete::show).post(policy_delete::delete));
    let settings = Router::new()
        .route("/settings", get(settings::show))
        .route("/settings/password", get(settings::again).post(settings_password::save))
        .route("/settings/totp", get(settings_totp::show).post(settings_totp::offer))
        .route("/settings/totp/on", get(settings::again).post(settings_totp::turn_on))
        .route("/settings/totp/off", get(settings::again).post(settings_totp::turn_off))
        .route("/settings/sessions", get(settings::again).post(settings_sessions::end))
        .route("/settings/tokens", get(settings::again).post(settings_tokens::add))
        .route("/settings/tokens/delete", get(settings::again).post(settings_tokens::delete))
        .route("/settings/notify", get(settings_notify::show).post(settings_notify::test))
        .route("/settings/links", get(settings_links::show).post(settings_links::save));
    Router::new()
        .route("/", get(overview::show))
        .merge(users)
        .merge(policies)
        .route("/events", get(events_list::show))
        .merge(settings)
        .route("/live", get(live::stream))
        .fallback(error::no_such_page)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(pages)
}

/// What needs no session.
pub fn open_router(pages: Shared) -> Router {
    Router::new()
        .route("/static/{address}", get(assets::serve))
        .route("/sign-in", get(sign_in::show).post(sign_in::save))
        .route("/sign-out", post(sign_in::out))
        .route("/preferences", post(preferences::save))
        .with_state(pages)
}

/// An answer that [`around`] makes a page of.
pub fn refused(error: ApiError) -> Response {
    frame::PageError(error).into_response()
}
