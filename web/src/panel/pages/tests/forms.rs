//! Forms as a browser without scripts sends them: what is done, what is told, what is refused.

use http::{StatusCode, header};

use super::Rig;
use crate::{
    api::{
        order::{Actor, Envelope, Origin},
        types::{Overrides, UserChange, UserState},
    },
    backend::Backend,
    demo::Demo,
    locale::Lang,
};

const GIB: u64 = 1 << 30;

async fn state(demo: &Demo, name: &str) -> UserState {
    demo.user(name).await.unwrap().user.state
}

#[tokio::test]
async fn adding_a_user_hands_over_and_a_second_post_adds_nobody() {
    let rig = Rig::new().await;
    let form = rig.get("/add-user").await;
    let once = form.field("once");
    let fields = [
        ("once", &*once),
        ("name", "新用户 1"),
        ("policy", "premium"),
        ("quota", "20 GiB"),
        ("speed_down", "8 Mbit/s"),
        ("note", "first line\r\nsecond"),
        ("inbound", "vless-in"),
    ];
    let added = rig.post("/add-user", &fields).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.words());
    assert!(added.has("vless-in") && !added.has("trojan-in"), "{}", added.words());
    assert!(added.has("/s/") && added.has("class=\"qr\""), "the subscription with its QR code");
    assert_eq!(added.headers[header::CACHE_CONTROL], "no-store");
    let secret = added.text.split("id=\"secret-0-1\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert_eq!(secret.len(), 36, "{secret}");
    let again = rig.post("/add-user", &fields).await;
    assert!(again.has(&secret), "the same key answers the same");
    let user = rig.demo.user("新用户 1").await.unwrap().user;
    assert_eq!(user.overrides.quota_bytes, Some(Some(20 * GIB)));
    assert_eq!(user.overrides.speed_down, Some(Some(1_000_000)));
    assert_eq!(user.overrides.speed_up, None);
    assert_eq!(user.note.as_deref(), Some("first line\nsecond"));
    let shown = rig.get(&format!("/users/{}", super::segment("新用户 1"))).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(!shown.has(&secret), "credentials stand where somebody asks for them");
    let path = format!("/users/{}/connect", super::segment("新用户 1"));
    assert!(rig.get(&path).await.has(&secret), "and can be handed over later as well");
    // The same key for something else is refused.
    let other = rig.post("/add-user", &[("once", &once), ("name", "another")]).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn mistakes_keep_what_was_typed_and_are_told_at_their_field() {
    let rig = Rig::new().await;
    for lang in Lang::ALL {
        let seen = rig
            .post_in(lang, "/add-user", &[("name", "a[b"), ("quota", "ten"), ("expires", "2020-01-01T00:00")])
            .await;
        assert_eq!(seen.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!((seen.field("name"), seen.field("quota")), ("a[b".to_owned(), "ten".to_owned()));
        assert_eq!(seen.text.matches("aria-invalid=\"true\"").count(), 3, "{}", seen.words());
        assert!(seen.has(lang.text("panel.unit.number_size")) && seen.has(lang.text("panel.invalid.past")));
    }
    let taken = rig.post("/add-user", &[("name", "alice")]).await;
    assert!(taken.has(Lang::En.text("panel.invalid.taken")));
    assert!(rig.demo.user("a[b").await.is_err());
}

#[tokio::test]
async fn buttons_of_a_row_and_of_everybody_who_is_marked() {
    let rig = Rig::new().await;
    let done = rig.post("/change-users", &[("disable", "alice"), ("back", "/users?q=ali")]).await;
    assert_eq!(done.location(), "/users?q=ali");
    let page = rig.follow(&done).await;
    assert!(page.has("alice is disabled"), "{}", page.words());
    assert_eq!(state(&rig.demo, "alice").await, UserState::Disabled);
    // The message is shown once.
    let cookie = page.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("boxmeter_flash=;") && cookie.contains("Max-Age=0"), "{cookie}");
    let several = [("do", "enable"), ("user", "alice"), ("user", "quentin"), ("user", "no-such-user")];
    let page = rig.follow(&rig.post("/change-users", &several).await).await;
    assert!(page.has("2 users are enabled") && page.has("no-such-user"), "{}", page.words());
    assert_ne!(state(&rig.demo, "alice").await, UserState::Disabled);
    let nobody = rig.follow(&rig.post("/change-users", &[("do", "disable")]).await).await;
    assert!(nobody.has(Lang::En.text("panel.failed.nobody")));
    // Somebody else's page is not gone back to.
    for back in ["//evil.example/", "https://evil.example/", "/\\evil.example"] {
        let done = rig.post("/change-users", &[("enable", "alice"), ("back", back)]).await;
        assert_eq!(done.location(), "/users", "{back}");
    }
}

#[tokio::test]
async fn deleting_asks_first() {
    let rig = Rig::new().await;
    let marked = [("do", "delete"), ("user", "alice"), ("user", "bob")];
    let ask = rig.post("/change-users", &marked).await;
    assert_eq!(ask.status, StatusCode::OK);
    assert!(ask.has("Delete 2 users?"));
    assert!(rig.demo.user("alice").await.is_ok(), "nothing is done before the answer");
    assert!(ask.has("alice") && ask.has("bob"), "of whom");
    let sure = [marked[0], marked[1], marked[2], ("sure", "yes")];
    rig.follow(&rig.post("/change-users", &sure).await).await;
    assert!(rig.demo.user("alice").await.is_err() && rig.demo.user("bob").await.is_err());

    let page = rig.get("/users/carol/delete").await;
    let rev = page.field("rev");
    let change = UserChange { note: Some(Some("later".to_owned())), ..UserChange::default() };
    let envelope = Envelope::of(Actor::uid(0, Origin::Cli));
    rig.demo.change_user(envelope, "carol", change).await.unwrap();
    let late = rig.post("/users/carol/delete", &[("rev", &rev)]).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "changed meanwhile: look again");
    let rev = rig.get("/users/carol/delete").await.field("rev");
    let gone = rig.follow(&rig.post("/users/carol/delete", &[("rev", &rev)]).await).await;
    assert!(gone.has("carol is deleted"), "{}", gone.words());
}

