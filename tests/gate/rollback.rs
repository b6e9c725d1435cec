//! sing-box does not come up with its files: what it ran with is put back, whoever has edited what and whoever
//! dies on the way.

use std::{fs, net::TcpListener, path::PathBuf};

use boxmeter_tests::scene::Scene as _;
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    long, needs_machine,
    singbox::{Site, VERSIONS, binary},
    wait,
};
use serde_json::json;

use crate::{
    rig::{MIB, Rig, Stream},
    troubles::{until_trouble, until_well},
};

/// Two inbounds in two files. sing-box soon reads that somebody is out.
fn rig(version: &'static str, reload: &str) -> Rig {
    let mut site = Site::new(version, &[named("trojan-tls"), named("ss2022")]);
    site.splits_config();
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("singbox", "reload_within = \"4s\"");
    let reload = reload.replace("SCRATCH", site.scratch.path().to_str().unwrap());
    agent.configure("singbox", &format!("reload = {reload:?}"));
    // The agent that finds sing-box dead has never seen it.
    agent.configure("singbox", &format!("binary = {:?}", binary(version).display().to_string()));
    agent.hurries();
    agent.start();
    Rig { agent, site }
}

fn files(rig: &Rig) -> [PathBuf; 2] {
    ["10-server.json", "20-more.json"].map(|name| rig.site.config().join(name))
}

fn texts(rig: &Rig) -> [String; 2] {
    files(rig).map(|file| fs::read_to_string(file).unwrap())
}

fn until_texts(rig: &Rig, what: &str, is_so: impl Fn(&[String; 2]) -> bool) {
    wait(what, || match texts(rig) {
        now if is_so(&now) => Ok(()),
        now => Err(now.join("\n")),
    });
}

/// Takes both files' alices out, and waits until it is written.
fn disable(rig: &Rig) -> [String; 2] {
    let names = [0, 2].map(|at: usize| rig.site.users[at].name.clone());
    for name in &names {
        rig.agent.command(&["users", "disable", name]);
    }
    names
}

/// An inbound on a port that somebody else has: `check` takes it, and sing-box ends of it.
fn deadly(rig: &Rig, text: &str) -> (TcpListener, String) {
    let taken = rig.site.inside.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = taken.local_addr().unwrap().port();
    let inbound = json!({"type": "mixed", "tag": "by-hand", "listen": "127.0.0.1", "listen_port": port});
    let text = text.replacen("\"inbounds\": [", &format!("\"inbounds\": [{inbound},"), 1);
    (taken, text)
}

fn is_dead(rig: &mut Rig) -> bool {
    rig.site.server.as_mut().is_none_or(|server| server.ended().is_some())
}

/// Where a message says that an edit by hand is kept.
fn kept(message: &str) -> PathBuf {
    let (_, after) = message.split_once("kept in ").unwrap_or_else(|| panic!("{message}"));
    after.split([',', ';']).next().unwrap().trim().into()
}

/// The newest message of a rollback, after so many failures.
fn put_back_told(rig: &Rig, seen: usize) -> String {
    wait("it is told", || {
        let told = rig.events("edit_failed");
        let of = told.iter().skip(seen).filter_map(|event| event["message"].as_str());
        of.rev().find(|it| it.contains("put back")).map(str::to_owned).ok_or_else(|| format!("{told:?}"))
    })
}

/// What is left to do after sing-box has died and its old files are there again.
fn comes_back(rig: &mut Rig, before: &[String; 2], names: &[String; 2]) {
    rig.site.server = None;
    rig.site.start_server();
    until_texts(rig, "both are out again", |now| !names.iter().any(|name| now.concat().contains(name)));
    wait("sing-box has read it", || match rig.done(&["status"])["enforcement"]["pending"].is_null() {
        true => Ok(()),
        false => Err("it waits".to_owned()),
    });
    until_well(rig);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
    wait("bob gets through", || rig.exchange(rig.bob(), 0, MIB));
    for name in names {
        rig.done(&["users", "enable", name]);
    }
    until_texts(rig, "the files are as they were", |now| now == before);
    wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
    let told = rig.events("put_back_by_hand");
    assert!(told.is_empty(), "{told:?}");
}

