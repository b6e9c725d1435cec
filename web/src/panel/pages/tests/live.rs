//! Live messages: what they say is what the page says, in its language, and what moves does move.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use http::{Method, header};
use jiff::ToSpan;
use serde_json::Value;

use super::{Rig, Seen, now, segment};
use crate::{
    api::types::{Degradation, Live, Time, UserState},
    backend::Backend,
    demo::{Demo, user},
    locale::Lang,
};

async fn frame(frames: &mut BodyDataStream) -> String {
    String::from_utf8(frames.next().await.unwrap().unwrap().to_vec()).unwrap()
}

fn read(frame: &str) -> Value {
    serde_json::from_str(frame.trim().strip_prefix("data: ").unwrap()).unwrap()
}

async fn stream(rig: &Rig, path: &str) -> BodyDataStream {
    let request = rig.request(Lang::En, Method::GET, path);
    rig.raw(request.body(Body::empty()).unwrap()).await.into_body().into_data_stream()
}

/// What the page shows at a key, where it does.
fn shown<'p>(page: &'p Seen, key: &str) -> Option<&'p str> {
    let rest = page.text.split(&format!("data-live=\"{key}\"")).nth(1)?;
    rest.split_once('>')?.1.split('<').next()
}

/// The first message of a stream changes nothing on the page that it is for.
async fn same(rig: &Rig, page: &str, live: &str) -> usize {
    let seen = rig.get(page).await;
    let message = read(&frame(&mut stream(rig, live).await).await);
    let mut compared = 0;
    for (key, value) in message["set"].as_object().unwrap() {
        let text = value.as_str().or_else(|| value["text"].as_str());
        if let (Some(text), Some(there)) = (text, shown(&seen, key)) {
            assert_eq!(there, text.replace('&', "&#38;").replace('<', "&#60;"), "{page}: {key}");
            compared += 1;
        }
    }
    compared
}

#[tokio::test]
async fn the_first_message_says_what_the_page_says() {
    let rig = Rig::new().await;
    // Eight cards, three rates of the legend, four cells of eight rows.
    assert_eq!(same(&rig, "/", "/live?page=overview").await, 8 + 3 + 4 * 8);
    let users = rig.get("/users").await;
    let start = users.text.split("data-stream=\"").nth(1).unwrap().split('"').next().unwrap();
    let compared = same(&rig, "/users", &start.replace("&#38;", "&")).await;
    assert!(compared >= 50 * 7, "{compared}");
    let id = rig.demo.user("alice").await.unwrap().user.id.unwrap();
    assert!(same(&rig, "/users/alice", &format!("/live?page=user&ids={id}")).await >= 7);
    // And it stays so while somebody is added, disabled and seen by nobody.
    rig.demo.tick();
    rig.post("/add-user", &[("name", "newcomer")]).await;
    rig.post("/change-users", &[("disable", "alice")]).await;
    // The stream of the whole panel is a moment behind what was just done.
    let mut frames = stream(&rig, "/live?page=overview").await;
    while read(&frame(&mut frames).await)["set"]["users"] != "61" {}
    assert_eq!(same(&rig, "/", "/live?page=overview").await, 8 + 3 + 4 * 8);
}

#[tokio::test]
async fn the_cards_add_up_and_their_links_lead_to_as_many() {
    let rig = Rig::new().await;
    let page = rig.get("/").await;
    for state in ["active", "limited", "online"] {
        let count = shown(&page, state).unwrap();
        let list = rig.get(&format!("/users?state={state}")).await.words();
        assert!(list.contains(&format!("{count} users")), "{state}: {count}");
    }
    let users = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    let of_users: u64 = users.iter().map(|it| it.total.used_bytes).sum();
    let stats = rig.demo.stats().await.unwrap();
    assert_eq!(stats.total_traffic_bytes, of_users);
    assert!(stats.unattributed_bytes > 0);
    let all = of_users + stats.unattributed_bytes;
    assert_eq!(shown(&page, "total").unwrap(), crate::units::Size(all).to_string());
    assert_eq!(shown(&page, "month").unwrap(), crate::units::Size(stats.month_bytes).to_string());
    assert_eq!(shown(&page, "today").unwrap(), crate::units::Size(stats.today_bytes).to_string());
    assert!(stats.today_bytes < stats.month_bytes && stats.month_bytes < all);
}

#[tokio::test]
async fn who_went_away_is_not_seen_just_now_for_ever() {
    let online = Live { flows: 1, addresses: 1, upload_rate: 0, download_rate: 1 };
    let mut someone = user(&now(), 1, "someone", UserState::Active, None);
    someone.live = online;
    let id = someone.id.clone().unwrap();
    let demo = Arc::new(Demo::new(now()).with_users(vec![someone]));
    let rig = Rig::over(Arc::clone(&demo), "").await;
    let mut frames = stream(&rig, &format!("/live?page=users&ids={id}")).await;
    let seen = |frame: &str| read(frame)["set"][format!("{id}:seen")]["text"].as_str().map(str::to_owned);
    assert_eq!(seen(&frame(&mut frames).await).unwrap(), "just now");
    for (minutes, text) in [(3, "3 min ago"), (180, "3 h ago")] {
        let mut later = demo.snapshot();
        Arc::make_mut(&mut later.users[0]).live = Live::default();
        Arc::make_mut(&mut later.users[0]).last_seen_at = Some(Time::from(&now()));
        later.at = Time::from(&now().checked_add(minutes.minutes()).unwrap());
        demo.publish(later);
        assert_eq!(seen(&frame(&mut frames).await).unwrap(), text);
    }
}

