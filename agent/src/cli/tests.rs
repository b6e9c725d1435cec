//! What people see: tables and texts for made-up answers, and names that attack a terminal.

use boxmeter_web::{
    api::{
        query::{Page, UsageQuery, UserFilter},
        types::{Degradation, Time, Traffic, User, UserState},
    },
    backend::Backend,
    demo::{Demo, user},
    locale::Lang,
};
use futures_util::StreamExt;
use jiff::Zoned;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use unicode_width::UnicodeWidthStr;

use super::{
    audit,
    context::Context,
    events, flows, status,
    top::{self, Model, Sort, Step},
    usage, users,
};

fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

fn demo() -> Demo {
    Demo::new(now())
}

fn plain(lang: Lang) -> Context {
    Context::plain(lang, None)
}

/// Names that sing-box takes and that a terminal, a page or a table would suffer from.
fn hostile_names() -> Vec<String> {
    vec![
        "new\nline\r\n".to_owned(),
        "\x1b[2J\x1b]0;owned\x07".to_owned(),
        "\u{9b}31mC1".to_owned(),
        "\u{202e}right-to-left".to_owned(),
        "zero\u{200b}width".to_owned(),
        "<script>alert(1)</script>".to_owned(),
        "长".repeat(5_000),
        "x".repeat(10_000),
        "{name}{share}".to_owned(),
        "../../etc/passwd".to_owned(),
    ]
}

fn hostile_users() -> Vec<User> {
    let names = hostile_names().into_iter().enumerate();
    names
        .map(|(at, name)| {
            let mut it = user(&now(), at as u64 + 1, &name, UserState::Limited, None);
            it.reason = Some(name.clone());
            it.policy = Some(name.clone());
            it.email = Some(name.clone());
            it.inbounds = vec![name];
            it
        })
        .collect()
}

fn assert_harmless(text: &str) {
    let bad = text.chars().find(|c| {
        (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}'..='\u{200f}')
    });
    assert_eq!(bad, None, "in {text:?}");
}

