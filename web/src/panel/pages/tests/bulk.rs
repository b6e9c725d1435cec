//! Several users at once: whom it meets, what is asked first, and that nothing happens twice.

use std::sync::Arc;

use http::StatusCode;

use super::{Rig, Seen, now};
use crate::{
    api::{
        query::Page,
        types::{Time, User, UserState},
    },
    backend::Backend,
    demo::{Demo, user},
};

const DAY: i64 = 86_400;
const GIB: u64 = 1 << 30;

/// `user-000` and so on; every tenth is limited, and half of them expire in ten days.
async fn many(count: u64) -> Rig {
    let ten_days = now().timestamp().as_second() + 10 * DAY;
    let users: Vec<User> = (0..count)
        .map(|number| {
            let state = if number % 10 == 0 { UserState::Limited } else { UserState::Active };
            let mut user = user(&now(), number + 1, &format!("user-{number:03}"), state, Some(1 << 50));
            user.expires_at = (number % 2 == 0).then(|| Time::from_ms(ten_days * 1_000, now().time_zone()));
            user
        })
        .collect();
    Rig::over(Arc::new(Demo::new(now()).with_users(users)), "").await
}

async fn count(rig: &Rig, wanted: impl Fn(&User) -> bool) -> usize {
    let all = rig.demo.users(Default::default(), Default::default()).await.unwrap().users;
    all.iter().filter(|it| wanted(it)).count()
}

async fn post(rig: &Rig, fields: &[(&str, &str)]) -> Seen {
    rig.post("/change-users", fields).await
}

