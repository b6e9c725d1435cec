//! sing-box is stopped: who is cut is out of its files before it starts, and who is added is in.

use boxmeter_tests::scene::Scene as _;
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS, binary},
    wait,
};
use serde_json::json;

use crate::{
    rig::{MIB, Rig},
    troubles::until_trouble,
};

fn rig(named_binary: bool) -> Rig {
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    if named_binary {
        let path = binary(VERSIONS[2]).display().to_string();
        agent.configure("singbox", &format!("binary = {path:?}"));
    }
    agent.configure("singbox", "reload_within = \"3s\"");
    agent.start();
    Rig { agent, site }
}

#[test]
fn edits_while_sing_box_is_stopped_are_there_when_it_starts() {
    needs_machine!();
    for named_binary in [false, true] {
        let mut rig = rig(named_binary);
        let (name, before) = (rig.alice().name.clone(), rig.config());
        // In the moment in which its end was not seen yet, and after.
        rig.site.server = None;
        rig.done(&["users", "disable", &name]);
        wait("alice is out", || if rig.config().contains(&name) { Err(rig.config()) } else { Ok(()) });
        wait("its end was seen", || match rig.done(&["status"])["singbox"]["pid"].is_null() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        rig.done(&["users", "add", "carol"]);
        assert!(rig.config().contains("carol"));
        // Nothing is put back, and nothing is called a failure: there is nobody to be told.
        wait("nothing waits for a reload", || {
            match rig.done(&["status"])["enforcement"]["pending"].is_null() {
                true => Ok(()),
                false => Err("it waits".to_owned()),
            }
        });
        assert!(!rig.config().contains(&name), "{}", rig.config());
        let failed = rig.events("edit_failed");
        assert!(failed.is_empty(), "{failed:?}");
        rig.site.start_server();
        wait("bob gets through", || rig.exchange(rig.bob(), 0, MIB));
        rig.exchange(rig.alice(), 0, MIB).expect_err("who is out");
        rig.done(&["users", "delete", "carol", "--yes"]);
        rig.done(&["users", "enable", &name]);
        wait("the file is as it was", || if rig.config() == before { Ok(()) } else { Err(rig.config()) });
        wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
        assert!(rig.events("put_back_by_hand").is_empty());
    }
}

/// Written by an agent that has not yet seen that sing-box has begun anew: that one is told.
#[test]
fn an_edit_right_after_a_restart_is_not_forgotten() {
    needs_machine!();
    let mut rig = rig(false);
    let name = rig.alice().name.clone();
    rig.site.server = None;
    rig.site.start_server();
    rig.done(&["users", "disable", &name]);
    wait("sing-box is told", || match rig.done(&["status"])["enforcement"]["reloads"].as_u64() {
        Some(1..) => Ok(()),
        reloads => Err(format!("{reloads:?}")),
    });
    assert!(!rig.config().contains(&name));
    // Also by sing-box itself, not by the kernel alone.
    rig.agent.stop();
    rig.agent.command(&["detach", "--yes"]);
    rig.agent.start();
}

/// Where no executable can be found people are told what to do, and nothing is lost.
#[test]
fn a_stopped_sing_box_that_nobody_knows_is_said() {
    needs_machine!();
    let mut rig = rig(false);
    let (name, before) = (rig.alice().name.clone(), rig.config());
    rig.agent.stop();
    rig.site.server = None;
    rig.agent.environment("PATH", "/nonexistent");
    rig.agent.start_unheard();
    rig.done(&["users", "disable", &name]);
    until_trouble(&rig, "[singbox] binary");
    assert_eq!(rig.config(), before);
    assert_eq!(rig.show(&name)["state"], json!("disabled"));
    rig.site.start_server();
    wait("alice is out", || if rig.config().contains(&name) { Err(rig.config()) } else { Ok(()) });
}
