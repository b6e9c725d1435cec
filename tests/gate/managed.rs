//! Users of a managed shadowsocks inbound, whom no file names.

use boxmeter::{
    enforcer::managed::{ManagedUser, Manager},
    singbox::files,
};
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig};
use boxmeter_tests::scene::Scene as _;

const API_PORT: u16 = 20_998;

/// Where sing-box keeps the service's users while it does not run.
const CACHE: &str = "ssm-api.json";

/// Of a service that nobody runs.
const AWAY_PORT: u16 = 20_996;

/// A server whose two users live in its `ssm-api` service.
fn managed(version: &'static str) -> (Rig, Manager, tokio::runtime::Runtime) {
    let (mut rig, manager, runtime) = unmetered(version);
    rig.agent.start();
    (rig, manager, runtime)
}

/// As [`managed`], with an agent that does not run yet.
fn unmetered(version: &'static str) -> (Rig, Manager, tokio::runtime::Runtime) {
    let mut site = Site::new(version, &[named("ss2022")]);
    site.server = None;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(site.config()).unwrap()).unwrap();
    let inbound = &mut config["inbounds"][0];
    let users = inbound.as_object_mut().unwrap().remove("users").unwrap();
    inbound["managed"] = json!(true);
    let service = json!({"type": "ssm-api", "listen": "127.0.0.1", "listen_port": API_PORT,
                         "servers": {"/": inbound["tag"]}, "cache_path": site.scratch.join(CACHE)});
    match config["services"].as_array_mut() {
        Some(services) => services.push(service),
        None => config["services"] = json!([service]),
    }
    std::fs::write(site.config(), config.to_string()).unwrap();
    site.start_server();
    let read = files::parse(&files::read(&[site.config()]).unwrap()).unwrap();
    let manager = Manager::of(&read.managers, "ss2022-in", Some(site.inside.path().into())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for user in users.as_array().unwrap() {
        let text = |key: &str| user[key].as_str().unwrap().to_owned();
        let user = ManagedUser { name: text("name"), key: text("password") };
        runtime.block_on(manager.add(&user)).unwrap();
    }
    let agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    (Rig { agent, site }, manager, runtime)
}

/// Deleted while the service does not answer: whatever it has when it answers again, the user is taken out
/// of it, and is nobody new.
#[test]
fn a_user_deleted_while_the_service_is_away_is_not_adopted_after_a_restart() {
    needs_machine!();
    let (mut rig, manager, runtime) = managed(VERSIONS[2]);
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    wait("both are adopted", || rig.agent.ask(&["users", "show", &bob]).map(drop));
    rig.site.server.take().unwrap().stop();
    rig.done(&["users", "delete", &bob, "--yes"]);
    rig.agent.stop();
    rig.agent.start_unheard();
    rig.show(&alice);
    let kept = std::fs::read_to_string(rig.site.scratch.join(CACHE)).unwrap();
    assert!(kept.contains(&bob), "the service comes back with him: {kept}");
    rig.site.start_server();
    let listed = || runtime.block_on(manager.list()).unwrap();
    wait("bob is out of the service", || match listed() {
        users if users.iter().any(|user| user.name == bob) => Err(format!("{users:?}")),
        _ => Ok(()),
    });
    let adopted = rig.events("user_adopted");
    assert_eq!(adopted.len(), 2, "{adopted:?}");
    assert_eq!(rig.refused(&["users", "show", &bob])["error"]["kind"], json!("not_found"));
    // From here on the name is free.
    rig.done(&["users", "add", &bob, "--inbounds", "ss2022-in"]);
    assert!(listed().iter().any(|user| user.name == bob));
}

