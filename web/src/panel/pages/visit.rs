//! One request of a person: in which language and colours, from where, with which message left by
//! the page before.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};

use super::{Pages, flash::Flash, frame::PageError};
use crate::{
    access::By,
    api::order::{Actor, Envelope, Identity, Origin},
    backend::{ApiError, Backend},
    locale::Lang,
    panel::{guard::Inside, options::NOWHERE},
};

/// Chosen by the person, kept in the browser.
pub const LANG_COOKIE: &str = "boxmeter_lang";
pub const THEME_COOKIE: &str = "boxmeter_theme";

/// Which colours; `System` is the browser's own choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub fn of(word: &str) -> Theme {
        match word {
            "light" => Theme::Light,
            "dark" => Theme::Dark,
            _ => Theme::System,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Theme::System => "system",
            Theme::Light => "light",
            Theme::Dark => "dark",
        }
    }

    /// The one that the button of the frame turns to.
    pub fn next(self) -> Theme {
        match self {
            Theme::System => Theme::Light,
            Theme::Light => Theme::Dark,
            Theme::Dark => Theme::System,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Visit {
    pub lang: Lang,
    pub theme: Theme,
    /// Path and query as the browser has them, without the base.
    pub path: String,
    pub flash: Option<Flash>,
    /// Who is signed in.
    pub inside: Option<Inside>,
    /// Who answers for the visitor.
    backend: Arc<dyn Backend>,
}

impl Visit {
    pub fn read(parts: &Parts, pages: &Pages) -> Visit {
        let lang = cookie(&parts.headers, LANG_COOKIE)
            .and_then(Lang::of)
            .or_else(|| accepted(&parts.headers))
            .unwrap_or(pages.lang);
        let theme = cookie(&parts.headers, THEME_COOKIE).map(Theme::of).unwrap_or_default();
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let flash = cookie(&parts.headers, super::flash::COOKIE).and_then(Flash::read);
        Visit { lang, theme, path, flash, inside: None, backend: pages.guard.front.own() }
    }

    /// Who answers: with the rights of who is signed in.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.inside.as_ref().map_or(&self.backend, |it| &it.backend)
    }

    /// What forms carry.
    pub fn csrf(&self) -> String {
        self.inside.as_ref().map(|it| it.csrf.clone()).unwrap_or_default()
    }

    /// What every change comes with. Who asks is said by what the visitor presents, if it is asked of the agent.
    pub fn envelope(&self) -> Envelope {
        let identity = match &self.inside {
            Some(inside) => Identity::Visitor {
                by: inside.who.by,
                name: inside.who.name.clone(),
                from: inside.visitor.from,
            },
            None => Identity::Visitor { by: By::Session, name: String::new(), from: NOWHERE },
        };
        Envelope::of(Actor { identity, origin: Origin::Panel })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = PageError;

    /// What [`super::around`] has read before any handler, and who is in.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, PageError> {
        let inside = parts.extensions.get::<Inside>().cloned();
        match parts.extensions.get::<Visit>().cloned() {
            Some(visit) => Ok(Visit { inside, ..visit }),
            None => Err(PageError(ApiError::internal("a page without a visit"))),
        }
    }
}

/// Whether a browser that is sent there stays on this panel.
pub fn is_own_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains(|it: char| it == '\\' || it.is_control())
}

/// A cookie's value.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The language that `Accept-Language` likes most and that has a catalogue.
fn accepted(headers: &HeaderMap) -> Option<Lang> {
    let text = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
    let mut best: Option<(u16, Lang)> = None;
    for part in text.split(',') {
        let (tag, weight) = part.split_once(";q=").unwrap_or((part, "1"));
        let Some(lang) = Lang::of(tag.trim()) else { continue };
        let weight = thousandths(weight.trim());
        if weight > 0 && best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, lang));
        }
    }
    best.map(|(_, lang)| lang)
}

/// `0.85` as 850; what is no weight is 0.
fn thousandths(weight: &str) -> u16 {
    let (whole, rest) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = format!("{whole}{:0<3}", rest.get(..rest.len().min(3)).unwrap_or_default());
    digits.parse().unwrap_or(0).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: http::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn the_language_that_is_liked_most_and_known_is_taken() {
        let of = |text: &str| accepted(&with(header::ACCEPT_LANGUAGE, text));
        assert_eq!(of("de, zh-CN;q=0.8, en;q=0.9"), Some(Lang::En));
        assert_eq!(of("zh-TW,en;q=0.5"), Some(Lang::ZhCn));
        assert_eq!(of("en;q=0, zh;q=0.1"), Some(Lang::ZhCn));
        assert_eq!(of("fr-FR"), None);
        assert_eq!(of("en;q=zz"), None);
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = with(header::COOKIE, "a=1; boxmeter_lang=zh-CN;b=2");
        assert_eq!(cookie(&headers, LANG_COOKIE), Some("zh-CN"));
        assert_eq!(cookie(&headers, "lang"), None);
    }
}
