//! What real sing-box 1.12.23 and 1.14.4 told about real connections, against the relay's truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{KnownInbounds, api_state::ApiState, clash_logs, daemon, joiner::Joiner, log_file, log_line};
use crate::{
    core::event::{Network, SourceEvent, SourceKind},
    singbox::{config, tree},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sing-box")
}

/// Cases whose owners sing-box does not tell, by facts/sing-box.md.
const IMPOSSIBLE_BY_LOG: &[&str] = &[
    // The numbers of the ShadowTLS and the detour connection differ.
    "shadowtls3_detour_ss",
    // One user, without a name.
    "shadowsocks2022_single-tcp_udp",
];
const IMPOSSIBLE_BY_API: &[&str] = &["shadowtls3_detour_ss", "shadowsocks2022_single-tcp_udp"];

/// SOCKS5 UDP: the API tells the client's UDP address, whose datagrams go to an ephemeral port, and
/// nothing about the TCP connection that controls it (one per user here). The log tells the latter.
const SOCKS_UDP: &[&str] = &["socks", "mixed-via_socks"];

struct Case {
    name: String,
    stem: PathBuf,
    known: KnownInbounds,
    /// (user, address) of every flow with a valid credential.
    truth: BTreeSet<(String, SocketAddr)>,
    invalid: BTreeSet<SocketAddr>,
    failed: bool,
}

fn known(inbounds: &[Value]) -> KnownInbounds {
    let text = serde_json::json!({ "inbounds": inbounds }).to_string();
    let (node, _) = tree::parse(&Arc::new("case.json".into()), &text).unwrap();
    KnownInbounds::of(&config::read(&node).unwrap())
}

fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = file.strip_suffix(".truth.json") else {
            continue;
        };
        let json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut case = Case {
            name: name.to_owned(),
            stem: folder.join(name),
            known: known(&[
                json["inbound"].clone(),
                serde_json::json!({"type": "shadowsocks", "tag": "ss-in"}),
            ]),
            truth: BTreeSet::new(),
            invalid: BTreeSet::new(),
            failed: json["results"]
                .as_object()
                .unwrap()
                .iter()
                .any(|(key, result)| !key.starts_with('2') && result != "ok"),
        };
        for flow in json["truth"].as_array().unwrap() {
            let peer = flow["src"].as_str().unwrap().parse().unwrap();
            match flow["user"].as_str().unwrap() {
                "<invalid>" => drop(case.invalid.insert(peer)),
                user => drop(case.truth.insert((user.to_owned(), peer))),
            }
        }
        cases.push(case);
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() > 5, "{}", folder.display());
    cases
}

fn sightings(events: &[SourceEvent]) -> BTreeSet<(String, SocketAddr)> {
    events
        .iter()
        .filter_map(|event| match event {
            SourceEvent::Sighting(s) => Some((s.user.to_string(), s.peer)),
            _ => None,
        })
        .collect()
}

fn lost(events: &[SourceEvent]) -> BTreeMap<&'static str, u64> {
    let mut lost = BTreeMap::new();
    for event in events {
        if let SourceEvent::Lost { counter, count } = event {
            *lost.entry(*counter).or_default() += count;
        }
    }
    lost
}

fn by_clash(known: &KnownInbounds, path: &Path) -> Vec<SourceEvent> {
    let mut joiner = Joiner::new(SourceKind::ClashLogs, known.clone());
    let mut out = Vec::new();
    for line in std::fs::read(path).unwrap().split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        clash_logs::on_record(&mut joiner, line, 0, &mut out);
    }
    out
}

fn by_file(known: &KnownInbounds, path: &Path) -> Vec<SourceEvent> {
    let mut joiner = Joiner::new(SourceKind::LogFile, known.clone());
    let mut out = Vec::new();
    for line in std::fs::read(path).unwrap().split(|&b| b == b'\n') {
        log_file::on_line(&mut joiner, line, 0, false, &mut out);
    }
    out
}

pub fn grpc_message(line: &str) -> daemon::ConnectionEvents {
    let json: Value = serde_json::from_str(line).unwrap();
    let c = &json["c"];
    let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| c[key].as_i64().unwrap_or_default();
    let id = json["id"].as_str().unwrap().to_owned();
    let kind = match json["type"].as_str().unwrap() {
        "NEW" => daemon::ConnectionEventType::ConnectionEventNew,
        "UPDATE" => daemon::ConnectionEventType::ConnectionEventUpdate,
        _ => daemon::ConnectionEventType::ConnectionEventClosed,
    };
    let connection = c.is_object().then(|| daemon::Connection {
        id: id.clone(),
        inbound: text("inbound"),
        inbound_type: text("inboundType"),
        ip_version: 4,
        network: text("network"),
        source: text("source"),
        user: text("user"),
        created_at: number("createdAt"),
        closed_at: number("closedAt"),
        uplink_total: number("uplinkTotal"),
        downlink_total: number("downlinkTotal"),
    });
    let event = daemon::ConnectionEvent {
        r#type: kind.into(),
        id,
        connection,
        closed_at: json["closedAt"].as_i64().unwrap_or_default(),
        ..Default::default()
    };
    daemon::ConnectionEvents { events: vec![event], reset: json["reset"].as_bool().unwrap_or_default() }
}

