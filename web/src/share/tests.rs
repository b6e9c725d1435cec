//! What was written is read back by parsers that know nothing of the writers, with names that try to
//! break out of every quoting there is.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::sharing::{Basis, Profile, ServerTls, Subscription},
    api::types::{Meter, Packages, Period, Schema, Speed, Total, UserState},
};

const HOSTILE: [&str; 12] = [
    "plain",
    "🚀 火箭 #1",
    "a\"b'c\\d",
    "line\nbreak\r\n- {name: x}",
    "#hash: {x} [y], & *z !t |",
    "tab\tnul\u{0}bell\u{7}del\u{7f}nel\u{85}",
    "\u{2028}\u{feff}\u{202e}",
    "DIRECT",
    "proxy",
    "%0a%23",
    "a@b:c/d?e=f&g#h",
    "~ null true 0x1 ",
];

fn server(kind: &str, entry: &[(&str, &str)]) -> Server {
    let entry = entry.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut server: Server = serde_json::from_value(json!({
        "inbound": format!("{kind}-in"), "type": kind, "address": "vpn.example.org", "port": 8443, "entry": {},
    }))
    .unwrap();
    server.entry = entry;
    server
}

fn tls() -> Option<ServerTls> {
    Some(ServerTls {
        server_name: Some("tls.example.org".to_owned()),
        insecure: true,
        ..ServerTls::default()
    })
}

/// A link taken apart as RFC 3986 says.
#[derive(Debug)]
struct Parsed {
    scheme: String,
    login: String,
    host: String,
    port: u16,
    query: BTreeMap<String, String>,
    name: String,
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn parse(link: &str) -> Parsed {
    assert!(link.bytes().all(|byte| byte.is_ascii_graphic()), "{link}");
    let (scheme, rest) = link.split_once("://").unwrap();
    let (rest, name) = rest.split_once('#').unwrap();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.trim_end_matches('/');
    let (login, place) = authority.split_once('@').unwrap_or(("", authority));
    let (host, port) = place.rsplit_once(':').unwrap();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    Parsed {
        scheme: scheme.to_owned(),
        login: login.to_owned(),
        host: host.to_owned(),
        port: port.parse().unwrap(),
        query: pairs
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), unescape(v)))
            .collect(),
        name: unescape(name),
    }
}

fn link_of(server: &Server) -> Parsed {
    parse(&links::link(server, "näme #1").unwrap())
}

#[test]
fn links_of_the_v2ray_family_say_what_the_server_is() {
    let mut trojan = server("trojan", &[("password", "p@ss/#?")]);
    trojan.tls = tls();
    trojan.transport =
        serde_json::from_value(json!({"type": "ws", "path": "/a b", "host": "h.example"})).ok();
    let it = link_of(&trojan);
    assert_eq!(
        (it.scheme.as_str(), unescape(&it.login).as_str(), it.host.as_str(), it.port),
        ("trojan", "p@ss/#?", "vpn.example.org", 8443)
    );
    assert_eq!(it.name, "näme #1");
    for (key, value) in [
        ("security", "tls"),
        ("sni", "tls.example.org"),
        ("type", "ws"),
        ("path", "/a b"),
        ("host", "h.example"),
        ("allowInsecure", "1"),
    ] {
        assert_eq!(it.query[key], value, "{key}");
    }
    let mut vless = server("vless", &[("uuid", "u-1"), ("flow", "xtls-rprx-vision")]);
    let reality = json!({"insecure": false, "server_name": "r.example", "reality": {"public_key": "PBK", "short_id": "01"}});
    vless.tls = serde_json::from_value(reality).ok();
    let it = link_of(&vless);
    for (key, value) in [
        ("security", "reality"),
        ("pbk", "PBK"),
        ("sid", "01"),
        ("fp", "chrome"),
        ("flow", "xtls-rprx-vision"),
        ("encryption", "none"),
        ("type", "tcp"),
    ] {
        assert_eq!(it.query[key], value, "{key}");
    }
    let mut vmess = server("vmess", &[("uuid", "u-2")]);
    vmess.transport = serde_json::from_value(json!({"type": "grpc", "service_name": "svc"})).ok();
    let text = links::link(&vmess, "näme #1").unwrap();
    let body: Value =
        serde_json::from_slice(&STANDARD.decode(text.strip_prefix("vmess://").unwrap()).unwrap()).unwrap();
    assert_eq!(
        (&body["ps"], &body["id"], &body["net"], &body["path"], &body["port"]),
        (&json!("näme #1"), &json!("u-2"), &json!("grpc"), &json!("svc"), &json!("8443"))
    );
}

