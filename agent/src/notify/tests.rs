//! What events give to tell, and what messages say.

use boxmeter_web::locale::Lang;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    alerts::alerts,
    report::{Cut, Figures, Near, Used},
    words, *,
};
use crate::{
    config::Config,
    core::event::UserId,
    ledger::{EventRecord, Happened, NewDelivery, Stage},
};

fn config(text: &str) -> Notify {
    let all = format!(
        "{text}\n[notify.mail]\nserver = \"m\"\nfrom = \"b@example.org\"\nto = [\"admin@example.org\"]\n\
         [notify.webhook]\nurl = \"https://example.org/\"\nsecret = \"x\""
    );
    Config::parse(&all, Path::new("test.toml")).unwrap().notify
}

fn happened(kind: &str, data: Value) -> Happened {
    Happened {
        event: EventRecord {
            no: 1,
            id: Uuid::from_u128(9),
            at_ms: 1_764_000_000_000,
            kind: kind.to_owned(),
            user: Some(UserId(Uuid::from_u128(1))),
            user_name: Some("alice".to_owned()),
            actor: "agent".to_owned(),
            data,
        },
        email: Some("alice@example.org".to_owned()),
        deleted: false,
    }
}

fn told(config: &Notify, kind: &str, data: Value) -> Vec<NewDelivery> {
    alerts(config.clone(), TimeZone::UTC)(&happened(kind, data))
}

fn kinds(messages: &[NewDelivery]) -> Vec<(&str, &str)> {
    messages.iter().map(|it| (it.kind.as_str(), it.recipient.as_str())).collect()
}

fn warning(percent: u16) -> Value {
    json!({ "percent": percent, "account": { "start_ms": 5, "generation": 0 }, "used_bytes": 8, "quota_bytes": 10 })
}

#[test]
fn events_are_told_to_whom_it_concerns() {
    let config = config("[notify]\nto_users = [\"quota\", \"comeback\"]");
    let both = told(&config, "quota_warning", warning(80));
    let expected = [("quota", "admin@example.org"), ("quota", ""), ("quota", "alice@example.org")];
    assert_eq!(kinds(&both), expected);
    assert_eq!(both[0].topic, both[1].topic);
    assert_ne!(both[0].topic, both[2].topic);
    assert_eq!(told(&config, "quota_warning", warning(50)), [], "nobody asked for 50");
    let moved = |from: &str, to: &str| {
        kinds(&told(&config, "state_changed", json!({ "from": from, "to": to })))
            .first()
            .map(|it| it.0.to_owned())
    };
    for (from, to, kind) in [
        ("active", "limited", Some("cut")),
        ("active", "throttled", Some("cut")),
        ("limited", "active", Some("comeback")),
        ("expired", "active", Some("comeback")),
        ("active", "expired", Some("expiry")),
        ("active", "suspended", Some("suspended")),
        ("suspended", "active", Some("comeback")),
        ("disabled", "active", None),
        ("active", "disabled", None),
        ("pending", "active", None),
    ] {
        assert_eq!(moved(from, to).as_deref(), kind, "{from} {to}");
    }
    for kind in ["agent_started", "user_changed", "message_not_delivered", "signed_in"] {
        assert_eq!(told(&config, kind, json!({})), [], "{kind}");
    }
}

#[test]
fn what_does_not_get_through_is_not_told_by_itself() {
    let config = config("");
    let mail = told(&config, "trouble_began", json!({ "part": "notify-mail" }));
    assert_eq!(kinds(&mail), [("trouble", "")]);
    assert_eq!(kinds(&told(&config, "trouble_began", json!({ "part": "backup" })))[0].0, "backup");
    assert_eq!(told(&config, "trouble_began", json!({ "part": "ledger", "direct": true })), []);
    assert_eq!(told(&config, "trouble_over", json!({ "part": "ledger" })).len(), 2);
}

#[test]
fn only_what_is_asked_for_is_told_and_nothing_to_who_is_gone() {
    let config = config("[notify]\nkinds = [\"cut\"]\nto_users = [\"quota\"]");
    assert_eq!(kinds(&told(&config, "quota_warning", warning(80))), [("quota", "alice@example.org")]);
    let gone = Happened { deleted: true, ..happened("quota_warning", warning(80)) };
    assert_eq!(alerts(config, TimeZone::UTC)(&gone), []);
}

fn delivery(kind: &str, data: Value) -> Delivery {
    Delivery {
        no: 1,
        id: Uuid::from_u128(7),
        channel: Channel::Mail,
        recipient: "admin@example.org".to_owned(),
        kind: kind.to_owned(),
        user: None,
        data,
        created_ms: 1_764_000_000_000,
        stage: Stage::Sending,
        attempts: 1,
        next_ms: 0,
        done_ms: None,
        error: None,
    }
}

fn voice(lang: Lang) -> Voice {
    Voice { lang, zone: TimeZone::get("Asia/Shanghai").unwrap(), host: "server".to_owned() }
}

fn said(lang: Lang, kind: &str, event: &str, own: bool, data: Value) -> String {
    let data =
        json!({ "event": event, "at_ms": 1_764_000_000_000_i64, "user": "alice", "own": own, "data": data });
    let letter = words::letter(&voice(lang), &delivery(kind, data));
    format!("{}\n{}", letter.subject, letter.lines[0])
}