fn by_api(path: &Path) -> Vec<SourceEvent> {
    let mut state = ApiState::default();
    state.subscribing();
    let mut out = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        state.on(grpc_message(line), true, &mut out);
    }
    out
}

fn compare(case: &Case, way: &str, events: &[SourceEvent], impossible: &[&str], wrong: &mut Vec<String>) {
    let mut found = sightings(events);
    if way == "api" && SOCKS_UDP.contains(&case.name.as_str()) {
        let udp =
            |event: &SourceEvent| matches!(event, SourceEvent::Sighting(s) if s.network == Network::Udp);
        let (udp, tcp): (Vec<_>, Vec<_>) = events.iter().cloned().partition(udp);
        found = sightings(&tcp);
        let controls: BTreeSet<_> = case.truth.difference(&found).cloned().collect();
        let users = |set: &BTreeSet<(String, SocketAddr)>| {
            set.iter().map(|(user, _)| user.clone()).collect::<Vec<_>>()
        };
        assert_eq!(users(&controls), users(&sightings(&udp)), "{}", case.name);
        found.extend(controls);
    }
    if impossible.contains(&case.name.as_str()) {
        if !found.is_empty() {
            wrong.push(format!("{} {way}: {found:?} should be impossible", case.stem.display()));
        }
        return;
    }
    let missing: Vec<_> = case.truth.difference(&found).collect();
    let extra: Vec<_> = found.difference(&case.truth).collect();
    // The relay of an httpupgrade flow that was reset by sing-box itself has no user line.
    if (!missing.is_empty() && !case.failed) || !extra.is_empty() {
        wrong.push(format!(
            "{} {way}: missing {missing:?} extra {extra:?} invalid {:?} lost {:?}",
            case.stem.display(),
            case.invalid,
            lost(events)
        ));
    }
}

