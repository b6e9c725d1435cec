//! The pages over made-up data: what they show, what their forms do, and what they never do.

mod bulk;
mod catalogue;
mod connect;
mod figures;
mod forms;
mod hostile;
mod live;
mod looks;
mod services;
mod settings;

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use jiff::Zoned;
use tower::ServiceExt;

use super::view::segment;
use crate::{
    access::{self, Door as _, SignIn, Visitor},
    demo::{Demo, PASSWORD},
    locale::Lang,
    panel::{
        self,
        front::MadeUp,
        options::{NOWHERE, Options},
    },
};

pub fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

/// A lively server that stands still, the whole panel before it, and a session in it.
pub struct Rig {
    pub demo: Arc<Demo>,
    base: String,
    session: String,
    app: Router,
}

impl Rig {
    pub async fn new() -> Self {
        Self::over(Demo::lively(Box::new(now), 1), "").await
    }

    pub async fn over(demo: Arc<Demo>, base: &str) -> Self {
        Self::with(demo, Options { base_path: base.to_owned(), ..Options::default() }).await
    }

    pub async fn with(demo: Arc<Demo>, options: Options) -> Self {
        let front = Arc::new(MadeUp(Arc::clone(&demo)));
        let base = options.base_path.clone();
        let options = Options { language: Some(Lang::En), ..options };
        let app = panel::app(front, options);
        let stranger =
            Visitor { presented: None, from: NOWHERE, browser: "a test".to_owned(), unattended: false };
        let sign_in = SignIn { password: PASSWORD.to_owned(), code: None };
        let session = demo.sign_in(&stranger, sign_in).await.unwrap().session;
        Rig { demo, base, session, app }
    }

    pub async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.app.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Seen {
        let (parts, body) = self.raw(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Seen { status: parts.status, headers: parts.headers, text }
    }

    /// A request of the session, in a language.
    pub fn request(&self, lang: Lang, method: Method, path: &str) -> http::request::Builder {
        let cookies = format!("boxmeter_lang={}; boxmeter_session={}", lang.tag(), self.session);
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, "localhost")
            .header(header::COOKIE, cookies)
    }

    pub async fn get(&self, path: &str) -> Seen {
        self.get_in(Lang::En, path).await
    }

    pub async fn get_in(&self, lang: Lang, path: &str) -> Seen {
        self.send(self.request(lang, Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// What a browser without scripts sends.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Seen {
        self.post_in(Lang::En, path, fields).await
    }

    pub async fn post_in(&self, lang: Lang, path: &str, fields: &[(&str, &str)]) -> Seen {
        self.send(self.form(lang, path, fields)).await
    }

    /// A form of the session, as it is sent.
    pub fn form(&self, lang: Lang, path: &str, fields: &[(&str, &str)]) -> Request<Body> {
        let csrf = access::csrf(&self.session);
        let own = [("csrf", &*csrf)];
        let all = fields.iter().filter(|(name, _)| *name != "csrf").chain(&own);
        let pairs: Vec<String> =
            all.map(|(name, value)| format!("{}={}", segment(name), segment(value))).collect();
        let request = self
            .request(lang, Method::POST, path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(Body::from(pairs.join("&"))).unwrap()
    }

    /// Follows a redirect with the cookies that came with it, as a browser does.
    pub async fn follow(&self, seen: &Seen) -> Seen {
        assert_eq!(seen.status, StatusCode::SEE_OTHER, "{}", seen.words());
        let set = seen.headers.get_all(header::SET_COOKIE).iter();
        let cookies: Vec<&str> = set.filter_map(|it| it.to_str().ok()?.split(';').next()).collect();
        let path = seen.location().strip_prefix(&self.base).unwrap();
        let mut request = self.request(Lang::En, Method::GET, path).body(Body::empty()).unwrap();
        for cookie in cookies {
            request.headers_mut().append(header::COOKIE, cookie.parse().unwrap());
        }
        self.send(request).await
    }

    /// Every page that shows something, for tests that go over all of them.
    pub fn all() -> Vec<&'static str> {
        vec![
            "/",
            "/users",
            "/users?state=limited&sort=used",
            "/users?q=nobody-has-this",
            "/add-user",
            "/users/alice",
            "/users/alice?by=hour",
            "/users/alice?by=period",
            "/users/alice/flows",
            "/users/alice/connect",
            "/users/alice/edit",
            "/users/alice/package",
            "/users/alice/reset",
            "/users/alice/delete",
            "/users/carol",
            "/users/dave",
            "/policies",
            "/add-policy",
            "/policies/basic",
            "/policies/basic/delete",
            "/events",
            "/events?who=people&severity=warning&since=-30d",
            "/settings",
            "/settings/links",
            "/settings/notify",
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
