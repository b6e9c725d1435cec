//! The agent is killed between any two steps of a change, or the kernel refuses it something: the next
//! one finds what is left to be done.

use std::{sync::mpsc, thread, time::Duration};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig, Stream};
use crate::troubles::until_well;
use boxmeter_tests::scene::Scene as _;

fn until_config(rig: &Rig, what: &str, is_so: impl Fn(&str) -> bool) {
    wait(what, || match rig.config() {
        config if is_so(&config) => Ok(()),
        config => Err(config),
    });
}

/// From the cut in the kernel to the reload: whoever was cut stays cut, and comes back as it was.
#[test]
fn an_agent_that_dies_at_any_step_of_a_cut_loses_nothing() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (alice, before) = (rig.alice().name.clone(), rig.config());
    for fault in ["kernel-cut", "parked", "written", "noted", "reloaded"] {
        rig.agent.stop();
        rig.agent.fails_at(Some(fault));
        rig.agent.start();
        let open = (fault == "kernel-cut").then(|| Stream::open(&rig, rig.alice()));
        rig.agent.command(&["users", "disable", &alice]);
        rig.agent.dies();
        if let Some(mut open) = open {
            open.dries_up();
        }
        rig.agent.fails_at(None);
        rig.agent.start();
        assert_eq!(rig.show(&alice)["state"], json!("disabled"), "{fault}");
        until_config(&rig, "alice is out", |config| !config.contains(&alice));
        rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
        rig.exchange(rig.bob(), 0, MIB).unwrap();
        rig.done(&["users", "enable", &alice]);
        until_config(&rig, "the file is as it was", |config| config == before);
        wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
    }
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

fn until_reloads(rig: &Rig, count: usize) {
    wait("sing-box has read its files", || match rig.events("singbox_reloaded").len() {
        told if told == count => Ok(()),
        told => Err(told.to_string()),
    });
}

/// From the record to the reload: whoever is to come back does, exactly, with somebody else out or not.
#[test]
fn an_agent_that_dies_at_any_step_of_a_return_loses_nothing() {
    needs_machine!();
    let all = ["reloaded", "parked", "written", "noted"];
    for (version, other_out, faults) in [(VERSIONS[2], false, &all[..]), (VERSIONS[0], true, &all[..2])] {
        let mut rig = Rig::new(version, "trojan-tls");
        let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
        let whole = rig.config();
        if other_out {
            rig.done(&["users", "disable", &bob]);
            until_config(&rig, "bob is out", |config| !config.contains(&bob));
            until_reloads(&rig, 1);
        }
        let before = rig.config();
        for &fault in faults {
            rig.done(&["users", "disable", &alice]);
            until_config(&rig, "alice is out", |config| !config.contains(&alice));
            if fault == all[0] {
                // So that sing-box has to be told of her return.
                until_reloads(&rig, 1 + usize::from(other_out));
            }
            rig.agent.stop();
            rig.agent.fails_at(Some(fault));
            rig.agent.start();
            rig.agent.command(&["users", "enable", &alice]);
            rig.agent.dies();
            rig.agent.fails_at(None);
            rig.agent.start();
            until_config(&rig, "the file is as it was", |config| config == before);
            rig.until_state(&alice, "active");
            wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
        }
        rig.done(&["users", "enable", &bob]);
        until_config(&rig, "the file is as it was at first", |config| config == whole);
        let told = rig.events("put_back_by_hand");
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
    }
}

/// The kernel holds a lower limit of a policy before the ledger has it.
#[test]
fn a_policy_that_is_lowered_holds_before_it_is_written() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["policies", "add", "small", "--quota", "100GiB"]);
    rig.done(&["users", "set", &alice, "--policy", "small"]);
    rig.agent.stop();
    rig.agent.fails_at(Some("tightened"));
    rig.agent.start();
    let mut open = Stream::open(&rig, rig.alice());
    rig.agent.command(&["policies", "set", "small", "--quota", "4MiB"]);
    rig.agent.dies();
    open.dries_up();
    rig.agent.fails_at(None);
    rig.agent.start();
    // It was not written: the one that was there holds.
    assert_eq!(rig.show(&alice)["period"]["quota_bytes"], json!(100_u64 << 30));
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    rig.done(&["policies", "set", "small", "--quota", "4MiB"]);
    rig.until_state(&alice, "limited");
    assert_eq!(rig.show(&bob)["state"], json!("active"));
    let told = rig.events("policy_changed").pop().unwrap();
    assert!(told["message"].as_str().unwrap().contains("quota 100 GiB → 4.00 MiB"), "{told}");
}

