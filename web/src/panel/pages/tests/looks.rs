//! What pages say: the words that readers of the tutorial know, figures, states, addresses.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::IntoResponse as _;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use jiff::Zoned;
use tower::ServiceExt;

use super::{Rig, now, segment};
use crate::{
    access::{Door, Visitor, Who},
    api::{
        query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
        types::*,
    },
    backend::{ApiError, Backend, ErrorKind, LiveStream},
    demo::Demo,
    locale::Lang,
    panel::{self, front::Front, options::Options},
};

#[tokio::test]
async fn every_page_answers_in_both_languages_under_a_base_path() {
    let rig = Rig::over(Demo::lively(Box::new(now), 1), "/box").await;
    for lang in Lang::ALL {
        for path in Rig::all() {
            let seen = rig.get_in(lang, path).await;
            let expected = if path == "/no-such-page" { StatusCode::NOT_FOUND } else { StatusCode::OK };
            assert_eq!(seen.status, expected, "{path}");
            assert_eq!(seen.headers[header::CACHE_CONTROL], "no-store", "{path}");
            assert!(!seen.has("?</"), "{path}: a key is missing");
            for (name, start) in [
                ("href=\"", "href=\"/box/"),
                ("action=\"", "action=\"/box/"),
                ("hx-get=\"", "hx-get=\"/box/"),
            ] {
                for part in seen.text.split(name).skip(1) {
                    let ours = format!("{name}{}", part.split('"').next().unwrap());
                    assert!(ours.starts_with(start) || ours == "href=\"#main", "{path}: {ours}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_words_of_the_tutorial_stand_where_its_readers_look() {
    let rig = Rig::new().await;
    let overview = rig.get_in(Lang::ZhCn, "/").await;
    for word in ["总用户数", "活跃用户", "总流量", "添加用户"] {
        assert!(overview.has(word), "{word}");
    }
    let users = rig.get_in(Lang::ZhCn, "/users").await;
    for word in ["用户名", "状态", "月流量使用", "总流量使用", "操作", "禁用", "启用", "重置流量", "添加用户"]
    {
        assert!(users.has(word), "{word}");
    }
}

#[tokio::test]
async fn the_overview_counts() {
    let rig = Rig::new().await;
    let words = rig.get("/").await.words();
    let stats = rig.demo.stats().await.unwrap();
    assert_eq!(stats.total_users, 60);
    for part in [
        format!("Users {}", stats.total_users),
        format!("Active users {}", stats.active_users),
        format!("Online now {}", stats.online_users),
        format!("Limited {}", stats.limited_users),
        format!("Total traffic {}", crate::units::Size(stats.total_traffic_bytes + stats.unattributed_bytes)),
    ] {
        assert!(words.contains(&part), "{part}: {words}");
    }
    assert!(words.contains("all is well"));
    for state in ["active", "online", "limited"] {
        assert!(rig.get("/").await.has(&format!("<dt><a href=\"/users?state={state}\">")), "{state}");
    }
}

#[tokio::test]
async fn what_is_not_well_stands_on_every_page() {
    let mut demo = Demo::new(now());
    let since = Time::from(&now());
    let reason = "sing-box's API is away".to_owned();
    demo.status.degraded = vec![Degradation {
        part: "source".to_owned(),
        reason: reason.clone(),
        since,
        advice: Some("look at boxmeter doctor".to_owned()),
    }];
    let rig = Rig::over(Arc::new(demo), "").await;
    for path in ["/", "/users", "/policies", "/events", "/settings", "/add-user"] {
        let seen = rig.get_in(Lang::ZhCn, path).await;
        assert!(seen.has("来源") && seen.has("sing-box 未告知连接属于哪个用户"), "{path}");
        // What happened exactly is the agent's to say, in its language.
        assert!(seen.has("lang=\"en\">sing-box&#39;s API is away<") && seen.has("boxmeter doctor"), "{path}");
        assert!(!seen.has("look at boxmeter"), "{path}: advice in another language");
        let english = rig.get(path).await;
        assert!(
            english.has("sing-box&#39;s API is away") && english.has("look at boxmeter doctor"),
            "{path}"
        );
    }
    assert!(rig.get("/").await.has("not all is well"));
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let rig = Rig::new().await;
    let limited = rig.get("/users?state=limited").await.words();
    assert!(
        limited.contains("3 users") && limited.contains("dave") && !limited.contains("alice"),
        "{limited}"
    );
    let found = rig.get("/users?q=%E5%B0%8F").await.words();
    assert!(found.contains("2 users") && found.contains("小明") && found.contains("小红"), "{found}");
    assert!(rig.get("/users?q=nobody-has-this").await.has("No user"), "an empty list says so");
    let users = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    let mailed = users.iter().filter(|it| it.email.is_some()).count();
    assert!((1..50).contains(&mailed));
    let found = rig.get("/users?q=%40EXAMPLE.com").await.words();
    assert!(found.contains(&format!("{mailed} users")), "by e-mail address: {found}");
    let noted = users.iter().find(|it| it.note.is_some()).unwrap();
    let path = format!("/users?q={}", segment(noted.note.as_deref().unwrap()));
    assert!(rig.get(&path).await.has(&format!("name=\"user\" value=\"{}\"", noted.name)), "by note");
    let online = rig.get("/users?state=online").await;
    let count = users.iter().filter(|it| it.live.flows > 0).count();
    assert!(online.words().contains(&format!("{count} users")) && online.has("value=\"online\" selected"));
    let mut path = "/users?sort=used".to_owned();
    let mut order: Vec<u64> = Vec::new();
    for _ in 0..2 {
        let page = rig.get(&path).await;
        let names: Vec<&str> = page
            .text
            .split("name=\"user\" value=\"")
            .skip(1)
            .map(|it| it.split('"').next().unwrap())
            .collect();
        for name in names {
            let name = name.replace("&#38;", "&");
            order.push(rig.demo.user(&name).await.unwrap().user.period.used_bytes);
        }
        let Some(next) = page.text.split("rel=\"next\" href=\"").nth(1) else { break };
        path = next.split('"').next().unwrap().replace("&#38;", "&");
        assert!(path.contains("sort=used") && path.contains("after="), "{path}");
    }
    assert_eq!(order.len(), 60);
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
}

#[tokio::test]
async fn a_user_who_is_cut_is_told_why_and_until_when() {
    let rig = Rig::new().await;
    let seen = rig.get_in(Lang::ZhCn, "/users/dave").await;
    let words = seen.words();
    assert!(words.contains("已限额") && words.contains("12 月 1 日 00:00（Asia/Shanghai）恢复"), "{words}");
    assert!(seen.has("class=\"bad\" value=\"100\""), "the bar is red");
    let alice = rig.get("/users/alice?by=hour").await;
    let json = alice.text.split("application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let chart: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(chart["zone"], "Asia/Shanghai");
    let points = chart["data"][0].as_array().unwrap().len();
    assert!((48..=49).contains(&points), "{points} hours");
    assert!(alice.has("winter offer") && alice.has("Live connections"));
    let own = alice.text.split("events-title").last().unwrap();
    assert!(own.contains("<tbody") && !own.contains(">User</th>"), "one's own events do not name one");
    assert!(rig.get("/events").await.has(">User</th>"));
    let periods = rig.get("/users/alice?by=period").await;
    assert!(periods.has("\"names\":[") && periods.has("\"2026-11-01 – 11-"), "{}", periods.text);
    assert!(rig.get("/users?q=alice").await.has("href=\"/users/alice/connect\""));
}

#[tokio::test]
async fn events_are_newest_first_and_the_audit_trail_is_what_people_did() {
    let rig = Rig::new().await;
    let all = rig.get("/events").await;
    let times: Vec<&str> =
        all.text.split("datetime=\"").skip(1).map(|it| it.split('"').next().unwrap()).collect();
    assert!(times.len() >= 40 && times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let people = rig.get("/events?who=people").await;
    assert!(people.has("panel:admin") && !people.has("Quota used up"));
    let warnings = rig.get("/events?severity=warning").await;
    assert!(warnings.has("Quota used up") && !warnings.has("User added"));
}

#[tokio::test]
async fn events_of_a_half_typed_name_offer_whom_it_may_be() {
    let rig = Rig::new().await;
    let half = rig.get("/events?user=ali").await;
    assert!(half.has("<option value=\"alice\">"), "while it is typed");
    assert!(half.has("Did you mean") && half.has("href=\"/events?user=alice\""), "{}", half.words());
    let whole = rig.get("/events?user=alice").await;
    assert!(!whole.has("Did you mean") && whole.has(">alice</a>"), "{}", whole.words());
    // Each key presses asks for names only; the list follows when the name is there.
    let form = whole.text.split("role=\"search\"").nth(1).unwrap().split('>').next().unwrap();
    assert!(form.contains("change from:#user") && !form.contains("input"), "{form}");
}

#[tokio::test]
async fn who_is_throttled_is_told_the_speed_of_now() {
    let rig = Rig::new().await;
    let users = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    let slow = users.iter().find(|it| it.state == UserState::Throttled).unwrap();
    let Some(Reason::OverQuota { rate, .. }) = slow.cause else { panic!("{:?}", slow.cause) };
    let rate = crate::units::Rate(rate).to_string();
    assert_ne!(
        slow.terms.as_ref().unwrap().speed_down.map(|it| crate::units::Rate(it).to_string()),
        Some(rate.clone())
    );
    let page = rig.get(&format!("/users/{}", segment(&slow.name))).await.words();
    assert!(page.contains(&format!("Speed now ↓ {rate} ↑ {rate}")), "{page}");
    let token = rig.demo.credentials(&slow.name).await.unwrap().token;
    let own = rig.demo.subscription(&token).await.unwrap();
    assert_eq!(
        crate::units::Rate(own.speed.down.unwrap()).to_string(),
        rate,
        "the user's own page says it too"
    );
}

#[tokio::test]
async fn heads_of_columns_put_the_list_in_their_order_and_keep_the_filter() {
    let rig = Rig::new().await;
    let page = rig.get("/users?q=a&sort=total").await;
    assert_eq!(page.text.matches("aria-sort=\"descending\"").count(), 1);
    let head = page.text.split("aria-sort=\"descending\"").nth(1).unwrap().split("</th>").next().unwrap();
    assert!(head.contains("Total usage"), "{head}");
    assert!(page.has("class=\"sort\" href=\"/users?q=a&#38;sort=expires\""), "{}", page.text);
    assert!(rig.get("/users").await.has("aria-sort=\"ascending\""));
}

#[tokio::test]
async fn moments_are_typed_in_a_zone_that_stands_there() {
    let rig = Rig::new().await;
    for path in ["/add-user", "/users/alice/edit", "/users/alice/package"] {
        assert!(rig.get(path).await.has("Time zone: Asia/Shanghai"), "{path}");
    }
}

/// An agent that is away.
struct Away;

#[async_trait]
impl Door for Away {
    async fn who(&self, _visitor: &Visitor) -> Result<Who, ApiError> {
        Err(away())
    }
}

/// Asks nobody else.
struct AwayFront;

#[async_trait]
impl Front for AwayFront {
    fn own(&self) -> Arc<dyn Backend> {
        Arc::new(Away)
    }
    fn acting_for(&self, _visitor: &Visitor) -> Arc<dyn Backend> {
        self.own()
    }
    async fn api(&self, _visitor: Visitor, _request: axum::extract::Request) -> axum::response::Response {
        away().into_response()
    }
}

#[async_trait]
impl Backend for Away {
    fn now(&self) -> Zoned {
        now()
    }
    async fn status(&self) -> Result<Status, ApiError> {
        Err(away())
    }
    async fn users(&self, _filter: UserFilter, _page: Page) -> Result<UserList, ApiError> {
        Err(away())
    }
    async fn user(&self, _name: &str) -> Result<UserShow, ApiError> {
        Err(away())
    }
    async fn usage(&self, _query: UsageQuery) -> Result<Usage, ApiError> {
        Err(away())
    }
    async fn flows(&self, _filter: FlowFilter) -> Result<FlowList, ApiError> {
        Err(away())
    }
    async fn events(&self, _query: EventQuery) -> Result<EventList, ApiError> {
        Err(away())
    }
    async fn audit(&self, _query: AuditQuery) -> Result<Audit, ApiError> {
        Err(away())
    }
    async fn stats(&self) -> Result<Stats, ApiError> {
        Err(away())
    }
    async fn subscribe(&self) -> Result<LiveStream, ApiError> {
        Err(away())
    }
}

fn away() -> ApiError {
    ApiError::new(ErrorKind::NotRunning, "nobody listens on the socket")
}

#[tokio::test]
async fn an_agent_that_is_away_is_told_with_what_to_do() {
    let options = Options { language: Some(Lang::ZhCn), ..Options::default() };
    let app = panel::app(Arc::new(AwayFront), options);
    for path in ["/", "/users", "/users/alice", "/events"] {
        let request = http::Request::get(path)
            .header(header::HOST, "localhost")
            .header(header::COOKIE, "boxmeter_session=some-secret")
            .body(axum::body::Body::empty())
            .unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("后台程序没有运行") && text.contains("systemctl start boxmeter"), "{path}");
    }
}

#[tokio::test]
async fn what_a_list_and_a_user_say() {
    let rig = Rig::new().await;
    let seen = rig.get("/users?q=dave").await;
    let table = seen.text.split("<tbody").nth(1).unwrap().split("</tbody>").next().unwrap();
    insta::assert_snapshot!(super::words(&format!("<{table}")));
    let zh = rig.get_in(Lang::ZhCn, "/users?q=dave").await;
    let table = zh.text.split("<tbody").nth(1).unwrap().split("</tbody>").next().unwrap();
    insta::assert_snapshot!(super::words(&format!("<{table}")));
}
