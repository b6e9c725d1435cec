//! The panel as a browser and a program meet it, over made-up data.

use std::sync::Arc;

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{HeaderMap, Request, StatusCode, header};
use tower::ServiceExt as _;

use super::{app, front::MadeUp, options::Options, public_app};
use crate::demo::{Demo, PASSWORD};

struct Browser {
    app: Router,
    cookie: Option<String>,
    csrf: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Browser {
    fn new(options: Options) -> Self {
        let now = "2026-11-25T12:00:00+08:00[Asia/Shanghai]".parse().unwrap();
        let front = Arc::new(MadeUp(Arc::new(Demo::new(now))));
        Browser { app: app(front, options), cookie: None, csrf: String::new() }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        let mut request = request.body(body.into()).unwrap();
        request.headers_mut().entry(header::HOST).or_insert("127.0.0.1:8790".parse().unwrap());
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
        }
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::from(([127, 0, 0, 1], 4711))));
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 10 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), Body::empty()).await
    }

    async fn post(&self, path: &str, form: &str) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request, form.to_owned()).await
    }

    /// Signed in, as the page does it.
    async fn inside(options: Options) -> Self {
        let mut browser = Self::new(options);
        let answer = browser.post("/sign-in", &format!("password={PASSWORD}&next=%2Fusers")).await;
        assert_eq!((answer.status, answer.to()), (StatusCode::SEE_OTHER, "/users"), "{}", answer.body);
        let set = answer.headers[header::SET_COOKIE].to_str().unwrap();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        assert!(set.contains("Max-Age=1209600"), "closing the browser is no end of the session: {set}");
        browser.cookie = set.split(';').next().map(str::to_owned);
        let page = browser.get("/users").await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        let (_, rest) = page.body.split_once("name=\"csrf\" value=\"").unwrap();
        browser.csrf = rest.split('"').next().unwrap().to_owned();
        assert!(!browser.csrf.is_empty());
        browser
    }
}

impl Answer {
    fn to(&self) -> &str {
        self.headers.get(header::LOCATION).and_then(|it| it.to_str().ok()).unwrap_or_default()
    }
}

const PAGES: [&str; 7] =
    ["/", "/users", "/add-user", "/users/demo-alice", "/policies", "/events", "/settings"];

#[tokio::test]
async fn nothing_but_signing_in_is_shown_to_strangers() {
    let browser = Browser::new(Options::default());
    for path in PAGES {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert!(answer.to().starts_with("/sign-in?next=%2F"), "{path} {}", answer.to());
        assert!(!answer.body.contains("demo-alice"));
    }
    for path in ["/change-users", "/add-user", "/users/demo-alice/delete", "/add-policy"] {
        let answer = browser.post(path, "name=mallory&do=delete&user=demo-alice&sure=1").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert!(answer.to().starts_with("/sign-in?next=%2F") && answer.to().ends_with("&lost=1"), "{path}");
    }
    let answer = browser.get("/api/v1/users").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.get("/live").await.status, StatusCode::SEE_OTHER);
    let page = browser.get("/sign-in").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("type=\"password\""));
}

#[tokio::test]
async fn every_page_opens_for_who_is_in_and_none_afterwards() {
    let browser = Browser::inside(Options::default()).await;
    for path in PAGES {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.body);
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store", "{path}");
        assert!(!answer.body.contains("<script>") && !answer.body.contains(" style=\""), "{path}");
    }
    let out = browser.post("/sign-out", "").await;
    assert_eq!((out.status, out.to()), (StatusCode::SEE_OTHER, "/sign-in"));
    // The cookie that the browser may still have opens nothing any more.
    assert_eq!(browser.get("/users").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_gives_no_cookie() {
    let browser = Browser::new(Options::default());
    let answer = browser.post("/sign-in", "password=wrong").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.headers.get(header::SET_COOKIE).is_none());
    assert!(answer.body.contains("wrong"), "{}", answer.body);
    let elsewhere = format!("password={PASSWORD}&next=%2F%2Fevil.example");
    assert_eq!(browser.post("/sign-in", &elsewhere).await.to(), "/");
}