/// Somebody has added what kills sing-box at the reload, after boxmeter's last edit: the old files are put back,
/// and what was added is kept.
#[test]
fn what_kills_sing_box_at_a_reload_is_kept_aside() {
    needs_machine!();
    let versions = if long() { &[VERSIONS[2], VERSIONS[0]][..] } else { &[VERSIONS[2]] };
    for &version in versions {
        let mut rig = rig(version, "signal");
        let before = texts(&rig);
        let open = Stream::open(&rig, rig.bob());
        let names = disable(&rig);
        until_texts(&rig, "both are out", |now| !names.iter().any(|name| now.concat().contains(name)));
        let (taken, by_hand) = deadly(&rig, &texts(&rig)[1]);
        fs::write(&files(&rig)[1], &by_hand).unwrap();
        wait("sing-box ends", || if is_dead(&mut rig) { Ok(()) } else { Err("it lives".to_owned()) });
        drop(open);
        let message = put_back_told(&rig, 0);
        assert!(message.contains("start it"), "{message}");
        assert_eq!(fs::read_to_string(kept(&message)).unwrap(), by_hand, "{message}");
        assert!(!texts(&rig)[1].contains("by-hand"));
        until_trouble(&rig, "put back");
        drop(taken);
        comes_back(&mut rig, &before, &names);
    }
}

/// Killed at any point between the signal and the end of the rollback, with a sing-box that has died of it.
#[test]
fn an_agent_that_dies_while_sing_box_does_is_made_up_for() {
    needs_machine!();
    let mut rig = rig(VERSIONS[2], "signal");
    let before = texts(&rig);
    for fault in ["told", "putting-back", "putting-back-next"] {
        let seen = rig.events("edit_failed").len();
        rig.agent.stop();
        rig.agent.fails_at(Some(fault));
        rig.agent.start();
        let open = Stream::open(&rig, rig.bob());
        let names = disable(&rig);
        until_texts(&rig, "both are out", |now| !names.iter().any(|name| now.concat().contains(name)));
        let (taken, by_hand) = deadly(&rig, &texts(&rig)[1]);
        fs::write(&files(&rig)[1], &by_hand).unwrap();
        rig.agent.dies();
        wait("sing-box ends", || if is_dead(&mut rig) { Ok(()) } else { Err("it lives".to_owned()) });
        drop(open);
        rig.agent.fails_at(None);
        rig.agent.start_unheard();
        let message = put_back_told(&rig, seen);
        assert!(message.contains("has ended"), "{fault}: {message}");
        assert_eq!(fs::read_to_string(kept(&message)).unwrap(), by_hand, "{fault}: {message}");
        assert!(!texts(&rig)[1].contains("by-hand"), "{fault}");
        drop(taken);
        comes_back(&mut rig, &before, &names);
    }
}

/// The same with a sing-box that lives and does not read its files.
#[test]
fn an_agent_that_dies_at_a_reload_that_fails_is_made_up_for() {
    needs_machine!();
    let heard = std::env::temp_dir().join(format!("boxmeter-test-heard-{}", std::process::id()));
    let mut rig = rig(VERSIONS[2], &format!("command:test -e {}", heard.display()));
    let before = texts(&rig);
    for fault in ["told", "putting-back", "putting-back-next"] {
        // Heard, and nothing comes of it; or not even that.
        match fault {
            "told" => fs::write(&heard, "").unwrap(),
            _ => drop(fs::remove_file(&heard)),
        }
        let seen = rig.events("edit_failed").len();
        rig.agent.stop();
        rig.agent.fails_at(Some(fault));
        rig.agent.start();
        let names = disable(&rig);
        rig.agent.dies();
        rig.agent.fails_at(None);
        rig.agent.start();
        until_texts(&rig, "the old files are back", |now| *now == before);
        put_back_told(&rig, seen);
        until_texts(&rig, "both are out again", |now| !names.iter().any(|name| now.concat().contains(name)));
        rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
        rig.exchange(rig.bob(), 0, MIB).unwrap();
        for name in &names {
            rig.done(&["users", "enable", name]);
        }
        until_texts(&rig, "the files are as they were", |now| *now == before);
        let told = rig.events("put_back_by_hand");
        assert!(told.is_empty(), "{fault}: {told:?}");
    }
}