#[tokio::test]
async fn an_edit_that_comes_too_late_shows_both_values() {
    let rig = Rig::new().await;
    let form = rig.get("/users/erin/edit").await;
    let rev = form.field("rev");
    let terms = Overrides { quota_bytes: Some(Some(500 * GIB)), ..Overrides::default() };
    let change = UserChange { terms, ..UserChange::default() };
    rig.demo.change_user(Envelope::of(Actor::uid(0, Origin::Cli)), "erin", change).await.unwrap();
    let fields = [("rev", &*rev), ("policy", "premium"), ("quota", "70 GiB"), ("inbound", "trojan-in")];
    let late = rig.post("/users/erin/edit", &fields).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert!(late.has("<td class=\"pre\">500 GiB</td><td class=\"pre\">70 GiB</td>"), "{}", late.words());
    assert_eq!(late.field("quota"), "70 GiB", "what was typed stays");
    let user = rig.demo.user("erin").await.unwrap().user;
    assert_eq!(user.period.quota_bytes, Some(500 * GIB), "nothing is saved");
    let fresh = late.field("rev");
    assert_ne!(fresh, rev);
    let fields = [("rev", &*fresh), fields[1], fields[2], fields[3]];
    let saved = rig.follow(&rig.post("/users/erin/edit", &fields).await).await;
    assert!(saved.has("erin is changed"), "{}", saved.words());
    let user = rig.demo.user("erin").await.unwrap().user;
    assert_eq!(user.period.quota_bytes, Some(70 * GIB));
}

/// What somebody else changed stays, where this form did not touch it.
#[tokio::test]
async fn an_edit_that_comes_too_late_takes_over_what_it_did_not_touch() {
    let rig = Rig::new().await;
    let fields = sent(&rig.get("/users/erin/edit").await.text);
    let note = Some("of another tab\nin two lines".to_owned());
    let change = UserChange { note: Some(note.clone()), ..UserChange::default() };
    rig.demo.change_user(Envelope::of(Actor::uid(0, Origin::Cli)), "erin", change).await.unwrap();
    let with_quota = |fields: Vec<(String, String)>| -> Vec<(String, String)> {
        let others = fields.into_iter().filter(|(name, _)| name != "quota");
        others.chain([("quota".to_owned(), "70 GiB".to_owned())]).collect()
    };
    let post = async |fields: &[(String, String)]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (&**a, &**b)).collect();
        rig.post("/users/erin/edit", &fields).await
    };
    let late = post(&with_quota(fields)).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert!(
        late.has("of another tab") && late.has(Lang::En.text("panel.stale.taken_over")),
        "{}",
        late.words()
    );
    assert_eq!(late.field("quota"), "70 GiB");
    let saved = rig.follow(&post(&with_quota(sent(&late.text))).await).await;
    assert!(saved.has("erin is changed"), "{}", saved.words());
    let user = rig.demo.user("erin").await.unwrap().user;
    assert_eq!((user.period.quota_bytes, user.note), (Some(70 * GIB), note));
}

