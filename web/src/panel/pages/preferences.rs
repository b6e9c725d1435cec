//! `/preferences`: language and colours, kept in the browser. Also before signing in.

use axum::{
    extract::State,
    response::{IntoResponse, Redirect},
};
use http::{HeaderValue, header};

use super::{
    Shared,
    form::Form,
    frame::Answer,
    user_act::back,
    visit::{LANG_COOKIE, THEME_COOKIE, Theme},
};
use crate::locale::Lang;

/// A year.
const KEPT_S: u32 = 31_536_000;

pub async fn save(State(pages): State<Shared>, form: Form) -> Answer {
    let mut response = Redirect::to(&format!("{}{}", pages.base, back(&form, "/"))).into_response();
    let lang = form.some("lang").and_then(Lang::of).map(|it| (LANG_COOKIE, it.tag()));
    let theme = form.some("theme").map(|it| (THEME_COOKIE, Theme::of(it).word()));
    for (name, value) in lang.into_iter().chain(theme) {
        let base = &pages.base;
        let cookie = format!("{name}={value}; Path={base}/; Max-Age={KEPT_S}; HttpOnly; SameSite=Lax");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    Ok(response)
}
