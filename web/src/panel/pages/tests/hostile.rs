//! Names and notes come from people who may mean harm: whatever they hold is text and nothing else.

use std::sync::Arc;

use super::{Rig, now};
use crate::{
    api::types::{Degradation, Reason, Time, User, UserState},
    demo::{Demo, user},
    locale::Lang,
};

/// What a text field may hold that somebody tries.
fn attacks() -> Vec<String> {
    vec![
        "<script>alert(1)</script>".to_owned(),
        "\"><img src=x onerror=alert(1)>".to_owned(),
        "' onfocus='alert(1)' autofocus='".to_owned(),
        "{{ f.csrf }}{% include \"x\" %}".to_owned(),
        "</script><script>alert(1)".to_owned(),
        "javascript:alert(1)".to_owned(),
        "a\u{202e}gnp.exe\u{2066}\u{200b}".to_owned(),
        "../../settings?x=1#y".to_owned(),
        "%2e%2e%2f%00".to_owned(),
        "x".repeat(4_000),
        "小".repeat(1_000),
        "a\u{0}b\u{1b}[31m".to_owned(),
    ]
}

fn hostile(number: usize, text: &str) -> User {
    let mut user = user(&now(), number as u64 + 1, text, UserState::Active, Some(1 << 30));
    user.note = Some(text.to_owned());
    user.email = Some(text.to_owned());
    user.policy = Some(text.to_owned());
    user.inbounds = vec![text.to_owned()];
    user.time_zone = Some(text.to_owned());
    user.reason = Some(text.to_owned());
    user.cause = Some(Reason::Disabled { at: Time::from(&now()), who: text.to_owned() });
    user.state = UserState::Disabled;
    user.id = Some(format!("id-{number}\"><b>"));
    user
}

async fn rig() -> Rig {
    let users: Vec<User> = attacks().iter().enumerate().map(|(at, text)| hostile(at, text)).collect();
    let mut demo = Demo::new(now()).with_users(users);
    let text = attacks().remove(0);
    demo.status.degraded = vec![Degradation {
        part: text.clone(),
        reason: text.clone(),
        since: Time::from(&now()),
        advice: Some(text.clone()),
    }];
    demo.status.time_zone = Some("</script><script>alert(1)".to_owned());
    demo.status.singbox.version = Some(text.clone());
    for flow in &mut demo.flows {
        flow.peer.clone_from(&text);
        flow.inbound.clone_from(&text);
        flow.user = Some(text.clone());
    }
    Rig::over(Arc::new(demo), "").await
}

/// No element, attribute or script may come out of a text.
fn check(html: &str, path: &str) {
    for bad in ["<script>alert", "<img", "onerror=alert(1)>", "onfocus='", "<b>", "href=\"javascript:"] {
        assert!(!html.contains(bad), "{path}: {bad}");
    }
    for bad in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{0}', '\u{1b}'] {
        assert!(!html.contains(bad), "{path}: {:?} stands there as it is", bad);
    }
    // Scripts and styles only by address, and handlers nowhere.
    for part in html.split("<script").skip(1) {
        let tag = part.split('>').next().unwrap();
        assert!(tag.contains(" src=\"/static/") || tag.contains("application/json"), "{path}: {tag}");
    }
    assert!(!html.contains("<style") && !html.contains(" style="), "{path}");
    for part in html.split('<').skip(1) {
        let tag = part.split('>').next().unwrap_or_default();
        // What stands between quotes is a value, not an attribute.
        let bare: String = tag.split('"').step_by(2).collect();
        assert!(!bare.contains(" on"), "{path}: {tag}");
    }
}

#[tokio::test]
async fn texts_of_others_stay_texts() {
    let rig = rig().await;
    for lang in Lang::ALL {
        for path in ["/", "/users", "/events", "/policies", "/settings"] {
            check(&without_typed(&rig.get_in(lang, path).await.text), path);
        }
        for text in attacks() {
            let name = super::segment(&text);
            for page in ["", "/edit", "/flows", "/package", "/reset", "/delete"] {
                let path = format!("/users/{name}{page}");
                let seen = rig.get_in(lang, &path).await;
                assert_eq!(seen.status, http::StatusCode::OK, "{path}: {}", seen.words());
                check(&without_typed(&seen.text), &path);
            }
            for path in [
                format!("/users?q={name}&policy={name}&sort={name}&after={name}"),
                format!("/events?user={name}&since={name}"),
                format!("/{name}"),
            ] {
                check(&without_typed(&rig.get_in(lang, &path).await.text), &path);
            }
            let back =
                rig.post_in(lang, "/add-user", &[("name", &text), ("note", &text), ("quota", &text)]).await;
            check(&without_typed(&back.text), "what was typed");
        }
    }
}

/// Values of fields hold what was typed, invisible characters too: they are not shown as text of
/// the page, and taking them out would change what is saved.
fn without_typed(html: &str) -> String {
    let mut out = String::new();
    for (at, part) in html.split(" value=\"").enumerate() {
        out.push_str(if at == 0 { part } else { part.split_once('"').map_or("", |(_, rest)| rest) });
    }
    let mut parts = out.split("<textarea");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(part.split_once("</textarea>").map_or("", |(_, rest)| rest));
    }
    clean
}

#[tokio::test]
async fn what_is_found_is_found_by_its_real_name() {
    let rig = rig().await;
    let text = &attacks()[6];
    let page = rig.get("/users").await;
    assert!(page.has("a\\u{202e}gnp.exe"), "turned text is shown escaped");
    assert!(page.has(&format!("/users/{}", super::segment(text))), "and leads to the user");
}
