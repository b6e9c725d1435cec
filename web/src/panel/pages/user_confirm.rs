//! `/users/{name}/reset` and `/users/{name}/delete`: what would happen, and then doing it.

use askama::Template;
use axum::extract::{Path, State};

use super::{
    Shared, Visit,
    flash::Flash,
    form::Form,
    frame::{Answer, Frame, render},
    view::{segment, shown},
};
use crate::{api::order::Envelope, units::Size};

#[derive(Template)]
#[template(path = "user_confirm.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    rev: u64,
    text: String,
    delete: bool,
}

pub async fn reset(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    page(&pages, &visit, &name, false).await
}

pub async fn delete(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    page(&pages, &visit, &name, true).await
}

async fn page(pages: &Shared, visit: &Visit, name: &str, delete: bool) -> Answer {
    let user = visit.backend().user(name).await?.user;
    let key = if delete { "panel.user.delete" } else { "panel.user.reset" };
    let f = Frame::load(pages, visit, "users", visit.lang.text(key).to_owned()).await;
    let used = Size(user.period.used_bytes).to_string();
    let page = Page {
        name: shown(name),
        address: format!("{}/users/{}", f.base, segment(name)),
        rev: user.rev,
        text: if delete {
            f.t("panel.user.delete_text").to_owned()
        } else {
            f.t1("panel.user.reset_text", "used", used)
        },
        delete,
        f,
    };
    render(&page)
}

pub async fn do_reset(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    visit.backend().reset_user(visit.envelope(), &name).await?;
    let path = format!("/users/{}", segment(&name));
    Ok(Flash::done("panel.done.reset", &[("name", &shown(&name))]).to(&pages, &path))
}

/// The revision is the one that was looked at: who was changed meanwhile is looked at again.
pub async fn do_delete(
    State(pages): State<Shared>,
    visit: Visit,
    Path(name): Path<String>,
    form: Form,
) -> Answer {
    let purge = form.has("purge");
    let envelope = Envelope { if_rev: form.get("rev").parse().ok(), ..visit.envelope() };
    visit.backend().delete_user(envelope, &name, purge).await?;
    let key = if purge { "panel.done.purged" } else { "panel.done.deleted" };
    Ok(Flash::done(key, &[("name", &shown(&name))]).to(&pages, "/users"))
}
