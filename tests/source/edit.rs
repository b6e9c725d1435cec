//! Users out of and into the files of real sing-box 1.12, 1.13 and 1.14: every version takes every
//! edited file, refuses who is out, lets in who is back, and keeps the last good files.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use boxmeter::{
    enforcer::{
        editor::{EditError, Editor, Reload},
        reconcile::{self, Plan, Want, Wanted},
        users_edit::{Brought, Parked, What},
    },
    service::Service,
    singbox::{files, process},
};
use boxmeter_tests::{cases, needs_machine, singbox::Site};

use crate::server::{DEADLINE, Server, V12, V13, V14, binary, echo, free_port, mixed, wait_for};

fn wanted(names: &[&str], want: &Want) -> Wanted {
    names.iter().map(|name| ((*name).to_owned(), want.clone())).collect()
}

fn new() -> Want {
    Want::New { inbounds: None, brought: Brought::default() }
}

/// Plans and writes; the ledger is a list.
fn write(singbox: &Editor, parked: &mut Vec<Parked>, wanted: &Wanted) -> Plan {
    let files = files::read(&singbox.config).unwrap();
    let plan = reconcile::plan(&files, parked, wanted, &singbox.own_texts().unwrap()).unwrap();
    assert!(plan.refused.is_empty(), "{:?}", plan.refused);
    singbox.write(&plan.edits).unwrap_or_else(|error| panic!("{error}\n{plan:?}"));
    parked.clone_from(&plan.parked_after);
    plan
}

/// A SOCKS5 user's connection with an echo through it.
pub fn carries(port: u16, user: &str, target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut ask = |words: &[u8], wanted: &[u8], more: usize| {
        stream.write_all(words)?;
        let mut answer = vec![0; wanted.len() + more];
        stream.read_exact(&mut answer)?;
        match answer.starts_with(wanted) {
            true => Ok(()),
            false => Err(io::Error::other(format!("{answer:?}"))),
        }
    };
    ask(&[5, 1, 2], &[5, 2], 0)?;
    ask(&[&[1, user.len() as u8], user.as_bytes(), &[2], b"pw"].concat(), &[1, 0], 0)?;
    let SocketAddr::V4(target) = target else { panic!("IPv4") };
    ask(&[&[5, 1, 0, 1], &target.ip().octets()[..], &target.port().to_be_bytes()].concat(), &[5, 0], 8)?;
    ask(b"hello", b"hello", 0)
}

const USERS: &str = r#"[
      // the family
      {NAME: "alice", CREDENTIAL: "ALICE" MORE}, # pays
      { NAME: "bob", /* late */ CREDENTIAL: "BOB" MORE }
    ]"#;

/// An inbound of a type, with alice and bob.
fn inbound(kind: &str, port: u16, version: &str) -> String {
    let (name, credential) = match kind {
        "vmess" | "vless" | "tuic" => ("name", "uuid"),
        "naive" | "http" | "socks" | "mixed" => ("username", "password"),
        "hysteria" => ("name", "auth_str"),
        "snell" => ("name", "userkey"),
        _ => ("name", "password"),
    };
    let (alice, bob) = match (kind, credential) {
        (_, "uuid") => ("0f0e0d0c-0000-4000-8000-000000000001", "0f0e0d0c-0000-4000-8000-000000000002"),
        ("shadowsocks", _) => ("AQAAAAAAAAAAAAAAAAAAAA==", "AgAAAAAAAAAAAAAAAAAAAA=="),
        _ => ("first", "second"),
    };
    let more = if kind == "vless" { ", \"flow\": \"xtls-rprx-vision\"" } else { "" };
    let users = USERS
        .replace("NAME", &format!("\"{name}\""))
        .replace("CREDENTIAL", &format!("\"{credential}\""))
        .replace("ALICE", alice)
        .replace("BOB", bob)
        .replace(" MORE", more);
    let tls = r#", "tls": {"enabled": true, "certificate_path": "DIR/cert.pem", "key_path": "DIR/key.pem"}"#;
    let extra = match kind {
        "shadowsocks" => {
            r#", "method": "2022-blake3-aes-128-gcm", "password": "AAAAAAAAAAAAAAAAAAAAAA==""#.to_owned()
        }
        "shadowtls" => {
            r#", "version": 3, "handshake": {"server": "127.0.0.1", "server_port": 443}"#.to_owned()
        }
        "snell" => r#", "psk": "0123456789abcdef", "version": 6"#.to_owned(),
        "hysteria" => format!("{tls}, \"up_mbps\": 9, \"down_mbps\": 9"),
        "hysteria2" | "tuic" | "naive" | "anytls" | "vless" => tls.to_owned(),
        _ => String::new(),
    };
    // The last of them ends with a comma where the version takes that.
    let users = if version == V12 { users } else { users.replace("\n    ]", ",\n    ]") };
    format!(
        "{{\"type\": \"{kind}\", \"tag\": \"{kind}\", \"listen\": \"127.0.0.1\", \"listen_port\": {port}{extra},\n    \"users\": {users}}}"
    )
}

