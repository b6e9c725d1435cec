//! Whom nginx refuses, whatever happens around: rights of the unit, processes that are not what they say, an nginx
//! that begins, hangs or loses its file, a boxmeter that leaves.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use boxmeter_tests::{
    cases::named,
    needs_machine,
    netns::Netns,
    nginx::Nginx,
    process::Process,
    scene::Scene as _,
    singbox::{Site, VERSIONS},
    wait,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{nginx::Rig, rig::MIB};

const UNIT: &str = include_str!("../../dist/systemd/boxmeter.service");

/// Some user of the machine.
const SOMEBODY: u32 = 4242;

/// A process with this title, as anybody can start one.
fn called(
    title: &str,
    program: &Path,
    words: &[&str],
    user: u32,
    (folder, netns): (&Path, &Netns),
) -> Process {
    let mut command = Command::new("setpriv");
    let id = user.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "bash", "-c"]);
    command.args(["exec -a \"$0\" \"$@\"", title]).arg(program).args(words);
    let process = Process::start(&mut command, netns, &folder.join("called.log"));
    wait("it is called so", || {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
        match String::from_utf8_lossy(&line) {
            line if line.starts_with(title) => Ok(()),
            line => Err(format!("{line}\n{}", process.log())),
        }
    });
    process
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Rig {
    fn disable(&self, user: &str) {
        self.agent.done(&["users", "disable", user]);
    }

    /// user1 is known, and nginx has read that nobody is refused.
    fn settle(&self) {
        self.grow("user1", [1, 2]);
        self.until_used("user1", [1, 2]);
        self.until_degraded("service_refuses", None);
    }
}

/// `nginx -t` binds the ports: below 1024 that needs a right, and the unit names it.
#[test]
fn the_rights_of_the_unit_are_enough_for_nginx_on_port_80() {
    needs_machine!();
    let mut rig = Rig::still(80, true);
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let rights = line.split_whitespace().map(|it| it.strip_prefix("CAP_").unwrap().to_lowercase());
    rig.agent.rights(rights.collect());
    rig.run();
    rig.settle();
    rig.disable("user1");
    rig.nginx.until("user1", 403);
    assert_eq!(rig.nginx.get("user2"), 200);
}

