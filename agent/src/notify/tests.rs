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
    insta::assert_snapshot!(all.join("\n"), @r"
    alice: 80 % of the quota used
    alice has used 80 % of the quota of this period: 8 B of 10 B.
    alice: 80 % of the quota used
    Your account alice has used 80 % of the quota of this period: 8 B of 10 B.
    alice: 95 % of the total quota used
    alice has used 95 % of the quota over all time: 8 B of 10 B.
    alice expires on 2026-12-01 00:00 Asia/Shanghai
    Your account alice expires on 2026-12-01 00:00 Asia/Shanghai, within 7 days.
    alice is cut: the quota is used up
    alice: limited at 2026-11-24 14:03:07: 10 B of 10 B used; comes back on 1 December 00:00 Asia/Shanghai.
    alice is back
    alice can be used again without a limit of speed or volume being reached.
    alice may be shared
    alice: used from 5 addresses at the same time, 3 are usual (score 40).
    server: source does not work
    source: nobody answers
    server: source works again
    source works again.
    alice：已用额度的 80%
    alice 本周期已用额度的 80%：8 B，共 10 B。
    alice：已用额度的 80%
    您的账号 alice 本周期已用额度的 80%：8 B，共 10 B。
    alice：已用总额度的 95%
    alice 已用总额度的 95%：8 B，共 10 B。
    alice 将于 2026-12-01 00:00 Asia/Shanghai 到期
    您的账号 alice 将于 2026-12-01 00:00 Asia/Shanghai 到期，剩余不足 7 天。
    alice 已断开：额度已用完
    alice：2026-11-24 14:03:07 已限额：已用 10 B，额度 10 B；12 月 1 日 00:00（Asia/Shanghai）恢复。
    alice 已恢复
    alice 已恢复使用，未达到任何速度或流量限制。
    alice 疑似被共享
    alice：同时在 5 个地址使用，通常为 3 个（评分 40）。
    server：source 出现故障
    source：nobody answers
    server：source 已恢复正常
    source 已恢复正常。
    ");
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
    insta::assert_snapshot!(format!("{}\n{}", text(Lang::En), text(Lang::ZhCn)), @r"
    server: report of 2026-11-28

    Traffic of users (payload): 4.00 GiB; upload 1.00 GiB, download 3.00 GiB
    Users who were active: 2 of 12
    Traffic that no user owns: 5.00 MiB

    Who used the most
      <b>alice</b>  ·  4.00 GiB  ·  1.00 GiB  ·  3.00 GiB

    Near the limit now
      bob  ·  90 %  ·  9.00 GiB  ·  10.0 GiB

    Cut or slowed down now
      carol  ·  limited
      … and 3 more

    Health now
      boxmeter  ·  1.0
      sing-box  ·  1.14.4
      Last backup  ·  none
      Messages that wait  ·  2
      source  ·  nobody answers

    Sent by boxmeter on server.

    server：2026-11-28 日报

    用户流量（载荷）：4.00 GiB；上传 1.00 GiB，下载 3.00 GiB
    活跃用户：2 / 12
    未归属流量：5.00 MiB

    用量最多
      <b>alice</b>  ·  4.00 GiB  ·  1.00 GiB  ·  3.00 GiB

    当前接近限额
      bob  ·  90 %  ·  9.00 GiB  ·  10.0 GiB

    当前已断开或限速
      carol  ·  已限额
      ……另有 3 个

    当前运行状况
      boxmeter  ·  1.0
      sing-box  ·  1.14.4
      上次备份  ·  无
      等待发送的消息  ·  2
      source  ·  nobody answers

    由 server 上的 boxmeter 发送。
    ");
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