/// Answers a question with the button that it shows, as a browser does.
async fn answer(rig: &Rig, question: &Seen) -> Seen {
    assert_eq!(question.status, StatusCode::OK, "{}", question.words());
    let form =
        question.text.split("action=\"/change-users\"").nth(1).unwrap().split("</form>").next().unwrap();
    let mut fields: Vec<(String, String)> = Vec::new();
    for part in form.split("<input type=\"hidden\"").skip(1) {
        let value = |name: &str| part.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
        fields.push((value(" name").to_owned(), value(" value").to_owned()));
    }
    let button = form.split("name=\"do\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    fields.push(("do".to_owned(), button.to_owned()));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    post(rig, &fields).await
}

#[tokio::test]
async fn everybody_whom_the_filter_takes_is_on_every_page_and_nobody_else() {
    let rig = many(120).await;
    let list = rig.get("/users?state=active&q=user-0").await;
    assert!(list.has("all 90 that match"), "{}", list.words());
    assert!(!rig.get("/users?q=user-00").await.has("that match"), "one page is marked by one click");
    let everybody = [("everybody", "yes"), ("state", "active"), ("q", "user-0"), ("do", "disable")];
    let question = post(&rig, &everybody).await;
    assert!(question.has("Disable 90 users?"), "{}", question.words());
    assert_eq!(count(&rig, |it| it.state == UserState::Disabled).await, 0, "it was only asked");
    let done = rig.follow(&answer(&rig, &question).await).await;
    assert!(done.has("90 users are disabled"), "{}", done.words());
    assert_eq!(count(&rig, |it| it.state == UserState::Disabled).await, 90);
    let others = count(&rig, |it| it.state != UserState::Disabled && it.name.starts_with("user-0")).await;
    assert_eq!(others, 10, "those who were limited were not meant");
    // Who comes after somebody is who is left when there was no time for all.
    let rest = [("everybody", "yes"), ("after", "user-117"), ("do", "delete")];
    let question = post(&rig, &rest).await;
    assert!(question.has("Delete 2 users?"), "{}", question.words());
    rig.follow(&answer(&rig, &question).await).await;
    assert_eq!(count(&rig, |_| true).await, 118);
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_asked_about() {
    let rig = many(3).await;
    let used = |it: &User| it.period.used_bytes > 0;
    let marked = [("user", "user-001"), ("user", "user-002")];
    for (deed, text) in [("reset", "Reset the usage of 2 users?"), ("delete", "Delete 2 users?")] {
        let question = post(&rig, &[marked[0], marked[1], ("do", deed)]).await;
        assert!(question.has(text), "{}", question.words());
        assert_eq!((count(&rig, used).await, count(&rig, |_| true).await), (3, 3), "{deed}");
    }
    let question = post(&rig, &[marked[0], marked[1], ("do", "reset")]).await;
    rig.follow(&answer(&rig, &question).await).await;
    assert_eq!(count(&rig, used).await, 1);
    // Enter in a field, which presses no button, does nothing.
    let back = post(&rig, &[marked[0], ("back", "/users?q=u")]).await;
    assert_eq!(back.location(), "/users?q=u");
    assert_eq!(count(&rig, |it| it.state == UserState::Disabled).await, 0);
    let list = rig.get("/users").await;
    let form = list.text.split("class=\"people\"").nth(1).unwrap();
    let first = form.split("<button").nth(1).unwrap().split('>').next().unwrap();
    assert!(first.contains("value=\"more\"") && first.contains("hidden"), "what Enter presses: {first}");
}

#[tokio::test]
async fn packages_policies_and_days_go_to_each_of_them_once() {
    let rig = many(6).await;
    let marked = [("user", "user-000"), ("user", "user-001"), ("user", "user-003"), ("user", "user-004")];
    let page = post(&rig, &[&marked[..], &[("do", "more")]].concat()).await;
    assert!(page.has("Change 4 users") && page.has("user-003"), "{}", page.words());
    let once = page.field("once");
    let base = [&marked[..], &[("sure", "yes"), ("once", &*once)]].concat();

    let package = [&base[..], &[("do", "package"), ("size", "5 GiB"), ("note", "winter")]].concat();
    for _ in 0..2 {
        let done = rig.follow(&post(&rig, &package).await).await;
        assert!(done.has("4 users have a package more"), "{}", done.words());
    }
    for (name, packages) in [("user-001", 1), ("user-002", 0), ("user-004", 1)] {
        let list = rig.demo.packages(name, Page::default()).await.unwrap();
        assert_eq!(list.packages.len(), packages, "{name}: the same form again is no other package");
        assert_eq!(list.remaining_bytes, packages as u64 * 5 * GIB);
    }

    let once = post(&rig, &[&marked[..], &[("do", "more")]].concat()).await.field("once");
    let days = [&marked[..], &[("sure", "yes"), ("once", &*once), ("do", "extend"), ("days", "30")]].concat();
    for _ in 0..2 {
        let done = rig.follow(&post(&rig, &days).await).await;
        assert!(done.has("The expiry of 2 users is moved") && done.has("2 never expire"), "{}", done.words());
    }
    let ends = rig.demo.user("user-004").await.unwrap().user.expires_at.unwrap();
    assert_eq!(ends.instant.as_second() - now().timestamp().as_second(), 40 * DAY);

    let once = post(&rig, &[&marked[..], &[("do", "more")]].concat()).await.field("once");
    let policy =
        [&marked[..], &[("sure", "yes"), ("once", &*once), ("do", "policy"), ("policy", "premium")]].concat();
    let done = rig.follow(&post(&rig, &policy).await).await;
    assert!(done.has("4 users have the new policy"), "{}", done.words());
    assert_eq!(count(&rig, |it| it.policy.as_deref() == Some("premium")).await, 4);
}

#[tokio::test]
async fn mistakes_in_the_forms_for_several_keep_what_was_typed_and_whom_it_is_for() {
    let rig = many(3).await;
    let base = [("user", "user-001"), ("user", "user-002"), ("sure", "yes")];
    for (deed, field, typed, said) in [
        ("package", "size", "5", "Add a unit"),
        ("package", "size", "", "Write a size above 0"),
        ("extend", "days", "0", "From 1 to 3660 days"),
        ("extend", "days", "9999", "From 1 to 3660 days"),
        ("policy", "policy", "no-such-policy", "There is no such policy"),
    ] {
        let again = post(&rig, &[&base[..], &[("do", deed), (field, typed)]].concat()).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{deed}");
        assert!(again.has(said), "{deed}: {}", again.words());
        assert!(again.has("value=\"user-001\"") && again.has("value=\"user-002\""), "{deed}");
        if deed != "policy" {
            assert_eq!(again.field(field), typed);
        }
    }
    assert_eq!(count(&rig, |it| it.packages.remaining_bytes > 0).await, 0);
    let nobody = rig.follow(&post(&rig, &[("do", "more")]).await).await;
    assert!(nobody.has("Mark at least one user first"));
}