#[tokio::test]
async fn a_form_that_is_sent_as_it_came_changes_nothing() {
    let rig = Rig::new().await;
    for user in rig.demo.users(Default::default(), Default::default()).await.unwrap().users {
        let path = format!("/users/{}/edit", super::segment(&user.name));
        let form = rig.get(&path).await;
        let fields = sent(&form.text);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (&**a, &**b)).collect();
        let seen = rig.follow(&rig.post(&path, &fields).await).await;
        assert!(seen.has("Nothing was changed"), "{}: {}", user.name, seen.words());
        assert_eq!(rig.demo.user(&user.name).await.unwrap().user, user);
    }
    let form = rig.get("/policies/basic").await;
    let fields = sent(&form.text);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (&**a, &**b)).collect();
    let before = rig.demo.policy("basic").await.unwrap().policy;
    rig.follow(&rig.post("/policies/basic", &fields).await).await;
    assert_eq!(rig.demo.policy("basic").await.unwrap().policy, before);
}

/// What a browser sends of the page's last form without a change.
fn sent(html: &str) -> Vec<(String, String)> {
    let form = html.rsplit("<form").next().unwrap();
    let attribute = |tag: &str, name: &str| {
        let rest = tag.split(&format!(" {name}=\"")).nth(1)?;
        Some(unescaped(rest.split('"').next()?))
    };
    let mut fields = Vec::new();
    for part in form.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let checkbox = tag.contains("type=\"checkbox\"") && !tag.contains(" checked");
        if tag.starts_with("input") && !checkbox {
            fields.push((attribute(tag, "name").unwrap(), attribute(tag, "value").unwrap_or_default()));
        }
    }
    for select in form.split("<select").skip(1) {
        let select = select.split("</select>").next().unwrap();
        let options: Vec<&str> = select.split("<option").skip(1).collect();
        let chosen = options.iter().find(|it| it.split('>').next().unwrap().contains(" selected"));
        let chosen = chosen.or(options.first()).unwrap();
        fields.push((attribute(select, "name").unwrap(), attribute(chosen, "value").unwrap()));
    }
    for area in form.split("<textarea").skip(1) {
        let text = area.split_once('>').unwrap().1.split("</textarea>").next().unwrap();
        fields.push((attribute(area, "name").unwrap(), unescaped(text)));
    }
    fields
}