#[test]
fn messages_say_it_in_each_language() {
    let cause = json!({
        "kind": "period_quota", "at": "2026-11-24T14:03:07+08:00", "used_bytes": 10, "quota_bytes": 10,
        "until": "2026-12-01T00:00:00+08:00",
    });
    let cut = json!({ "from": "active", "to": "limited", "cause": cause, "time_zone": "Asia/Shanghai" });
    let expiry = json!({
        "expires_at": "2026-12-01T00:00:00+08:00", "time_zone": "Asia/Shanghai", "before_s": 604_800,
    });
    let back = json!({ "from": "limited", "to": "active" });
    let shared = json!({ "peak": 5, "allowed": 3, "score": 40 });
    let trouble = json!({ "part": "source", "reason": "nobody answers" });
    let mut all = Vec::new();
    for lang in Lang::ALL {
        all.extend([
            said(lang, "quota", "quota_warning", false, warning(80)),
            said(lang, "quota", "quota_warning", true, warning(80)),
            said(lang, "quota", "total_quota_warning", false, warning(95)),
            said(lang, "expiry", "expiry_near", true, expiry.clone()),
            said(lang, "cut", "state_changed", false, cut.clone()),
            said(lang, "comeback", "state_changed", false, back.clone()),
            said(lang, "sharing", "sharing_suspected", false, shared.clone()),
            said(lang, "trouble", "trouble_began", false, trouble.clone()),
            said(lang, "trouble", "trouble_over", false, trouble.clone()),
        ]);
    }
    insta::assert_snapshot!(all.join("\n"), @"");
}

/// Every text that a message may have is in the catalogue.
#[test]
fn no_message_lacks_a_text() {
    for lang in Lang::ALL {
        for base in [
            "quota",
            "total_quota",
            "expiry",
            "expired",
            "cut",
            "throttled",
            "comeback",
            "suspended",
            "sharing",
            "trouble",
            "well",
            "test",
        ] {
            for key in ["title", "text", "own"] {
                assert!(lang.find(&format!("notify.{base}.{key}")).is_some(), "{base}.{key}");
            }
        }
        for kind in crate::config::notify::Kind::ALL {
            assert!(lang.find(&format!("notify_kind.{}", kind.word())).is_some(), "{kind:?}");
        }
    }
}

#[test]
fn a_report_is_a_table_of_everything() {
    let figures = Figures {
        span: "daily".to_owned(),
        period: "2026-11-28".to_owned(),
        time_zone: "Asia/Shanghai".to_owned(),
        meter: "payload".to_owned(),
        upload_bytes: 1 << 30,
        download_bytes: 3 << 30,
        unattributed_bytes: 5 << 20,
        users: 12,
        active_users: 2,
        top: vec![Used { user: "<b>alice</b>".to_owned(), upload_bytes: 1 << 30, download_bytes: 3 << 30 }],
        near: vec![Near { user: "bob".to_owned(), used_bytes: 9 << 30, quota_bytes: 10 << 30, percent: 90 }],
        cut: vec![Cut { user: "carol".to_owned(), state: "limited".to_owned(), ..Cut::default() }],
        more_cut: 3,
        health: report::Health {
            version: "1.0".to_owned(),
            singbox: Some("1.14.4".to_owned()),
            degraded: vec![["source".to_owned(), "nobody answers".to_owned()]],
            waiting: 2,
            ..report::Health::default()
        },
        ..Figures::default()
    };
    let data = json!({ "report": figures });
    let text = |lang| {
        let letter = words::letter(&voice(lang), &delivery("daily_report", data.clone()));
        assert!(!letter.html().unwrap().contains("<b>alice"), "a name is no markup");
        format!("{}\n\n{}", letter.subject, letter.text())
    };
    insta::assert_snapshot!(format!("{}\n{}", text(Lang::En), text(Lang::ZhCn)), @"");
}

#[test]
fn signatures_are_those_of_the_documentation() {
    // Computed by `printf '1764000000.{}' | openssl dgst -sha256 -hmac secret`.
    let expected = "v1=b691197929ebc73b102d12f9a4689644cb2d1a38c9f2d1883b9f478077313f85";
    assert_eq!(webhook::signature(b"secret", "1764000000", b"{}"), expected);
}

#[test]
fn files_with_secrets_are_for_their_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "").unwrap();
    let with = config("");
    for (mode, found) in [(0o600, 0), (0o644, 1), (0o604, 1)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(exposed(&with, Some(&file)).len(), found, "{mode:o}");
    }
    assert_eq!(
        exposed(&Notify::default(), Some(&file)),
        Vec::<String>::new(),
        "without a secret anybody may read"
    );
    let path = folder.path().join("secret");
    fs::write(&path, "one\n").unwrap();
    let name = path.to_str().unwrap();
    assert_eq!(secret(&Secret::default(), name).unwrap().expose(), "one");
    fs::write(&path, "\n").unwrap();
    assert!(secret(&Secret::default(), name).unwrap_err().contains("empty"));
    assert!(secret(&Secret::default(), "/nowhere").unwrap_err().contains("/nowhere"));
}
