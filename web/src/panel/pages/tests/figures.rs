//! Figures that the panel keeps to: how much a first visit loads, and how long a list of many takes.

use std::{collections::BTreeSet, io::Read as _, sync::Arc};

use axum::body::Body;
use flate2::read::GzDecoder;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;

use super::{Rig, now};
use crate::{
    api::types::{User, UserState},
    backend::Backend as _,
    demo::{Demo, user},
    locale::Lang,
};

/// Of a first visit, compressed.
const LOAD_BYTES_MAX: usize = 150_000;

/// What the server sends to a browser, compressed as it does it.
async fn sent(rig: &Rig, mut request: Request<Body>) -> (usize, String) {
    let path = request.uri().path().to_owned();
    request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
    let response = rig.raw(request).await;
    let compressed = response.headers().get(header::CONTENT_ENCODING).is_some_and(|it| it == "gzip");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::new();
    match compressed {
        true => GzDecoder::new(&body[..]).read_to_string(&mut text).map(drop).unwrap(),
        false => text.push_str(&String::from_utf8_lossy(&body)),
    }
    // Small answers are not worth it.
    assert!(compressed || text.len() < 1_000, "{path}: {} bytes as they are", text.len());
    (body.len(), text)
}

fn get(rig: &Rig, path: &str) -> Request<Body> {
    rig.request(Lang::En, Method::GET, path).body(Body::empty()).unwrap()
}

/// A page with everything that it names.
async fn loads_little(rig: &Rig, what: &str, request: Request<Body>, parts: &str, least: usize) -> String {
    let (mut sum, page) = sent(rig, request).await;
    let mut seen = BTreeSet::new();
    for part in page.split(parts).skip(1) {
        let address = format!("{}{}", &parts[1..], part.split(['"', '#']).next().unwrap());
        if seen.insert(address.clone()) {
            sum += sent(rig, get(rig, &address)).await.0;
        }
    }
    assert!(seen.len() >= least, "{what}: {seen:?} in {page}");
    assert!(sum < LOAD_BYTES_MAX, "{what}: {sum} bytes");
    page
}

#[tokio::test]
async fn a_first_visit_loads_little() {
    let rig = Rig::new().await;
    for path in Rig::all().into_iter().chain(["/sign-in"]) {
        loads_little(&rig, path, get(&rig, path), "\"/static/", 4).await;
    }
    // What is the answer to a form.
    let marked = [("user", "alice"), ("user", "dave")];
    let deed = |deed| [&marked[..], &[("do", deed)]].concat();
    for (path, fields, said) in [
        ("/add-user", vec![("name", "newcomer")], "newcomer"),
        ("/settings/tokens", vec![("name", "first"), ("scope", "read")], "bm_"),
        ("/change-users", deed("more"), "Change 2 users"),
        ("/change-users", deed("delete"), "Delete 2 users?"),
    ] {
        let page = loads_little(&rig, path, rig.form(Lang::En, path, &fields), "\"/static/", 4).await;
        assert!(page.contains(said), "{path}: {page}");
    }
}

/// A user's own page has a code for each inbound.
#[tokio::test]
async fn a_page_of_twenty_inbounds_loads_little() {
    let mut someone = user(&now(), 1, "someone", UserState::Active, Some(1 << 40));
    someone.inbounds = (0..20).map(|number| format!("inbound-{number}")).collect();
    let rig = Rig::over(Arc::new(Demo::new(now()).with_users(vec![someone])), "").await;
    let path = rig.demo.credentials("someone").await.unwrap().path;
    let mut request = get(&rig, &path);
    request.headers_mut().insert(header::USER_AGENT, "Mozilla/5.0".parse().unwrap());
    request.headers_mut().insert(header::ACCEPT, "text/html".parse().unwrap());
    let page = loads_little(&rig, &path, request, "\"/s/-/", 1).await;
    assert_eq!(page.matches("crispEdges").count(), 21, "its own code, and those of the inbounds");
    loads_little(&rig, "connect", get(&rig, "/users/someone/connect"), "\"/static/", 4).await;
}

async fn many(count: u64) -> Rig {
    let users: Vec<User> = (0..count)
        .map(|number| {
            let state = if number % 10 == 0 { UserState::Limited } else { UserState::Active };
            user(&now(), number + 1, &format!("user-{number:05}"), state, Some(1 << 40))
        })
        .collect();
    Rig::over(Arc::new(Demo::new(now()).with_users(users)), "").await
}

/// With 10,000 users one page of rows comes, whatever the order. The time is measured by hand:
/// see `many_users_take_little_time`.
#[tokio::test]
async fn a_list_of_many_is_one_page() {
    let rig = many(10_000).await;
    let one = many(50).await.get("/users").await.text.len();
    assert!(rig.get("/users").await.text.len() < one + 2_000, "a page of many is as long as a page of fifty");
    for path in ["/users", "/users?sort=rate", "/users?q=999", "/users?state=limited&sort=total"] {
        let page = rig.get(path).await;
        let rows = page.text.matches("name=\"user\" value=").count();
        assert_eq!(rows, if path.ends_with("999") { 19 } else { 50 }, "{path}");
    }
    assert!(rig.get("/users").await.has("10000 users"));
}

/// `cargo test -p boxmeter-web --release many_users_take -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement, meant for an optimised build"]
async fn many_users_take_little_time() {
    let rig = many(10_000).await;
    for path in ["/", "/users", "/users?sort=rate", "/users?q=999", "/users?state=limited&sort=total"] {
        let mut times = Vec::new();
        for _ in 0..20 {
            let start = tokio::time::Instant::now();
            let page = rig.get(path).await;
            times.push(start.elapsed());
            assert_eq!(page.status, http::StatusCode::OK);
        }
        times.sort();
        println!("{path}: median {:?}, worst {:?}", times[10], times[19]);
        assert!(times[10].as_millis() <= 100, "{path}: {:?}", times[10]);
    }
}
