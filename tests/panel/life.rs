//! The process: what it may do, what it tells when it starts, and how it lives without the agent.

use crate::rig::{ALICE, PANEL_UID, Rig, with_panel_user};
use boxmeter_tests::netns::Netns;
use boxmeter_tests::process::Process;
use boxmeter_tests::scratch::Scratch;
use boxmeter_tests::{boxmeter, needs_machine, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::Command;

/// A field of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Whoever tries the demonstration as root gets a web server that is not.
#[test]
fn the_demonstration_has_no_rights_either() {
    needs_machine!();
    let (scratch, netns) = (Scratch::new(), Netns::new());
    let demo = |log: &str| {
        let mut command = Command::new(boxmeter());
        command.args(["--config", "/dev/null", "--lang", "en", "panel", "--demo", "--listen", "127.0.0.1:0"]);
        let process = Process::start(&mut command, &netns, &scratch.join(log));
        wait("it serves", || {
            let log = process.log();
            if log.contains("Made-up data") { Ok(()) } else { Err(log) }
        });
        process
    };
    let known = nix::unistd::User::from_name("boxmeter-panel").unwrap();
    let nobody = known.map_or(65_534, |it| it.uid.as_raw());
    let without = demo("nobody.log");
    with_panel_user(&scratch);
    let with = demo("user.log");
    for (process, uid) in [(&without, nobody), (&with, PANEL_UID)] {
        let pid = process.pid();
        assert_eq!(status(pid, "Uid"), vec![uid.to_string(); 4]);
        assert_eq!(status(pid, "Groups"), Vec::<String>::new());
        for rights in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status(pid, rights), ["0000000000000000"], "{rights}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), ["1"]);
    }
}

#[test]
fn the_panel_has_no_rights_and_tells_the_first_password_once() {
    needs_machine!();
    let mut rig = Rig::new();
    let field = |name: &str| status(rig.pid(), name);
    assert_eq!(field("Uid"), vec![PANEL_UID.to_string(); 4]);
    assert_eq!(field("Gid"), vec![PANEL_UID.to_string(); 4]);
    assert_eq!(field("Groups"), Vec::<String>::new());
    assert_eq!(field("CapEff"), ["0000000000000000"]);
    assert_eq!(field("CapPrm"), ["0000000000000000"]);
    assert_eq!(field("NoNewPrivs"), ["1"]);
    let open = std::fs::read_dir(format!("/proc/{}/fd", rig.pid())).unwrap();
    let files: Vec<_> = open.flatten().filter_map(|it| std::fs::read_link(it.path()).ok()).collect();
    assert!(!files.is_empty());
    assert!(!files.iter().any(|it| it.to_string_lossy().contains("ledger")), "{files:?}");

    // The password opens the panel, and is nowhere but where it was told.
    let session = rig.sign_in();
    let page = rig.ask("GET", "/users").cookie(&session).send();
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains(ALICE));
    assert!(!rig.agent.ask(&["events"]).unwrap().to_string().contains(&rig.password));
    assert!(!rig.agent.process().log().contains(&rig.password));
    let token = rig.token(&session, "program", "read");
    let page = rig.ask("GET", &format!("/users/{ALICE}/connect")).cookie(&session).send().body;
    let subscription = page.split("href=\"/s/").nth(1).unwrap().split('"').next().unwrap();
    let folder = std::fs::read_dir(rig.site.scratch.join("ledger")).unwrap();
    let files: Vec<_> = folder.flatten().filter_map(|it| std::fs::read(it.path()).ok()).collect();
    let has = |text: &str| files.iter().any(|it| it.windows(text.len()).any(|it| it == text.as_bytes()));
    assert!(has(subscription), "what is shown again is kept: else nothing would be found here at all");
    for secret in [&rig.password, &session, &token, &token["bm_".len()..].to_owned()] {
        assert!(!has(secret), "a secret is in the ledger as it is");
    }

    // Once: the next start has nothing to tell, and sessions go on.
    let told = rig.log().matches(&rig.password).count();
    assert_eq!(told, 1);
    rig.panel = None;
    rig.start_panel();
    assert_eq!(rig.log().matches("told only now").count(), 1, "{}", rig.log());
    assert_eq!(rig.ask("GET", "/users").cookie(&session).send().status, 200);
}

#[test]
fn the_panels_user_alone_may_change_nothing() {
    needs_machine!();
    let rig = Rig::new();
    for words in [
        &["users", "disable", ALICE][..],
        &["users", "links", ALICE],
        &["users", "delete", ALICE, "--yes"],
        &["policies", "add", "mine"],
        &["panel", "password", "--generate"],
    ] {
        let output = rig.as_panel_user(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{words:?}: {said}");
    }
    let shown = rig.agent.ask(&["users", "show", ALICE]).unwrap();
    assert_eq!(shown["user"]["state"], json!("active"));
}

#[test]
fn without_the_agent_there_is_a_page_and_the_panel_lives() {
    needs_machine!();
    let mut rig = Rig::new();
    let session = rig.sign_in();
    rig.agent.stop();
    let page = rig.ask("GET", "/users").cookie(&session).send();
    assert_eq!(page.status, 503, "{}", page.body);
    assert!(page.header("content-type").is_some_and(|it| it.starts_with("text/html")), "{}", page.head);
    let api = rig.ask("GET", "/api/v1/users").session(&session).send();
    assert_eq!((api.status, &api.value()["kind"]), (503, &json!("not_running")));
    rig.agent.start();
    wait("the session is known again", || {
        let page = rig.ask("GET", "/users").cookie(&session).send();
        if page.status == 200 { Ok(()) } else { Err(format!("{} {}", page.status, page.body)) }
    });
    // An open live stream does not hold up the end.
    let _stream = rig.ask("GET", "/api/v1/stream").session(&session).open();
    let panel = rig.panel.as_mut().unwrap();
    panel.signal(Signal::SIGTERM);
    let status = wait("the panel ends", || panel.ended().ok_or_else(|| panel.log()));
    assert!(status.success(), "{status}: {}", rig.log());
}