#[test]
fn links_of_all_others_say_what_the_server_is() {
    let mut new = server("shadowsocks", &[("password", "dXNlcg==")]);
    new.method = Some("2022-blake3-aes-128-gcm".to_owned());
    new.server_key = Some("c2Vydg==".to_owned());
    assert_eq!(unescape(&link_of(&new).login), "2022-blake3-aes-128-gcm:c2Vydg==:dXNlcg==");
    let mut old = server("shadowsocks", &[("password", "p:w")]);
    old.method = Some("aes-128-gcm".to_owned());
    assert_eq!(URL_SAFE_NO_PAD.decode(link_of(&old).login).unwrap(), b"aes-128-gcm:p:w");

    let mut hysteria = server("hysteria2", &[("password", "h:2")]);
    (hysteria.tls, hysteria.obfs) = (tls(), Some("fog&".to_owned()));
    let it = link_of(&hysteria);
    assert_eq!(
        (unescape(&it.login).as_str(), &*it.query["obfs-password"], &*it.query["sni"]),
        ("h:2", "fog&", "tls.example.org")
    );
    let mut hysteria = server("hysteria", &[("auth_str", "h 1")]);
    hysteria.tls = tls();
    let it = link_of(&hysteria);
    assert_eq!(
        (&*it.query["auth"], &*it.query["peer"], &*it.query["upmbps"]),
        ("h 1", "tls.example.org", "100")
    );
    let mut tuic = server("tuic", &[("uuid", "u-3"), ("password", "a:b")]);
    tuic.tls = tls();
    let it = link_of(&tuic);
    assert_eq!(
        (it.login.as_str(), &*it.query["alpn"], &*it.query["allow_insecure"]),
        ("u-3:a%3Ab", "h3", "1")
    );
    let mut anytls = server("anytls", &[("password", "x")]);
    anytls.tls = tls();
    assert_eq!((link_of(&anytls).scheme.as_str(), &*link_of(&anytls).query["insecure"]), ("anytls", "1"));

    let login = [("username", "al ice"), ("password", "p/w")];
    let mut naive = server("naive", &login);
    naive.tls = tls();
    let it = link_of(&naive);
    assert_eq!((it.scheme.as_str(), it.login.as_str()), ("naive+https", "al%20ice:p%2Fw"));
    assert_eq!(URL_SAFE_NO_PAD.decode(link_of(&server("socks", &login)).login).unwrap(), b"al ice:p/w");
    assert_eq!(link_of(&server("mixed", &login)).scheme, "socks");
    assert_eq!(link_of(&server("http", &login)).scheme, "http");
    let mut https = server("http", &login);
    https.tls = tls();
    assert_eq!(link_of(&https).scheme, "https");
    assert_eq!(links::link(&server("snell", &[("userkey", "k")]), "x"), None);
}

#[test]
fn addresses_of_ipv6_are_in_brackets() {
    let mut six = server("trojan", &[("password", "x")]);
    six.address = "2001:db8::7".to_owned();
    let it = link_of(&six);
    assert_eq!((it.host.as_str(), it.port), ("[2001:db8::7]", 8443));
    let config: Value = serde_json::from_str(&singbox::config(&labelled(&[six]), false)).unwrap();
    assert_eq!(outbound(&config, "trojan")["server"], "2001:db8::7");
}

fn outbound<'a>(config: &'a Value, kind: &str) -> &'a Value {
    config["outbounds"].as_array().unwrap().iter().find(|it| it["type"] == kind).unwrap()
}

fn named(name: &str) -> Vec<Server> {
    let mut one = server("trojan", &[("password", name)]);
    (one.inbound, one.tls) = (name.to_owned(), tls());
    let mut two = server("hysteria2", &[("password", "x")]);
    (two.inbound, two.tls) = (name.to_owned(), tls());
    vec![one, two]
}

