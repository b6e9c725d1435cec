//! `/settings/sessions`: ends one session, or all but the one that asks.

use axum::extract::State;

use super::{Shared, Visit, flash::Flash, form::Form, frame::Answer, settings::who};
use crate::access::Which;

pub async fn end(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    let which = match form.some("id") {
        Some(id) => Which::One(id.to_owned()),
        None => Which::Others,
    };
    visit.backend().end_sessions(visit.envelope(), who(&visit)?, which).await?;
    Ok(Flash::done("panel.done.sessions", &[]).to(&pages, "/settings"))
}
