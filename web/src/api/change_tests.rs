//! Changes over a real socket and through the router: who may, on which condition, how often, and
//! what is refused.

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    document_tests::{check, document},
    order::{Actor, Envelope, Identity, Origin},
    routes::{Access, BODY_BYTES_MAX, unix_router},
    tests::{Served, now},
    types::*,
};
use crate::{
    backend::{Backend, ErrorKind, LiveStream},
    demo::Demo,
};

/// A router that keeps its state from request to request.
struct Api(Router);

impl Api {
    fn new() -> Self {
        Api(unix_router(Arc::new(Demo::new(now()))))
    }

    async fn send(
        &self,
        access: Access,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> (StatusCode, Option<String>, Value) {
        let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
        request = request.extension(access).extension(Identity::Uid(7));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.0.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let tag = response.headers().get("etag").map(|it| it.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, tag, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// As an admin, with a JSON body unless it is null.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [headers, &[("content-type", "application/json")]].concat();
        let (status, _, answer) = self.send(Access::Admin, method, path, &headers, text.into()).await;
        (status.as_u16(), answer)
    }

    async fn get(&self, path: &str) -> (u16, Option<String>, Value) {
        let (status, tag, answer) = self.send(Access::Read, "GET", path, &[], Body::empty()).await;
        (status.as_u16(), tag, answer)
    }
}

fn envelope() -> Envelope {
    Envelope::of(Actor::uid(0, Origin::Cli))
}

#[tokio::test]
async fn a_user_lives_and_dies_over_the_socket() {
    let served = Served::new(Demo::new(now()), Some(Access::Admin));
    let client = &served.client;
    let terms = Overrides { quota_bytes: Some(Some(5 << 30)), speed_up: Some(None), ..Overrides::default() };
    let new =
        NewUser { name: "小红".to_owned(), policy: Some("free".to_owned()), terms, ..NewUser::default() };
    let added = client.add_user(envelope(), new.clone()).await.unwrap();
    assert_eq!(added.user, client.user("小红").await.unwrap().user);
    assert_eq!((added.user.period.quota_bytes, added.user.speed.up), (Some(5 << 30), None));
    assert_eq!(added.user.speed.down, Some(1 << 20), "what is not given comes from the policy");
    let password = added.credentials[0].entry["password"].as_str().unwrap();
    assert!(!format!("{added:?}").contains(password), "credentials are in no log");
    let again = client.add_user(envelope(), new).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);

    let change = UserChange { inherit: vec!["speed_up".to_owned()], ..UserChange::default() };
    let changed = client.change_user(envelope(), "小红", change.clone()).await.unwrap();
    assert_eq!((changed.changed, changed.user.speed.up), (true, Some(1 << 20)));
    assert!(!client.change_user(envelope(), "小红", change).await.unwrap().changed);

    let off = client.set_enabled(envelope(), "小红", false).await.unwrap().user;
    assert_eq!((off.state, off.enforcement.cut), (UserState::Disabled, true));
    let me = nix_uid();
    assert!(matches!(&off.cause, Some(Reason::Disabled { who, .. }) if *who == format!("uid:{me}")));
    let on = client.set_enabled(envelope(), "小红", true).await.unwrap().user;
    assert_eq!((on.state, on.cause), (UserState::Active, None));

    let bytes = 3 << 30;
    let package = NewPackage { bytes, ..NewPackage::default() };
    let bought = client.add_package(envelope(), "小红", package).await.unwrap();
    assert_eq!((bought.remaining_bytes, bought.package.bytes), (bytes, bytes));
    let history = client.packages("小红", Default::default()).await.unwrap();
    assert_eq!(history.packages, [bought.package]);

    let gone = client.delete_user(envelope(), "小红", true).await.unwrap();
    assert_eq!((gone.name.as_str(), gone.purged), ("小红", true));
    assert_eq!(client.user("小红").await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(client.delete_user(envelope(), "", true).await.unwrap_err().kind, ErrorKind::NotFound);
}

/// The process's own, which the kernel tells the server.
fn nix_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn a_limited_user_comes_back_with_a_package_or_a_reset() {
    let api = Api::new();
    let (_, _, limited) = api
        .get("/users/演示-小明".replace("演示-小明", "%E6%BC%94%E7%A4%BA-%E5%B0%8F%E6%98%8E").as_str())
        .await;
    assert_eq!(limited["user"]["cause"]["kind"], "period_quota");
    let path = "/users/%E6%BC%94%E7%A4%BA-%E5%B0%8F%E6%98%8E";
    let (status, added) =
        api.ask("POST", &format!("{path}/packages"), &[], json!({"bytes": 1_u64 << 30})).await;
    // 6.75 GiB of 6 GiB are used: a quarter of the package is left.
    assert_eq!((status, &added["remaining_bytes"]), (201, &json!(1_u64 << 28)));
    let (_, _, shown) = api.get(path).await;
    assert_eq!((&shown["user"]["state"], &shown["user"]["cause"]), (&json!("active"), &Value::Null));
    // What the package gave stays given when the period starts anew.
    let (status, reset) = api.ask("POST", &format!("{path}/reset"), &[], Value::Null).await;
    assert_eq!((status, &reset["user"]["period"]["used_bytes"]), (200, &json!(0)));
    assert_eq!(reset["user"]["packages"]["remaining_bytes"], 1_u64 << 28);
    let (_, _, events) = api.get("/events").await;
    let last = events["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["kind"], &last["who"]), (&json!("user.reset"), &json!("uid:7")));
}

#[tokio::test]
async fn if_match_refuses_what_was_changed_meanwhile_and_shows_both() {
    let api = Api::new();
    let (_, tag, seen) = api.get("/users/demo-alice").await;
    let tag = tag.unwrap();
    assert_eq!(tag, format!("\"{}\"", seen["user"]["rev"]));
    let change = json!({"max_flows": 9});
    let (status, changed) = api.ask("PATCH", "/users/demo-alice", &[("if-match", &tag)], change).await;
    assert_eq!((status, &changed["user"]["max_flows"]), (200, &json!(9)));
    for (method, path, body) in [
        ("PATCH", "/users/demo-alice", json!({"max_flows": 8})),
        ("DELETE", "/users/demo-alice", Value::Null),
        ("POST", "/users/demo-alice/disable", Value::Null),
        ("POST", "/users/demo-alice/packages", json!({"bytes": 1})),
    ] {
        let (status, problem) = api.ask(method, path, &[("if-match", &tag)], body).await;
        assert_eq!((status, &problem["kind"]), (412, &json!("stale")), "{method} {path}");
        let stale = &problem["stale"];
        assert_eq!(stale["given_rev"], seen["user"]["rev"]);
        assert_eq!(stale["current_rev"], changed["user"]["rev"]);
        assert_eq!(stale["current"]["max_flows"], 9, "the object as it is now");
    }
    let rev = changed["user"]["rev"].to_string();
    for fitting in [&rev, "*", &format!("\"{rev}\"")] {
        let (status, _) =
            api.ask("POST", "/users/demo-alice/enable", &[("if-match", fitting)], Value::Null).await;
        assert_eq!(status, 200, "{fitting}");
    }
    let (status, problem) =
        api.ask("POST", "/users/demo-alice/enable", &[("if-match", "W/\"x\"")], Value::Null).await;
    assert_eq!(status, 400, "{problem}");
    let (_, tag, _) = api.get("/policies/free").await;
    let (tag, change) = (tag.unwrap(), json!({"speed_up": null}));
    assert_eq!(api.ask("PATCH", "/policies/free", &[("if-match", &tag)], change.clone()).await.0, 200);
    assert_eq!(api.ask("PATCH", "/policies/free", &[("if-match", &tag)], change).await.0, 412);
}

#[tokio::test]
async fn the_same_key_is_the_same_change() {
    let api = Api::new();
    let key = [("idempotency-key", "k-1")];
    let buy = json!({"bytes": 5});
    let (first, answer) = api.ask("POST", "/users/demo-bob/packages", &key, buy.clone()).await;
    let (second, again) = api.ask("POST", "/users/demo-bob/packages", &key, buy.clone()).await;
    assert_eq!((first, second, &answer), (201, 201, &again));
    let (_, _, list) = api.get("/users/demo-bob/packages").await;
    assert_eq!(list["packages"].as_array().unwrap().len(), 1, "it was bought once");
    let other = [
        ("POST", "/users/demo-bob/packages", json!({"bytes": 6})),
        ("POST", "/users/demo-alice/packages", buy.clone()),
        ("POST", "/users/demo-bob/reset", Value::Null),
    ];
    for (method, path, body) in other {
        let (status, problem) = api.ask(method, path, &key, body).await;
        assert_eq!((status, &problem["field"]), (422, &json!("idempotency-key")), "{method} {path}");
    }
    // What failed may be tried again under its key.
    let key = [("idempotency-key", "k-2")];
    assert_eq!(api.ask("POST", "/users/nobody/packages", &key, buy.clone()).await.0, 404);
    assert_eq!(api.ask("POST", "/users/demo-bob/packages", &key, buy.clone()).await.0, 201);
    for key in ["", &"x".repeat(129)] {
        let (status, _) =
            api.ask("POST", "/users/demo-bob/packages", &[("idempotency-key", key)], buy.clone()).await;
        assert_eq!(status, 400);
    }
}

#[tokio::test]
async fn who_may_look_may_not_change() {
    let served = Served::new(Demo::new(now()), Some(Access::Read));
    let client = &served.client;
    let new = NewUser { name: "eve".to_owned(), ..NewUser::default() };
    let error = client.add_user(envelope(), new).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotPermitted);
    assert!(error.message.contains("root"), "{error}");
    assert_eq!(client.policies(Default::default()).await.unwrap().policies.len(), 4);
    assert!(client.user("eve").await.is_err());
    // Web pages are refused before anything else, admins' too.
    let api = Api::new();
    let (status, _) =
        api.ask("POST", "/users/demo-bob/reset", &[("origin", "https://x.example")], Value::Null).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn what_cannot_be_done_names_the_field_and_changes_nothing() {
    let api = Api::new();
    let users = api.get("/users").await.2;
    let long = "x".repeat(2_000);
    for (method, path, body, status, field, words) in [
        ("POST", "/users", json!({}), 422, "name", "is missing"),
        ("POST", "/users", json!({"name": 5}), 422, "name", "invalid type"),
        ("POST", "/users", json!({"name": "a\nb"}), 422, "name", "control characters"),
        ("POST", "/users", json!({"name": "a]b"}), 422, "name", "brackets"),
        ("POST", "/users", json!({"name": "x", "quota": 1}), 422, "quota", "known here: name, policy"),
        ("POST", "/users", json!({"name": "x", "policy": "gold"}), 422, "policy", "there are basic, free"),
        ("POST", "/users", json!({"name": "x", "inbounds": ["nix"]}), 422, "inbounds", "trojan-in"),
        ("POST", "/users", json!({"name": "x", "inbounds": []}), 422, "inbounds", "at least one"),
        ("POST", "/users", json!({"name": "x", "inbounds": ["a", "a"]}), 422, "inbounds", "twice"),
        ("POST", "/users", json!({"name": "x", "email": "x@"}), 422, "email", "alice@example.com"),
        ("POST", "/users", json!({"name": "x", "note": long}), 422, "note", "longer"),
        ("POST", "/users", json!({"name": "x", "time_zone": null}), 422, "time_zone", "inherit"),
        (
            "POST",
            "/users",
            json!({"name": "x", "period": "week", "reset_day": 9}),
            422,
            "reset_day",
            "Monday",
        ),
        (
            "POST",
            "/users",
            json!({"name": "x", "expires_at": "2026-11-24T15:30:00+08:00"}),
            422,
            "expires_at",
            "lies in the past",
        ),
        ("PATCH", "/users/demo-bob", json!({"name": "x"}), 422, "name", "unknown field"),
        ("PATCH", "/users/demo-bob", json!({"inherit": ["quota"]}), 422, "inherit", "is none of"),
        ("POST", "/users/demo-bob/packages", json!({"bytes": 0}), 422, "bytes", "changes nothing"),
        ("POST", "/users/demo-bob/reset", json!({"x": 1}), 422, "x", "known here: none"),
        ("POST", "/policies", json!({"name": "p", "speed_up": 1}), 422, "speed_up", "too few"),
        ("POST", "/import", json!({"users": [{"name": "x", "y": 1}]}), 422, "users", "unknown field"),
    ] {
        let (got, problem) = api.ask(method, path, &[], body.clone()).await;
        assert_eq!((got, problem["field"].as_str()), (status, Some(field)), "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(field), "{body}: {problem}");
    }
    for (method, path, body, status, words) in [
        ("PATCH", "/users/demo-bob", json!({}), 400, "nothing to change"),
        ("PATCH", "/policies/basic", json!({}), 400, "nothing to change"),
        ("POST", "/users", json!([]), 400, "not a JSON object"),
        ("DELETE", "/users/nobody", Value::Null, 404, "nobody"),
        ("DELETE", "/users/demo-bob?purge=perhaps", Value::Null, 400, "purge"),
        ("POST", "/policies", json!({"name": "basic"}), 409, "already"),
        ("PATCH", "/policies/unlimited", json!({"quota_bytes": 1}), 409, "without limits"),
        ("DELETE", "/policies/unlimited", Value::Null, 409, "stays"),
        ("DELETE", "/policies/basic", Value::Null, 409, "4 users"),
        ("DELETE", "/policies/gold", Value::Null, 404, "gold"),
    ] {
        let (got, problem) = api.ask(method, path, &[], body).await;
        assert_eq!(got, status, "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    assert_eq!(api.get("/users").await.2, users, "nothing changed");
}

#[tokio::test]
async fn bodies_are_json_and_limited() {
    let api = Api::new();
    let json = [("content-type", "application/json; charset=utf-8")];
    let ask = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let (status, _, problem) = api.send(Access::Admin, "POST", "/users", headers, body.into()).await;
        (status.as_u16(), problem["kind"].as_str().unwrap().to_owned())
    };
    let big = vec![b' '; BODY_BYTES_MAX + 1];
    assert_eq!(ask(&json, big).await, (413, "too_large".to_owned()));
    assert_eq!(ask(&json, b"{\"name\": ".to_vec()).await, (400, "bad_request".to_owned()));
    assert_eq!(ask(&[], b"{\"name\": \"x\"}".to_vec()).await, (400, "bad_request".to_owned()));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(ask(&form, b"name=x".to_vec()).await, (400, "bad_request".to_owned()));
}

#[tokio::test]
async fn an_import_judges_each_user_on_its_own() {
    let api = Api::new();
    let users = json!([
        {"name": "demo-alice", "terms": {"quota_bytes": 7}, "enabled": false},
        {"name": "new", "policy": "free", "used": [{"month": "2026-11", "upload_bytes": 1, "download_bytes": 2}]},
        {"name": "b[a]d"},
        {"name": "x", "policy": "gold"},
        {"name": "y", "used": [{"month": "2026-13", "upload_bytes": 1, "download_bytes": 2}]},
        {"name": "u", "uuid": "no uuid"},
        {"name": "v", "logins": {"vless-in": {"uuid": "b831381d-6324-4d53-ad4f-8cda48b30811", "flow": "odd"}}},
        {"name": "w", "logins": {"vless-in": {"uuid": "b831381d-6324-4d53-ad4f-8cda48b30811", "flow": ""}}},
        {"name": "demo-bob", "uuid": "no uuid", "terms": {"quota_bytes": 7}},
    ]);
    let before = api.get("/users").await.2;
    let (status, dry) = api.ask("POST", "/import", &[], json!({"dry_run": true, "users": users})).await;
    assert_eq!(status, 200);
    let outcomes = |report: &Value| -> Vec<String> {
        let users = report["users"].as_array().unwrap().iter();
        users.map(|it| it["outcome"].as_str().unwrap().to_owned()).collect()
    };
    let refused = "refused";
    let expected = ["updated", "added", refused, refused, refused, refused, refused, "added", "updated"];
    assert_eq!(outcomes(&dry), expected, "who is there already needs no login");
    assert_eq!(api.get("/users").await.2, before, "a dry run does nothing");
    let (_, report) = api.ask("POST", "/import", &[], json!({"users": users})).await;
    assert_eq!(outcomes(&report), outcomes(&dry));
    assert_eq!(api.get("/users/demo-alice").await.2["user"]["state"], "disabled");
    assert_eq!(api.get("/users/new").await.2["user"]["policy"], "free");
    let (_, again) = api.ask("POST", "/import", &[], json!({"users": users})).await;
    assert_eq!(outcomes(&again)[0], "unchanged");
    let too_many = vec![json!({"name": "x"}); IMPORT_USERS_MAX + 1];
    assert_eq!(api.ask("POST", "/import", &[], json!({"users": too_many})).await.0, 422);
}

#[tokio::test]
async fn answers_to_changes_are_as_the_document_says() {
    let api = Api::new();
    let document = document();
    let user = json!({"name": "new", "quota_bytes": null, "over_quota": [{"percent": 90, "then": {"throttle": 4096}}],
                      "period": {"days": 30}, "expires_at": "2027-01-01T00:00:00Z", "note": "n"});
    let package = json!({"bytes": 5, "expires_at": "2027-01-01T00:00:00Z"});
    for (method, path, uri, body, code) in [
        ("post", "/users", "/users", user, 201),
        ("patch", "/users/{name}", "/users/new", json!({"max_flows": 1, "email": null}), 200),
        ("post", "/users/{name}/disable", "/users/new/disable", Value::Null, 200),
        ("post", "/users/{name}/enable", "/users/new/enable", Value::Null, 200),
        ("post", "/users/{name}/reset", "/users/new/reset", Value::Null, 200),
        ("post", "/users/{name}/packages", "/users/new/packages", package, 201),
        ("post", "/policies", "/policies", json!({"name": "p", "speed_up": 4096}), 201),
        ("patch", "/policies/{name}", "/policies/p", json!({"rollover": true}), 200),
        ("delete", "/policies/{name}", "/policies/p", Value::Null, 200),
        ("delete", "/users/{name}", "/users/new?purge=true", Value::Null, 200),
        ("post", "/import", "/import", json!({"users": [{"name": "b[a]d"}]}), 200),
    ] {
        let operation = &document["paths"][path][method];
        if !body.is_null() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            check(&document, schema, &body, &format!("{method} {path}, body"));
        }
        let (status, answer) = api.ask(&method.to_uppercase(), uri, &[], body).await;
        assert_eq!(status, code, "{method} {path}: {answer}");
        let schema = &operation["responses"][code.to_string()]["content"]["application/json"]["schema"];
        check(&document, schema, &answer, &format!("{method} {path}"));
    }
    let (_, problem) = api.ask("PATCH", "/users/demo-bob", &[("if-match", "1")], json!({"note": "x"})).await;
    check(&document, &document["components"]["schemas"]["Problem"], &problem, "problem");
}

/// Whoever only meters.
struct Meters(Demo);

impl crate::access::Door for Meters {}

#[async_trait::async_trait]
impl Backend for Meters {
    fn now(&self) -> jiff::Zoned {
        self.0.now()
    }
    async fn status(&self) -> Result<Status, crate::backend::ApiError> {
        self.0.status().await
    }
    async fn users(
        &self,
        filter: super::query::UserFilter,
        page: super::query::Page,
    ) -> Result<UserList, crate::backend::ApiError> {
        self.0.users(filter, page).await
    }
    async fn user(&self, name: &str) -> Result<UserShow, crate::backend::ApiError> {
        self.0.user(name).await
    }
    async fn usage(&self, query: super::query::UsageQuery) -> Result<Usage, crate::backend::ApiError> {
        self.0.usage(query).await
    }
    async fn flows(&self, filter: super::query::FlowFilter) -> Result<FlowList, crate::backend::ApiError> {
        self.0.flows(filter).await
    }
    async fn events(&self, query: super::query::EventQuery) -> Result<EventList, crate::backend::ApiError> {
        self.0.events(query).await
    }
    async fn audit(&self, query: super::query::AuditQuery) -> Result<Audit, crate::backend::ApiError> {
        self.0.audit(query).await
    }
    async fn stats(&self) -> Result<Stats, crate::backend::ApiError> {
        self.0.stats().await
    }
    async fn subscribe(&self) -> Result<LiveStream, crate::backend::ApiError> {
        self.0.subscribe().await
    }
}

#[tokio::test]
async fn who_only_meters_says_so() {
    let api = Api(unix_router(Arc::new(Meters(Demo::new(now())))));
    let (status, problem) = api.ask("POST", "/users/demo-bob/reset", &[], Value::Null).await;
    assert_eq!((status, &problem["kind"]), (501, &json!("unsupported")));
    assert_eq!(api.get("/policies").await.0, 501);
}
