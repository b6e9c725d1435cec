//! Both ends of the wire together: made-up answers over a real unix socket to the real client, and
//! what the router refuses.

use std::{path::PathBuf, sync::Arc};

use axum::body::Body;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use jiff::Zoned;
use serde_json::Value;
use tokio::{net::UnixListener, task::JoinHandle};
use tower::ServiceExt;

use super::{
    client::Client,
    order::Identity,
    query::{AuditQuery, By, EventQuery, FlowFilter, Page, UsageQuery, UserFilter, UserSort},
    routes::{Access, unix_router},
    serve::serve,
    types::{Severity, UserState},
};
use crate::{
    backend::{Backend, ErrorKind},
    demo::{Demo, user},
};

pub(super) fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

/// A served demo; the socket's directory goes away with it.
pub(super) struct Served {
    pub(super) demo: Arc<Demo>,
    pub(super) client: Client,
    server: JoinHandle<()>,
    dir: PathBuf,
}

impl Served {
    pub(super) fn new(demo: Demo, access: Option<Access>) -> Self {
        let dir = std::env::temp_dir().join(format!("boxmeter-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let demo = Arc::new(demo);
        let router = unix_router(Arc::clone(&demo) as Arc<dyn Backend>);
        let server = tokio::spawn(async move {
            serve(listener, router, move |_| access, std::future::pending()).await.unwrap();
        });
        Served { demo, client: Client::new(socket), server, dir }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn served() -> Served {
    Served::new(Demo::new(now()), Some(Access::Read))
}

#[tokio::test]
async fn every_answer_comes_over_the_socket_as_it_was() {
    let served = served();
    let (demo, client) = (&served.demo, &served.client);
    assert_eq!(client.status().await, demo.status().await);
    assert_eq!(client.stats().await, demo.stats().await);
    assert_eq!(client.metrics().await, demo.metrics().await);
    assert!(
        client.metrics().await.unwrap().contains("boxmeter_user_payload_bytes_total{user=\"demo-alice\"")
    );
    let page = Page::default();
    let filter = UserFilter {
        state: Some(UserState::Limited),
        search: Some("小".to_owned()),
        policy: Some("basic".to_owned()),
        online: false,
        sort: UserSort::LastSeen,
    };
    let found = client.users(filter.clone(), page.clone()).await;
    assert_eq!(found.as_ref().unwrap().users.len(), 1);
    assert_eq!(found, demo.users(filter, page).await);
    let query = UsageQuery {
        user: Some("演示-小明".to_owned()),
        from: Some("2026-11-01T00:00:00Z".parse().unwrap()),
        to: Some("2026-11-02T00:00:00Z".parse().unwrap()),
        by: Some(By::Day),
        page: Page::default(),
    };
    assert_eq!(client.usage(query.clone()).await, demo.usage(query).await);
    let filter = FlowFilter { user: Some("demo-alice".to_owned()), ..Default::default() };
    assert_eq!(client.flows(filter.clone()).await, demo.flows(filter).await);
    let query = EventQuery {
        since: Some(now().timestamp()),
        severity: Some(Severity::Warning),
        by_people: true,
        newest: true,
        ..Default::default()
    };
    assert_eq!(client.events(query.clone()).await, demo.events(query).await);
    let query = AuditQuery { from: Some("2026-11-01T00:00:00Z".parse().unwrap()), to: None };
    assert_eq!(client.audit(query).await, demo.audit(query).await);
}

#[tokio::test]
async fn any_name_can_be_asked_for() {
    let long = "x".repeat(10_000);
    let names = [
        "new\nline",
        "\x1b[31m",
        "\u{202e}rtl",
        "<script>",
        &long,
        "小明",
        "a/b",
        "..",
        ".",
        "%2F",
        "a?b#c&d=e",
        " ",
        "+",
    ];
    let users = names.iter().zip(1..).map(|(name, n)| user(&now(), n, name, UserState::Active, None));
    let served = Served::new(Demo::new(now()).with_users(users.collect()), Some(Access::Read));
    for name in names {
        let shown = served.client.user(name).await.unwrap();
        assert_eq!(shown.user.name, name);
        let query = UsageQuery { user: Some(name.to_owned()), ..Default::default() };
        assert_eq!(served.client.usage(query).await.unwrap().rows[0].user, name);
    }
    for name in ["nobody", "", "a%2Fb"] {
        let error = served.client.user(name).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{name}: {error}");
    }
}

#[tokio::test]
async fn pages_put_together_are_the_list() {
    let served = served();
    let mut page = Page { after: None, limit: 1 };
    let mut names = Vec::new();
    loop {
        let answer = served.client.users(UserFilter::default(), page.clone()).await.unwrap();
        assert_eq!(answer.users.len(), 1);
        names.extend(answer.users.into_iter().map(|user| user.name));
        let Some(next) = answer.next else { break };
        page.after = Some(next);
    }
    let all = served.client.users_all(UserFilter::default()).await.unwrap();
    assert_eq!(names, all.users.iter().map(|user| user.name.clone()).collect::<Vec<_>>());
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn the_stream_begins_with_the_state_and_goes_on_with_changes() {
    let served = served();
    let mut live = served.client.subscribe().await.unwrap();
    let first = live.next().await.unwrap().unwrap();
    assert_eq!(*first, served.demo.snapshot());
    let mut changed = served.demo.snapshot();
    changed.users.remove(0);
    std::sync::Arc::make_mut(&mut changed.users[0]).live.upload_rate += 1;
    changed.totals.flows = 99;
    served.demo.publish(changed.clone());
    let second = live.next().await.unwrap().unwrap();
    assert_eq!(second.totals, changed.totals);
    assert_eq!(second.users, changed.users);
    // Who comes later gets the whole state as well.
    let mut later = served.client.subscribe().await.unwrap();
    assert_eq!(later.next().await.unwrap().unwrap().users, changed.users);
}

#[tokio::test]
async fn only_changed_users_cross_the_wire() {
    let old = Demo::new(now()).snapshot();
    let mut new = old.clone();
    std::sync::Arc::make_mut(&mut new.users[1]).live.flows += 1;
    let gone = new.users.pop().unwrap();
    let update = super::live::LiveUpdate::between(&old, &new);
    let json = serde_json::to_value(&update).unwrap();
    assert_eq!(json["users"].as_array().unwrap().len(), 1);
    assert_eq!(json["removed"], serde_json::json!([gone.id]));
    assert_eq!(update.clone().apply(Some(&old)), Some(new));
    assert_eq!(update.apply(None), None);
}

#[tokio::test]
async fn without_access_nothing_is_answered() {
    let served = Served::new(Demo::new(now()), None);
    let error = served.client.status().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotPermitted);
    assert!(error.message.contains("group boxmeter"), "{error}");
    assert!(served.client.subscribe().await.is_err());
}

#[tokio::test]
async fn nobody_on_the_socket_is_not_running() {
    let served = served();
    let missing = Client::new(served.dir.join("missing"));
    assert_eq!(missing.status().await.unwrap_err().kind, ErrorKind::NotRunning);
    let dead = served.dir.join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    assert_eq!(Client::new(dead).status().await.unwrap_err().kind, ErrorKind::NotRunning);
}

/// Status, content type and body of one request to the router.
pub(super) async fn ask(method: &str, uri: &str, headers: &[(&str, &str)]) -> (StatusCode, String, Value) {
    ask_as(Access::Read, method, uri, headers).await
}

pub(super) async fn ask_as(
    access: Access,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, String, Value) {
    let mut request =
        Request::builder().method(method).uri(uri).extension(access).extension(Identity::Uid(7));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let router = unix_router(Arc::new(Demo::new(now())));
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let kind = response.headers().get("content-type").map(|it| it.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind.unwrap_or_default(), serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn web_pages_are_refused_whatever_they_ask() {
    for header in ["origin", "referer"] {
        for uri in ["/api/v1/status", "/api/v1/stream", "/nowhere"] {
            let (status, kind, problem) = ask("GET", uri, &[(header, "https://example.com")]).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{header} {uri}");
            assert_eq!(kind, "application/problem+json");
            assert_eq!(problem["kind"], "not_permitted");
        }
    }
}

#[tokio::test]
async fn wrong_questions_are_answered_with_what_would_be_right() {
    let (status, kind, problem) = ask("GET", "/api/v1/usage?from=soonish", &[]).await;
    assert_eq!((status, kind.as_str()), (StatusCode::BAD_REQUEST, "application/problem+json"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&problem).unwrap(), @r#"
    {
      "schema": 1,
      "type": "about:blank",
      "title": "Bad Request",
      "status": 400,
      "detail": "from: \"soonish\" is not a time: give an RFC 3339 time (2026-11-01T08:00:00+08:00), a date (2026-11-01), a date and time (2026-11-01 08:00), now, today, yesterday, month, or an age such as -7d, -3h, -30m",
      "kind": "bad_request"
    }
    "#);
    for (uri, words) in [
        ("/api/v1/usage?by=week", "by: \"week\" is not one of minute, hour, day, month, period"),
        (
            "/api/v1/usage?usr=alice",
            "unknown parameter \"usr\"; known here: user, from, to, by, after, limit",
        ),
        ("/api/v1/usage?user=a&user=b", "user is given twice"),
        ("/api/v1/usage?from=today&to=yesterday", "the range is empty"),
        ("/api/v1/users?limit=0", "limit: \"0\" is not a whole number from 1 to 10000"),
        ("/api/v1/users?limit=99999999999999", "is not a whole number"),
        ("/api/v1/users?state=happy", "state: \"happy\" is not one of active"),
        ("/api/v1/status?x=1", "unknown parameter \"x\"; known here: none"),
    ] {
        let (status, _, problem) = ask("GET", uri, &[]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{uri}: {detail}");
    }
    let (status, _, problem) = ask("GET", "/api/v1/nowhere", &[]).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::NOT_FOUND, &Value::from("not_found")));
    let (status, kind, _) = ask("DELETE", "/api/v1/users", &[]).await;
    assert_eq!((status, kind.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "application/problem+json"));
    // Days are read in the zone of billing, not in that of whoever asks.
    let (_, _, usage) = ask("GET", "/api/v1/usage?from=today", &[]).await;
    assert_eq!(usage["from"], "2026-11-24T00:00:00+08:00");
}