#[test]
fn every_version_takes_every_edited_file() {
    for version in [V12, V13, V14] {
        let dir = tempfile::tempdir().unwrap();
        let words = ["generate", "tls-keypair", "test.invalid"];
        let made = Command::new(binary(version)).args(words).output().unwrap();
        let pem = String::from_utf8(made.stdout).unwrap();
        let at = pem.find("-----BEGIN CERTIFICATE").unwrap();
        fs::write(dir.path().join("key.pem"), pem[..at].trim()).unwrap();
        fs::write(dir.path().join("cert.pem"), pem[at..].trim()).unwrap();
        let mut kinds = vec![
            "trojan",
            "vmess",
            "vless",
            "shadowsocks",
            "hysteria",
            "hysteria2",
            "tuic",
            "naive",
            "http",
            "socks",
            "mixed",
            "shadowtls",
            "anytls",
        ];
        if version == V14 {
            kinds.push("snell");
        }
        let inbounds: Vec<String> =
            kinds.iter().zip(20_000..).map(|(kind, port)| inbound(kind, port, version)).collect();
        let text = format!("{{ // all types\n  \"inbounds\": [\n  {}\n  ]\n}}\n", inbounds.join(",\n  "))
            .replace("DIR", dir.path().to_str().unwrap());
        let file = dir.path().join("config.json");
        fs::write(&file, &text).unwrap();
        let singbox = Editor {
            service: Service::singbox(),
            config: vec![file.clone()],
            process: None,
            last: None,
            binary: Some(binary(version)),
            reload: Reload::Never,
            backups: Some(dir.path().join("kept")),
        };
        singbox.check(&[]).unwrap_or_else(|error| panic!("{version}: {error}"));
        let mut parked = Vec::new();
        let count = kinds.len();
        // `write` lets sing-box check each of them.
        let out = write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
        assert_eq!(out.changes.iter().filter(|change| change.what == What::TakenOut).count(), count);
        write(&singbox, &mut parked, &wanted(&["bob"], &Want::Out));
        let locked = fs::read_to_string(&file).unwrap();
        assert_eq!(locked.matches("boxmeter-locked").count(), count, "{version}: {locked}");
        assert_eq!(locked.matches("// the family").count(), count);
        let added = write(&singbox, &mut parked, &wanted(&["carol"], &new()));
        assert_eq!(added.credentials.len(), count);
        assert!(!fs::read_to_string(&file).unwrap().contains("boxmeter-locked"));
        write(&singbox, &mut parked, &wanted(&["alice"], &Want::In));
        write(&singbox, &mut parked, &wanted(&["carol"], &Want::Deleted));
        write(&singbox, &mut parked, &wanted(&["bob"], &Want::In));
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "{version}");
        assert!(parked.is_empty());
    }
}

fn singbox(server: &Server) -> Editor {
    Editor {
        service: Service::singbox(),
        config: server.config(),
        process: Some(process::find(&server.config()).unwrap()),
        last: None,
        binary: None,
        reload: Reload::Auto,
        backups: Some(server.dir.path().join("kept")),
    }
}