/// What begins to fail and what works again is asked for, once, by every page that has a stream.
#[tokio::test]
async fn what_is_not_well_is_told_to_pages_that_are_open() {
    let rig = Rig::new().await;
    let id = rig.demo.user("alice").await.unwrap().user.id.unwrap();
    for (page, live) in [
        ("/", "/live?page=overview".to_owned()),
        ("/users/alice", format!("/live?page=user&ids={id}")),
        ("/users", format!("/live?page=users&ids={id}")),
    ] {
        assert!(rig.get(page).await.has(&format!("data-health hx-get=\"{page}\"")), "{page}");
        let mut frames = stream(&rig, &live).await;
        let mut snapshot = rig.demo.snapshot();
        let mut part = |part: Option<&str>, reason: &str| {
            snapshot.at = Time::from(&snapshot.at.zoned().checked_add(1.second()).unwrap());
            snapshot.degraded = part
                .map(|it| Degradation {
                    part: it.to_owned(),
                    reason: reason.to_owned(),
                    since: Time::from(&now()),
                    advice: None,
                })
                .into_iter()
                .collect();
            rig.demo.publish(snapshot.clone());
        };
        let mut asked = Vec::new();
        for (what, reason) in
            [(None, ""), (Some("source"), "gone"), (Some("source"), "gone for 2 s"), (None, ""), (None, "")]
        {
            part(what, reason);
            asked.push(read(&frame(&mut frames).await)["health"] == true);
        }
        assert_eq!(asked, [false, true, false, true, false], "{page}");
    }
}

/// What a page draws must have times that grow, and what is new must be in it.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_chart() {
    let rig = Rig::new().await;
    let mut frames = stream(&rig, "/live?page=overview").await;
    let start = read(&frame(&mut frames).await)["point"][0].as_i64().unwrap();
    let mut later = rig.demo.snapshot();
    let mut seconds = Vec::new();
    for passed in [1, 2, -1_800, -1_799] {
        later.at = Time::from(&now().checked_add(passed.seconds()).unwrap());
        later.totals.download_rate += 1;
        rig.demo.publish(later.clone());
        let point = read(&frame(&mut frames).await)["point"].clone();
        assert_eq!(
            point,
            serde_json::json!([start + passed, later.totals.download_rate, later.totals.upload_rate])
        );
        seconds.push(start + passed);
    }
    let page = rig.get("/").await;
    let chart = page.text.split("data-chart=\"live\"").nth(1).unwrap();
    let spec = chart.split("type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let spec: Value = serde_json::from_str(spec).unwrap();
    assert_eq!(spec["data"][0], serde_json::json!(seconds[2..]), "only what is past now");
}

#[tokio::test]
async fn connections_are_looked_at_again_while_there_are_any() {
    let rig = Rig::new().await;
    let users = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    let [online, offline] =
        [true, false].map(|there| users.iter().find(|it| (it.live.flows > 0) == there).unwrap().clone());
    for page in ["user", "flows"] {
        for (user, expected) in [(&online, true), (&offline, false)] {
            let path = format!("/live?page={page}&ids={}", user.id.as_deref().unwrap());
            let mut frames = stream(&rig, &path).await;
            let mut asked = false;
            for _ in 0..=super::super::live::REFRESH_EVERY {
                asked |= read(&frame(&mut frames).await)["refresh"] == true;
                // The same flows go on: nothing but their bytes has changed.
                let mut next = rig.demo.snapshot();
                next.at = Time::from(&next.at.zoned().checked_add(1.second()).unwrap());
                rig.demo.publish(next);
            }
            assert_eq!(asked, expected, "{page} {}", user.name);
        }
    }
    let path = format!("/users/{}/flows", segment(&online.name));
    assert!(
        rig.get(&path).await.has("data-stream=\"/live?page=flows&#38;ids="),
        "the list alone has a stream too"
    );
}

#[tokio::test]
async fn live_messages_hold_what_the_page_shows_in_its_language() {
    let rig = Rig::new().await;
    let user = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    let online = user.iter().find(|it| it.live.flows > 0).unwrap();
    let id = online.id.clone().unwrap();
    let request = rig.request(Lang::ZhCn, http::Method::GET, &format!("/live?page=users&ids={id}"));
    let response = rig.raw(request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut frames = response.into_body().into_data_stream();
    let first = frame(&mut frames).await;
    let message = read(&first);
    let set = message["set"].as_object().unwrap();
    assert_eq!(set[&format!("{id}:state")]["text"], "正常");
    assert_eq!(set[&format!("{id}:used")], crate::units::Size(online.period.used_bytes).to_string());
    assert!(set.keys().all(|key| key.starts_with(&id)), "only what the page shows: {set:?}");
    // Later messages hold only what has changed.
    rig.demo.tick();
    let second = frame(&mut frames).await;
    assert!(second.len() < first.len(), "{second}");
    let page = rig.get("/users").await;
    for key in set.keys() {
        assert!(
            page.has(&format!("data-live=\"{key}\""))
                || key.ends_with(":flows")
                || key.ends_with(":addresses"),
            "{key}"
        );
    }
}
