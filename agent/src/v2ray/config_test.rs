//! The tutorial's configuration, and configurations as people write them.

use std::{collections::BTreeMap, fs, sync::Arc};

use crate::{
    service::{Kind, Service},
    singbox::{
        GrpcApi,
        config::{ProxyConfig, Transports, Warning},
        files::{self, FileText},
    },
};

const TUTORIAL: &str = include_str!("../../../tests/fixtures/v2ray/v2ray4_server.json");

fn service(kind: Kind) -> Service {
    Service { kind, name: "proxy".into() }
}

fn file(name: &str, text: &str) -> FileText {
    FileText {
        service: service(Kind::V2ray),
        path: Arc::new(name.into()),
        text: text.to_owned(),
        sha256: [0; 32],
    }
}

fn read(text: &str) -> ProxyConfig {
    service(Kind::V2ray).parse(&[file("config.json", text)]).unwrap()
}

fn users(config: &ProxyConfig) -> BTreeMap<String, Vec<String>> {
    let names = |at: usize| config.inbounds[at].users.iter().map(|user| user.name.to_string()).collect();
    config.inbounds.iter().enumerate().map(|(at, inbound)| (inbound.tag.to_string(), names(at))).collect()
}

#[test]
fn the_tutorials_configuration_is_read() {
    let config = read(TUTORIAL);
    let expected = [
        ("proxy/api", vec![]),
        ("proxy/trojan", vec!["user1@example.com".to_owned(), "user2@example.com".to_owned()]),
        ("proxy/vmess", vec!["user3@example.com".to_owned()]),
    ];
    assert_eq!(users(&config), expected.map(|(tag, users)| (tag.to_owned(), users)).into());
    assert_eq!(config.inbounds[1].listen_port, Some(30443));
    assert_eq!(config.log.output.as_deref(), Some("access.log".as_ref()));
    let api = GrpcApi { addr: "127.0.0.1:30085".parse().unwrap(), handler: false, stats: true };
    assert_eq!(config.grpc_api, Some(api));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn listeners_of_all_kinds_are_read() {
    let inbound = |text: &str| read(&format!(r#"{{"inbounds": [{text}]}}"#)).inbounds.remove(0);
    for (text, port, transports) in [
        (r#"{"protocol": "vless", "port": 1}"#, Some(1), Transports::TCP),
        (r#"{"Protocol": "VMess", "PORT": "2"}"#, Some(2), Transports::TCP),
        (
            r#"{"protocol": "vmess", "port": "3-3", "streamSettings": {"network": "kcp"}}"#,
            Some(3),
            Transports::UDP,
        ),
        (r#"{"protocol": "vmess", "port": "3-9"}"#, None, Transports::TCP),
        (r#"{"protocol": "vmess", "port": "env:PORT"}"#, None, Transports::TCP),
        (r#"{"protocol": "trojan", "listen": "/run/x.sock", "port": 5}"#, None, Transports::TCP),
        (
            r#"{"protocol": "shadowsocks", "port": 6, "settings": {"network": "tcp,udp"}}"#,
            Some(6),
            Transports::BOTH,
        ),
        (r#"{"protocol": "shadowsocks", "port": 6}"#, Some(6), Transports::TCP),
        (
            r#"{"protocol": "dokodemo-door", "port": 53, "settings": {"network": "udp"}}"#,
            Some(53),
            Transports::UDP,
        ),
        (
            r#"{"protocol": "dokodemo-door", "port": 8, "settings": {"network": "tcp,udp"}}"#,
            Some(8),
            Transports::BOTH,
        ),
        (r#"{"protocol": "dokodemo-door", "port": 9}"#, Some(9), Transports::TCP),
        (r#"{"protocol": "wireguard", "port": 51820}"#, Some(51820), Transports::NONE),
        (r#"{"protocol": "socks", "port": 7, "settings": {"udp": true}}"#, Some(7), Transports::BOTH),
        (r#"{"protocol": "http", "port": 8}"#, Some(8), Transports::TCP),
    ] {
        let found = inbound(text);
        assert_eq!((found.listen_port, found.transports), (port, transports), "{text}");
    }
    let single =
        inbound(r#"{"protocol": "shadowsocks", "port": 1, "settings": {"password": "x", "email": "a@b"}}"#);
    assert_eq!((&*single.users[0].name, single.has_users), ("a@b", false));
    let plain = inbound(r#"{"protocol": "socks", "settings": {"accounts": [{"user": "u", "pass": "p"}]}}"#);
    assert_eq!(&*plain.users[0].name, "u");
    assert!(plain.note.is_some(), "V2Ray's log names nobody there");
    let web = inbound(r#"{"protocol": "vless", "streamSettings": {"network": "ws", "security": "tls"}}"#);
    assert!(web.loses_port && web.tls && !web.reports_forwarded_addresses);
    for wrong in [
        r#"{"port": 1}"#,
        r#"{"protocol": "http", "port": 70000}"#,
        r#"{"protocol": "http", "listen": "x y"}"#,
    ] {
        let text = format!(r#"{{"inbounds": [{wrong}]}}"#);
        service(Kind::V2ray).parse(&[file("config.json", &text)]).unwrap_err();
    }
}

#[test]
fn users_who_cannot_be_told_apart_are_told() {
    let config = read(
        r#"{"inbounds": [{"protocol": "vmess", "tag": "v", "settings": {"clients": [
            {"id": "1", "email": "a"}, {"id": "1", "email": "b"}, {"id": "2"}, {"id": "3", "email": "a[b]"}]}}]}"#,
    );
    let tag: Arc<str> = "proxy/v".into();
    let expected = [
        Warning::UnnamedUser { inbound: Arc::clone(&tag), index: 2 },
        Warning::DuplicateCredential { inbound: tag, names: vec!["a".into(), "b".into()] },
    ];
    assert_eq!(config.warnings, expected);
}

/// Files in the order in which they are named, a later one's inbound in the place of an earlier one's.
#[test]
fn several_files_are_one_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("z.json", r#"{"log": {"access": "one"}, "inbounds": [{"tag": "a", "protocol": "http"}]}"#);
    write(
        "b.json",
        r#"{"log": {"access": "two"}, "inbounds": [{"tag": "a", "protocol": "socks"}, {"tag": "c", "protocol": "http"}]}"#,
    );
    let paths = ["z.json", "b.json"].map(|name| folder.path().join(name)).to_vec();
    let service = service(Kind::Xray);
    let config = service.parse(&service.read(&paths).unwrap()).unwrap();
    let kinds: Vec<_> = config.inbounds.iter().map(|it| (&*it.tag, it.kind.as_str())).collect();
    assert_eq!(kinds, [("proxy/a", "socks"), ("proxy/c", "http")]);
    assert_eq!(config.log.output.as_deref(), Some("two".as_ref()));
    let names = |paths: &[std::path::PathBuf]| files::list(paths).unwrap();
    assert_eq!(names(&paths)[0], paths[1], "sing-box sorts them");
}

/// A check opens the files of logs, so that the checked text has none.
#[test]
fn a_text_to_be_checked_names_no_log_files() {
    let text = r#"{ // people's own
  "Log": {"access": "/var/log/a.log", "loglevel": "info", "error": "/var/log/e.log"},
  "inbounds": [{"protocol": "trojan", "port": 1, "settings": {"access": "/stays"}}]}"#;
    let without = super::config::without_log_files(text);
    let wanted = text.replace("\"/var/log/a.log\"", "\"\"").replace("\"/var/log/e.log\"", "\"\"");
    assert_eq!(without, wanted, "all else stays");
    for same in [r#"{"log": {"access": "none"}}"#, r#"{"log": 5}"#, "{ \"log\": {", "{}"] {
        assert_eq!(super::config::without_log_files(same), same);
    }
}