#[tokio::test]
async fn users_as_a_table() {
    let list = demo().users(UserFilter::default(), Page::default()).await.unwrap();
    let at = now().timestamp();
    insta::assert_snapshot!(users::render_list(&plain(Lang::En), &list.users, false, at), @r"
    User        State      Policy               Period     Total  Flows        Rate  Last seen
    demo-alice  active     basic    2.25 GiB / 100 GiB  2.25 GiB      3  5.00 MiB/s         0s
    demo-bob    throttled  basic   4.50 GiB / 8.00 GiB  4.50 GiB      0       0 B/s         0s
    demo-carol  active     basic              9.00 GiB  9.00 GiB      3  17.0 MiB/s         0s
    演示-小明   limited    basic   6.75 GiB / 6.00 GiB  6.75 GiB      0       0 B/s         0s
    ");
    insta::assert_snapshot!(users::render_list(&plain(Lang::ZhCn), &list.users, false, at), @r"
    用户        状态    套餐                本周期      总量  连接        速率  最近活动
    demo-alice  正常    basic   2.25 GiB / 100 GiB  2.25 GiB     3  5.00 MiB/s        0s
    demo-bob    已限速  basic  4.50 GiB / 8.00 GiB  4.50 GiB     0       0 B/s        0s
    demo-carol  正常    basic             9.00 GiB  9.00 GiB     3  17.0 MiB/s        0s
    演示-小明   已限额  basic  6.75 GiB / 6.00 GiB  6.75 GiB     0       0 B/s        0s
    ");
    let narrow = Context::plain(Lang::En, Some(60));
    insta::assert_snapshot!(users::render_list(&narrow, &list.users, false, at), @r"
    User        State                   Period     Total
    demo-alice  active      2.25 GiB / 100 GiB  2.25 GiB
    demo-bob    throttled  4.50 GiB / 8.00 GiB  4.50 GiB
    demo-carol  active                9.00 GiB  9.00 GiB
    演示-小明   limited    6.75 GiB / 6.00 GiB  6.75 GiB
    ");
    insta::assert_snapshot!(users::render_one(&plain(Lang::En), &list.users[1], at), @r"
    demo-bob
      state               throttled
      in force            packets pass; in sing-box's configuration
      policy              basic
      expires             none
      period              2026-11-01 00:00 – 2026-12-01 00:00
      used in the period  4.50 GiB / 8.00 GiB  ███████████░░░░░░░░░ 56.2 %
      used in total       4.50 GiB
      packages left       0 B
      traffic             payload ↑ 512 MiB  ↓ 4.00 GiB; wire ↑ 544 MiB  ↓ 4.12 GiB
      quota               8.00 GiB (own)
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
}

#[tokio::test]
async fn usage_has_unattributed_and_total() {
    let usage = demo().usage(UsageQuery::default()).await.unwrap();
    insta::assert_snapshot!(usage::render(&plain(Lang::En), &usage, None, false), @r"
    beginning – 2026-11-24 15:30 (+08), payload

    User            Upload  Download     Total      Wire
    demo-carol    1.00 GiB  8.00 GiB  9.00 GiB  9.31 GiB
    演示-小明      768 MiB  6.00 GiB  6.75 GiB  6.98 GiB
    demo-bob       512 MiB  4.00 GiB  4.50 GiB  4.65 GiB
    demo-alice     256 MiB  2.00 GiB  2.25 GiB  2.32 GiB
    unattributed   768 KiB  6.00 MiB  6.75 MiB  6.98 MiB
    total         2.50 GiB  20.0 GiB  22.5 GiB  23.2 GiB
    ");
    insta::assert_snapshot!(usage::render(&plain(Lang::ZhCn), &usage, None, false), @r"
    开始 – 2026-11-24 15:30（+08），载荷

    用户            上传      下载      总量      线路
    demo-carol  1.00 GiB  8.00 GiB  9.00 GiB  9.31 GiB
    演示-小明    768 MiB  6.00 GiB  6.75 GiB  6.98 GiB
    demo-bob     512 MiB  4.00 GiB  4.50 GiB  4.65 GiB
    demo-alice   256 MiB  2.00 GiB  2.25 GiB  2.32 GiB
    未归属       768 KiB  6.00 MiB  6.75 MiB  6.98 MiB
    总计        2.50 GiB  20.0 GiB  22.5 GiB  23.2 GiB
    ");
}

#[tokio::test]
async fn empty_answers_say_what_to_do_next() {
    let context = plain(Lang::En);
    let mut nobody = demo().with_users(Vec::new());
    nobody.unattributed = Traffic::default();
    let mut usage = nobody.usage(UsageQuery::default()).await.unwrap();
    let texts = [
        usage::render(&context, &usage, None, false),
        users::render_list(&context, &[], false, now().timestamp()),
        flows::render(&context, &[], now().timestamp()),
        events::render(&context, &[], "-7d"),
    ];
    for text in texts {
        assert!(text.contains("boxmeter "), "{text}");
    }
    // Bytes without an owner are not "no traffic".
    usage.unattributed.upload_payload_bytes = 1;
    assert!(usage::render(&context, &usage, None, false).contains("No byte has an owner yet"));
}

#[tokio::test]
async fn status_names_what_is_not_well_and_what_to_do() {
    let context = plain(Lang::En);
    let mut status = demo().status().await.unwrap();
    assert!(status::render(&context, &status, now().timestamp()).contains("all is well"));
    status.ok = false;
    status.source.connected = false;
    status.singbox.pid = None;
    status.kernel.counters.insert("events_lost".to_owned(), 1_234);
    status.degraded.push(Degradation {
        part: "source".to_owned(),
        reason: "the API service refuses the secret\x1b[2J".to_owned(),
        since: Time::from(&now()),
        advice: Some("run `boxmeter doctor --fix`".to_owned()),
    });
    insta::assert_snapshot!(status::render(&context, &status, now().timestamp()), @r"
    boxmeter demo does less than it should:
      source: the API service refuses the secret\u{1b}[2J (since 2026-11-24 15:30)
        → run `boxmeter doctor --fix`

      agent          demo, pid 1, since 2026-11-24 15:30
      sing-box       not running
      other proxies  v2ray: v2ray 4.34.0, pid 3, log-file, connected (/etc/v2ray/config.json)
      other proxies  web: nginx, pid 4, counts its users itself (http://127.0.0.1:8080/status/format/json)
      source         api, not connected: new connections stay unattributed
      kernel         attached, counting, 120 ns per packet in, 130 ns out, events_lost 1,234
      ledger         /var/lib/boxmeter/ledger.db, committed 0s ago
      limits         1 cut, 1 taken out; edits 1, reloads 0; reload pending (users: 1), at a quiet moment, at the latest 2026-11-24 15:40

    Watched inbounds:
      trojan-in: trojan, tcp port 443, 4 users
    ");
}

#[tokio::test]
async fn flows_events_and_audit_as_text() {
    let demo = demo();
    let context = plain(Lang::En);
    let list = demo.flows(Default::default()).await.unwrap();
    insta::assert_snapshot!(flows::render(&context, &list.flows, now().timestamp()), @r"
    User         Via      Inbound    Net  Peer                Age    Upload  Download        Rate
    demo-alice   api      trojan-in  tcp  203.0.113.7:51234    0s  1.00 MiB  20.0 MiB  1.00 MiB/s
    演示-小明    by port  trojan-in  tcp  [2001:db8::7]:443    0s  1.00 MiB  20.0 MiB  1.00 MiB/s
    (not known)  –        trojan-in  tcp  198.51.100.9:40000   0s  1.00 MiB  20.0 MiB  1.00 MiB/s
    ");
    let list = demo.events(Default::default()).await.unwrap();
    insta::assert_snapshot!(events::render(&context, &list.events, "-7d"), @r"
    2026-11-24 15:30:00  user.adopted  demo-alice  found in sing-box's configuration
    2026-11-24 15:30:00  source.disconnected  the API service went away
    2026-11-24 15:30:00  user.limited  演示-小明  limited at 2026-11-24 15:30:00: 6.75 GiB of 6.00 GiB used; comes back on 1 December 00:00 Asia/Shanghai
    ");
    let mut audit = demo.audit(Default::default()).await.unwrap();
    insta::assert_snapshot!(audit::render(&context, &audit), @r"
                               Users  unattributed             Sum         Watched
    upload payload     2,684,354,560       786,432   2,685,140,992   2,685,140,992
    download payload  21,474,836,480     6,291,456  21,481,127,936  21,481,127,936
    upload wire        2,852,126,720       835,584   2,852,962,304   2,852,962,304
    download wire     22,145,925,120     6,488,064  22,152,413,184  22,152,413,184

    difference 0 bytes: every byte is accounted for
    ");
    audit.difference_bytes = 1_448;
    assert!(audit::render(&context, &audit).contains("difference 1,448 bytes"));
}

#[tokio::test]
async fn hostile_names_cannot_leave_their_cell() {
    let demo = demo().with_users(hostile_users());
    let at = now().timestamp();
    for context in
        [plain(Lang::En), Context::plain(Lang::ZhCn, Some(80)), Context::plain(Lang::En, Some(120))]
    {
        let list = demo.users(UserFilter::default(), Page::default()).await.unwrap();
        let table = users::render_list(&context, &list.users, false, at);
        assert_harmless(&table);
        assert_eq!(table.lines().count(), 1 + hostile_names().len(), "{table}");
        let widest = table.lines().map(|line| line.width()).max().unwrap();
        assert!(widest <= context.width.unwrap_or(200), "{widest}: {table}");
        for user in &list.users {
            assert_harmless(&users::render_one(&context, user, at));
        }
        let usage = demo.usage(UsageQuery::default()).await.unwrap();
        assert_harmless(&usage::render(&context, &usage, None, false));
        let live = demo.subscribe().await.unwrap().next().await.unwrap().unwrap();
        assert_harmless(&top::plain(&context, &live, Sort::Rate));
    }
}

/// The screen of `top` as text.
fn screen(context: &Context, model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| _ = top::draw(context, frame, model)).unwrap();
    let lines = terminal.backend().to_string();
    // The backend quotes each line, and notes after it which cells a wide character covers.
    let lines = lines.lines().map(|line| line.rsplit_once('"').map_or(line, |(text, _)| text));
    lines.map(|line| format!("{}\n", line.trim_start_matches('"').trim_end())).collect()
}

fn press(model: &mut Model, code: KeyCode) -> Step {
    model.key(KeyEvent::new(code, KeyModifiers::NONE), 10)
}

#[tokio::test]
async fn top_shows_users_at_eighty_columns() {
    let mut model = Model::new(Sort::Rate);
    model.take(demo().subscribe().await.unwrap().next().await.unwrap().unwrap());
    insta::assert_snapshot!(screen(&plain(Lang::En), &model, 80, 9), @r#"
    2026-11-24 15:30:00  ↑ 2.00 MiB/s  ↓ 20.0 MiB/s  6 flows
    today 2.25 GiB  total 22.5 GiB  unattributed < 0.1 %
    all is well
    User                          State          ↑ Rate      ↓ Rate  Flows    Period
    demo-carol                    active     1.00 MiB/s  16.0 MiB/s      3  9.00 GiB
    demo-alice                    active     1.00 MiB/s  4.00 MiB/s      3  2.25 GiB
    演示-小明                     limited         0 B/s       0 B/s      0  6.75 GiB" Hidden by multi-width symbols: [(1, " "), (3, " "), (6, " "), (8, "
    demo-bob                      throttled       0 B/s       0 B/s      0  4.50 GiB
    q quit  s sort: rate  r reverse  / search  ? help
    "#);
    insta::assert_snapshot!(screen(&plain(Lang::ZhCn), &model, 44, 9), @r#"
    2026-11-24 15:30:00  ↑ 2.00 MiB/s  ↓ 20.0 Mi
    今日 2.25 GiB  总流量 22.5 GiB  未归属 < 0.1" Hidden by multi-width symbols: [(1, " "), (3, " "), (16, " "), (18, " "), (20, " "), (33, " "), (35, " "), (37, "
    一切正常                                    " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " "), (7, "
    用户                          速率    本周期" Hidden by multi-width symbols: [(1, " "), (3, " "), (31, " "), (33, " "), (39, " "), (41, " "), (43, "
    demo-carol              17.0 MiB/s  9.00 GiB
    demo-alice              5.00 MiB/s  2.25 GiB
    演示-小明                    0 B/s  6.75 GiB" Hidden by multi-width symbols: [(1, " "), (3, " "), (6, " "), (8, "
    demo-bob                     0 B/s  4.50 GiB
    q 退出  s 排序：速率  r 反序  / 搜索  ? 帮助" Hidden by multi-width symbols: [(3, " "), (5, " "), (11, " "), (13, " "), (15, " "), (17, " "), (19, " "), (25, " "), (27, " "), (33, " "), (35, " "), (41, " "), (43, "
    "#);
}

#[tokio::test]
async fn top_survives_hostile_names_and_any_size() {
    let mut model = Model::new(Sort::Rate);
    let demo = demo().with_users(hostile_users());
    model.take(demo.subscribe().await.unwrap().next().await.unwrap().unwrap());
    for (width, height) in [(1, 1), (2, 3), (20, 4), (80, 24), (300, 60)] {
        for help in [false, true] {
            model.help = help;
            assert_harmless(&screen(&plain(Lang::ZhCn), &model, width, height));
        }
    }
}

#[tokio::test]
async fn keys_sort_search_move_and_quit() {
    let mut model = Model::new(Sort::Rate);
    model.take(demo().subscribe().await.unwrap().next().await.unwrap().unwrap());
    let names = |model: &Model| model.lines().iter().map(|user| user.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&model), ["demo-carol", "demo-alice", "演示-小明", "demo-bob"]);
    press(&mut model, KeyCode::Char('s'));
    assert_eq!(names(&model), ["demo-carol", "演示-小明", "demo-bob", "demo-alice"]);
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(names(&model)[0], "demo-alice");
    press(&mut model, KeyCode::Char('/'));
    for c in "BOB".chars() {
        press(&mut model, KeyCode::Char(c));
    }
    // While a name is typed, q is a letter.
    assert_eq!(press(&mut model, KeyCode::Char('q')), Step::Go);
    press(&mut model, KeyCode::Backspace);
    press(&mut model, KeyCode::Enter);
    assert_eq!(names(&model), ["demo-bob"]);
    assert_eq!(press(&mut model, KeyCode::Esc), Step::Go);
    press(&mut model, KeyCode::End);
    assert_eq!(model.selected(names(&model).len()), Some(3));
    press(&mut model, KeyCode::Down);
    assert_eq!(model.selected(names(&model).len()), Some(3));
    assert_eq!(model.selected(0), None);
    assert_eq!(press(&mut model, KeyCode::Char('q')), Step::Quit);
}

/// Every key that the sources name stands in the catalogue, and every key there is used.
#[test]
fn texts_of_the_command_line_are_in_the_catalogue() {
    let mut sources = String::new();
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    for dir in [dir.clone(), dir.join("top"), dir.join("users"), dir.join("../notify")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let prefixes = [
        "about.",
        "degraded.",
        "state.",
        "owner_by.",
        "error.",
        "import.",
        "weekday.",
        "reason.",
        "month.",
        "duration.",
        "note.",
        "notify.",
        "notify_channel.",
        "notify_kind.",
        "notify_state.",
        "date.",
        "panel.",
        "part.",
        "period.",
        "self.",
        "sharing.",
        "terms.",
        "told.",
    ];
    for key in Lang::En.keys() {
        let computed = prefixes.iter().any(|prefix| key.starts_with(prefix));
        assert!(computed || sources.contains(&format!("\"{key}\"")), "{key} is not used");
    }
    let heads: Vec<&str> =
        Lang::En.keys().filter_map(|key| key.split_once('.')).map(|(head, _)| head).collect();
    for literal in sources.split('"').skip(1).step_by(2) {
        let keyish = literal.split_once('.').is_some_and(|(head, tail)| {
            heads.contains(&head)
                && tail.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
                && !tail.is_empty()
        });
        assert!(!keyish || Lang::En.text(literal) != literal, "{literal} is in no catalogue");
    }
    for state in UserState::ALL {
        assert_ne!(users::state_text(&plain(Lang::ZhCn), state), state.as_str());
    }
}