#[test]
fn every_flow_of_the_corpus_finds_its_owner() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for version in ["1.12.23", "1.14.4"] {
        for case in cases(&root().join(version)) {
            checked += case.truth.len();
            let file = |end: &str| PathBuf::from(format!("{}.{end}", case.stem.display()));
            compare(
                &case,
                "clash",
                &by_clash(&case.known, &file("clash.jsonl")),
                IMPOSSIBLE_BY_LOG,
                &mut wrong,
            );
            compare(&case, "file", &by_file(&case.known, &file("log")), IMPOSSIBLE_BY_LOG, &mut wrong);
            if version == "1.14.4" {
                compare(&case, "api", &by_api(&file("grpc.jsonl")), IMPOSSIBLE_BY_API, &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 400, "{checked}");
}

/// A header changes the address and keeps the port: what by-port matching relies on.
#[test]
fn forwarded_addresses_keep_the_port() {
    for case in cases(&root().join("1.14.4/xff")) {
        let file = |end: &str| PathBuf::from(format!("{}.{end}", case.stem.display()));
        let truth: BTreeSet<_> = case.truth.iter().map(|(user, peer)| (user.clone(), peer.port())).collect();
        for events in [
            by_clash(&case.known, &file("clash.jsonl")),
            by_file(&case.known, &file("log")),
            by_api(&file("grpc.jsonl")),
        ] {
            let found: BTreeSet<_> =
                sightings(&events).into_iter().map(|(user, peer)| (user, peer.port())).collect();
            let extra: Vec<_> = found.difference(&truth).collect();
            assert!(extra.is_empty(), "{}: {extra:?}", case.name);
            assert!(case.failed || found == truth, "{}: {found:?} {truth:?}", case.name);
        }
    }
}

/// With the same credential twice sing-box itself takes the last user: nobody can see more.
#[test]
fn duplicate_credentials_show_as_the_last_user() {
    let folder = root().join("1.14.4/special");
    for name in ["dup-vless", "dup-hysteria2", "dup-ss2022"] {
        let json: Value = serde_json::from_str(
            &std::fs::read_to_string(folder.join(format!("{name}.truth.json"))).unwrap(),
        )
        .unwrap();
        let known = known(&[json["inbound"].clone()]);
        let events = by_clash(&known, &folder.join(format!("{name}.clash.jsonl")));
        let users: BTreeSet<_> = sightings(&events).into_iter().map(|(user, _)| user).collect();
        assert_eq!(users, BTreeSet::from(["bob".to_owned()]), "{name}");
    }
}

fn weird() -> KnownInbounds {
    let names = [
        "with space",
        "br]acket",
        "a] inbound connection to 6.6.6.6:1",
        "юзер😀",
        "",
        "new\nline",
        "tab\tq\"uote",
        "\u{1b}[31mred",
        "dup",
        "dup",
        "victim",
    ];
    let users: Vec<Value> =
        names.iter().map(|name| serde_json::json!({"name": name, "password": "x"})).collect();
    let simple = |kind: &str, tag: &str| serde_json::json!({"type": kind, "tag": tag, "users": [{"username": "alice"}, {"username": "socks_victim"}]});
    known(&[
        serde_json::json!({"type": "trojan", "tag": "tro in]x", "users": users}),
        serde_json::json!({"type": "trojan", "tag": "tro", "users": users}),
        simple("http", "h"),
        simple("mixed", "m"),
        simple("naive", "n"),
    ])
}

#[test]
fn odd_names_are_matched_and_framed_records_cannot_be_forged() {
    for version in ["1.12.23", "1.14.4"] {
        let path = root().join(version).join("special/weird_users_and_log_injection.clash.jsonl");
        let events = by_clash(&weird(), &path);
        let found = sightings(&events);
        for name in [
            "with space",
            "br]acket",
            "a] inbound connection to 6.6.6.6:1",
            "юзер😀",
            "new\nline",
            "tab\tq\"uote",
            "\u{1b}[31mred",
            "dup",
        ] {
            assert!(found.iter().any(|(user, _)| user == name), "{version} {name:?} {found:?}");
        }
        assert!(found.iter().all(|(user, _)| user != "victim" && user != "4"), "{version}: {found:?}");
        assert!(lost(&events).contains_key("user_unnamed"), "index 4 has no name");
        let path = root().join(version).join("special/unauth_injection.clash.jsonl");
        let found = sightings(&by_clash(&weird(), &path));
        assert!(found.iter().all(|(user, _)| user == "alice"), "{version}: {found:?}");
    }
}

/// Why the file has the lowest trust: this test shows the forgery that cannot be seen.
#[test]
fn a_file_can_be_forged_before_authentication() {
    let path = root().join("1.14.4/special/unauth_injection.log");
    let found = sightings(&by_file(&weird(), &path));
    assert!(found.contains(&("socks_victim".into(), "6.6.6.6:66".parse().unwrap())), "{found:?}");
}

#[test]
fn two_users_on_one_socket_are_both_told() {
    for version in ["1.12.23", "1.14.4"] {
        let known = known(&[
            serde_json::json!({"type": "trojan", "tag": "g", "transport": {"type": "grpc"}, "users": [{"name": "alice"}, {"name": "bob"}]}),
        ]);
        let path = root().join(version).join("special/grpc_two_users_one_tcp_and_xff.log");
        let found = sightings(&by_file(&known, &path));
        let mut by_peer: BTreeMap<SocketAddr, BTreeSet<String>> = BTreeMap::new();
        for (user, peer) in found {
            by_peer.entry(peer).or_default().insert(user);
        }
        let both = BTreeSet::from(["alice".to_owned(), "bob".to_owned()]);
        assert!(by_peer.values().any(|users| *users == both), "{version}: {by_peer:?}");
    }
}

#[test]
fn coloured_and_plain_heads_read_alike() {
    let payload = "[1500730167 0ms] inbound/mixed[m]: [a] inbound connection to x:1";
    for (line, time) in [
        (format!("+0000 2026-11-23 10:55:57 INFO {payload}"), Some(1795431357)),
        (format!("+0800 2026-11-23 18:55:57 INFO {payload}"), Some(1795431357)),
        (format!("INFO {payload}"), None),
        ("\u{1b}[36mINFO\u{1b}[0m[0000] [\u{1b}[38;5;71m1500730167\u{1b}[0m 0ms] inbound/mixed[m]: [a] inbound connection to x:1".into(), None),
        ("+0000 2026-11-23 10:55:57 \u{1b}[36mINFO\u{1b}[0m [\u{1b}[38;5;71m1500730167\u{1b}[0m 0ms] inbound/mixed[m]: [a] inbound connection to x:1".into(), Some(1795431357)),
    ] {
        let read = log_line::parse_line(&line).unwrap();
        assert_eq!((read.payload.as_str(), read.time_s), (payload, time), "{line}");
    }
    assert_eq!(log_line::parse_line("nonsense"), None);
    let path = root().join("1.14.4/special/stderr_ansi_timestamp.log");
    let known = known(&[
        serde_json::json!({"type": "shadowsocks", "tag": "ss", "users": [{"name": "user2"}]}),
        serde_json::json!({"type": "hysteria2", "tag": "hy2", "users": [{"name": "user3"}]}),
    ]);
    let found = sightings(&by_file(&known, &path));
    assert!(found.contains(&("user3".into(), "127.0.0.1:46286".parse().unwrap())), "{found:?}");
    assert!(found.contains(&("user2".into(), "127.0.0.1:41078".parse().unwrap())), "{found:?}");
}
