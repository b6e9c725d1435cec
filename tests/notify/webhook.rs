//! The signed webhook: what comes, how often, and what answers do.

use std::collections::BTreeSet;

use boxmeter_tests::{needs_machine, wait};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    rig::{MIB, Rig, SECRET, webhook},
    sink::{Answer, Asked, Sink},
};

/// As a receiver does it, by the documentation.
fn is_signed(asked: &Asked) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.{}", asked.headers["x-boxmeter-timestamp"], asked.body).as_bytes());
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    asked.headers["x-boxmeter-signature"] == format!("v1={digits}")
}

/// What was told of whom: kind, event, percentage.
fn told(asked: &[Asked], user: &str) -> Vec<String> {
    let bodies = asked.iter().map(Asked::json).filter(|body| body["user"] == json!(user));
    let text = |body: Value| format!("{} {} {}", body["kind"], body["event"], body["data"]["percent"]);
    let mut all: Vec<String> = bodies.map(|body| text(body).replace('"', "")).collect();
    all.sort();
    all
}

#[test]
fn usage_is_told_once_at_each_percentage_and_the_comeback_too() {
    needs_machine!();
    let (mut rig, sink) = Rig::with_webhook("kinds = [\"quota\", \"cut\", \"comeback\"]");
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["users", "set", &alice, "--quota", "10MiB"]);
    rig.done(&["users", "set", &bob, "--total-quota", "10MiB"]);
    rig.download(rig.alice(), 83 * MIB / 10).unwrap();
    sink.until(1);
    rig.download(rig.bob(), 83 * MIB / 10).unwrap();
    sink.until(2);
    // Another life of the agent in between knows what was told.
    rig.agent.kill();
    rig.agent.start();
    rig.download(rig.alice(), 14 * MIB / 10).unwrap();
    sink.until(3);
    let _ = rig.download(rig.alice(), 3 * MIB);
    sink.until(5);
    rig.agent.stop();
    rig.agent.start();
    rig.done(&["users", "reset", &alice]);
    let asked = sink.until(6);
    rig.settled();
    assert_eq!(sink.asked().len(), 6, "nothing is told twice");
    let expected = [
        "comeback state_changed null",
        "cut state_changed null",
        "quota quota_warning 100",
        "quota quota_warning 80",
        "quota quota_warning 95",
    ];
    assert_eq!(told(&asked, &alice), expected);
    assert_eq!(told(&asked, &bob), ["quota total_quota_warning 80"]);
    let keys: BTreeSet<String> = asked.iter().map(Asked::key).collect();
    assert_eq!(keys.len(), 6);
    for asked in &asked {
        assert!(is_signed(asked), "{asked:?}");
        let body = asked.json();
        assert_eq!((&body["schema"], asked.path.as_str()), (&json!(1), "/hook?key=in-the-path"));
        assert_eq!(body["id"], json!(asked.key()));
        assert!(body["text"].as_str().unwrap().contains(body["user"].as_str().unwrap()), "{body}");
    }
    // Begun anew, the period is told anew.
    rig.download(rig.alice(), 83 * MIB / 10).unwrap();
    assert_eq!(told(&sink.until(7)[6..], &alice), ["quota quota_warning 80"]);
    // Nothing that lets somebody in is told or logged.
    let all = format!(
        "{}{}",
        std::fs::read_to_string(rig.path("agent.log")).unwrap(),
        rig.done(&["notify", "list"])
    );
    assert!(!all.contains(SECRET) && !all.contains("in-the-path"), "{all}");
}

