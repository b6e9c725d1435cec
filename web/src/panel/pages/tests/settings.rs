//! Password, second factor, sessions, tokens, links: what only who is signed in may touch.

use http::{Method, StatusCode, header};

use super::Rig;
use crate::{
    access::{Door, Presented, Visitor},
    backend::Backend,
    locale::Lang,
    panel::options::NOWHERE,
};

#[tokio::test]
async fn whoever_is_not_in_signs_in_and_comes_back() {
    let rig = Rig::new().await;
    let stranger = http::Request::get("/users?q=a").header(header::HOST, "localhost");
    let away = rig.raw(stranger.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(away.status(), StatusCode::SEE_OTHER);
    assert_eq!(away.headers()[header::LOCATION], "/sign-in?next=%2Fusers%3Fq%3Da");
    for lang in Lang::ALL {
        let page = rig.get_in(lang, "/sign-in?next=%2Fusers").await;
        assert!(page.has(lang.text("panel.sign_in.password")) && page.field("next") == "/users");
        assert!(!page.has("class=\"tabs\""), "nobody is in: there is no navigation");
    }
    let wrong = rig.post("/sign-in", &[("password", "wrong"), ("next", "/users")]).await;
    assert!(wrong.has(Lang::En.text("panel.sign_in.wrong")), "{}", wrong.words());
    let right = rig.post("/sign-in", &[("password", "demo"), ("next", "/users")]).await;
    assert_eq!((right.status, right.location()), (StatusCode::SEE_OTHER, "/users"));
    let cookie = right.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite"), "{cookie}");
}

#[tokio::test]
async fn a_form_without_the_sessions_token_does_nothing() {
    let rig = Rig::new().await;
    let request = rig
        .request(Lang::En, Method::POST, "/change-users")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let refused = rig.raw(request.body(axum::body::Body::from("disable=alice")).unwrap()).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    assert_ne!(rig.demo.user("alice").await.unwrap().user.state.as_str(), "disabled");
    // Every form that changes something carries it.
    for path in Rig::all() {
        let page = rig.get(path).await;
        for form in page.text.split("<form").skip(1) {
            let tag = form.split('>').next().unwrap();
            let body = form.split("</form>").next().unwrap();
            assert_eq!(
                tag.contains("method=\"post\""),
                body.contains("name=\"csrf\" value=\""),
                "{path}: {tag}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_is_made_shown_once_and_deleted() {
    let rig = Rig::new().await;
    let once = rig.get("/settings").await.field("once");
    let fields = [("once", &*once), ("name", "backup <b>"), ("scope", "read")];
    let made = rig.post("/settings/tokens", &fields).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.words());
    let secret = made.text.split("id=\"token\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let presented = Some(Presented::Token(secret.clone()));
    let visitor = Visitor { presented, from: NOWHERE, browser: String::new(), unattended: false };
    let who = rig.demo.who(&visitor).await.unwrap();
    assert_eq!(who.access, crate::api::routes::Access::Read);
    let page = rig.get("/settings").await;
    assert!(page.has("backup &#60;b&#62;") && page.has("look only") && !page.has(&secret));
    let id = rig.demo.tokens().await.unwrap().tokens[0].id.clone();
    rig.follow(&rig.post("/settings/tokens/delete", &[("id", &id)]).await).await;
    assert!(rig.demo.who(&visitor).await.is_err());
    let wrong = rig.post("/settings/tokens", &[("name", ""), ("expires", "2020-01-01T00:00")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.has(Lang::En.text("panel.invalid.past")));
}

#[tokio::test]
async fn passwords_that_differ_or_are_short_are_told_and_never_shown_again() {
    let rig = Rig::new().await;
    let typed = [("current", "demo"), ("new", "correct horse battery"), ("again", "correct horse")];
    let seen = rig.post("/settings/password", &typed).await;
    assert_eq!(seen.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(seen.has(Lang::En.text("panel.invalid.again")) && !seen.has("correct horse"));
    let short = rig
        .post_in(Lang::ZhCn, "/settings/password", &[("current", "x"), ("new", "ab"), ("again", "ab")])
        .await;
    assert!(short.has(Lang::ZhCn.text("panel.invalid.new")), "{}", short.words());
}

#[tokio::test]
async fn links_and_credentials_are_handed_over() {
    let rig = Rig::new().await;
    let page = rig.get("/users/alice/connect").await;
    let credentials = rig.demo.credentials("alice").await.unwrap();
    assert!(page.has(&credentials.path), "{}", page.words());
    assert!(
        page.text.matches("<svg xmlns").count() + page.text.matches("<svg version").count() >= 1,
        "a QR code"
    );
    for server in &credentials.servers {
        assert!(page.has(&super::super::view::shown(&server.server.inbound)));
    }
    let done = rig.post("/users/alice/connect", &[]).await;
    let after = rig.follow(&done).await;
    assert!(after.has("new subscription address") && !after.has(&credentials.token));
}

#[tokio::test]
async fn settings_of_links_are_saved_and_mistakes_told() {
    let rig = Rig::new().await;
    let page = rig.get("/settings/links").await;
    let rev = page.field("rev");
    let fields = [
        ("rev", &*rev),
        ("address", "vpn.example.org"),
        ("update_hours", "6"),
        ("tag-0", "trojan-in"),
        ("port-0", "8443"),
        ("hidden-0", "yes"),
    ];
    let saved = rig.follow(&rig.post("/settings/links", &fields).await).await;
    assert!(saved.has("vpn.example.org") && saved.has("value=\"8443\""), "{}", saved.words());
    let sharing = rig.demo.sharing().await.unwrap().sharing;
    assert_eq!((sharing.update_hours, sharing.inbounds["trojan-in"].hidden), (6, true));
    let wrong = rig
        .post(
            "/settings/links",
            &[("address", "https://x/"), ("update_hours", "6"), ("port-0", "99999"), ("tag-0", "t")],
        )
        .await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.has("aria-invalid") || wrong.has(Lang::En.text("panel.invalid.port")));
}

#[tokio::test]
async fn looking_at_the_second_factor_makes_no_secret() {
    let rig = Rig::new().await;
    let looked = rig.get("/settings/totp").await;
    assert_eq!(looked.status, StatusCode::OK);
    assert!(looked.has(Lang::En.text("panel.totp.begin")) && !looked.has("totp-secret"));
}

/// After another language was chosen on the answer to a form, the browser asks for its address.
#[tokio::test]
async fn what_is_only_posted_to_leads_back_to_the_settings() {
    let rig = Rig::new().await;
    for path in ["password", "totp/on", "totp/off", "sessions", "tokens", "tokens/delete"] {
        let back = rig.get(&format!("/settings/{path}")).await;
        assert_eq!((back.status, back.location()), (StatusCode::SEE_OTHER, "/settings"), "{path}");
    }
}

#[tokio::test]
async fn settings_of_links_that_somebody_else_changed_show_both_and_lose_nothing() {
    let rig = Rig::new().await;
    let rev = rig.get("/settings/links").await.field("rev");
    let fields = |address| {
        [
            ("address", address),
            ("title", "ours"),
            ("update_hours", "6"),
            ("tag-0", "hy2-in"),
            ("port-0", "4443"),
        ]
    };
    let first = [&fields("theirs.example.org")[..2], &[("update_hours", "12"), ("rev", &*rev)]].concat();
    rig.follow(&rig.post("/settings/links", &first).await).await;
    let ours = [&fields("ours.example.org")[..], &[("rev", &*rev)]].concat();
    for lang in Lang::ALL {
        let clash = rig.post_in(lang, "/settings/links", &ours).await;
        assert_eq!(clash.status, StatusCode::PRECONDITION_FAILED, "{}", clash.words());
        assert!(clash.has(lang.text("panel.stale.title")));
        assert!(clash.has(">theirs.example.org</td><td>ours.example.org<"), "{}", clash.text);
        assert_eq!(clash.field("address"), "ours.example.org", "what was typed stays");
        assert!(clash.has("value=\"4443\""), "of an inbound as well");
    }
    // Looked at, it may be saved.
    let seen = rig.post("/settings/links", &ours).await.field("rev");
    let again = [&ours[..5], &[("rev", &*seen)]].concat();
    let saved = rig.follow(&rig.post("/settings/links", &again).await).await;
    assert!(saved.has("ours.example.org") && saved.has("value=\"4443\""), "{}", saved.words());
}

#[tokio::test]
async fn mistakes_in_the_settings_of_links_keep_what_was_typed_of_inbounds() {
    let rig = Rig::new().await;
    let rev = rig.get("/settings/links").await.field("rev");
    let fields =
        [("rev", &*rev), ("update_hours", "0"), ("tag-0", "hy2-in"), ("address-0", "in.example.org")];
    let again = rig.post("/settings/links", &fields).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.has("value=\"in.example.org\""), "{}", again.words());
}

#[tokio::test]
async fn what_people_are_told_is_shown_and_a_test_tells_what_came_of_it() {
    let rig = Rig::new().await;
    for lang in Lang::ALL {
        let page = rig.get_in(lang, "/settings/notify").await;
        let failing = lang.text("notify_state.waiting");
        assert!(page.has("admin@example.org") && page.has("hooks.example.org:443"), "{}", page.words());
        assert!(page.has("connection refused") && page.has(failing), "{}", page.words());
    }
    let sent = rig.follow(&rig.post("/settings/notify", &[]).await).await;
    let said =
        Lang::En.fill("panel.done.notify", &[("channel", "mail"), ("to", "admin@example.org"), ("ms", "1")]);
    assert!(sent.has(&said), "{}", sent.words());
}
