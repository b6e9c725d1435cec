//! What people see of changes: made-up answers as texts, in both languages.

use boxmeter_web::{
    api::{
        order::{Actor, Envelope, Origin},
        types::*,
    },
    backend::Backend,
    demo::Demo,
    locale::Lang,
};
use jiff::Zoned;

use super::{context::Context, events, packages, policies, status, users};

fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

fn demo() -> Demo {
    Demo::new(now())
}

fn plain(lang: Lang) -> Context {
    Context::plain(lang, None)
}

fn by_root() -> Envelope {
    Envelope::of(Actor::uid(0, Origin::Cli))
}

#[tokio::test]
async fn a_user_is_shown_with_its_bar_reason_and_own_values() {
    let demo = demo();
    let user = demo.user("演示-小明").await.unwrap().user;
    let at = now().timestamp();
    insta::assert_snapshot!(users::render_one(&plain(Lang::En), &user, at), @"");
    insta::assert_snapshot!(users::render_one(&plain(Lang::ZhCn), &user, at), @"");
}

#[tokio::test]
async fn credentials_are_told_once_and_whole() {
    let new = NewUser { name: "eve".to_owned(), policy: Some("free".to_owned()), ..NewUser::default() };
    let mut added = demo().add_user(by_root(), new).await.unwrap();
    added.credentials[0].entry.insert("password".to_owned(), "p\x1b[2Jw".into());
    insta::assert_snapshot!(users::render_added(&plain(Lang::En), &added), @"");
    insta::assert_snapshot!(users::render_added(&plain(Lang::ZhCn), &added), @"");
}

#[tokio::test]
async fn switching_says_what_follows() {
    let demo = demo();
    let off = demo.set_enabled(by_root(), "demo-alice", false).await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Disable, &off), @"");
    insta::assert_snapshot!(users::render_switched(&plain(Lang::ZhCn), users::Switch::Disable, &off), @"");
    let again = demo.set_enabled(by_root(), "demo-alice", false).await.unwrap();
    let text = users::render_switched(&plain(Lang::En), users::Switch::Disable, &again);
    assert!(text.starts_with("demo-alice was disabled already."), "{text}");
    let on = demo.set_enabled(by_root(), "demo-alice", true).await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Enable, &on), @"");
    let reset = demo.reset_user(by_root(), "演示-小明").await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Reset, &reset), @"");
}

#[tokio::test]
async fn policies_as_a_table_and_one_by_one() {
    let demo = demo();
    let terms = Overrides {
        over_quota: Some(vec![
            Step { percent: 100, then: Then::Throttle(1 << 20) },
            Step { percent: 120, then: Then::Cut },
        ]),
        ..Overrides::default()
    };
    demo.change_policy(by_root(), "free", PolicyChange { terms }).await.unwrap();
    let list = demo.policies(Default::default()).await.unwrap().policies;
    insta::assert_snapshot!(policies::render_list(&plain(Lang::En), &list), @"");
    insta::assert_snapshot!(policies::render_list(&Context::plain(Lang::ZhCn, Some(80)), &list), @"");
    insta::assert_snapshot!(policies::render_one(&plain(Lang::En), &list[1]), @"");
}

#[tokio::test]
async fn packages_are_a_purchase_history() {
    let demo = demo();
    let context = plain(Lang::En);
    let none = demo.packages("演示-小明", Default::default()).await.unwrap();
    let text = packages::render(&context, "演示-小明", &none.packages, none.remaining_bytes);
    assert!(text.contains("boxmeter packages add"), "{text}");
    let expires_at = Some("2026-12-31T00:00:00+08:00".parse().unwrap());
    let note = Some("order 7".to_owned());
    let new = NewPackage { bytes: 1 << 30, expires_at, note };
    let added = demo.add_package(by_root(), "演示-小明", new).await.unwrap();
    insta::assert_snapshot!(packages::render_added(&context, &added), @"");
    let list = demo.packages("演示-小明", Default::default()).await.unwrap();
    let text = packages::render(&context, "演示-小明", &list.packages, list.remaining_bytes);
    insta::assert_snapshot!(text, @"");
    let text = packages::render(&plain(Lang::ZhCn), "演示-小明", &list.packages, list.remaining_bytes);
    insta::assert_snapshot!(text, @"");
}