/// A service that is away holds up neither users of another one, nor what is known of that.
#[test]
fn services_follow_each_for_itself() {
    needs_machine!();
    let (mut rig, manager, runtime) = unmetered(VERSIONS[2]);
    let without = rig.config();
    let mut config: Value = serde_json::from_str(&rig.config()).unwrap();
    let mut away = config["inbounds"][0].clone();
    (away["tag"], away["listen_port"]) = (json!("away-in"), json!(AWAY_PORT - 1));
    config["inbounds"].as_array_mut().unwrap().insert(0, away);
    let service = json!({"type": "ssm-api", "listen": "127.0.0.1", "listen_port": AWAY_PORT,
                         "servers": {"/": "away-in"}});
    config["services"].as_array_mut().unwrap().insert(0, service);
    std::fs::write(rig.site.config(), config.to_string()).unwrap();
    rig.agent.start();
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    let listed = || runtime.block_on(manager.list()).unwrap();
    let until = |what: &str, name: &str, there: bool| {
        wait(what, || match listed().iter().any(|user| user.name == name) {
            is if is == there => Ok(()),
            _ => Err(format!("{:?}", listed())),
        });
    };
    wait("both are adopted", || rig.agent.ask(&["users", "show", &bob]).map(drop));
    rig.done(&["users", "disable", &alice]);
    until("alice is out", &alice, false);
    wait("the one that is away is told", || {
        let status = rig.agent.ask(&["status"])?;
        let degraded = status["degraded"].to_string();
        match degraded.contains(&AWAY_PORT.to_string()) {
            true => Ok(()),
            false => Err(degraded),
        }
    });
    rig.done(&["users", "enable", &alice]);
    until("alice is in", &alice, true);
    // bob never was where nobody answers: he is gone for good, and somebody new may come.
    let key = listed().into_iter().find(|user| user.name == bob).unwrap().key;
    rig.done(&["users", "delete", &bob, "--yes"]);
    until("bob is out", &bob, false);
    runtime.block_on(manager.add(&ManagedUser { name: bob, key })).unwrap();
    wait("somebody new of the name is adopted", || match rig.events("user_adopted").len() {
        3 => Ok(()),
        count => Err(count.to_string()),
    });
    rig.done(&["users", "disable", &alice]);
    until("alice is out again", &alice, false);
    // Leaving, what can be done is done, and what cannot is told as that.
    rig.agent.stop();
    let output = rig.agent.command(&["detach", "--yes"]);
    assert!(!output.status.success());
    let left: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&left["put_back"], &left["trouble"]), (&json!([alice]), &json!(null)), "{left}");
    assert!(left["unfinished"].to_string().contains(&AWAY_PORT.to_string()), "{left}");
    until("alice is put back", &alice, true);
    std::fs::write(rig.site.config(), without).unwrap();
    rig.agent.start();
}

#[test]
fn managed_users_go_and_come_by_the_live_api() {
    needs_machine!();
    for version in VERSIONS {
        let (rig, manager, runtime) = managed(version);
        let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
        let listed = || runtime.block_on(manager.list()).unwrap();
        let is_in = |name: &str| listed().iter().any(|user| user.name == name);
        let until = |what: &str, is_so: &dyn Fn() -> bool| {
            wait(what, || if is_so() { Ok(()) } else { Err(format!("{:?}", listed())) });
        };
        wait("both are adopted", || rig.agent.ask(&["users", "show", &bob]).map(drop));
        let (config, mut before) = (rig.config(), listed());
        before.sort_by(|a, b| a.name.cmp(&b.name));
        rig.done(&["users", "set", &alice, "--quota", "4MiB"]);
        rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
        rig.until_state(&alice, "limited");
        until("alice is out of the service", &|| !is_in(&alice));
        rig.exchange(rig.alice(), 0, MIB).expect_err("who is out");
        rig.exchange(rig.bob(), 0, MIB).unwrap();
        // Put back by hand while cut: taken out again.
        rig.done(&["users", "set", &alice, "--quota", "none"]);
        until("alice is back", &|| is_in(&alice));
        wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
        let mut after = listed();
        after.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(after, before, "with the same key");
        // A new one, whose login the service has.
        let added = rig.done(&["users", "add", "carol", "--inbounds", "ss2022-in"]);
        let key = added["credentials"][0]["entry"]["password"].as_str().unwrap().to_owned();
        let carol = ManagedUser { name: "carol".to_owned(), key };
        assert!(listed().contains(&carol), "{added}");
        // Deleted is deleted, whatever was listed before.
        rig.done(&["users", "delete", &bob, "--yes"]);
        assert!(!is_in(&bob));
        let looks = || rig.done(&["events"])["events"].as_array().unwrap().len();
        let seen = looks();
        rig.done(&["users", "add", "dave", "--inbounds", "ss2022-in"]);
        wait("something was read after that", || match looks() > seen + 2 {
            true => Ok(()),
            false => Err(looks().to_string()),
        });
        let adopted = rig.events("user_adopted");
        assert_eq!(adopted.len(), 2, "{adopted:?}");
        assert_eq!(rig.done(&["status"])["enforcement"]["reloads"], json!(0));
        assert_eq!(rig.config(), config);
        let oddities = rig.events("put_back_by_hand");
        assert!(oddities.is_empty(), "{oddities:?}");
    }
}