/// sing-box and Clash both: groups name servers that are there, all names differ, the password is exact.
fn check(name: &str) {
    let servers = named(name);
    let labels: Vec<String> = labelled(&servers).into_iter().map(|it| it.label).collect();
    let config: Value = serde_json::from_str(&singbox::config(&labelled(&servers), true)).unwrap();
    let tags: Vec<&str> =
        config["outbounds"].as_array().unwrap().iter().map(|it| it["tag"].as_str().unwrap()).collect();
    let mut different = tags.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), tags.len(), "{tags:?}");
    assert_eq!(outbound(&config, "trojan")["password"], name);
    assert_eq!(outbound(&config, "urltest")["outbounds"], json!(labels));

    let text = clash::config(&labelled(&servers));
    let clash: Value = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let proxies = clash["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 2, "{text}");
    assert_eq!(proxies[0]["password"], name, "{text}");
    let names: Vec<&Value> = proxies.iter().map(|it| &it["name"]).collect();
    assert_eq!(names, labels.iter().map(|it| json!(it)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert_eq!(clash["proxy-groups"][1]["proxies"], json!(labels));

    let list = list(&labelled(&servers));
    assert_eq!(list.lines().count(), 2, "{list}");
    let first = parse(list.lines().next().unwrap());
    assert_eq!((unescape(&first.login).as_str(), &first.name), (name, &labels[0]));
}

#[test]
fn no_name_breaks_out() {
    HOSTILE.iter().for_each(|name| check(name));
}

proptest! {
    #[test]
    fn no_name_at_all_breaks_out(name in "\\PC{1,20}|[\\x00-\\x7f]{1,20}|(?s:.){1,12}") {
        check(&name);
    }
}

#[test]
fn a_configuration_without_servers_is_still_one() {
    let config: Value = serde_json::from_str(&singbox::config(&[], false)).unwrap();
    assert_eq!(config["outbounds"].as_array().unwrap().len(), 1);
    let clash: Value = serde_yaml_ng::from_str(&clash::config(&[])).unwrap();
    assert_eq!((&clash["proxies"], &clash["rules"][5]), (&json!([]), &json!("MATCH,REJECT")));
}

pub(super) fn subscription() -> Subscription {
    Subscription {
        schema: Schema,
        user: "爱".to_owned(),
        state: UserState::Active,
        reason: None,
        cause: None,
        meter: Meter::Payload,
        basis: Basis::Period,
        upload_bytes: 455_727_941,
        download_bytes: 6_174_315_083,
        total_bytes: Some(1_073_741_824_000),
        period: Period { end: "2026-12-01T00:00:00+08:00".parse().ok(), ..Period::default() },
        total: Total::default(),
        packages: Packages::default(),
        speed: Speed::default(),
        expires_at: "2022-12-24T08:04:32Z".parse().ok(),
        last_seen_at: None,
        time_zone: None,
        days: Vec::new(),
        profile: Profile {
            title: "我的服务 🚀".to_owned(),
            update_hours: 12,
            support_url: Some("https://t.me/x".to_owned()),
            url: Some("https://vpn.example.org/s/t".to_owned()),
        },
        servers: Vec::new(),
        as_of: "2026-11-24T15:30:00+08:00".parse().unwrap(),
    }
}

#[test]
fn headers_are_exactly_what_clients_read() {
    let headers = headers::of(&subscription(), Format::Clash);
    let lines: BTreeMap<&str, &str> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    insta::assert_snapshot!(lines, @r#"
    cache-control: no-store
    content-disposition: attachment; filename="_.yaml"; filename*=UTF-8''%E7%88%B1.yaml
    content-type: text/yaml; charset=utf-8
    profile-title: base64:5oiR55qE5pyN5YqhIPCfmoA=
    profile-update-interval: 12
    profile-web-page-url: https://vpn.example.org/s/t
    referrer-policy: no-referrer
    subscription-refill-date: 1796054400
    subscription-userinfo: upload=455727941; download=6174315083; total=1073741824000; expire=1671869072
    support-url: https://t.me/x
    x-content-type-options: nosniff
    x-robots-tag: noindex, nofollow
    "#);
    let unlimited = Subscription { total_bytes: None, expires_at: None, ..subscription() };
    let userinfo = headers::userinfo(&unlimited);
    assert_eq!(userinfo, "upload=455727941; download=6174315083; total=0; expire=0");
    assert!(!headers::of(&unlimited, Format::Clash).contains_key("subscription-refill-date"));
}

#[test]
fn hostile_names_are_no_headers() {
    for name in HOSTILE {
        let profile = Profile { title: name.to_owned(), ..subscription().profile };
        let headers =
            headers::of(&Subscription { user: name.to_owned(), profile, ..subscription() }, Format::Links);
        let file = headers["content-disposition"].to_str().unwrap();
        let quoted = file.split('"').collect::<Vec<_>>();
        assert_eq!(quoted.len(), 3, "{file}");
        let title = headers["profile-title"].to_str().unwrap();
        let read = match title.strip_prefix("base64:") {
            Some(coded) => String::from_utf8(STANDARD.decode(coded).unwrap()).unwrap(),
            None => title.to_owned(),
        };
        assert_eq!(read, one_line(name));
    }
}

#[test]
fn codes_are_drawings_without_scripts_and_styles() {
    let code = qr::svg("https://vpn.example.org/s/0123456789").unwrap();
    assert!(code.starts_with("<svg") && !code.contains("style") && !code.contains("script"), "{code}");
    assert_eq!(qr::svg(&"x".repeat(5000)), None);
    assert!(qr::terminal("abc").unwrap().contains('█'));
}

#[test]
fn codes_say_what_was_put_into_them() {
    for text in [
        "https://vpn.example.org/s/0123456789012345678901234567890123456789012",
        "trojan://p%20w@[2001:db8::7]:443?sni=tls.example.org#%E7%81%AB%E7%AE%AD",
        &format!("vless://{}", "x".repeat(900)),
    ] {
        assert_eq!(qr_reader::read(&qr::svg(text).unwrap()), text);
    }
    let links = with_links(&[server("trojan", &[("name", HOSTILE[1]), ("password", HOSTILE[2])])]);
    let link = links[0].link.as_deref().unwrap();
    assert_eq!(qr_reader::read(&qr::svg(link).unwrap()), link);
}