fn unescaped(text: &str) -> String {
    let names = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
    names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[tokio::test]
async fn packages_are_added_once_and_reset_starts_anew() {
    let rig = Rig::new().await;
    let before = rig.demo.user("dave").await.unwrap().user;
    assert_eq!(before.state, UserState::Limited);
    let once = rig.get("/users/dave/package").await.field("once");
    let fields = [("once", &*once), ("size", "30 GiB"), ("expires", "2027-01-01T00:00"), ("note", "")];
    for _ in 0..2 {
        let seen = rig.follow(&rig.post("/users/dave/package", &fields).await).await;
        assert!(seen.has("dave has 30.0 GiB more"), "{}", seen.words());
    }
    assert_eq!(rig.demo.packages("dave", Default::default()).await.unwrap().packages.len(), 1);
    assert_eq!(state(&rig.demo, "dave").await, UserState::Active);
    for (size, key) in [
        ("0", "panel.invalid.size"),
        ("", "panel.invalid.size"),
        ("x", "panel.unit.number_size"),
        ("5", "panel.unit.missing_size"),
    ] {
        let wrong = rig.post("/users/dave/package", &[("size", size)]).await;
        assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(wrong.has(Lang::En.text(key)), "{size}: {}", wrong.words());
    }
    assert!(rig.get("/users/dave/reset").await.has("starts anew"));
    rig.follow(&rig.post("/users/dave/reset", &[]).await).await;
    assert_eq!(rig.demo.user("dave").await.unwrap().user.period.used_bytes, 0);
}

#[tokio::test]
async fn policies_are_added_changed_and_deleted() {
    let rig = Rig::new().await;
    let once = rig.get("/add-policy").await.field("once");
    let fields = [
        ("once", &*once),
        ("name", "family"),
        ("quota", "300 GiB"),
        ("period", "week"),
        ("reset_day", "7"),
        ("over", "throttle"),
        ("over_rate", "2 MiB/s"),
        ("warn", "50, 90"),
        ("rollover", "yes"),
    ];
    let list = rig.follow(&rig.post("/add-policy", &fields).await).await;
    assert!(list.has("family") && list.has("300 GiB"), "{}", list.words());
    let made = rig.demo.policy("family").await.unwrap().policy.terms;
    assert_eq!((made.quota_bytes, made.reset_day, made.rollover), (Some(300 * GIB), 7, true));
    assert_eq!(made.warn_percents, [50, 90]);
    // A week has no eighth day: told at the field, nothing saved.
    let rev = rig.get("/policies/family").await.field("rev");
    let wrong = rig.post("/policies/family", &[("rev", &rev), ("period", "week"), ("reset_day", "8")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let in_use = rig.get("/policies/basic/delete").await;
    assert!(in_use.has("Give them another one first") && !in_use.has("class=\"danger\""));
    let rev = rig.get("/policies/family/delete").await.field("rev");
    rig.follow(&rig.post("/policies/family/delete", &[("rev", &rev)]).await).await;
    assert!(rig.demo.policy("family").await.is_err());
}

#[tokio::test]
async fn language_and_colours_are_kept_in_the_browser() {
    let rig = Rig::over(Demo::lively(Box::new(super::now), 1), "/box").await;
    let seen = rig.post("/preferences", &[("lang", "zh-CN"), ("back", "/users?q=a")]).await;
    assert_eq!(seen.location(), "/box/users?q=a");
    let cookie = seen.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.starts_with("boxmeter_lang=zh-CN; Path=/box/;") && cookie.contains("HttpOnly"),
        "{cookie}"
    );
    let seen = rig.post("/preferences", &[("theme", "dark"), ("lang", "xx")]).await;
    let cookies: Vec<_> = seen.headers.get_all(header::SET_COOKIE).iter().collect();
    assert_eq!(cookies.len(), 1);
    assert!(cookies[0].to_str().unwrap().starts_with("boxmeter_theme=dark"));
}

/// No word of our own addresses is taken away from the users.
#[tokio::test]
async fn users_have_any_name() {
    let rig = Rig::new().await;
    for name in ["new", "act", "add-user", "users"] {
        rig.post("/add-user", &[("name", name)]).await;
        let page = rig.get(&format!("/users/{name}")).await;
        assert!(page.status.is_success() && page.has(&format!(">{name}</h1>")), "{name}: {}", page.words());
    }
}

#[tokio::test]
async fn a_policy_that_somebody_else_changed_shows_both_values() {
    let rig = Rig::new().await;
    let page = rig.get("/policies/basic").await;
    let rev = page.field("rev");
    let mut fields: Vec<(&str, &str)> =
        vec![("rev", &rev), ("over", "cut"), ("period", "month"), ("wins", "newest")];
    fields.extend([("reset_day", "1"), ("rollover", "no"), ("sharing", "note"), ("sharing_networks", "3")]);
    fields.push(("sharing_minutes", "5"));
    let with = |quota| [&fields[..], &[("quota", quota)]].concat();
    let first = rig.post("/policies/basic", &with("111 GiB")).await;
    assert_eq!(first.status, StatusCode::SEE_OTHER, "{}", first.words());
    let late = rig.post("/policies/basic", &with("222 GiB")).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "{}", late.words());
    assert!(late.has(">111 GiB</td><td>222 GiB<"), "{}", late.words());
    assert_eq!(late.field("quota"), "222 GiB", "what was typed stays");
    assert_eq!(rig.demo.policy("basic").await.unwrap().policy.terms.quota_bytes, Some(111 * GIB));
    let rev = late.field("rev");
    fields[0] = ("rev", &rev);
    let again = [&fields[..], &[("quota", "222 GiB")]].concat();
    assert_eq!(rig.post("/policies/basic", &again).await.status, StatusCode::SEE_OTHER);
    assert_eq!(rig.demo.policy("basic").await.unwrap().policy.terms.quota_bytes, Some(222 * GIB));
}