/// Whoever calls his process nginx chooses neither what root runs nor what it reads, and stops nothing.
#[test]
fn processes_that_call_themselves_nginx_are_not_followed() {
    needs_machine!();
    let mut rig = Rig::told(30_881, false, Nginx::answer_for);
    let folder = rig.scratch.join("theirs");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("nginx");
    fs::copy("/usr/bin/sleep", &program).unwrap();
    for path in [&folder, &program] {
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    mode(&folder, 0o777);
    let config = rig.nginx.config();
    let title = format!("nginx: master process {} -c {}", program.display(), config.display());
    let place = (folder.as_path(), &rig.netns);
    let theirs = called(&title, &program, &["infinity"], SOMEBODY, place);
    // Root's, and another program: as one that changes its user would be.
    let sleep = fs::canonicalize("/usr/bin/sleep").unwrap();
    let other = called(&title, &sleep, &["infinity"], 0, place);
    rig.agent.start();
    rig.until_degraded("service_refuses", Some(&format!("(pid {}) is not followed", theirs.pid())));
    rig.until_degraded("service_refuses", Some(&format!("(pid {}) is not followed", other.pid())));
    rig.nginx.start();
    rig.vts.until_asked(2);
    rig.settle();
    rig.disable("user1");
    rig.nginx.until("user1", 403);
    let status = rig.agent.done(&["status"]);
    assert_eq!(status["services"][0]["pid"], json!(rig.nginx.pid()), "{status}");
}

/// A configuration that others may change could name code for root to load.
#[test]
fn a_configuration_that_others_may_change_is_not_read() {
    needs_machine!();
    let rig = Rig::new();
    rig.settle();
    let before = rig.nginx.refused_text();
    mode(&rig.nginx.config(), 0o666);
    rig.disable("user1");
    rig.until_degraded("service_refuses", Some("can be written by others than root"));
    assert_eq!((rig.nginx.refused_text(), rig.nginx.get("user1")), (before, 200));
    mode(&rig.nginx.config(), 0o644);
    rig.nginx.until("user1", 403);
    rig.until_degraded("service_refuses", None);
}

/// An nginx that begins has read who knows what: it is told, and until then it is said that none follows.
#[test]
fn an_nginx_that_begins_is_told() {
    needs_machine!();
    let mut rig = Rig::new();
    rig.settle();
    rig.nginx.stop();
    rig.until_degraded("service_refuses", Some("no running nginx was found"));
    rig.disable("user1");
    wait("it is written", || match rig.nginx.refused_text() {
        text if text.contains("user1") => Ok(()),
        text => Err(text),
    });
    rig.until_degraded("service_refuses", Some("no running nginx was found"));
    rig.nginx.start();
    rig.until_degraded("service_refuses", None);
    rig.nginx.until("user1", 403);
    // One that has read another text than the one that is there, while no agent ran.
    rig.agent.stop();
    rig.nginx.stop();
    let text = rig.nginx.refused_text();
    fs::write(rig.nginx.refused(), text.replace("\"~^user1\\z\" 1;", "")).unwrap();
    rig.nginx.start();
    assert_eq!(rig.nginx.get("user1"), 200);
    fs::write(rig.nginx.refused(), &text).unwrap();
    rig.agent.start();
    rig.nginx.until("user1", 403);
    assert_eq!(rig.nginx.refused_text(), text);
}

/// What a reload has not brought about is not forgotten, whoever dies meanwhile.
#[test]
fn a_reload_that_does_not_come_about_is_made_up_for() {
    needs_machine!();
    let mut rig = Rig::new();
    rig.settle();
    let hangs = |rig: &Rig| {
        rig.nginx.process().signal(Signal::SIGSTOP);
        rig.disable("user1");
        rig.until_degraded("service_refuses", Some("has no new workers"));
        assert!(rig.nginx.refused_text().contains("user1"), "nginx takes it, and reads it when it can");
    };
    hangs(&rig);
    rig.nginx.process().signal(Signal::SIGCONT);
    rig.nginx.until("user1", 403);
    rig.until_degraded("service_refuses", None);
    rig.agent.done(&["users", "enable", "user1"]);
    rig.nginx.until("user1", 200);
    hangs(&rig);
    rig.agent.kill();
    // The signal of before ends with this one, and the next has read something else.
    let text = rig.nginx.refused_text();
    rig.nginx.process().signal(Signal::SIGCONT);
    rig.nginx.stop();
    fs::write(rig.nginx.refused(), text.replace("\"~^user1\\z\" 1;", "")).unwrap();
    rig.nginx.start();
    assert_eq!(rig.nginx.get("user1"), 200);
    fs::write(rig.nginx.refused(), &text).unwrap();
    rig.agent.start();
    rig.nginx.until("user1", 403);
}

/// Somebody removes the file: it is there again, and nginx has read it.
#[test]
fn a_file_that_somebody_removes_is_written_and_read_again() {
    needs_machine!();
    let rig = Rig::new();
    rig.settle();
    rig.disable("user1");
    rig.nginx.until("user1", 403);
    let (text, before) = (rig.nginx.refused_text(), rig.agent.events("service_refuses").len());
    fs::remove_file(rig.nginx.refused()).unwrap();
    wait("it is written and read", || match rig.agent.events("service_refuses").len() {
        now if now > before && rig.nginx.refused_text() == text => Ok(()),
        now => Err(format!("{now} of {before}")),
    });
    assert_eq!(rig.nginx.get("user1"), 403);
}

/// Many changes at once are few reloads, and the last list holds.
#[test]
fn reloads_are_few_however_many_change() {
    needs_machine!();
    let rig = Rig::new();
    let users: Vec<String> = (0..30).map(|n| format!("many{n}")).collect();
    for user in &users {
        rig.grow(user, [1, 1]);
    }
    rig.until_used("many29", [1, 1]);
    let before = rig.agent.events("service_refuses").len();
    for user in &users {
        rig.disable(user);
    }
    wait("all are refused", || {
        let text = rig.nginx.refused_text();
        let missing = users.iter().filter(|user| !text.contains(&format!("~^{user}\\z"))).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    });
    let last = |rig: &Rig| rig.agent.events("service_refuses").last().cloned().unwrap_or_default();
    wait("nginx has read all", || match last(&rig)["data"]["refused"].as_u64() {
        Some(30..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let reloads = rig.agent.events("service_refuses").len() - before;
    assert!((1..=4).contains(&reloads), "{reloads} reloads for 30 changes");
}

/// Nobody serves boxmeter's file when it is gone: everybody comes in again, unless they are to stay out.
#[test]
fn who_is_refused_comes_back_when_boxmeter_leaves() {
    needs_machine!();
    let mut rig = Rig::new();
    rig.settle();
    rig.disable("user1");
    rig.nginx.until("user1", 403);
    rig.agent.stop();
    let would = rig.agent.done(&["detach", "--dry-run"]);
    assert_eq!(would["out"], json!(["user1"]), "{would}");
    let left = rig.agent.done(&["detach", "--yes", "--leave-out"]);
    assert_eq!((&left["still_out"], &left["put_back"]), (&json!(["user1"]), &json!([])), "{left}");
    assert_eq!(rig.nginx.get("user1"), 403);
    rig.agent.start();
    rig.agent.stop();
    let left = rig.agent.done(&["detach", "--yes"]);
    assert_eq!((&left["still_out"], &left["put_back"]), (&json!([]), &json!(["user1"])), "{left}");
    // The workers of before may take a last request.
    rig.nginx.until("user1", 200);
    assert!(rig.nginx.refused().is_file(), "nginx includes it");
    // And it begins again with what the ledger says.
    rig.agent.start();
    rig.nginx.until("user1", 403);
}

/// Status, process, file, include: each has its finding.
#[test]
fn doctor_says_what_nginx_lacks() {
    needs_machine!();
    let mut rig = Rig::still(30_881, true);
    let found = |rig: &Rig| {
        let doctor = rig.agent.command(&["doctor"]);
        let answer: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let all = answer["findings"].as_array().unwrap().iter();
        let of = |it: &serde_json::Value| format!("{} {}", it["id"], it["severity"]).replace('"', "");
        all.map(of).filter(|it| it.starts_with("service-")).collect::<Vec<_>>()
    };
    let none = found(&rig);
    for wanted in ["service-totals warn", "service-process fail", "service-refuse warn"] {
        assert!(none.contains(&wanted.to_owned()), "{none:?}");
    }
    rig.grow("user1", [1, 2]);
    rig.run();
    // Debian's nginx has no module that counts.
    let wanted = ["service-totals ok", "service-process ok", "service-keys fail", "service-refuse-asked ok"];
    assert_eq!(found(&rig), wanted);
    let text = fs::read_to_string(rig.nginx.config()).unwrap();
    let include = format!("include {};", rig.nginx.refused().display());
    let without = text.replace(
        &include,
        "map $uri $boxmeter_user { default a; } map $uri $boxmeter_refused { default 0; }",
    );
    fs::write(rig.nginx.config(), without).unwrap();
    assert!(found(&rig).contains(&"service-refuse-asked fail".to_owned()));
    fs::write(rig.nginx.config(), text).unwrap();
    rig.vts.instead(Some(b"<html>".to_vec()));
    assert!(found(&rig).contains(&"service-totals fail".to_owned()));
}

/// Nor are those of somebody else that read as a sing-box with the same configuration.
#[test]
fn processes_that_call_themselves_sing_box_are_no_second_one() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let folder = site.scratch.join("theirs");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("sing-box");
    fs::copy("/bin/bash", &program).unwrap();
    for path in [&folder, &program] {
        chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    }
    mode(&folder, 0o777);
    mode(site.scratch.path(), 0o755);
    let config = site.config();
    let words = ["-c", "kill -STOP $$", "run", "-c", config.to_str().unwrap()];
    let place = (folder.as_path(), &site.inside);
    // One with a program of its own, one with root's under another name.
    let bash: PathBuf = fs::canonicalize("/bin/bash").unwrap();
    let others = [&program, &bash].map(|program| called("sing-box", program, &words, SOMEBODY, place));
    let mut agent = boxmeter_tests::agent::Agent::new(&site.scratch, &config, &site.inside);
    agent.start();
    let status = agent.done(&["status"]);
    assert_eq!(status["singbox"]["pid"], json!(site.server.as_ref().unwrap().pid()), "{status}");
    site.users[0].proxy.exchange(site.target(), 0, MIB).unwrap();
    wait("it is metered", || match agent.used(&site.users[0].name) {
        used if used >= MIB => Ok(()),
        used => Err(used.to_string()),
    });
    others.into_iter().for_each(Process::kill);
}

/// A tag of sing-box that reads as nginx's would mix the two up.
#[test]
fn a_tag_of_sing_box_that_reads_as_nginx_is_refused() {
    needs_machine!();
    let mut rig = Rig::still(30_881, true);
    let config = rig.scratch.join("sing-box.json");
    let inbound = json!({"type": "trojan", "tag": "nginx/a", "listen": "127.0.0.1", "listen_port": 21_000,
        "users": [{"name": "user1", "password": "p"}]});
    fs::write(&config, json!({"inbounds": [inbound]}).to_string()).unwrap();
    let file = rig.scratch.join("boxmeter.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text.replace("config = []", &format!("config = [{config:?}]"))).unwrap();
    rig.agent.start_unheard();
    rig.until_degraded("configuration", Some("reads as one of the service"));
}