/// Killed between the renames of two files, on the way out and on the way back.
#[test]
fn an_agent_that_dies_between_two_files_loses_nothing() {
    needs_machine!();
    let site = {
        let mut site = Site::new(VERSIONS[0], &[named("trojan-tls"), named("ss2022")]);
        site.splits_config();
        site
    };
    // One name on both inbounds: one edit of both files.
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    let mut rig = Rig { agent, site };
    rig.done(&["users", "add", "carol"]);
    let (bob, before) = (rig.bob().name.clone(), texts(&rig));
    assert!(before.iter().all(|text| text.contains("carol")), "{before:?}");
    let dies = |rig: &mut Rig, words: &[&str]| {
        rig.agent.stop();
        rig.agent.fails_at(Some("written-one"));
        rig.agent.start();
        rig.agent.command(words);
        rig.agent.dies();
        let has = texts(rig).map(|text| text.contains("carol"));
        assert_ne!(has[0], has[1], "one file was written");
        rig.agent.fails_at(None);
        rig.agent.start();
    };
    dies(&mut rig, &["users", "disable", "carol"]);
    until_texts(&rig, "carol is out", |now| !now.concat().contains("carol"));
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    // Somebody else is out as well.
    rig.done(&["users", "disable", &bob]);
    until_texts(&rig, "bob is out", |now| !now.concat().contains(&bob));
    dies(&mut rig, &["users", "enable", "carol"]);
    until_texts(&rig, "carol is in", |now| now.iter().all(|text| text.contains("carol")));
    rig.done(&["users", "enable", &bob]);
    until_texts(&rig, "the files are as they were", |now| *now == before);
    assert_eq!(rig.show("carol")["state"], json!("active"));
    let told = rig.events("put_back_by_hand");
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

/// A reload that fails takes files back to when somebody was not there yet, and somebody else still was: the one is
/// not lost, and the other is nobody new.
#[test]
fn who_came_or_went_before_a_reload_that_fails_is_known() {
    needs_machine!();
    // There is no such script yet: every reload fails, and sing-box goes on.
    let rig = rig(VERSIONS[2], "command:sh SCRATCH/reload.sh");
    let (before, alice) = (texts(&rig), rig.alice().name.clone());
    let bob = rig.bob().name.clone();
    rig.done(&["users", "disable", &bob]);
    put_back_told(&rig, 0);
    // Not known to anybody but the ledger, and out of the file.
    until_texts(&rig, "bob is out again", |now| !now.concat().contains(&bob));
    let adopted = rig.events("user_adopted").len();
    let seen = rig.events("edit_failed").len();
    // Nothing says whose entry that is which comes back with the rollback.
    rig.done(&["users", "delete", &alice, "--purge", "--yes"]);
    let added = rig.done(&["users", "add", "carol", "--inbounds", "trojan-tls-in"]);
    put_back_told(&rig, seen);
    let pid = rig.site.server.as_ref().unwrap().pid();
    fs::write(rig.site.scratch.join("reload.sh"), format!("kill -HUP {pid}\n")).unwrap();
    rig.done(&["users", "add", "dave", "--inbounds", "trojan-tls-in"]);
    wait("sing-box has read it", || match &rig.done(&["status"])["enforcement"] {
        now if now["pending"].is_null() && now["reloads"] != json!(0) => Ok(()),
        now => Err(now.to_string()),
    });
    until_texts(&rig, "carol is in, alice and bob are not", |now| {
        let now = now.concat();
        now.contains("carol") && !now.contains(&alice) && !now.contains(&bob)
    });
    let password = added["credentials"][0]["entry"]["password"].as_str().unwrap_or_else(|| panic!("{added}"));
    assert!(texts(&rig)[0].contains(password), "carol has another password");
    assert_eq!(rig.show("carol")["state"], json!("active"));
    assert_eq!(rig.refused(&["users", "show", &alice])["error"]["kind"], json!("not_found"));
    assert_eq!(rig.events("user_adopted").len(), adopted, "alice is nobody new");
    assert!(rig.events("user_vanished").is_empty(), "{:?}", rig.events("user_vanished"));
    rig.done(&["users", "enable", &bob]);
    until_texts(&rig, "bob is back", |now| now.concat().contains(&bob));
    assert_ne!(texts(&rig), before);
}
