//! Passwords, the second factor, sessions.

use crate::rig::{ALICE, Answer, Rig};
use boxmeter_tests::{needs_machine, wait};
use serde_json::json;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use totp_rs::{Builder, Secret, Totp};

const THIEF: &str = "203.0.113.66";
const OWNER: &str = "198.51.100.1";

#[test]
fn wrong_passwords_in_a_row_shut_out_their_address_only() {
    needs_machine!();
    let rig = Rig::new();
    let mut tried = 0;
    loop {
        let answer = rig.try_password("not the password", "", THIEF);
        assert_eq!(answer.session(), None);
        tried += 1;
        match answer.status {
            403 => assert!(tried < 20, "nobody stops it"),
            429 => break,
            other => panic!("{other}: {}", answer.body),
        }
    }
    assert!(tried > 2, "one slip is no attack");
    let right = rig.try_password(&rig.password, "", THIEF);
    assert_eq!((right.status, right.session()), (429, None), "the right one is not looked at from there");
    // What the address says of itself counts only through the proxy that is trusted.
    let lie = rig.ask("POST", "/sign-in").from(&format!("{OWNER}, {THIEF}"));
    assert_eq!(lie.form(&format!("password={}", rig.password)).send().status, 429);
    let session = rig.try_password(&rig.password, "", OWNER).session().expect("the owner comes in");
    let events = rig.events();
    let failed = events.iter().filter(|(kind, who)| kind == "sign_in_failed" && who.contains(THIEF)).count();
    assert_eq!(failed, tried - 1, "{events:?}");
    assert!(events.contains(&("signed_in".into(), format!("admin@{OWNER}"))), "{events:?}");
    // The agent's restart forgets no attempt.
    let mut rig = rig;
    rig.agent.stop();
    rig.agent.start();
    assert_eq!(rig.try_password(&rig.password, "", THIEF).status, 429);
    assert_eq!(rig.ask("GET", "/api/v1/who").session(&session).send().status, 200);
}

#[test]
fn a_session_ends_when_the_password_is_changed() {
    needs_machine!();
    let rig = Rig::new();
    let (old, own) = (rig.sign_in(), rig.sign_in());
    let new = "another one, much longer";
    let change = |current: &str, new: &str| {
        let body = json!({"current": current, "new": new});
        rig.ask("POST", "/api/v1/password").session(&own).json(&body).send()
    };
    assert_eq!(change("wrong", new).value()["field"], json!("current"));
    assert_eq!(change(&rig.password, "short").value()["field"], json!("new"));
    let who = |session: &str| rig.ask("GET", "/api/v1/who").session(session).send().status;
    assert_eq!((who(&old), who(&own)), (200, 200), "nothing was changed");
    let changed = change(&rig.password, new);
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!((who(&old), who(&own)), (403, 200));
    let page = rig.ask("GET", "/users").cookie(&old).send();
    assert!(page.header("location").is_some_and(|it| it.starts_with("/sign-in")), "{}", page.head);
    assert_eq!(rig.try_password(&rig.password, "", OWNER).status, 403);
    assert!(rig.try_password("another+one%2C+much+longer", "", OWNER).session().is_some());
    // Root needs no password that was there before, and signs everybody out.
    let made = rig.agent.ask(&["panel", "password", "--generate"]).unwrap();
    assert_eq!(who(&own), 403);
    assert!(rig.try_password(made["password"].as_str().unwrap(), "", OWNER).session().is_some());
    let kinds: Vec<_> = rig.events().into_iter().filter(|(kind, _)| kind == "password_changed").collect();
    let whose: Vec<_> = kinds.iter().map(|(_, who)| who.as_str()).collect();
    assert_eq!(whose, ["uid:0", &format!("admin@{OWNER}"), "uid:0"]);
}

