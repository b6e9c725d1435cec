//! What stands around every page: navigation, language and colours, what is not well, messages.

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;

use super::{
    Pages, Visit, assets,
    view::{Moment, shown},
    visit::Theme,
};
use crate::{
    api::types::{Degradation, Status},
    backend::{ApiError, ErrorKind},
    locale::Lang,
};

/// See the module. Templates know it as `f`.
pub struct Frame {
    pub lang: Lang,
    pub visit: Visit,
    pub base: String,
    /// The entry of the navigation that is current; empty on pages without one.
    nav: &'static str,
    pub title: String,
    pub banners: Vec<Banner>,
    pub messages: Vec<(bool, String)>,
    /// The live stream of the page, below the base.
    pub stream: Option<String>,
    /// For forms that change something.
    pub csrf: String,
    /// The zone that moments are typed in: that of billing.
    pub zone: String,
    /// Whether somebody is signed in: the frame then has its navigation.
    pub signed_in: bool,
}

/// Something that is not well.
pub struct Banner {
    pub bad: bool,
    pub part: String,
    /// The agent's own words, or ours.
    pub text: String,
    /// The agent's own words beside ours.
    pub detail: Option<String>,
    pub advice: Option<String>,
    pub since: Option<Moment>,
    /// Whether `text` is English whatever the page's language is.
    pub english: bool,
}

impl Frame {
    /// The frame of a page, with what the agent says of itself.
    pub async fn load(pages: &Pages, visit: &Visit, nav: &'static str, title: String) -> Frame {
        Frame::beside(pages, visit, nav, title, &visit.backend().status().await)
    }

    /// As [`Frame::load`], of a page that has asked the agent itself.
    pub fn beside(
        pages: &Pages,
        visit: &Visit,
        nav: &'static str,
        title: String,
        status: &Result<Status, ApiError>,
    ) -> Frame {
        let (banners, zone) = match status {
            Ok(status) => {
                let banners = status.degraded.iter().map(|it| Banner::of(visit.lang, it)).collect();
                (banners, status.time_zone.as_deref().map(shown))
            }
            Err(error) => (vec![Banner::unreachable(visit.lang, error)], None),
        };
        Frame {
            banners,
            zone: zone.unwrap_or_else(|| "UTC".to_owned()),
            ..Frame::bare(pages, visit, nav, title)
        }
    }

    /// Without asking the agent.
    pub fn bare(pages: &Pages, visit: &Visit, nav: &'static str, title: String) -> Frame {
        Frame {
            lang: visit.lang,
            visit: visit.clone(),
            base: pages.base.clone(),
            nav,
            title,
            banners: Vec::new(),
            messages: visit.flash.as_ref().map(|it| it.lines(visit.lang)).unwrap_or_default(),
            stream: None,
            csrf: visit.csrf(),
            zone: String::new(),
            signed_in: visit.inside.is_some(),
        }
    }

    #[must_use]
    pub fn with_stream(self, path: String) -> Frame {
        Frame { stream: Some(path), ..self }
    }

    /// The text of a key; tests see to it that there is one.
    pub fn t(&self, key: impl AsRef<str>) -> &'static str {
        self.lang.find(key.as_ref()).unwrap_or("?")
    }

    /// The text of a key with one value.
    pub fn t1(&self, key: &str, name: &str, value: impl std::fmt::Display) -> String {
        self.lang.fill(key, &[(name, &value.to_string())])
    }

    /// What stands under a field.
    pub fn hint(&self, key: &str) -> String {
        self.t1(key, "zone", &self.zone)
    }

    /// The address of an asset; it changes with the content.
    pub fn asset(&self, name: &str) -> String {
        format!("{}/static/{}", self.base, assets::address(name))
    }

    pub fn is(&self, nav: &str) -> bool {
        self.nav == nav
    }

    pub fn theme(&self) -> &'static str {
        self.visit.theme.word()
    }

    pub fn next_theme(&self) -> &'static str {
        self.visit.theme.next().word()
    }

    /// The language that the frame's button turns to.
    pub fn other_lang(&self) -> &'static str {
        match self.lang {
            Lang::En => Lang::ZhCn.tag(),
            Lang::ZhCn => Lang::En.tag(),
        }
    }

    /// The same in its own words, for who cannot read this page.
    pub fn other_language(&self) -> &'static str {
        match self.lang {
            Lang::En => Lang::ZhCn.find("panel.language").unwrap_or_default(),
            Lang::ZhCn => Lang::En.find("panel.language").unwrap_or_default(),
        }
    }

    pub fn theme_key(&self) -> &'static str {
        match self.visit.theme {
            Theme::System => "panel.theme.system",
            Theme::Light => "panel.theme.light",
            Theme::Dark => "panel.theme.dark",
        }
    }

    pub fn nav_key(&self, word: &str) -> String {
        format!("panel.nav.{word}")
    }

    pub fn field_key(&self, word: &str) -> String {
        format!("panel.field.{word}")
    }

    pub fn period_key(&self, word: &str) -> String {
        format!("panel.period.{word}")
    }

    pub fn sharing_key(&self, word: &str) -> String {
        format!("panel.sharing.{word}")
    }

    /// The navigation: address, word of the key and icon.
    pub fn tabs(&self) -> [(&'static str, &'static str); 5] {
        [
            ("/", "overview"),
            ("/users", "users"),
            ("/policies", "policies"),
            ("/events", "events"),
            ("/settings", "settings"),
        ]
    }
}

impl Banner {
    /// In the reader's words as far as the part is known; the agent's own words, which are English, have the
    /// details.
    fn of(lang: Lang, it: &Degradation) -> Banner {
        let said = |key: String| lang.find(&key).map(str::to_owned);
        let english = shown(&it.reason);
        let own = said(format!("degraded.{}", it.part)).filter(|_| lang != Lang::En);
        let advice = it.advice.as_deref().map(shown).filter(|_| lang == Lang::En || own.is_none());
        Banner {
            bad: false,
            part: said(format!("part.{}", it.part)).unwrap_or_else(|| shown(&it.part)),
            english: own.is_none(),
            detail: own.is_some().then(|| english.clone()),
            text: own.unwrap_or(english),
            advice: advice.or_else(|| said(format!("degraded.{}_advice", it.part))),
            since: Some(Moment::at(&it.since)),
        }
    }

    fn unreachable(lang: Lang, error: &ApiError) -> Banner {
        let (key, advice) = match error.kind {
            ErrorKind::NotRunning => ("panel.agent.not_running", Some("panel.agent.start")),
            ErrorKind::NotPermitted => ("panel.agent.not_permitted", None),
            _ => ("panel.agent.not_answering", None),
        };
        Banner {
            bad: true,
            part: lang.text("part.agent").to_owned(),
            text: lang.text(key).to_owned(),
            detail: None,
            advice: advice.map(|key| lang.text(key).to_owned()),
            since: None,
            english: false,
        }
    }
}

/// A page as an answer.
pub fn render(page: &impl Template) -> Result<Response, PageError> {
    render_as(StatusCode::OK, page)
}

/// A page with a status of its own, for instance a form with mistakes.
pub fn render_as(status: StatusCode, page: &impl Template) -> Result<Response, PageError> {
    let html = page.render().map_err(|error| PageError(ApiError::internal(error)))?;
    Ok((status, Html(html)).into_response())
}

/// What went wrong; [`super::error::pages`] makes a page of it.
#[derive(Clone, Debug)]
pub struct PageError(pub ApiError);

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        PageError(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut response = self.0.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

pub type Answer = Result<Response, PageError>;
