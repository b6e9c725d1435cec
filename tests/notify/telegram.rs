//! The bot, to a server that answers as Telegram does.

use boxmeter_tests::{needs_machine, wait};
use serde_json::json;

use crate::{
    rig::Rig,
    sink::{Answer, Sink},
};

fn rig() -> (Rig, Sink) {
    let rig = Rig::new();
    let sink = Sink::new(&rig.site.inside);
    std::fs::write(rig.path("token"), "123456:ABC-token\n").unwrap();
    rig.configure(&format!(
        "[notify]\nkinds = [\"expiry\"]\nlanguage = \"zh-CN\"\n[notify.telegram]\ntoken_file = {:?}\n\
         chat_id = \"-100123\"\napi = \"http://{}\"\n",
        rig.path("token"),
        sink.address
    ));
    (rig, sink)
}

#[test]
fn messages_are_plain_text_and_a_pause_that_is_asked_for_is_kept() {
    needs_machine!();
    let (mut rig, sink) = rig();
    rig.agent.start();
    let bob = rig.bob().name.clone();
    let busy = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 3","parameters":{"retry_after":3}}"#;
    sink.answers(vec![Answer::Status(429, busy, Vec::new())]);
    let began = std::time::Instant::now();
    rig.done(&["users", "set", &bob, "--expires", "2h"]);
    let asked = sink.until(2);
    assert!(began.elapsed().as_millis() >= 3000, "{:?}", began.elapsed());
    let messages = rig.settled();
    assert_eq!((&messages[0]["state"], &messages[0]["attempts"]), (&json!("sent"), &json!(2)));
    assert_eq!(asked[0].path, "/bot123456:ABC-token/sendMessage");
    let body = asked[1].json();
    assert_eq!(body["chat_id"], json!("-100123"));
    assert!(body.get("parse_mode").is_none() && body["link_preview_options"]["is_disabled"] == json!(true));
    let text = body["text"].as_str().unwrap();
    assert!(text.contains(&bob) && text.contains("到期"), "{text}");
    // A wrong token is no reason to lose messages, and is told without it.
    sink.usually(Answer::Status(401, r#"{"ok":false,"description":"Unauthorized"}"#, Vec::new()));
    rig.done(&["users", "set", &bob, "--expires", "3h"]);
    let reason = rig.until_degraded("notify-telegram");
    assert!(reason.contains("is the token right") && !reason.contains("ABC-token"), "{reason}");
    sink.usually(Answer::ok());
    rig.until_well("notify-telegram");
    assert!(rig.settled().iter().all(|it| it["state"] == json!("sent")));
    let log = std::fs::read_to_string(rig.path("agent.log")).unwrap();
    assert!(!log.contains("ABC-token"), "{log}");
}

/// Nothing tells Telegram that two messages are one: what may have arrived is not sent again, and is shown.
#[test]
fn what_may_have_arrived_is_not_sent_again() {
    needs_machine!();
    let (mut rig, sink) = rig();
    rig.agent.fails_at(Some("notify_sent"));
    rig.agent.start();
    let bob = rig.bob().name.clone();
    let _ = rig.agent.ask(&["users", "set", &bob, "--expires", "2h"]);
    rig.agent.dies();
    assert_eq!(sink.asked().len(), 1);
    rig.agent.fails_at(None);
    rig.agent.start();
    let messages = rig.settled();
    assert_eq!(messages[0]["state"], json!("unsure"), "{messages:?}");
    let event =
        wait("it is told", || rig.events("message_not_delivered").pop().ok_or_else(|| "not yet".to_owned()));
    assert_eq!(event["data"]["outcome"], json!("unsure"), "{event}");
    // The next one goes, and the first one did not come again.
    rig.done(&["users", "set", &bob, "--expires", "3h"]);
    sink.until(2);
    rig.settled();
    assert_eq!(sink.asked().len(), 2);
}