#[test]
fn who_is_out_is_refused_after_the_reload_and_then_let_in_again() {
    let target = echo();
    for version in [V12, V13, V14] {
        let port = free_port();
        let text = mixed(port, "");
        let server = Server::start(version, port, &[("a.json", &text)]);
        let (singbox, mut parked) = (singbox(&server), Vec::new());
        write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
        carries(port, "alice", target).expect("sing-box has not read the file yet");
        assert!(singbox.reload(|| Ok(())).unwrap());
        carries(port, "alice", target).expect_err("who is out");
        carries(port, "bob", target).unwrap();
        write(&singbox, &mut parked, &wanted(&["bob"], &Want::Out));
        assert!(singbox.reload(|| Ok(())).unwrap());
        for user in ["alice", "bob", "boxmeter-locked"] {
            carries(port, user, target).expect_err("the proxy is not open");
        }
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        write(&singbox, &mut parked, &wanted(&["alice", "bob"], &Want::In));
        assert!(singbox.reload(|| Ok(())).unwrap());
        carries(port, "alice", target).unwrap();
        carries(port, "bob", target).unwrap();
        assert_eq!(server.text("a.json"), text);
        assert_eq!(singbox.process.unwrap().pid, server.child.id());
    }
}

/// Of every shape in which users come in.
#[test]
fn users_of_every_inbound_go_and_come_back() {
    needs_machine!();
    let mut site = Site::new(V14, &cases::matrix(boxmeter_tests::long()));
    let singbox = Editor {
        service: Service::singbox(),
        config: vec![site.config()],
        process: Some(process::find(&[site.config()]).unwrap()),
        last: None,
        binary: Some(binary(V14)),
        reload: Reload::Signal,
        backups: Some(site.scratch.join("kept")),
    };
    let text = fs::read_to_string(site.config()).unwrap();
    let everybody: Vec<String> = site.users.iter().map(|user| user.name.clone()).collect();
    let alices: Vec<&str> = everybody.iter().map(String::as_str).filter(|n| n.starts_with("alice")).collect();
    let mut parked = Vec::new();
    let plan = write(&singbox, &mut parked, &wanted(&alices, &Want::Out));
    assert_eq!(plan.changes.len(), alices.len());
    assert!(singbox.reload(|| Ok(())).unwrap());
    // Clients that hold a session open do so with the server that is gone.
    site.stop_client();
    site.start_client();
    for user in &site.users {
        if alices.contains(&user.name.as_str()) {
            assert!(user.proxy.exchange(site.target, 100, 100).is_err(), "{} is out", user.name);
        } else {
            user.drive(site.target, 10_000).unwrap();
        }
    }
    write(&singbox, &mut parked, &wanted(&alices, &Want::In));
    assert!(singbox.reload(|| Ok(())).unwrap());
    site.stop_client();
    site.start_client();
    for user in &site.users {
        user.drive(site.target, 10_000).unwrap();
    }
    assert_eq!(fs::read_to_string(site.config()).unwrap(), text);
}

#[test]
fn a_reload_that_fails_later_brings_back_what_sing_box_ran_with() {
    let port = free_port();
    let text = mixed(port, "");
    let server = Server::start(V14, port, &[("a.json", &text)]);
    let (singbox, mut parked) = (singbox(&server), Vec::new());
    let error = singbox.reload(|| Err("never well".into())).map(drop);
    assert!(matches!(error, Err(EditError::NothingToPutBack(_))), "{error:?}");
    let wishes = wanted(&["alice"], &Want::Out);
    write(&singbox, &mut parked, &wishes);
    write(&singbox, &mut parked, &wanted(&["bob"], &Want::Out));
    // Somebody adds a service whose port is taken: it passes the check and fails in the start.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = format!(
        r#", "services": [{{"type": "api", "listen_port": {}, "secret": "s"}}]}}"#,
        taken.local_addr().unwrap().port()
    );
    let now = files::read_file(&server.file("a.json")).unwrap();
    let content = now.text.strip_suffix('}').unwrap().to_owned() + &service;
    let edit = boxmeter::enforcer::editor::Edit {
        service: Service::singbox(),
        path: server.file("a.json"),
        expected: now.sha256,
        content,
    };
    singbox.write(&[edit]).unwrap();
    // Another agent, after a crash: what is needed is on disk.
    let singbox = Editor { ..singbox };
    let error = singbox.reload(|| Ok(())).unwrap_err();
    assert!(
        matches!(&error, EditError::RolledBack { .. }) && error.to_string().contains("start it"),
        "{error}"
    );
    assert_eq!(server.text("a.json"), text);
    // Its entries were not put back by hand: what is wanted is done again.
    let files = files::read(&singbox.config).unwrap();
    let plan = reconcile::plan(&files, &parked, &wishes, &singbox.own_texts().unwrap()).unwrap();
    assert_eq!((plan.returned.len(), plan.changes.len()), (0, 1));
}