#[tokio::test]
async fn other_sites_change_nothing() {
    let browser = Browser::inside(Options::default()).await;
    let form = format!("disable=demo-alice&csrf={}", browser.csrf);
    let post =
        || Request::post("/change-users").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let state = async || browser.get("/api/v1/users/demo-alice").await.body;
    let refused = [
        browser.send(post().header(header::ORIGIN, "https://evil.example"), form.clone()).await,
        browser.send(post().header("sec-fetch-site", "cross-site"), form.clone()).await,
        browser.send(post().header("sec-fetch-site", "same-site"), form.clone()).await,
        browser.send(post().header(header::ORIGIN, "null"), form.clone()).await,
        browser.send(post(), "disable=demo-alice").await,
        browser.send(post(), "disable=demo-alice&csrf=x").await,
        browser.send(Request::post("/api/v1/users/demo-alice/disable"), "").await,
    ];
    for answer in refused {
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.body);
    }
    assert!(state().await.contains("\"state\":\"active\""), "{}", state().await);
    let own = browser.send(post().header(header::ORIGIN, "http://127.0.0.1:8790"), form).await;
    assert_eq!(own.status, StatusCode::SEE_OTHER, "{}", own.body);
    assert!(state().await.contains("\"state\":\"disabled\""));
    let by_script = Request::post("/api/v1/users/demo-alice/enable").header("x-csrf-token", &browser.csrf);
    assert_eq!(browser.send(by_script, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_may_what_its_scope_says() {
    let browser = Browser::inside(Options::default()).await;
    let token = async |scope: &str| {
        let request = Request::post("/api/v1/tokens")
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-csrf-token", &browser.csrf);
        let made = browser.send(request, format!(r#"{{"name":"{scope}","scope":"{scope}"}}"#)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let made: serde_json::Value = serde_json::from_str(&made.body).unwrap();
        format!("Bearer {}", made["secret"].as_str().unwrap())
    };
    let program = Browser { app: browser.app.clone(), cookie: None, csrf: String::new() };
    let asked = async |token: &str, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, token);
        program.send(request, Body::empty()).await.status
    };
    let (read, users, admin) = (token("read").await, token("users").await, token("admin").await);
    let disable = "/api/v1/users/demo-alice/disable";
    let cases = [
        ("GET", "/api/v1/users", [200, 200, 200]),
        ("GET", "/api/v1/users/demo-alice/credentials", [403, 200, 200]),
        ("POST", disable, [403, 200, 200]),
        ("DELETE", "/api/v1/policies/premium", [403, 403, 200]),
        ("GET", "/api/v1/tokens", [403, 403, 200]),
        ("GET", "/api/v1/settings/sharing", [403, 403, 200]),
        ("GET", "/api/v1/subscriptions/x", [403, 403, 403]),
        ("POST", "/api/v1/session", [403, 403, 403]),
    ];
    for (method, path, wanted) in cases {
        for (token, wanted) in [&read, &users, &admin].into_iter().zip(wanted) {
            assert_eq!(asked(token, method, path).await.as_u16(), wanted, "{method} {path}");
        }
    }
    assert_eq!(asked("Bearer bm_nothing", "GET", "/api/v1/users").await, StatusCode::FORBIDDEN);
    // A token is not for pages, and nothing a caller says of itself counts.
    assert_eq!(asked(&admin, "GET", "/users").await, StatusCode::SEE_OTHER);
    let liar = Request::post(disable)
        .header(header::AUTHORIZATION, &read)
        .header("x-boxmeter-from", "127.0.0.1")
        .header("x-boxmeter-session", "x");
    assert_eq!(program.send(liar, Body::empty()).await.status, StatusCode::FORBIDDEN);
}

/// With a public address by TLS, cookies are for TLS there, and a tunnel to the loopback address still gets in.
#[tokio::test]
async fn cookies_fit_the_way_in() {
    let options = Options { public_url: "https://panel.example".to_owned(), ..Options::default() };
    let browser = Browser::new(options);
    let set = async |host: &str| {
        let request = Request::post("/sign-in")
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = browser.send(request, format!("password={PASSWORD}")).await;
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
        let name = cookie.split(';').next().unwrap().to_owned();
        let back = Browser { app: browser.app.clone(), cookie: Some(name), csrf: String::new() };
        let inside = back.send(Request::get("/users").header(header::HOST, host), Body::empty()).await;
        assert_eq!(inside.status, StatusCode::OK, "{host}");
        cookie
    };
    let public = set("panel.example").await;
    assert!(public.starts_with("__Host-boxmeter=") && public.contains("; Secure"), "{public}");
    let tunnel = set("127.0.0.1:8790").await;
    assert!(tunnel.starts_with("boxmeter_session=") && !tunnel.contains("Secure"), "{tunnel}");
}

#[tokio::test]
async fn strangers_hold_no_memory() {
    let browser = Browser::new(Options::default());
    let long = "a&".repeat(9 << 10);
    assert_eq!(browser.post("/sign-in", &long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let many = "a&".repeat(3_000);
    assert_eq!(browser.post("/preferences", &many).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let request = Request::post("/api/v1/users").header(header::AUTHORIZATION, "Bearer bm_nothing");
    let unread = futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
    assert_eq!(browser.send(request, Body::from_stream(unread)).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn names_that_are_not_ours_are_refused() {
    let browser = Browser::inside(Options::default()).await;
    let rebound = browser.send(Request::get("/users").header(header::HOST, "evil.example:8790"), "").await;
    assert_eq!(rebound.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(!rebound.body.contains("demo-alice"));
    // Users' own pages have no cookie, and may be found by whatever name leads here; nothing else beside them.
    for (path, status) in
        [("/s/x", 404), ("/s/-/public.css", 200), ("/s/x/users", 421), ("/s", 421), ("//s/x", 421)]
    {
        let answer = browser.send(Request::get(path).header(header::HOST, "server.example:8443"), "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
    let options = Options { public_url: "https://panel.example/box".to_owned(), ..Options::default() };
    let browser = Browser::new(options);
    let known = browser.send(Request::get("/sign-in").header(header::HOST, "panel.example"), "").await;
    assert_eq!(known.status, StatusCode::OK);
    assert!(known.headers.contains_key(header::STRICT_TRANSPORT_SECURITY));
}

#[tokio::test]
async fn long_bodies_are_not_read() {
    let browser = Browser::inside(Options::default()).await;
    let long = "a".repeat(10 << 20);
    let form = browser.post("/add-user", &format!("csrf={}&note={long}", browser.csrf)).await;
    assert_eq!(form.status, StatusCode::PAYLOAD_TOO_LARGE);
    let sign_in = browser.post("/sign-in", &format!("password={long}")).await;
    assert_eq!(sign_in.status, StatusCode::PAYLOAD_TOO_LARGE);
    let json = Request::post("/api/v1/users")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-csrf-token", &browser.csrf);
    assert_eq!(browser.send(json, long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn live_streams_have_places_that_are_given_back() {
    let browser = Browser::inside(Options::default()).await;
    let open = async || {
        let mut request =
            Request::get("/live").header(header::HOST, "localhost").body(Body::empty()).unwrap();
        let cookie = browser.cookie.as_deref().unwrap();
        request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
        browser.app.clone().oneshot(request).await.unwrap()
    };
    let mut held = Vec::new();
    for at in 0..super::guard::STREAMS_MAX {
        let stream = open().await;
        assert_eq!(stream.status(), StatusCode::OK, "{at}");
        held.push(stream);
    }
    assert_eq!(open().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    held.pop();
    assert_eq!(open().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn below_another_path_everything_stays_below_it() {
    let options = || Options { base_path: "/panel".to_owned(), ..Options::default() };
    let mut browser = Browser::new(options());
    assert_eq!(browser.get("/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(browser.get("/panel/users").await.to(), "/panel/sign-in?next=%2Fusers");
    let answer = browser.post("/panel/sign-in", &format!("password={PASSWORD}&next=%2Fusers")).await;
    assert_eq!(answer.to(), "/panel/users");
    let set = answer.headers[header::SET_COOKIE].to_str().unwrap();
    browser.cookie = set.split(';').next().map(str::to_owned);
    let page = browser.get("/panel/users").await;
    assert_eq!(page.status, StatusCode::OK);
    for part in page.body.split("href=\"").skip(1) {
        assert!(part.starts_with("/panel/") || part.starts_with('#'), "{}", &part[..40.min(part.len())]);
    }
}

#[tokio::test]
async fn the_public_listener_has_nothing_but_subscriptions() {
    let now = "2026-11-25T12:00:00Z[UTC]".parse().unwrap();
    let front = Arc::new(MadeUp(Arc::new(Demo::new(now))));
    let app = public_app(front, Options::default());
    let browser = Browser { app, cookie: None, csrf: String::new() };
    for path in ["/", "/users", "/sign-in", "/api/v1/users", "/live", "/static/x"] {
        assert_eq!(browser.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let unknown = browser.get("/s/nothing").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.headers[header::REFERRER_POLICY], "no-referrer");
}
