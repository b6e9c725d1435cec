//! `/settings`: language and colours; password, second factor, sessions and tokens.

use askama::Template;
use axum::extract::State;

use super::{
    Shared, Visit,
    frame::{Answer, Frame, render},
    view::Choice,
};
use crate::locale::Lang;

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    f: Frame,
    langs: Vec<Choice>,
    themes: Vec<Choice>,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let title = visit.lang.text("panel.nav.settings").to_owned();
    let f = Frame::load(&pages, &visit, "settings", title).await;
    let langs = Lang::ALL.map(|it| Choice::new(it.tag(), it.text("panel.language"), it == f.lang));
    let themes = ["system", "light", "dark"]
        .map(|it| Choice::new(it, f.t(&format!("panel.theme.{it}")), it == f.theme()));
    render(&Page { langs: langs.into(), themes: themes.into(), f })
}