/// Each file by itself: one that cannot be put back keeps no other from it. What was edited by hand between two
/// edits of boxmeter's, or after the last, is kept and named.
#[test]
fn a_rollback_puts_back_what_it_can_and_keeps_what_people_wrote() {
    let (port, other) = (free_port(), free_port());
    let texts = [mixed(port, ""), mixed(other, "").replace("\"tag\": \"m\"", "\"tag\": \"n\"")];
    let server = Server::start(V14, port, &[("a.json", &texts[0]), ("b.json", &texts[1])]);
    let (singbox, mut parked) = (singbox(&server), Vec::new());
    write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
    let by_hand = format!("{}\n// by hand", server.text("b.json"));
    fs::write(server.file("b.json"), &by_hand).unwrap();
    write(&singbox, &mut parked, &wanted(&["bob"], &Want::Out));
    assert!(server.text("b.json").ends_with("// by hand"));
    // A second name of the first file: it cannot be replaced.
    fs::hard_link(server.file("a.json"), server.dir.path().join("a.link")).unwrap();
    let written = server.text("a.json");
    let error = singbox.reload(|| Err("never well".into())).unwrap_err();
    let EditError::Stuck { error: why, backup, after, .. } = &error else { panic!("{error}") };
    assert!(why.contains("hard links") && backup.contains("a.json."), "{error}");
    assert_eq!((server.text("a.json"), server.text("b.json")), (written, texts[1].clone()), "{error}");
    let kept = after.split("kept in ").nth(1).unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), by_hand, "{error}");
    // With both, once it can be.
    fs::remove_file(server.dir.path().join("a.link")).unwrap();
    let error = singbox.reload(|| Err("never well".into())).unwrap_err();
    assert!(matches!(error, EditError::RolledBack { .. }), "{error}");
    assert_eq!([server.text("a.json"), server.text("b.json")], texts);
    // An edit by hand after the last of boxmeter's stays where sing-box lives.
    write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
    let by_hand = format!("{}\n// by hand", server.text("a.json"));
    fs::write(server.file("a.json"), &by_hand).unwrap();
    let error = singbox.reload(|| Err("never well".into())).unwrap_err();
    assert!(error.to_string().contains("edited by hand"), "{error}");
    assert_eq!((server.text("a.json"), server.text("b.json")), (by_hand, texts[1].clone()), "{error}");
}

/// A file that boxmeter has not touched may be what sing-box ends of.
#[test]
fn an_edit_by_hand_of_another_file_that_kills_sing_box_is_kept_aside() {
    let port = free_port();
    let text = mixed(port, "");
    let server = Server::start(V14, port, &[("a.json", &text), ("b.json", "{}")]);
    let (singbox, mut parked) = (singbox(&server), Vec::new());
    write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let by_hand = format!(
        r#"{{"services": [{{"type": "api", "listen_port": {}, "secret": "s"}}]}}"#,
        taken.local_addr().unwrap().port()
    );
    fs::write(server.file("b.json"), &by_hand).unwrap();
    let error = singbox.reload(|| Ok(())).unwrap_err();
    assert!(matches!(error, EditError::RolledBack { .. }), "{error}");
    assert_eq!((server.text("a.json"), server.text("b.json")), (text, "{}".to_owned()), "{error}");
    let error = error.to_string();
    let kept = error.split("kept in ").nth(1).unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), by_hand, "{error}");
}

