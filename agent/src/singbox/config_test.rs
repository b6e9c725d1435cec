//! Configurations as people write them, and what is read of them.

use std::{fs, path::PathBuf, sync::Arc};

use super::{
    config::{self, NameDanger, ProxyConfig, Transports, Warning},
    files::{self, ConfigError, ConfigWatch},
    tree,
};

fn read(text: &str) -> ProxyConfig {
    config::read(&tree::parse(&Arc::new("a.json".into()), text).unwrap().0).unwrap()
}

fn transports(inbound: &str) -> Transports {
    read(&format!("{{\"inbounds\": [{inbound}]}}")).inbounds[0].transports
}

#[test]
fn listening_networks_follow_type_network_and_transport() {
    for (inbound, wanted) in [
        (r#"{"type":"trojan"}"#, Transports::TCP),
        (r#"{"type":"vless","transport":{"type":"ws"}}"#, Transports::TCP),
        (r#"{"type":"vmess","transport":{"type":"quic"}}"#, Transports::UDP),
        (r#"{"type":"shadowsocks"}"#, Transports::BOTH),
        (r#"{"type":"shadowsocks","network":"tcp"}"#, Transports::TCP),
        (r#"{"type":"shadowsocks","network":["udp"]}"#, Transports::UDP),
        (r#"{"type":"naive"}"#, Transports::BOTH),
        (r#"{"type":"naive","network":"tcp"}"#, Transports::TCP),
        (r#"{"type":"hysteria2"}"#, Transports::UDP),
        (r#"{"type":"tuic"}"#, Transports::UDP),
        (r#"{"type":"mixed"}"#, Transports::TCP),
        (r#"{"type":"tun"}"#, Transports::NONE),
    ] {
        assert_eq!(transports(inbound), wanted, "{inbound}");
    }
}

#[test]
fn tags_ports_and_detours() {
    let config = read(
        r#"{"inbounds": [
            {"type": "mixed", "listen_port": 1},
            {"type": "shadowtls", "tag": "st", "listen": "::", "listen_port": 443, "detour": "ss"},
            {"type": "shadowsocks", "tag": "ss", "users": [{"name": "a", "password": "k"}]},
            {"type": "trojan", "tag": "grpc", "listen_port": 0, "transport": {"type": "grpc"}, "detour": "nowhere"}
        ]}"#,
    );
    assert_eq!((&*config.inbounds[0].tag, config.inbounds[0].tagged), ("0", false));
    assert_eq!(config.inbounds[0].listen.to_string(), "127.0.0.1");
    let front: Vec<_> =
        config.listeners_of("ss").iter().map(|i| (i.tag.to_string(), i.listen_port)).collect();
    assert_eq!(front, [("st".to_owned(), Some(443))]);
    assert_eq!(config.inbounds[3].listen_port, None);
    assert!(config.inbounds[3].shares_sockets && config.inbounds[3].reports_forwarded_addresses);
    assert!(
        config
            .warnings
            .contains(&Warning::UnknownDetour { inbound: "grpc".into(), detour: "nowhere".into() })
    );
}

#[test]
fn odd_users_are_told_and_credentials_are_not() {
    let config = read(
        r#"{"inbounds": [{"type": "vless", "tag": "v", "users": [
            {"name": "alice", "uuid": "TOP-SECRET"}, {"name": "bob", "UUID": "TOP-SECRET"},
            {"name": "alice", "uuid": "2"}, {"uuid": "3"}, {"name": "3", "uuid": "4"},
            {"name": "new\nline", "uuid": "5"}, {"name": "br]", "uuid": "6"}, null]}]}"#,
    );
    let users = &config.inbounds[0].users;
    assert_eq!(users.len(), 8);
    assert_eq!((&*users[3].name, &*users[3].log_name), ("", "3"));
    let tag = || Arc::<str>::from("v");
    for wanted in [
        Warning::UnnamedUser { inbound: tag(), index: 3 },
        Warning::UnnamedUser { inbound: tag(), index: 7 },
        Warning::NameIsIndex { inbound: tag(), name: "3".into() },
        Warning::DuplicateName { inbound: tag(), name: "alice".into(), count: 2 },
        Warning::DuplicateCredential { inbound: tag(), names: vec!["alice".into(), "bob".into()] },
        Warning::DangerousName { inbound: tag(), name: "new\nline".into(), why: NameDanger::Control },
        Warning::DangerousName { inbound: tag(), name: "br]".into(), why: NameDanger::Bracket },
    ] {
        assert!(config.warnings.contains(&wanted), "{wanted:?} {:#?}", config.warnings);
    }
    assert_eq!(config.warnings.len(), 7, "{:#?}", config.warnings);
    assert!(!format!("{config:?}").contains("SECRET"));
}

#[test]
fn secrets_are_not_printed() {
    let config = read(
        r#"{"services":[{"type":"api","listen_port":9,"secret":"hush"}],"experimental":{"clash_api":{"external_controller":":9","secret":"hush"}}}"#,
    );
    assert!(!format!("{config:?}").contains("hush"));
    assert_eq!(config.api_service.unwrap().secret.0, "hush");
}

#[test]
fn managed_inbounds_have_their_service() {
    let config = read(
        r#"{"inbounds":[{"type":"shadowsocks","tag":"a","managed":true}],
            "services":[{"type":"ssm-api","listen":"::","listen_port":9,"servers":{"/":"a","/Two/":"b"}}]}"#,
    );
    let [manager] = &config.managers[..] else { panic!("{:?}", config.managers) };
    assert_eq!((manager.listen_port, manager.tls), (9, false));
    let servers: Vec<_> = manager.servers.iter().map(|(path, tag)| (path.as_str(), &**tag)).collect();
    assert_eq!(servers, [("", "a"), ("/Two", "b")], "paths keep their case");
    assert!(config.inbounds[0].managed);
}

#[test]
fn a_directory_is_read_as_sing_box_does() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let inbound = |tag: &str| format!(r#"{{"inbounds": [{{"type": "mixed", "tag": "{tag}"}}]}}"#);
    write("b.json", &inbound("b"));
    write("a.json", &inbound("a"));
    write(".hidden.json", &inbound("hidden"));
    write("c.jsonc", &inbound("c"));
    fs::create_dir(dir.path().join("sub.json")).unwrap();
    let config =
        files::parse(&files::read(&[dir.path().join("b.json"), dir.path().to_owned()]).unwrap()).unwrap();
    let tags: Vec<_> = config.inbounds.iter().map(|i| &*i.tag).collect();
    assert_eq!(tags, ["hidden", "a", "b"]);
}

#[test]
fn changes_are_seen_and_touches_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, "{}").unwrap();
    let mut watch = ConfigWatch::new(crate::service::Service::singbox(), vec![dir.path().to_owned()]);
    watch.load().unwrap();
    assert!(!watch.changed());
    // Replaced by the same content: another inode.
    fs::write(dir.path().join("new"), "{}").unwrap();
    fs::rename(dir.path().join("new"), &file).unwrap();
    assert!(!watch.changed());
    fs::write(&file, "{\"a").unwrap();
    assert!(watch.changed());
    let error = watch.load().unwrap_err();
    assert!(error.to_string().contains("a.json:1:2"), "{error}");
    assert!(!watch.changed(), "the same broken file is not read again and again");
    fs::write(dir.path().join("b.json"), "{}").unwrap();
    assert!(watch.changed());
    fs::remove_file(&file).unwrap();
    watch.load().unwrap();
    fs::remove_file(dir.path().join("b.json")).unwrap();
    assert!(watch.changed());
    assert!(matches!(watch.load(), Err(ConfigError::NoFiles { .. })));
}

#[test]
fn missing_and_senseless_files_say_what_to_do() {
    let missing = files::read(&[PathBuf::from("/nonexistent/x.json")]).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/x.json") && missing.contains("`[singbox] config`"), "{missing}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    fs::write(&file, "{\n\"inbounds\": [\n{\"type\": \"mixed\", \"listen_port\": \"80\"}]}").unwrap();
    let wrong = files::parse(&files::read(std::slice::from_ref(&file)).unwrap()).unwrap_err().to_string();
    assert!(wrong.contains("a.json:3: `listen_port`"), "{wrong}");
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(matches!(files::read(&[file]), Err(ConfigError::NotUtf8 { at: 0, .. })));
}
