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

const API_PORT: u16 = 20_998;

/// A server whose two users live in its `ssm-api` service.
fn managed(version: &'static str) -> (Rig, Manager, tokio::runtime::Runtime) {
    let mut site = Site::new(version, &[named("ss2022")]);
    site.server = None;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(site.config()).unwrap()).unwrap();
    let inbound = &mut config["inbounds"][0];
    let users = inbound.as_object_mut().unwrap().remove("users").unwrap();
    inbound["managed"] = json!(true);
    let service = json!({"type": "ssm-api", "listen": "127.0.0.1", "listen_port": API_PORT,
                         "servers": {"/": inbound["tag"]}});
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
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    (Rig { agent, site }, manager, runtime)
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
        let (config, before) = (rig.config(), listed());
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
        let oddities = rig.events("user_put_back_by_hand");
        assert!(oddities.is_empty(), "{oddities:?}");
    }
}