#[test]
fn sessions_are_seen_and_ended() {
    needs_machine!();
    let rig = Rig::new();
    let (own, other, third) = (rig.sign_in(), rig.sign_in(), rig.sign_in());
    let list = rig.ask("GET", "/api/v1/sessions").session(&own).send().value();
    let sessions = list["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 3);
    assert_eq!(sessions.iter().filter(|it| it["current"] == json!(true)).count(), 1);
    assert!(sessions.iter().all(|it| it["from"] == json!(OWNER)), "{list}");
    for secret in [&own, &other, &third] {
        assert!(!list.to_string().contains(secret.as_str()), "the list has a session's secret");
    }
    let who = |session: &str| rig.ask("GET", "/api/v1/who").session(session).send();
    let others = who(&other).value()["id"].as_str().unwrap().to_owned();
    let end = |id: &str| rig.ask("DELETE", &format!("/api/v1/sessions/{id}")).session(&own).send().status;
    assert_eq!(end(&others), 204);
    assert_eq!(end(&others), 404, "it is over");
    assert_eq!(end("x"), 404);
    assert_eq!((who(&own).status, who(&other).status, who(&third).status), (200, 403, 200));
    assert_eq!(rig.ask("DELETE", "/api/v1/sessions").session(&own).send().status, 204);
    assert_eq!((who(&own).status, who(&third).status), (200, 403));
    let out = rig.ask("POST", "/sign-out").session(&own).form("").send();
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").is_some_and(|it| it.contains("max-age=0")), "{}", out.head);
    assert_eq!(who(&own).status, 403, "the cookie that the browser forgot opens nothing either");
}

/// A page that is open and moves by itself is nobody's presence: where nobody does anything, a session ends.
#[test]
fn a_page_that_nobody_looks_at_keeps_no_session() {
    needs_machine!();
    let rig = Rig::new();
    let [left, used] = ["198.51.100.11", "198.51.100.22"]
        .map(|from| (from, rig.try_password(&rig.password, "", from).session().expect("a session")));
    let ask = |(from, session): &(&str, String), path: &str| rig.ask("GET", path).from(from).cookie(session);
    let ledger = rusqlite::Connection::open(rig.site.scratch.join("ledger/ledger.db")).unwrap();
    let seen = |(from, _): &(&str, String)| -> i64 {
        let sql = "SELECT seen_ms FROM panel_sessions WHERE address = ?1";
        ledger.query_row(sql, [from], |row| row.get(0)).unwrap()
    };
    let pass = |minutes: i64| {
        ledger.execute("UPDATE panel_sessions SET seen_ms = seen_ms - ?1", [minutes * 60_000]).unwrap();
    };
    pass(11 * 60);
    let before = [seen(&left), seen(&used)];
    // What an open page asks for by itself: its stream, and parts of it that are looked at again.
    let mut stream = ask(&left, "/live?page=overview").open();
    stream.set_read_timeout(Some(Duration::from_secs(80))).unwrap();
    let mut told = [0; 2048];
    assert!(stream.read(&mut told).unwrap() > 0);
    for path in [format!("/users/{ALICE}"), format!("/users/{ALICE}/flows")] {
        assert_eq!(ask(&left, &path).header("x-unattended", "yes").send().status, 200, "{path}");
    }
    // The ledger takes one after the other: when this is noted, all of that would be.
    assert_eq!(ask(&used, "/users").send().status, 200);
    wait("what somebody does is noted", || if seen(&used) > before[1] { Ok(()) } else { Err(String::new()) });
    assert_eq!(seen(&left), before[0]);
    pass(61);
    // Twelve hours without anybody: the page goes to the way in, and its stream ends soon after.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream ends");
    assert_eq!(ask(&left, "/users").send().status, 303);
    assert_eq!(ask(&used, "/users").send().status, 200);
}

pub fn authenticator(secret: &str) -> Totp {
    let secret = Secret::try_from_base32(secret).unwrap();
    Builder::new().with_secret(secret).with_account_name("admin").build().unwrap()
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Codes that were not used yet: of the step before, of now, and of the next one, which are all taken.
/// Waits until there is enough left of a step.
pub fn codes(totp: &Totp) -> [String; 3] {
    wait("a step begins", || if seconds() % 30 < 15 { Ok(()) } else { Err(String::new()) });
    let now = seconds();
    [now - 30, now, now + 30].map(|at| totp.generate(at).to_string())
}

/// A question about the second factor by who is in.
fn totp_of(rig: &Rig, session: &str, method: &str, body: &serde_json::Value) -> Answer {
    rig.ask(method, "/api/v1/totp").session(session).json(body).send()
}

#[test]
fn a_code_of_the_second_factor_opens_once() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let ask = |method, body| totp_of(&rig, &session, method, &body);
    let offer = ask("POST", json!({})).value();
    let totp = authenticator(offer["secret"].as_str().unwrap());
    assert!(rig.try_password(&rig.password, "", OWNER).session().is_some(), "offered only");
    let [first, second, third] = codes(&totp);
    assert_eq!(ask("PUT", json!({"code": "000000"})).value()["field"], json!("code"));
    assert_eq!(ask("PUT", json!({"code": first})).status, 204);
    let sign_in = |code: &str, from: &str| rig.try_password(&rig.password, code, from);
    assert_eq!(sign_in("", OWNER).session(), None, "a password alone is not enough");
    assert_eq!(sign_in(&first, OWNER).session(), None, "the code that turned it on");
    assert!(sign_in(&second, OWNER).session().is_some());
    assert_eq!(sign_in(&second, "198.51.100.2").session(), None, "seen by somebody who looked on");
    // Turning it off needs a code, or root.
    assert_eq!(ask("DELETE", json!({"code": second})).value()["field"], json!("code"));
    assert_eq!(ask("DELETE", json!({"code": third})).status, 204);
    assert!(sign_in("", "198.51.100.3").session().is_some());
    let kinds: Vec<_> = rig.events().into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains(&"totp_on".to_owned()) && kinds.contains(&"totp_off".to_owned()), "{kinds:?}");
    let log = rig.agent.ask(&["events"]).unwrap().to_string();
    assert!(!log.contains(offer["secret"].as_str().unwrap()));
    assert!(!log.contains(ALICE) || !log.contains(&session));
}