#[test]
fn what_answers_do() {
    needs_machine!();
    let (rig, sink) = Rig::with_webhook("kinds = [\"expiry\"]");
    let bob = rig.bob().name.clone();
    let expires = |when: &str| rig.done(&["users", "set", &bob, "--expires", when]);
    // Tried again until it is taken, with the same key.
    let pause = vec![("Retry-After", "1".to_owned())];
    sink.answers(vec![Answer::status(503), Answer::Status(429, "", pause), Answer::Nothing]);
    expires("2h");
    let asked = sink.until(4);
    let messages = rig.settled();
    assert_eq!(
        (messages.len(), &messages[0]["state"], &messages[0]["attempts"]),
        (1, &json!("sent"), &json!(4))
    );
    assert_eq!(asked.iter().map(Asked::key).collect::<BTreeSet<_>>().len(), 1);
    assert!(asked.iter().all(is_signed));
    // Refused for good: once, told, and seen.
    sink.answers(vec![Answer::Status(410, "gone <b>away</b>", Vec::new())]);
    expires("3h");
    sink.until(5);
    let failed = rig.settled();
    assert_eq!((&failed[0]["state"], &failed[0]["attempts"]), (&json!("failed"), &json!(1)), "{failed:?}");
    assert!(failed[0]["error"].as_str().unwrap().contains("410"), "{failed:?}");
    assert!(rig.until_degraded("notify-webhook").contains("410"));
    let event = rig.events("message_not_delivered").pop().unwrap();
    assert_eq!((&event["severity"], &event["data"]["outcome"]), (&json!("warning"), &json!("failed")));
    // A redirect leads nowhere.
    let elsewhere = Sink::new(&rig.site.inside);
    let to = vec![("Location", format!("http://{}/", elsewhere.address))];
    sink.answers(vec![Answer::Status(307, "", to)]);
    expires("4h");
    sink.until(6);
    assert!(rig.settled()[0]["error"].as_str().unwrap().contains("redirects are not followed"));
    assert_eq!(elsewhere.asked().len(), 0);
    // And when one gets through, all is well.
    expires("5h");
    sink.until(7);
    rig.until_well("notify-webhook");
}

/// A receiver that is gone for a while gets everything when it is back, once. What was tried meanwhile stands behind
/// what was not: one message that is never taken must hold up no other.
#[test]
fn a_receiver_that_is_away_misses_nothing() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = Sink::new(&rig.site.inside);
    rig.configure(&format!("[notify]\nkinds = [\"expiry\"]\n{}", webhook(&sink)));
    rig.agent.start();
    let (address, bob) = (sink.address, rig.bob().name.clone());
    drop(sink);
    for hours in 2..6 {
        let before = rig.events("expiry_near").len();
        rig.done(&["users", "set", &bob, "--expires", &format!("{hours}h")]);
        wait("it is in the events", || match rig.events("expiry_near").len() {
            now if now > before => Ok(()),
            _ => Err("not yet".to_owned()),
        });
    }
    assert!(rig.until_degraded("notify-webhook").contains("cannot be reached"));
    wait("all of them wait", || match rig.messages() {
        waiting if waiting.len() == 4 => Ok(()),
        waiting => Err(format!("{waiting:?}")),
    });
    rig.agent.kill();
    let back = Sink::at(&rig.site.inside, address);
    rig.agent.start();
    let asked = back.until(4);
    rig.settled();
    let at: BTreeSet<String> = asked.iter().map(|it| it.json()["data"]["expires_at"].to_string()).collect();
    assert_eq!((at.len(), back.asked().len()), (4, 4), "{at:?}");
    rig.until_well("notify-webhook");
}

#[test]
fn a_mail_server_that_hangs_holds_up_nothing() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = Sink::new(&rig.site.inside);
    // Takes connections and says nothing.
    let silent = rig.site.inside.run(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = silent.local_addr().unwrap().port();
    rig.configure(&format!(
        "[notify]\nkinds = [\"expiry\"]\n{}[notify.mail]\nserver = \"127.0.0.1\"\nport = {port}\nsecurity = \"none\"\n\
         from = \"boxmeter@example.org\"\nto = [\"admin@example.org\"]\n",
        webhook(&sink)
    ));
    rig.agent.start();
    let bob = rig.bob().name.clone();
    rig.done(&["users", "set", &bob, "--expires", "2h"]);
    sink.until(1);
    let sending = |messages: &[Value]| {
        let mail = messages.iter().find(|it| it["channel"] == json!("mail")).cloned().unwrap();
        mail["state"] == json!("sending")
    };
    assert!(sending(&rig.messages()), "the mail is under way");
    // While it is, ticks are committed and the webhook goes on.
    let committed = || rig.done(&["status"])["ledger"]["committed_at"].as_str().unwrap().to_owned();
    let mut seen = BTreeSet::new();
    wait("five ticks", || {
        seen.insert(committed());
        if seen.len() > 5 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    rig.done(&["users", "set", &bob, "--expires", "3h"]);
    sink.until(2);
    rig.until_degraded("notify-mail");
    let webhook = rig.done(&["notify", "list"])["channels"][1].clone();
    assert_eq!((&webhook["channel"], &webhook["failing"]), (&json!("webhook"), &Value::Null), "{webhook}");
    // And an agent that is told to end does.
    rig.agent.stop();
    rig.agent.start();
}
