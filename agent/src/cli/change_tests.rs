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
    insta::assert_snapshot!(users::render_one(&plain(Lang::En), &user, at), @r"
    演示-小明
      state               limited
      why                 limited at 2026-11-24 15:30:00: 6.75 GiB of 6.00 GiB used; comes back on 1 December 00:00 Asia/Shanghai
      in force            packets are dropped in the kernel; taken out of sing-box's configuration; sing-box reads that at its next reload, which `boxmeter status` shows
      policy              basic
      expires             none
      period              2026-11-01 00:00 – 2026-12-01 00:00
      used in the period  6.75 GiB / 6.00 GiB  ████████████████████ 112.5 %
      used in total       6.75 GiB
      packages left       0 B
      traffic             payload ↑ 768 MiB  ↓ 6.00 GiB; wire ↑ 816 MiB  ↓ 6.18 GiB
      quota               6.00 GiB (own)
      total quota         none
      period length       a month, from day 1
      over quota          cut at 100 %
      warns at            80 %, 95 %, 100 %
      rollover            no
      speed limit         ↑ 5.00 MiB/s  ↓ 5.00 MiB/s
      max flows           none
      max addresses       5
      too many            the newest stay
      valid days          none
      when shared         noted in the events, when more than 3 networks within 5 minutes
      inbounds            trojan-in
      e-mail              none
      created             2026-11-24 15:30
      last seen           2026-11-24 15:30, 0s ago
      live                0 flows from 0 addresses, ↑ 0 B/s  ↓ 0 B/s
    ");
    insta::assert_snapshot!(users::render_one(&plain(Lang::ZhCn), &user, at), @r"
    演示-小明
      状态        已限额
      原因        2026-11-24 15:30:00 已限额：已用 6.75 GiB，额度 6.00 GiB；12 月 1 日 00:00（Asia/Shanghai）恢复
      执行情况    内核丢弃其数据包；已从 sing-box 配置中移出；sing-box 在下次重载时读取，见 `boxmeter status`
      套餐        basic
      到期        无
      周期        2026-11-01 00:00 – 2026-12-01 00:00
      本周期使用  6.75 GiB / 6.00 GiB  ████████████████████ 112.5 %
      总流量使用  6.75 GiB
      流量包剩余  0 B
      流量        载荷 ↑ 768 MiB  ↓ 6.00 GiB；线路 ↑ 816 MiB  ↓ 6.18 GiB
      额度        6.00 GiB （自定义）
      总额度      无
      周期长度    每月，1 日起
      超额后      100 % 时切断
      警告于      80 %, 95 %, 100 %
      结转        否
      限速        ↑ 5.00 MiB/s  ↓ 5.00 MiB/s
      最大连接数  无
      最大地址数  5
      超出时      保留最新的
      有效天数    无
      被共享时    5 分钟内超过 3 个网络时记入事件
      入站        trojan-in
      邮箱        无
      创建于      2026-11-24 15:30
      最近活动    2026-11-24 15:30, 0s 前
      实时        0 个连接，来自 0 个地址，↑ 0 B/s  ↓ 0 B/s
    ");
}

#[tokio::test]
async fn credentials_are_told_once_and_whole() {
    let new = NewUser { name: "eve".to_owned(), policy: Some("free".to_owned()), ..NewUser::default() };
    let mut added = demo().add_user(by_root(), new).await.unwrap();
    added.credentials[0].entry.insert("password".to_owned(), "p\x1b[2Jw".into());
    insta::assert_snapshot!(users::render_added(&plain(Lang::En), &added), @r"
    eve is added with the policy free.
    packets pass; in sing-box's configuration

    Credentials, shown this once:

    trojan-in (trojan)
      name      eve
      password  p\u{1b}[2Jw
    ");
    insta::assert_snapshot!(users::render_added(&plain(Lang::ZhCn), &added), @r"
    已添加 eve，套餐 free。
    数据包放行；在 sing-box 配置中

    凭据，仅显示这一次：

    trojan-in (trojan)
      name      eve
      password  p\u{1b}[2Jw
    ");
}

#[tokio::test]
async fn switching_says_what_follows() {
    let demo = demo();
    let off = demo.set_enabled(by_root(), "demo-alice", false).await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Disable, &off), @r"
    demo-alice is disabled, until it is enabled.
    disabled at 2026-11-24 15:30:00 by uid:0; stays so until it is enabled
    packets are dropped in the kernel; taken out of sing-box's configuration; sing-box reads that at its next reload, which `boxmeter status` shows
    ");
    insta::assert_snapshot!(users::render_switched(&plain(Lang::ZhCn), users::Switch::Disable, &off), @r"
    已禁用 demo-alice，直到再次启用。
    2026-11-24 15:30:00 由 uid:0 禁用；启用前一直禁用
    内核丢弃其数据包；已从 sing-box 配置中移出；sing-box 在下次重载时读取，见 `boxmeter status`
    ");
    let again = demo.set_enabled(by_root(), "demo-alice", false).await.unwrap();
    let text = users::render_switched(&plain(Lang::En), users::Switch::Disable, &again);
    assert!(text.starts_with("demo-alice was disabled already."), "{text}");
    let on = demo.set_enabled(by_root(), "demo-alice", true).await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Enable, &on), @r"
    demo-alice is enabled.
    active
    packets pass; in sing-box's configuration
    ");
    let reset = demo.reset_user(by_root(), "演示-小明").await.unwrap();
    insta::assert_snapshot!(users::render_switched(&plain(Lang::En), users::Switch::Reset, &reset), @r"
    The period of 演示-小明 starts anew: 0 B / 6.00 GiB used. Nothing was deleted.
    active
    packets pass; in sing-box's configuration
    ");
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
    insta::assert_snapshot!(policies::render_list(&plain(Lang::En), &list), @r"
    Policy        Quota  Period                   ↑ Rate      ↓ Rate  Addr.  Flows  Over quota                           Users
    basic       100 GiB  a month, from day 1  5.00 MiB/s  5.00 MiB/s      5      –  cut at 100 %                             4
    free       10.0 GiB  a month, from day 1  1.00 MiB/s  1.00 MiB/s      2      –  1.00 MiB/s from 100 %, cut at 120 %      0
    premium     500 GiB  a month, from day 1  10.0 MiB/s  10.0 MiB/s     10      –  cut at 100 %                             0
    unlimited         –  a month, from day 1           –           –      –      –  cut at 100 %                             0
    ");
    insta::assert_snapshot!(policies::render_list(&Context::plain(Lang::ZhCn, Some(80)), &list), @r"
    套餐           额度  周期              ↑ 速率      ↓ 速率  地址  连接  用户数
    basic       100 GiB  每月，1 日起  5.00 MiB/s  5.00 MiB/s     5     –       4
    free       10.0 GiB  每月，1 日起  1.00 MiB/s  1.00 MiB/s     2     –       0
    premium     500 GiB  每月，1 日起  10.0 MiB/s  10.0 MiB/s    10     –       0
    unlimited         –  每月，1 日起           –           –     –     –       0
    ");
    insta::assert_snapshot!(policies::render_one(&plain(Lang::En), &list[1]), @r"
    free
      quota          10.0 GiB
      total quota    none
      period length  a month, from day 1
      over quota     1.00 MiB/s from 100 %, cut at 120 %
      warns at       80 %, 95 %, 100 %
      rollover       no
      speed limit    ↑ 1.00 MiB/s  ↓ 1.00 MiB/s
      max flows      none
      max addresses  2
      too many       the newest stay
      valid days     none
      when shared    noted in the events, when more than 3 networks within 5 minutes
      users          0
    ");
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
    insta::assert_snapshot!(packages::render_added(&context, &added), @"演示-小明 has 1.00 GiB more; 256 MiB of packages are left.");
    let list = demo.packages("演示-小明", Default::default()).await.unwrap();
    let text = packages::render(&context, "演示-小明", &list.packages, list.remaining_bytes);
    insta::assert_snapshot!(text, @r"
    Bought                Size     Left  Expires           By     Note
    2026-11-24 15:30  1.00 GiB  256 MiB  2026-12-31 00:00  uid:0  order 7

    演示-小明 has 256 MiB of packages left.
    ");
    let text = packages::render(&plain(Lang::ZhCn), "演示-小明", &list.packages, list.remaining_bytes);
    insta::assert_snapshot!(text, @r"
    购买时间              大小     剩余  到期              操作者  备注
    2026-11-24 15:30  1.00 GiB  256 MiB  2026-12-31 00:00  uid:0   order 7

    演示-小明 的流量包还剩 256 MiB。
    ");
}

fn report(dry_run: bool, users: &[Imported], said: &[String]) -> users::ImportReport {
    let (users, not_understood) = (users.to_vec(), said.to_vec());
    users::ImportReport { dry_run, users, not_understood, ..Default::default() }
}

#[test]
fn an_import_of_a_panel_shows_what_sing_box_lacks() {
    let missing = |tag: &str, snippet| users::ImportMissing {
        tag: tag.to_owned(),
        kind: "vless".to_owned(),
        port: Some(443),
        snippet,
    };
    let report = users::ImportReport {
        dry_run: true,
        read_as: Some(users::ReadAs { program: "3x-ui", versions: "1 - 2" }),
        renamed_inbounds: vec![users::Renamed { from: "in\u{9b}1".to_owned(), to: "trojan-in".to_owned() }],
        missing_inbounds: vec![
            missing("a", Some(serde_json::json!({"type": "vless", "tag": "a\u{202e}"}))),
            missing("b\n", None),
        ],
        ..report(true, &[], &[])
    };
    insta::assert_snapshot!(users::render_imported(&plain(Lang::En), &report), @r#"
    A database of 3x-ui, read as versions 1 - 2 write it.

    The panel's inbound in\u{9b}1 is trojan-in here.

    Not in sing-box's configuration, and not written by this command. For sing-box they are, with nobody in them yet (the text has the panel's keys):
    {
      "inbounds": [
        {
          "type": "vless",
          "tag": "a\u{202e}"
        }
      ]
    }
    b\n (vless): to be made by hand, or left out with --inbounds
    Put them into sing-box's configuration, reload it, and import again; or name other inbounds with --inbounds.

    0 would be added, 0 updated, 0 unchanged, 0 refused. Nothing was done: leave out --dry-run to do it.
    "#);
    insta::assert_snapshot!(users::render_imported(&plain(Lang::ZhCn), &report), @r#"
    这是 3x-ui 的数据库，按 1 - 2 版的写法读取。

    面板的入站 in\u{9b}1 在这里是 trojan-in。

    以下入站不在 sing-box 的配置里，本命令也不会写入。它们在 sing-box 里写作（还没有任何用户；文本里有面板的密钥）：
    {
      "inbounds": [
        {
          "type": "vless",
          "tag": "a\u{202e}"
        }
      ]
    }
    b\n（vless）：需要手工编写，或用 --inbounds 指定别的入站
    把它们放进 sing-box 的配置，重载后再导入一次；或者用 --inbounds 指定别的入站。

    将添加 0，更新 0，无变化 0，拒绝 0。没有做任何更改：去掉 --dry-run 即可执行。
    "#);
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
    insta::assert_snapshot!(users::render_imported(&plain(Lang::En), &report(false, &list, &said)), @r#"
    User   Outcome    Message
    x\ny   refused    name: a name may not hold line breaks
    carol  updated    her password stays that of the configuration
    alice  added
    bob    unchanged

    Not understood:
      line 7 was left out: quota: "lots"

    1 added, 1 updated, 1 unchanged, 1 refused.
    "#);
    insta::assert_snapshot!(users::render_imported(&plain(Lang::ZhCn), &report(true, &list, &said)), @r#"
    用户   结果    说明
    x\ny   已拒绝  name: a name may not hold line breaks
    carol  已更新  her password stays that of the configuration
    alice  已添加
    bob    无变化

    未能识别：
      line 7 was left out: quota: "lots"

    将添加 1，更新 1，无变化 1，拒绝 1。没有做任何更改：去掉 --dry-run 即可执行。
    "#);
    list.extend(std::iter::repeat_n(done("more", ImportOutcome::Added, None), 200));
    let text = users::render_imported(&plain(Lang::En), &report(false, &list, &[]));
    assert!(text.contains("and 104 more") && text.contains("201 added"), "{text}");
}

#[tokio::test]
async fn events_explain_in_the_readers_language() {
    let demo = demo();
    demo.set_enabled(by_root(), "demo-bob", false).await.unwrap();
    let list = demo.events(Default::default()).await.unwrap().events;
    insta::assert_snapshot!(events::render(&plain(Lang::En), &list, "-7d"), @r"
    2026-11-24 15:30:00  user.adopted  demo-alice  found in sing-box's configuration
    2026-11-24 15:30:00  source.disconnected  the API service went away
    2026-11-24 15:30:00  user.limited  演示-小明  limited at 2026-11-24 15:30:00: 6.75 GiB of 6.00 GiB used; comes back on 1 December 00:00 Asia/Shanghai
    2026-11-24 15:30:00  user.disabled  demo-bob  disabled  (uid:0)
    ");
    insta::assert_snapshot!(events::render(&plain(Lang::ZhCn), &list, "-7d"), @r"
    2026-11-24 15:30:00  user.adopted  demo-alice  found in sing-box's configuration
    2026-11-24 15:30:00  source.disconnected  the API service went away
    2026-11-24 15:30:00  user.limited  演示-小明  2026-11-24 15:30:00 已限额：已用 6.75 GiB，额度 6.00 GiB；12 月 1 日 00:00（Asia/Shanghai）恢复
    2026-11-24 15:30:00  user.disabled  demo-bob  2026-11-24 15:30:00 由 uid:0 禁用；启用前一直禁用  (uid:0)
    ");
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
            Lang::En => {
                insta::assert_snapshot!(line, @"  limits         1 cut, 1 taken out; edits 1, reloads 0; reload pending (users: 1), at a quiet moment, at the latest 2026-11-24 15:40; at 2026-11-24 15:30: sing-box refuses the configuration: see `sing-box check`")
            }
            Lang::ZhCn => {
                insta::assert_snapshot!(line, @"  限制      切断 1，移出 1；编辑 1 次，重载 0 次；等待重载（用户数 1），将在空闲时进行，最迟 2026-11-24 15:40；2026-11-24 15:30：sing-box refuses the configuration: see `sing-box check`")
            }
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
