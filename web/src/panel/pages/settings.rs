//! `/settings`: language and colours, password, second factor, sessions, tokens, links.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect},
};
use http::StatusCode;

use super::{
    Shared, Visit,
    form::{Fields, fresh_once},
    frame::{Answer, Frame, PageError, render_as},
    view::{Choice, Moment, short, shown},
};
use crate::{
    access::{Session, Token, Who},
    api::routes::Access,
    backend::{ApiError, ErrorKind},
    locale::Lang,
};

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    f: Frame,
    langs: Vec<Choice>,
    themes: Vec<Choice>,
    totp: bool,
    sessions: Vec<Open>,
    tokens: Vec<Key>,
    scopes: Vec<Choice>,
    /// Of the form with mistakes; the others are empty.
    form: Fields,
    /// Which form was sent: `password` or `token`.
    sent: &'static str,
    once: String,
}

/// A session.
struct Open {
    id: String,
    browser: String,
    /// What the browser says of itself.
    whole: String,
    from: String,
    seen: Moment,
    current: bool,
}

/// A token, without its secret.
struct Key {
    id: String,
    name: String,
    scope: &'static str,
    created: Moment,
    used: Option<Moment>,
    expires: Option<Moment>,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    page(&pages, &visit, "", Fields::default(), StatusCode::OK).await
}

/// `GET` of what is only posted to, for instance after another language was chosen there.
pub async fn again(State(pages): State<Shared>) -> Answer {
    Ok(Redirect::to(&format!("{}/settings", pages.base)).into_response())
}

/// The page, with a form that is to be done again.
pub async fn page(
    pages: &Shared,
    visit: &Visit,
    sent: &'static str,
    form: Fields,
    status: StatusCode,
) -> Answer {
    let who = who(visit)?;
    let backend = visit.backend();
    let title = visit.lang.text("panel.nav.settings").to_owned();
    let (f, sessions, tokens) =
        tokio::join!(Frame::load(pages, visit, "settings", title), backend.sessions(who), backend.tokens(),);
    // Whoever came in with fewer rights sees the rest of the page.
    let sessions = permitted(sessions.map(|it| it.sessions))?;
    let tokens = permitted(tokens.map(|it| it.tokens))?;
    let now = backend.now().timestamp();
    let langs = Lang::ALL.map(|it| Choice::new(it.tag(), it.text("panel.language"), it == f.lang));
    let themes = ["system", "light", "dark"]
        .map(|it| Choice::new(it, f.t(format!("panel.theme.{it}")), it == f.theme()));
    let scopes = [Access::Read, Access::Users, Access::Admin].map(|it| {
        let word = scope_word(it);
        Choice::new(word, f.t(format!("panel.scope.{word}")), form.is("scope", word))
    });
    let page = Page {
        langs: langs.into(),
        themes: themes.into(),
        totp: who.totp,
        sessions: sessions.iter().map(|it| open(f.lang, it, now)).collect(),
        tokens: tokens.iter().map(|it| key(f.lang, it, now)).collect(),
        scopes: scopes.into(),
        form,
        sent,
        once: fresh_once(),
        f,
    };
    render_as(status, &page)
}

/// Who is signed in.
pub fn who(visit: &Visit) -> Result<&Who, PageError> {
    let inside = visit.inside.as_ref().map(|it| &it.who);
    inside.ok_or_else(|| PageError(ApiError::not_permitted("nobody is signed in")))
}

fn permitted<T>(list: Result<Vec<T>, ApiError>) -> Result<Vec<T>, PageError> {
    match list {
        Ok(list) => Ok(list),
        Err(error) if matches!(error.kind, ErrorKind::NotPermitted | ErrorKind::Unsupported) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

fn open(lang: Lang, it: &Session, now: jiff::Timestamp) -> Open {
    Open {
        id: it.id.clone(),
        browser: browser(&it.browser).unwrap_or_else(|| short(&it.browser)),
        whole: shown(&it.browser),
        from: shown(&it.from),
        seen: Moment::near(lang, &it.last_seen_at, now),
        current: it.current,
    }
}

fn key(lang: Lang, it: &Token, now: jiff::Timestamp) -> Key {
    Key {
        id: it.id.clone(),
        name: shown(&it.name),
        scope: lang.find(&format!("panel.scope.{}", scope_word(it.scope))).unwrap_or_default(),
        created: Moment::at(&it.created_at),
        used: it.last_used_at.as_ref().map(|at| Moment::near(lang, at, now)),
        expires: it.expires_at.as_ref().map(Moment::at),
    }
}

/// What browsers call themselves, the more particular before what others also say.
const BROWSERS: [(&str, &str); 12] = [
    ("MicroMessenger/", "WeChat"),
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
    ("curl/", "curl"),
];
/// The same of systems.
const SYSTEMS: [(&str, &str); 7] = [
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
];

/// Browser, version and system, such as `Firefox 140 · Linux`; `None` for what is in no table.
fn browser(text: &str) -> Option<String> {
    let (rest, name) = BROWSERS.iter().find_map(|(mark, name)| Some((text.split_once(mark)?.1, *name)))?;
    let version: String = rest.chars().take_while(char::is_ascii_digit).take(5).collect();
    let system = SYSTEMS.iter().find(|(mark, _)| text.contains(mark)).map(|(_, name)| format!(" · {name}"));
    let named = if version.is_empty() { name.to_owned() } else { format!("{name} {version}") };
    Some(named + &system.unwrap_or_default())
}

/// The word of a scope in forms and keys.
pub fn scope_word(scope: Access) -> &'static str {
    match scope {
        Access::Read => "read",
        Access::Users => "users",
        _ => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::browser;

    #[test]
    fn browsers_are_named_briefly() {
        let of = |text: &str| browser(text).unwrap_or_default();
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/149.0.0.0 Safari/537.36";
        assert_eq!(of(chrome), "Chrome 149 · Linux");
        let edge = format!("{} Edg/149.0", chrome.replace("X11; Linux x86_64", "Windows NT 10.0"));
        assert_eq!(of(&edge), "Edge 149 · Windows");
        let phone =
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 Version/19.0 Safari/604";
        assert_eq!(of(phone), "Safari 19 · iPhone");
        assert_eq!(
            of("Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0"),
            "Firefox 140 · Android"
        );
        assert_eq!(of("curl/8.5.0"), "curl 8");
        assert_eq!(of("Chrome/"), "Chrome");
        assert_eq!(browser("a test"), None);
        assert_eq!(browser(""), None);
    }
}