#[tokio::test]
async fn an_import_shows_what_needs_a_look_first() {
    let done = |name: &str, outcome, message: Option<&str>| Imported {
        name: name.to_owned(),
        outcome,
        message: message.map(str::to_owned),
    };
    let mut list = vec![
        done("alice", ImportOutcome::Added, None),
        done("bob", ImportOutcome::Unchanged, None),
        done("x\ny", ImportOutcome::Refused, Some("name: a name may not hold line breaks")),
        done("carol", ImportOutcome::Updated, Some("her password stays that of the configuration")),
    ];
    let said = vec!["line 7 was left out: quota: \"lots\"".to_owned()];
    insta::assert_snapshot!(users::render_imported(&plain(Lang::En), &list, &said, false), @"");
    insta::assert_snapshot!(users::render_imported(&plain(Lang::ZhCn), &list, &said, true), @"");
    list.extend(std::iter::repeat_n(done("more", ImportOutcome::Added, None), 200));
    let text = users::render_imported(&plain(Lang::En), &list, &[], false);
    assert!(text.contains("and 104 more") && text.contains("201 added"), "{text}");
}

#[tokio::test]
async fn events_explain_in_the_readers_language() {
    let demo = demo();
    demo.set_enabled(by_root(), "demo-bob", false).await.unwrap();
    let list = demo.events(Default::default()).await.unwrap().events;
    insta::assert_snapshot!(events::render(&plain(Lang::En), &list, "-7d"), @"");
    insta::assert_snapshot!(events::render(&plain(Lang::ZhCn), &list, "-7d"), @"");
}

#[tokio::test]
async fn status_tells_of_edits_and_reloads() {
    let mut told = demo().status().await.unwrap();
    let it = told.enforcement.as_mut().unwrap();
    it.last_error = Some(EnforcementError {
        at: Time::from(&now()),
        message: "sing-box refuses the configuration: see `sing-box check`".to_owned(),
    });
    for lang in Lang::ALL {
        let text = status::render(&plain(lang), &told, now().timestamp());
        let line = text.lines().find(|line| line.contains("sing-box check")).unwrap().to_owned();
        match lang {
            Lang::En => insta::assert_snapshot!(line, @""),
            Lang::ZhCn => insta::assert_snapshot!(line, @""),
        }
    }
}

/// The terms of the API are those of the core: what one writes the other reads.
#[test]
fn the_terms_of_the_contract_are_those_of_the_core() {
    for (_, terms) in crate::core::terms::built_in() {
        let json = serde_json::to_value(&terms).unwrap();
        let ours: Terms = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&ours).unwrap(), json);
    }
    let full = serde_json::json!({
        "quota_bytes": null, "total_quota_bytes": 5, "period": {"days": 30}, "reset_day": 31,
        "time_zone": "Asia/Shanghai", "speed_up": 4096, "speed_down": null, "max_flows": 1,
        "max_addresses": null, "wins": "oldest",
        "over_quota": [{"percent": 90, "then": {"throttle": 4096}}, {"percent": 100, "then": "cut"}],
        "warn_percents": [50], "rollover": true, "valid_days": 7,
        "sharing": {"networks": 3, "window_s": 60, "action": {"throttle": 4096}},
    });
    let ours: Overrides = serde_json::from_value(full.clone()).unwrap();
    let cores: crate::core::terms::Overrides = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(serde_json::to_value(&ours).unwrap(), full);
    assert_eq!(serde_json::to_value(&cores).unwrap(), full);
    assert_eq!(full.as_object().unwrap().len(), Overrides::FIELDS.len(), "every field is here");
}
