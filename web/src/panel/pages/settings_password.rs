//! `/settings/password`: a new password; every other session ends with it.

use axum::extract::State;
use http::StatusCode;

use super::{
    Shared, Visit,
    flash::Flash,
    form::{Fields, Form},
    frame::Answer,
    settings::{page, who},
};
use crate::{access::PasswordChange, backend::ErrorKind};

pub async fn save(State(pages): State<Shared>, visit: Visit, form: Form) -> Answer {
    // What was typed is never put into a page again.
    let mut fields = Fields::default();
    let new = form.raw("new").to_owned();
    if new != form.raw("again") {
        fields.fail("again", visit.lang.text("panel.invalid.again"));
    }
    let change =
        PasswordChange { current: Some(form.raw("current").to_owned()), new: Some(new), first: false };
    if let Err(error) = change.check() {
        fields.refused(visit.lang, &error);
    }
    if !fields.wrong() {
        match visit.backend().change_password(visit.envelope(), who(&visit)?, change).await {
            Ok(_) => return Ok(Flash::done("panel.done.password", &[]).to(&pages, "/settings")),
            Err(error) if error.kind == ErrorKind::NotPermitted => {
                fields.fail("current", visit.lang.text("panel.invalid.current"));
            }
            Err(error) if error.kind == ErrorKind::Invalid => fields.refused(visit.lang, &error),
            Err(error) => return Err(error.into()),
        }
    }
    page(&pages, &visit, "password", fields, StatusCode::UNPROCESSABLE_ENTITY).await
}
