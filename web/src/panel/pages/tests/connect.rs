//! What is handed over to a user: QR codes that a phone can follow, read as a phone reads them.

use std::sync::Arc;

use http::{Method, header};

use super::{Rig, Seen, now};
use crate::{backend::Backend as _, demo::Demo, locale::Lang, panel::options::Options, share::qr_reader};

async fn rig(options: Options) -> Rig {
    Rig::with(Demo::lively(Box::new(now), 1), options).await
}

async fn connect(rig: &Rig) -> Seen {
    rig.get("/users/alice/connect").await
}

fn position(seen: &Seen, part: &str) -> usize {
    seen.text.find(part).unwrap_or_else(|| panic!("{part}: {}", seen.words()))
}

#[tokio::test]
async fn by_a_tunnel_the_direct_links_come_first_and_no_code_leads_to_this_machine() {
    let rig = rig(Options::default()).await;
    let given = rig.demo.credentials("alice").await.unwrap();
    let links: Vec<String> = given.servers.iter().filter_map(|it| it.link.clone()).collect();
    assert!(links.len() > 1);
    let form = rig.get("/add-user").await.field("once");
    let added = rig.post("/add-user", &[("once", &form), ("name", "someone")]).await;
    for seen in [connect(&rig).await, added] {
        let codes = qr_reader::read_all(&seen.text);
        assert!(codes.iter().all(|it| it.contains("@demo.invalid:443")), "{codes:?}");
        assert!(seen.has("public_listen") && seen.has("public_url"), "what to do: {}", seen.words());
        assert!(position(&seen, "<h2>Direct links") < position(&seen, "<h2>Subscription"));
        // Somebody on this machine may look at the page all the same.
        assert!(seen.has("http://localhost/s/") && seen.has("href=\"/s/"));
    }
    assert_eq!(qr_reader::read_all(&connect(&rig).await.text), links);
    let chinese = rig.get_in(Lang::ZhCn, "/users/alice/connect").await;
    assert!(chinese.has("只能在本机打开") && chinese.has("这是演示数据"), "{}", chinese.words());
}

#[tokio::test]
async fn with_a_public_address_the_subscription_comes_first() {
    let rig = rig(Options { public_url: "https://panel.example".to_owned(), ..Options::default() }).await;
    let seen = connect(&rig).await;
    let path = rig.demo.credentials("alice").await.unwrap().path;
    assert_eq!(qr_reader::read_all(&seen.text)[0], format!("https://panel.example{path}"));
    assert!(position(&seen, "<h2>Subscription") < position(&seen, "<h2>Direct links"));
    assert!(!seen.has("public_listen"), "{}", seen.words());
    // What the code says is what the page says, and the values stand behind it, folded.
    assert!(seen.has(&format!("id=\"subscription\">https://panel.example{path}<")));
    assert!(position(&seen, "class=\"qr\"") < position(&seen, "secret-0-0"));
    assert!(!seen.has("<details class=\"more\" open"));
}

#[tokio::test]
async fn an_address_of_the_own_network_is_said_to_be_one() {
    let rig = rig(Options::default()).await;
    let mut request = rig.request(Lang::En, Method::GET, "/users/alice/connect");
    *request.headers_mut().unwrap() = request
        .headers_ref()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let host = *name == header::HOST;
            (name.clone(), if host { "192.168.1.9:8790".parse().unwrap() } else { value.clone() })
        })
        .collect();
    let seen = rig.send(request.body(axum::body::Body::empty()).unwrap()).await;
    let path = rig.demo.credentials("alice").await.unwrap().path;
    assert_eq!(qr_reader::read_all(&seen.text)[0], format!("http://192.168.1.9:8790{path}"));
    assert!(seen.has("phones elsewhere cannot open it"), "{}", seen.words());
}

#[tokio::test]
async fn the_users_own_page_has_the_codes_of_the_same_ways() {
    let demo = Arc::new(Demo::new(now()));
    let options = Options { public_url: "https://panel.example".to_owned(), ..Options::default() };
    let rig = Rig::with(Arc::clone(&demo), options).await;
    let given = demo.credentials("demo-alice").await.unwrap();
    let request = rig.request(Lang::En, Method::GET, &given.path).header(header::ACCEPT, "text/html");
    let request = request.header(header::USER_AGENT, "Mozilla/5.0").body(axum::body::Body::empty());
    let seen = rig.send(request.unwrap()).await;
    let codes = qr_reader::read_all(&seen.text);
    assert_eq!(codes[1..], given.servers.iter().filter_map(|it| it.link.clone()).collect::<Vec<_>>());
    assert!(codes[0].ends_with(&given.path), "{}", codes[0]);
}
