//! Tokens of programs: each may do what its scope says, as the agent knows it.

use crate::rig::{ALICE, Rig};
use boxmeter_tests::needs_machine;
use serde_json::json;

#[test]
fn a_stolen_token_does_no_more_than_its_scope() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let tokens = ["read", "users", "admin"].map(|scope| rig.token(&session, scope, scope));
    let alice = format!("/api/v1/users/{ALICE}");
    // Method, path, body, and the statuses for the three scopes.
    let asked: [(&str, &str, serde_json::Value, [u16; 3]); 11] = [
        ("GET", "/api/v1/users", json!(null), [200, 200, 200]),
        ("GET", &format!("{alice}/credentials"), json!(null), [403, 200, 200]),
        ("PATCH", &alice, json!({"note": "seen"}), [403, 200, 200]),
        ("POST", &format!("{alice}/packages"), json!({"bytes": 1}), [403, 201, 201]),
        ("POST", &format!("{alice}/subscription/rotate"), json!(null), [403, 200, 200]),
        ("POST", "/api/v1/policies", json!({"name": "mine"}), [403, 403, 201]),
        ("GET", "/api/v1/tokens", json!(null), [403, 403, 200]),
        ("GET", "/api/v1/sessions", json!(null), [403, 403, 200]),
        ("PATCH", "/api/v1/settings/sharing", json!({"title": "x"}), [403, 403, 200]),
        // A password is for people.
        ("POST", "/api/v1/password", json!({"new": "a new one for you"}), [403, 403, 403]),
        ("POST", "/api/v1/session", json!({"password": rig.password}), [403, 403, 403]),
    ];
    for (method, path, body, expected) in asked {
        for (token, expected) in tokens.iter().zip(expected) {
            let ask = rig.ask(method, path).token(token);
            let answer = if body.is_null() { ask.send() } else { ask.json(&body).send() };
            assert_eq!(answer.status, expected, "{method} {path} {token}: {}", answer.body);
        }
    }
    let events = rig.events();
    assert!(
        events.iter().any(|(kind, who)| kind == "user_changed" && who == "token:users@198.51.100.1"),
        "{events:?}"
    );
    // No token opens a page, and a deleted one opens nothing.
    let page = rig.ask("GET", "/users").token(&tokens[2]).send();
    assert_ne!(page.status, 200);
    let list = rig.ask("GET", "/api/v1/tokens").session(&session).send().value();
    let list = list["tokens"].as_array().unwrap().clone();
    let id = list.iter().find(|it| it["name"] == "admin").unwrap()["id"].as_str().unwrap();
    assert!(list.iter().all(|it| it["last_used_at"].is_string()), "{list:?}");
    assert_eq!(rig.ask("DELETE", &format!("/api/v1/tokens/{id}")).session(&session).send().status, 204);
    assert_eq!(rig.ask("GET", "/api/v1/users").token(&tokens[2]).send().status, 403);
    assert_eq!(rig.ask("GET", "/api/v1/users").token("bm_nothing").send().status, 403);
    let over = json!({"name": "over", "scope": "panel"});
    assert_eq!(rig.ask("POST", "/api/v1/tokens").session(&session).json(&over).send().status, 422);
}

/// What the panel says to the agent about its visitor cannot be said by the visitor.
#[test]
fn nobody_says_who_asks_but_by_a_secret() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let read = rig.token(&session, "read", "read");
    let alice = format!("/api/v1/users/{ALICE}/disable");
    for (name, value) in [("x-boxmeter-session", session.as_str()), ("x-boxmeter-from", "127.0.0.1")] {
        let answer = rig.ask("POST", &alice).header(name, value).send();
        assert_eq!(answer.status, 401, "{name}: {}", answer.body);
        let answer = rig.ask("POST", &alice).token(&read).header(name, value).send();
        assert_eq!(answer.status, 403, "{name}: {}", answer.body);
    }
    assert_eq!(rig.ask("GET", "/api/v1/users").send().status, 401);
    // Nothing of it happened, and what happens is told with who it was and from where.
    assert_eq!(rig.agent.ask(&["users", "show", ALICE]).unwrap()["user"]["state"], json!("active"));
    let answer = rig.ask("POST", &alice).from("2001:db8::7").session(&session).send();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let events = rig.events();
    assert!(events.iter().any(|(_, who)| who == "admin@2001:db8::7"), "{events:?}");
    // The same key is the same change, from whatever address.
    let add = |from: &str| {
        let body = json!({"bytes": 1024});
        let ask = rig.ask("POST", &format!("/api/v1/users/{ALICE}/packages")).from(from).session(&session);
        ask.header("idempotency-key", "one").json(&body).send()
    };
    let (first, again) = (add("198.51.100.1"), add("198.51.100.2"));
    assert_eq!((first.status, first.value()), (201, again.value()));
    // Somebody else changed it meanwhile: both values.
    let shown = rig.ask("GET", &format!("/api/v1/users/{ALICE}")).session(&session).send();
    let tag = shown.header("etag").unwrap().to_owned();
    rig.agent.ask(&["users", "set", ALICE, "--note", "by another"]).unwrap();
    let change = rig.ask("PATCH", &format!("/api/v1/users/{ALICE}")).session(&session);
    let stale = change.header("if-match", &tag).json(&json!({"note": "late"})).send();
    assert_eq!(stale.status, 412, "{}", stale.body);
    assert_eq!(stale.value()["stale"]["current"]["note"], json!("by another"), "{}", stale.body);
}