/// Killed before the file has the entry: the next start writes it as it was made, where it was to be.
#[test]
fn a_user_being_added_keeps_inbounds_and_credentials() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls"), named("ss2022")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.fails_at(Some("user-created"));
    agent.start();
    let mut rig = Rig { agent, site };
    let file = rig.site.scratch.join("import.csv");
    std::fs::write(&file, "username,password,inbounds\ncarol,her own word,trojan-tls-in\n").unwrap();
    rig.agent.command(&["users", "import", file.to_str().unwrap()]);
    rig.agent.dies();
    assert!(!rig.config().contains("carol"));
    rig.agent.fails_at(None);
    rig.agent.start();
    until_config(&rig, "carol is in", |config| config.contains("carol"));
    let config: serde_json::Value = serde_json::from_str(&rig.config()).unwrap();
    let users = |at: usize| config["inbounds"][at]["users"].as_array().unwrap().clone();
    assert_eq!(users(0).last().unwrap(), &json!({"name": "carol", "password": "her own word"}));
    assert!(users(1).iter().all(|user| user["name"] != json!("carol")), "{config}");
    // And the import goes on where it was.
    rig.done(&["users", "import", file.to_str().unwrap()]);
    assert_eq!(rig.show("carol")["state"], json!("active"));
    assert_eq!(rig.config().matches("carol").count(), 1);
}

/// Killed before the file has the entry; then somebody else gets the same password by hand. Who was being added cannot
/// come in any more, is given up, and holds up nobody.
#[test]
fn a_user_being_added_whose_password_was_taken_is_given_up() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    rig.agent.stop();
    rig.agent.fails_at(Some("user-created"));
    rig.agent.start();
    let file = rig.site.scratch.join("import.csv");
    std::fs::write(&file, "username,password\ncarol,her own word\ndave,his own word\n").unwrap();
    rig.agent.command(&["users", "import", file.to_str().unwrap()]);
    rig.agent.dies();
    let mut config: serde_json::Value = serde_json::from_str(&rig.config()).unwrap();
    let users = config["inbounds"][0]["users"].as_array_mut().unwrap();
    users.push(json!({"name": "dora", "password": "her own word"}));
    std::fs::write(rig.site.config(), config.to_string()).unwrap();
    rig.agent.fails_at(None);
    rig.agent.start();
    until_config(&rig, "dave is in", |config| config.contains("dave"));
    wait("carol is given up", || match &rig.events("user_not_added")[..] {
        [told] if told["message"].to_string().contains("credential") => Ok(()),
        told => Err(format!("{told:?}")),
    });
    assert!(!rig.config().contains("carol"));
    assert_eq!(rig.refused(&["users", "show", "carol"])["error"]["kind"], json!("not_found"));
    until_well(&rig);
    rig.done(&["users", "disable", &rig.alice().name]);
    until_config(&rig, "alice is out", |config| !config.contains(&*rig.alice().name));
}

/// The file has the new user, and then the rest fails: the user is taken out of it again, is never taken for
/// somebody whom an admin has put there, and the name is free.
#[test]
fn a_user_who_could_not_be_made_is_taken_back() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let before = rig.config();
    rig.agent.stop();
    rig.agent.fails_at(Some("noting"));
    rig.agent.start();
    rig.refused(&["users", "add", "carol", "--quota", "1GiB"]);
    until_config(&rig, "the file is as it was", |config| config == before);
    // Whatever is read meanwhile.
    rig.agent.stop();
    rig.agent.fails_at(None);
    rig.agent.start();
    assert_eq!(rig.config(), before);
    assert_eq!(rig.events("user_adopted").len(), 2);
    rig.done(&["users", "add", "carol", "--quota", "1GiB"]);
    assert_eq!(rig.config().matches("carol").count(), 1);
    assert_eq!(rig.show("carol")["period"]["quota_bytes"], json!(1_u64 << 30));
}

/// A connection too many is blocked later where the kernel has refused it at first.
#[test]
fn a_block_that_the_kernel_refused_is_tried_again() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "ss2022");
    rig.agent.stop();
    rig.agent.fails_at(Some("block"));
    rig.agent.start();
    let alice = rig.alice().name.clone();
    rig.done(&["users", "set", &alice, "--max-flows", "1"]);
    let (told, ends) = mpsc::channel();
    for _ in 0..2 {
        let (proxy, target, told) = (rig.alice().proxy.clone(), rig.site.target, told.clone());
        // Goes on until it is blocked, or the site ends.
        thread::spawn(move || {
            told.send(proxy.echo(target, u32::MAX, 100).map_err(|error| error.to_string()))
        });
    }
    let ended = ends.recv_timeout(Duration::from_secs(60)).expect("one of the two is blocked");
    ended.expect_err("it is blocked");
    ends.recv_timeout(Duration::from_millis(1)).expect_err("both are");
    assert!(!rig.events("user_over_limit").is_empty());
}
