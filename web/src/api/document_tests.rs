//! The OpenAPI document against the router and real answers.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::Value;

use super::{
    openapi,
    routes::Access,
    tests::{ask, ask_as, now},
};
use crate::{
    access::{Need, need},
    backend::Backend,
    demo::Demo,
};

pub(super) fn document() -> Value {
    serde_json::from_str(openapi::DOCUMENT).unwrap()
}

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let document = document();
    let documented: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let sources = concat!(
        include_str!("routes.rs"),
        include_str!("change_routes.rs"),
        include_str!("sharing_routes.rs"),
        include_str!("notify_routes.rs"),
        include_str!("access_routes.rs")
    );
    let routed: BTreeSet<&str> =
        sources.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(documented, routed);
    let token = Demo::new(now()).credentials("demo-alice").await.unwrap().token;
    // The two that are no JSON.
    for path in documented.iter().filter(|path| !["/stream", "/metrics"].contains(*path)) {
        if document["paths"][path]["get"].is_null() {
            continue;
        }
        let name = if path.starts_with("/policies") { "basic" } else { "demo-alice" };
        let uri = format!("/api/v1{}", path.replace("{name}", name).replace("{token}", &token));
        let (status, kind, body) = ask_as(Access::Admin, "GET", &uri, &[]).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{path}");
        if *path != "/openapi.json" {
            assert_eq!(body["schema"], 1, "{path}");
            let answer = &document["paths"][path]["get"]["responses"]["200"];
            check(&document, &answer["content"]["application/json"]["schema"], &body, path);
        }
    }
}

#[tokio::test]
async fn the_document_has_every_parameter_and_no_other() {
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        if item["get"].is_null() {
            continue;
        }
        let (_, _, problem) =
            ask_as(Access::Admin, "GET", &format!("/api/v1{}?nonsense=1", path.replace("{name}", "x")), &[])
                .await;
        let Some(known) = problem["detail"].as_str().and_then(|it| it.split("known here: ").nth(1)) else {
            assert_eq!(path, "/openapi.json");
            continue;
        };
        let known: BTreeSet<&str> = known.split(", ").filter(|name| *name != "none").collect();
        let parameters = item["get"]["parameters"].as_array().into_iter().flatten().map(|it| {
            let target = it["$ref"].as_str().map(|at| document.pointer(&at[1..]).unwrap());
            target.unwrap_or(it)
        });
        let queried = parameters.filter(|it| it["in"] == "query").filter_map(|it| it["name"].as_str());
        assert_eq!(queried.collect::<BTreeSet<_>>(), known, "{path}");
    }
}

/// Every field of the answer is described, every required one is there, and types agree.
pub(super) fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        let schema = document.pointer(&target[1..]).unwrap_or_else(|| panic!("{target} is missing"));
        return check(document, schema, value, at);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        let fitting = either.iter().find(|it| (it["type"] == "null") == value.is_null());
        return check(document, fitting.unwrap_or(&Value::Null), value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|it| it == kind),
        one => one == kind,
    };
    assert!(fits, "{at}: {kind} is not {}", schema["type"]);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is not in {words:?}");
    }
    if let Value::Array(items) = value {
        items.iter().for_each(|item| check(document, &schema["items"], item, at));
    }
    let Value::Object(fields) = value else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
    }
    for (name, field) in fields {
        let described = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
        if *described == Value::Bool(true) {
            continue;
        }
        assert!(described.is_object(), "{at}.{name} is not in the document");
        check(document, described, field, &format!("{at}.{name}"));
    }
}

/// Which methods there are, by what the router answers to someone who may only look.
#[tokio::test]
async fn the_document_has_every_method_and_no_other() {
    for (path, item) in document()["paths"].as_object().unwrap() {
        let uri = format!("/api/v1{}?nonsense=1", path.replace("{name}", "basic"));
        for method in ["get", "post", "put", "patch", "delete"] {
            let (status, ..) = ask(&method.to_uppercase(), &uri, &[]).await;
            let routed = status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(routed, !item[method].is_null(), "{method} {path}: {status}");
        }
    }
}

/// Every route has a rule, no rule is without a route, and each is asked of everybody.
#[tokio::test]
async fn every_route_asks_for_what_its_rule_says() {
    let levels = [Access::Read, Access::Panel, Access::Users, Access::Admin];
    let mut asked = 0;
    for (path, item) in document()["paths"].as_object().unwrap() {
        let uri = format!("/api/v1{}?nonsense=1", path.replace("{name}", "basic"));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let rule = need(&method.parse().unwrap(), path);
            assert_eq!(rule.is_some(), !item[method.to_lowercase()].is_null(), "{method} {path}: {rule:?}");
            let Some(rule) = rule else { continue };
            for access in levels {
                let allowed = match rule {
                    Need::Level(level) => access >= level,
                    Need::Panel => matches!(access, Access::Panel | Access::Admin),
                };
                let (status, ..) = ask_as(access, method, &uri, &[]).await;
                assert_eq!(status == StatusCode::FORBIDDEN, !allowed, "{access:?} {method} {path}: {status}");
                asked += 1;
            }
        }
    }
    assert!(asked > 100, "{asked}");
}