/// Who is gone is told nothing, and nothing is put back for it.
#[test]
fn a_sing_box_that_has_ended_is_no_reload_that_failed() {
    let port = free_port();
    let text = mixed(port, "");
    let mut server = Server::start(V14, port, &[("a.json", &text)]);
    let (singbox, mut parked) = (singbox(&server), Vec::new());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    // By the executable that ran.
    write(&singbox, &mut parked, &wanted(&["alice"], &Want::Out));
    assert!(!singbox.reload(|| Ok(())).unwrap());
    assert!(!server.text("a.json").contains("alice"));
    let named = Editor { binary: Some(binary(V14)), last: None, ..singbox };
    assert!(!named.reload(|| Ok(())).unwrap());
    assert!(!server.text("a.json").contains("alice"));
    // Nobody is known.
    let unknown = Editor { binary: None, process: None, ..named };
    match unknown.check(&[]) {
        Err(error) => assert!(error.to_string().contains("[singbox] binary"), "{error}"),
        Ok(()) => assert!(Command::new("sing-box").arg("version").output().is_ok()),
    }
}

/// A server of which TCP says nothing: only its UDP sockets tell that it has read its files.
#[test]
fn a_server_on_udp_alone_is_seen_to_come_up() {
    for version in [V12, V14] {
        let dir = tempfile::tempdir().unwrap();
        let (key, certificate) = boxmeter_tests::singbox::certificate(version);
        fs::write(dir.path().join("key.pem"), key).unwrap();
        fs::write(dir.path().join("cert.pem"), certificate).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let inbound = inbound("hysteria2", udp, version).replace("DIR", dir.path().to_str().unwrap());
        let file = dir.path().join("a.json");
        fs::write(&file, format!("{{\"inbounds\": [{inbound}]}}")).unwrap();
        let mut command = Command::new(binary(version));
        let command = command.arg("run").arg("-c").arg(&file).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let config = vec![file.clone()];
        let port = [(boxmeter::core::event::Network::Udp, udp)];
        let process = wait_for("it listens", || {
            process::find(&config).ok().filter(|process| !process.listeners(&port).is_empty())
        });
        let (before, backups) = (process.listeners(&port), Some(dir.path().join("kept")));
        let reload = Reload::Command("true".to_owned());
        let deaf = Editor {
            service: Service::singbox(),
            config,
            process: Some(process.clone()),
            last: None,
            binary: None,
            reload,
            backups,
        };
        write(&deaf, &mut Vec::new(), &wanted(&["alice"], &Want::Out));
        // That takes as long as sing-box may.
        if version == V14 {
            let error = deaf.reload(|| Ok(())).unwrap_err().to_string();
            assert!(error.contains(&format!("UDP port {udp} has no new listener")), "{error}");
        }
        let hears = Editor { reload: Reload::Signal, ..deaf };
        write(&hears, &mut Vec::new(), &wanted(&["alice"], &Want::Out));
        assert!(hears.reload(|| Ok(())).unwrap());
        assert_ne!(process.listeners(&port), before);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_thousand_users_at_once_are_one_edit_and_one_reload() {
    let port = free_port();
    let users: Vec<String> =
        (0..1001).map(|n| format!(r#"{{"username": "u{n}", "password": "pw"}}"#)).collect();
    let text = mixed(port, "").replace(crate::server::USERS, &format!("[{}]", users.join(", ")));
    let server = Server::start(V13, port, &[("a.json", &text)]);
    let (singbox, mut parked) = (singbox(&server), Vec::new());
    let names: Vec<String> = (0..1000).map(|n| format!("u{n}")).collect();
    let all: HashMap<String, Want> = names.iter().map(|name| (name.clone(), Want::Out)).collect();
    let plan = write(&singbox, &mut parked, &all);
    assert_eq!((plan.edits.len(), plan.park.len()), (1, 1000));
    assert!(singbox.reload(|| Ok(())).unwrap());
    let target = echo();
    carries(port, "u999", target).expect_err("out");
    carries(port, "u1000", target).unwrap();
    write(&singbox, &mut parked, &names.iter().map(|name| (name.clone(), Want::In)).collect());
    assert_eq!(server.text("a.json"), text);
    assert!(singbox.reload(|| Ok(())).unwrap());
    wait_for("they are back", || carries(port, "u0", target).ok());
}
