//! Limits on users of V2Ray: cut at the byte with their open connections, taken out of its configuration and
//! of its running process, and put back.

use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread::available_parallelism,
};

use boxmeter_tests::{
    needs_machine,
    scene::{Stream, side_by_side, while_streaming},
    v2ray::{TUTORIAL_USERS, V2raySite, tutorial, with_handler},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig};
use boxmeter_tests::scene::Scene as _;

/// The most that passes beyond a quota: one packet of the largest size for each CPU.
fn overshoot_max() -> u64 {
    (128 << 10) * available_parallelism().unwrap().get() as u64
}

/// Cut at the byte while another user streams on; V2Ray is told by its API and never restarted; a package
/// brings the user back, and the file is as it was.
#[test]
fn a_user_over_quota_is_cut_at_the_byte_and_told_to_the_running_v2ray() {
    needs_machine!();
    let rig = Rig::new(&with_handler());
    let (alice, bob) = (rig.alice(), rig.bob());
    let (quota, before) = (4 * MIB, rig.site.text());
    let pid = rig.site.server.as_ref().unwrap().pid();
    rig.agent.done(&["users", "set", &alice.name, "--quota", "4MiB"]);
    let mut open = Stream::open(&rig, alice);
    while_streaming(&rig, bob, || {
        // The open connection uses the quota up, and is ended.
        open.take(&AtomicBool::new(false), &AtomicU64::new(0)).expect_err("the quota ends the connection");
        rig.agent.until_state(&alice.name, "limited");
        let used = rig.agent.used(&alice.name);
        assert!((quota..=quota + overshoot_max()).contains(&used), "{used} of {quota}");
        rig.until_text("the entry is out of the file", |text| !text.contains(&alice.name));
        assert!(rig.site.text().contains(&bob.name));
        rig.until_turned_away(alice);
        rig.agent.done(&["packages", "add", &alice.name, "8MiB"]);
        rig.agent.until_state(&alice.name, "active");
        rig.until_text("the file is as it was", |text| text == before);
        wait("the user is let in", || rig.exchange(alice, 0, MIB));
    });
    assert_eq!(rig.site.server.as_ref().unwrap().pid(), pid);
    let status = rig.agent.done(&["status"]);
    assert_eq!(status["enforcement"]["reloads"], json!(0), "{status}");
    assert!(rig.agent.events("service_restarted").is_empty());
    wait("nothing waits for a restart", || {
        let status = rig.agent.ask(&["status"])?;
        if status["enforcement"]["pending"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(rig.agent.done(&["audit"])["difference_bytes"], json!(0));
}

#[test]
fn speeds_are_kept_in_their_ratio() {
    needs_machine!();
    let rig = Rig::new(&tutorial());
    for (user, rate) in [(rig.alice(), "1MiB/s"), (rig.bob(), "4MiB/s")] {
        rig.agent.done(&["users", "set", &user.name, "--speed-down", rate]);
    }
    // What comes before the log has told whose it is is not slowed.
    let [slow, fast] = side_by_side(&rig, [rig.alice(), rig.bob()], 8 * MIB..24 * MIB);
    let ratio = fast as f64 / slow as f64;
    assert!((2.5..6.0).contains(&ratio), "{slow} and {fast} bytes");
}

/// Without HandlerService the file is edited at once, and V2Ray restarted when nobody would notice.
#[test]
fn without_an_api_v2ray_is_restarted() {
    needs_machine!();
    let site = V2raySite::new(&tutorial(), TUTORIAL_USERS);
    let mut rig = Rig::of(site);
    let command = rig.site.supervise();
    rig.agent.configure("[service]", &format!("restart = {:?}", format!("command:{command}")));
    rig.agent.start();
    let before = rig.site.text();
    let alice = rig.alice().name.clone();
    rig.agent.done(&["users", "disable", &alice]);
    rig.until_text("the entry is out of the file", |text| !text.contains(&alice));
    wait("V2Ray was restarted", || match rig.agent.events("service_reloaded").len() {
        0 => Err(rig.agent.done(&["status"]).to_string()),
        _ => Ok(()),
    });
    rig.until_turned_away(rig.alice());
    wait("the other one gets through", || rig.exchange(rig.bob(), 0, MIB));
    rig.agent.done(&["users", "enable", &alice]);
    rig.until_text("the file is as it was", |text| text == before);
    wait("the user is let in", || rig.exchange(rig.alice(), 0, MIB));
}

/// From the cut to the API, with V2Ray restarted in between: whoever was cut stays cut, and comes back as it
/// was.
#[test]
fn an_agent_that_dies_at_any_step_loses_nothing() {
    needs_machine!();
    let mut rig = Rig::new(&with_handler());
    let (alice, before) = (rig.alice().name.clone(), rig.site.text());
    for (round, fault) in ["kernel-cut", "parked", "written", "noted", "told-live"].into_iter().enumerate() {
        rig.agent.stop();
        rig.agent.fails_at(Some(fault));
        rig.agent.start();
        rig.agent.command(&["users", "disable", &alice]);
        rig.agent.dies();
        if round % 2 == 1 {
            rig.site.server = None;
            rig.site.start_server();
        }
        rig.agent.fails_at(None);
        rig.agent.start();
        assert_eq!(rig.agent.show(&alice)["state"], json!("disabled"), "{fault}");
        rig.until_text("the entry is out of the file", |text| !text.contains(&alice));
        rig.until_turned_away(rig.alice());
        rig.exchange(rig.bob(), 0, MIB).unwrap();
        rig.agent.done(&["users", "enable", &alice]);
        rig.until_text("the file is as it was", |text| text == before);
        wait("the user is let in", || rig.exchange(rig.alice(), 0, MIB));
    }
    assert_eq!(rig.agent.done(&["audit"])["difference_bytes"], json!(0));
}

/// V2Ray opens the files of its logs also where it only checks a configuration: not those of the real one.
#[test]
fn a_check_leaves_the_logs_alone() {
    needs_machine!();
    let rig = Rig::new(&with_handler());
    // It writes to the moved file, and what is made anew would be the checking agent's.
    std::fs::rename(rig.site.access_log(), rig.site.folder().join("moved.log")).unwrap();
    let alice = &rig.alice().name;
    rig.agent.done(&["users", "disable", alice]);
    rig.until_text("the entry is out of the file", |text| !text.contains(alice));
    assert!(!rig.site.access_log().exists());
}

/// A user made by boxmeter comes in at once, without a restart, and goes for good.
#[test]
fn users_are_added_and_deleted_while_v2ray_runs() {
    needs_machine!();
    let rig = Rig::new(&with_handler());
    let before = rig.site.text();
    let made =
        rig.agent.done(&["users", "add", "carol@example.com", "--inbounds", "v2ray/trojan,v2ray/vmess"]);
    let text = made.to_string();
    assert!(text.contains("v2ray/trojan") && text.contains("password"), "{text}");
    rig.until_text("the user is in the file", |text| text.matches("carol@example.com").count() == 2);
    wait("V2Ray was told", || {
        let told = rig.agent.events("users_edited");
        match told.iter().any(|event| event.to_string().contains("no restart")) {
            true => Ok(()),
            false => Err(format!("{told:?}")),
        }
    });
    rig.agent.done(&["users", "delete", "carol@example.com", "--yes"]);
    rig.until_text("the file is as it was", |text| text == before);
    assert!(rig.agent.events("service_restarted").is_empty());
}
