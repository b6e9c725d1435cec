//! The pages over made-up data: what they show, what their forms do, and what they never do.

mod catalogue;
mod figures;
mod forms;
mod hostile;
mod looks;

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Zoned;
use tower::ServiceExt;

use super::{Pages, Shared, assets, view::segment};
use crate::{demo::Demo, locale::Lang};

pub fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

/// A lively server that stands still, and pages before it.
pub struct Rig {
    pub demo: Arc<Demo>,
    pub pages: Shared,
    app: Router,
}

impl Rig {
    pub fn new() -> Self {
        Self::over(Demo::lively(Box::new(now), 1), "")
    }

    pub fn over(demo: Arc<Demo>, base: &str) -> Self {
        let pages = Pages::new(Arc::clone(&demo) as Arc<_>, base, Lang::En);
        let app = super::router(Arc::clone(&pages)).route("/static/{address}", get(assets::serve));
        Rig { demo, pages, app }
    }

    pub async fn send(&self, request: Request<Body>) -> Seen {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Seen { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Seen {
        self.get_in(Lang::En, path).await
    }

    pub async fn get_in(&self, lang: Lang, path: &str) -> Seen {
        let request = Request::get(path).header(header::COOKIE, format!("boxmeter_lang={}", lang.tag()));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// What a browser without scripts sends.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Seen {
        self.post_in(Lang::En, path, fields).await
    }

    pub async fn post_in(&self, lang: Lang, path: &str, fields: &[(&str, &str)]) -> Seen {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", segment(name), segment(value))).collect();
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::COOKIE, format!("boxmeter_lang={}", lang.tag()));
        self.send(request.body(Body::from(pairs.join("&"))).unwrap()).await
    }

    /// Follows a redirect with the cookies that came with it, as a browser does.
    pub async fn follow(&self, seen: &Seen) -> Seen {
        assert_eq!(seen.status, StatusCode::SEE_OTHER, "{}", seen.text);
        let cookies: Vec<&str> = seen
            .headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter_map(|it| it.to_str().ok()?.split(';').next())
            .collect();
        let request = Request::get(seen.location()).header(header::COOKIE, cookies.join("; "));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Every page that shows something, for tests that go over all of them.
    pub fn all() -> Vec<&'static str> {
        vec![
            "/",
            "/users",
            "/users?state=limited&sort=used",
            "/users?q=nobody-has-this",
            "/users/new",
            "/users/alice",
            "/users/alice?by=hour",
            "/users/alice?by=period",
            "/users/alice/flows",
            "/users/alice/edit",
            "/users/alice/package",
            "/users/alice/reset",
            "/users/alice/delete",
            "/users/dave",
            "/policies",
            "/policies/new",
            "/policies/basic",
            "/policies/basic/delete",
            "/events",
            "/events?who=people&severity=warning&since=-30d",
            "/settings",
            "/no-such-page",
        ]
    }
}

/// An answer.
pub struct Seen {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Seen {
    pub fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }

    pub fn has(&self, part: &str) -> bool {
        self.text.contains(part)
    }

    /// What a person reads: without elements, scripts and blanks.
    pub fn words(&self) -> String {
        words(&self.text)
    }

    /// The value of a hidden or other field.
    pub fn field(&self, name: &str) -> String {
        let start = self.text.find(&format!("name=\"{name}\"")).unwrap_or_else(|| panic!("no field {name}"));
        let rest = &self.text[start..];
        let rest = &rest[rest.find("value=\"").unwrap() + 7..];
        rest[..rest.find('"').unwrap()].to_owned()
    }
}

/// The text of a page: what stands between elements, in order, without scripts.
pub fn words(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        out.push(' ');
        rest = &rest[open..];
        let end = if rest.starts_with("<script") { "</script>" } else { ">" };
        rest = rest.find(end).map_or("", |at| &rest[at + end.len()..]);
    }
    out.push_str(rest);
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}
