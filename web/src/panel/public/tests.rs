//! The public routes as clients and browsers ask them, over the demonstration.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::demo::Demo;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

fn demo() -> Arc<Demo> {
    Arc::new(Demo::new("2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()))
}

async fn token(demo: &Demo, user: &str) -> String {
    demo.credentials(user).await.unwrap().token
}

async fn ask(router: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "panel.example:8443");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

const BROWSER: [(&str, &str); 2] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
];

#[tokio::test]
async fn each_program_gets_its_form_with_the_headers_it_reads() {
    let demo = demo();
    let path = format!("/s/{}", token(&demo, "demo-alice").await);
    let router = router(demo, Options::default());
    let sing_box = ask(&router, "GET", &path, &[("user-agent", "sing-box 1.14.4")]).await;
    assert_eq!(sing_box.status, 200);
    assert_eq!(sing_box.headers["content-type"], "application/json; charset=utf-8");
    let config: serde_json::Value = serde_json::from_str(&sing_box.body).unwrap();
    assert_eq!(config["inbounds"][0]["type"], "mixed");
    let app = ask(&router, "GET", &path, &[("user-agent", "SFI/1.13.0")]).await;
    assert!(app.body.contains("\"tun\""));
    let clash = ask(&router, "GET", &path, &[("user-agent", "clash-verge/v2.4.0")]).await;
    assert!(clash.body.contains("proxies:\n  - {name: \"trojan-in\""), "{}", clash.body);
    let links = ask(&router, "GET", &format!("{path}?format=links&flag=x"), &[]).await;
    assert!(links.body.starts_with("trojan://"), "{}", links.body);
    for answer in [&sing_box, &clash, &links] {
        let user_info = answer.headers["subscription-userinfo"].to_str().unwrap();
        assert_eq!(user_info, "upload=268435456; download=2147483648; total=107374182400; expire=0");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["profile-update-interval"], "12");
        assert_eq!(answer.headers["profile-title"], "demo-alice");
        assert_eq!(answer.headers["x-robots-tag"], "noindex, nofollow");
        assert_eq!(answer.headers["subscription-refill-date"], "1796054400");
        assert!(answer.headers.get("set-cookie").is_none());
    }
    assert_eq!(
        clash.headers["content-disposition"],
        "attachment; filename=\"demo-alice.yaml\"; filename*=UTF-8''demo-alice.yaml"
    );
    let head = ask(&router, "HEAD", &path, &[("user-agent", "clash-verge/v2.4.0")]).await;
    assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(head.headers["subscription-userinfo"], clash.headers["subscription-userinfo"]);
    let wrong = ask(&router, "GET", &format!("{path}?format=pdf"), &[]).await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn a_browser_sees_the_page_in_its_language_without_scripts() {
    let demo = demo();
    let path = format!("/s/{}", token(&demo, "演示-小明").await);
    let router = router(demo, Options { base_path: "/panel".to_owned(), ..Options::default() });
    let chinese =
        ask(&router, "GET", &path, &[&BROWSER[..], &[("accept-language", "zh-CN,zh;q=0.9")]].concat()).await;
    assert_eq!(chinese.status, 200);
    for part in [
        "class=\"scale\" aria-hidden=\"true\"><span>2026-10-26</span><span>2026-11-24</span>",
        "<html lang=\"zh-CN\">",
        "演示-小明",
        "已限额",
        "恢复",
        "href=\"/panel/s/-/public.css\"",
        "<svg",
    ] {
        assert!(chinese.body.contains(part), "{part}\n{}", chinese.body);
    }
    let url = format!("http://panel.example:8443/panel{path}");
    assert!(chinese.body.contains(&url), "{}", chinese.body);
    assert!(!chinese.body.contains("<script") && !chinese.body.contains("style=\""));
    assert!(chinese.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(chinese.headers.get("set-cookie").is_none());
    let english = ask(&router, "GET", &format!("{path}?format=html&lang=en"), &[]).await;
    assert!(english.body.contains("<html lang=\"en\">") && english.body.contains("The last 30 days"));
    let style = ask(&router, "GET", "/s/-/public.css", &[]).await;
    assert_eq!(
        (style.status, &style.headers["content-type"]),
        (StatusCode::OK, &"text/css; charset=utf-8".parse().unwrap())
    );
}

#[tokio::test]
async fn secrets_that_open_nothing_look_all_the_same() {
    let demo = demo();
    let old = token(&demo, "demo-alice").await;
    let envelope =
        crate::api::order::Envelope::of(crate::api::order::Actor::uid(0, crate::api::order::Origin::Api));
    demo.rotate_subscription(envelope.clone(), "demo-alice").await.unwrap();
    let gone = token(&demo, "demo-bob").await;
    demo.delete_user(envelope, "demo-bob", false).await.unwrap();
    let router = router(demo, Options::default());
    let long = "x".repeat(4000);
    let mut answers = Vec::new();
    for secret in [old.as_str(), &gone, "x", "%00", "..%2F..", &long] {
        let answer = ask(&router, "GET", &format!("/s/{secret}"), &BROWSER).await;
        assert_eq!(answer.status, 404, "{secret}");
        let plain = ask(&router, "GET", &format!("/s/{secret}"), &[("user-agent", "mihomo")]).await;
        assert_eq!(plain.body, "This address does not exist, or not any more.\n");
        answers.push((answer.body, format!("{:?}", answer.headers)));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down() {
    let router = router(demo(), Options::default());
    let mut refused = 0;
    for number in 0..100 {
        let answer = ask(&router, "GET", &format!("/s/{number}"), &BROWSER).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.headers["retry-after"], "60");
            refused += 1;
        }
    }
    assert!(refused >= 30, "{refused}");
}

#[test]
fn texts_of_the_page_are_in_the_catalogue_and_used() {
    let sources = concat!(
        include_str!("mod.rs"),
        include_str!("page.rs"),
        include_str!("../../../templates/public/page.html"),
        include_str!("../../../templates/public/nothing.html")
    );
    for key in Lang::En.keys().filter(|key| key.starts_with("self.")) {
        assert!(sources.contains(&format!("\"{key}\"")), "{key} is not used");
    }
    for rest in sources.split("\"self.").skip(1) {
        let key = format!("self.{}", rest.split('"').next().unwrap());
        assert_ne!(Lang::En.text(&key), key, "it is in no catalogue");
    }
}
