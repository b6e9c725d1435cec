//! `/policies/{name}/delete`: only a policy that nobody has can go.

use askama::Template;
use axum::extract::{Path, State};

use super::{
    Shared, Visit,
    flash::Flash,
    form::Form,
    frame::{Answer, Frame, render},
    view::{segment, shown},
};
use crate::{api::order::Envelope, backend::ErrorKind};

#[derive(Template)]
#[template(path = "policy_delete.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    users: u64,
    users_address: String,
    rev: u64,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    let policy = visit.backend().policy(&name).await?.policy;
    let f = Frame::load(&pages, &visit, "policies", visit.lang.text("panel.policy.delete").to_owned()).await;
    let page = Page {
        name: shown(&name),
        address: format!("{}/policies/{}", f.base, segment(&name)),
        users: policy.users,
        users_address: format!("{}/users?policy={}", f.base, segment(&name)),
        rev: policy.rev,
        f,
    };
    render(&page)
}

pub async fn delete(
    State(pages): State<Shared>,
    visit: Visit,
    Path(name): Path<String>,
    form: Form,
) -> Answer {
    let envelope = Envelope { if_rev: form.get("rev").parse().ok(), ..visit.envelope() };
    match visit.backend().delete_policy(envelope, &name).await {
        Ok(_) => {
            Ok(Flash::done("panel.done.policy_deleted", &[("name", &shown(&name))]).to(&pages, "/policies"))
        }
        Err(error) if error.kind == ErrorKind::Conflict => {
            let values = [("name", &*shown(&name)), ("message", &shown(&error.message))];
            Ok(Flash::failed("panel.failed.user", &values).to(&pages, "/policies"))
        }
        Err(error) => Err(error.into()),
    }
}