/// Codes are short: whoever knows the password cannot try many, from however many addresses.
#[test]
fn codes_are_few_for_all_addresses_together() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let ask = |method, body| totp_of(&rig, &session, method, &body);
    let offer = ask("POST", json!({})).value();
    let totp = authenticator(offer["secret"].as_str().unwrap());
    let [first, second, _] = codes(&totp);
    assert_eq!(ask("PUT", json!({"code": first})).status, 204);
    // The page asks for the code when the password was right: that half is no attempt, as often as it is made.
    for _ in 0..20 {
        let half = rig.try_password(&rig.password, "", OWNER);
        assert!(half.session().is_none() && half.status != 429, "{}", half.body);
    }
    let tried = (1..100).find(|n| {
        let answer = rig.try_password(&rig.password, "000000", &format!("198.51.{n}.1"));
        assert_eq!(answer.session(), None);
        answer.status == 429
    });
    assert!(tried.is_some_and(|tried| (3..20).contains(&tried)), "{tried:?}");
    assert_eq!(rig.try_password(&rig.password, &second, OWNER).status, 429, "nor the right one");
    let told = rig.events();
    assert!(told.iter().any(|(kind, who)| kind == "sign_in_failed" && who.contains("198.51.")), "{told:?}");
    // The page of the one who is in says so too.
    assert_eq!(ask("DELETE", json!({"code": "000000"})).status, 429);
    // Another password, by root, and the codes are looked at again.
    let new = rig.agent.ask(&["panel", "password", "--generate"]).unwrap();
    let new = new["password"].as_str().unwrap();
    let [code, ..] = codes(&totp);
    let in_again = [code, totp.generate(seconds()).to_string()]
        .into_iter()
        .any(|code| rig.try_password(new, &code, OWNER).session().is_some());
    assert!(in_again);
}
