//! Users who are added, switched off and on, and deleted, and what is refused.

use boxmeter_tests::{needs_machine, singbox::VERSIONS, wait};
use serde_json::json;

use crate::rig::{MIB, Rig, Stream, while_streaming};
use boxmeter_tests::scene::Scene as _;

#[test]
fn disable_and_enable_touch_one_user_and_leave_the_file_as_it_was() {
    needs_machine!();
    for version in VERSIONS {
        let rig = Rig::new(version, "vless-tls");
        let (alice, bob) = (rig.alice(), rig.bob());
        let before = rig.config();
        while_streaming(&rig, bob, || {
            rig.done(&["users", "disable", &alice.name]);
            rig.exchange(alice, 0, 64 * MIB).expect_err("a disabled user got through");
            wait("the entry is out", || match rig.config() != before {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            });
            assert_eq!(rig.show(&alice.name)["state"], json!("disabled"));
            rig.done(&["users", "enable", &alice.name]);
            rig.exchange(alice, 0, MIB).unwrap();
            wait("the file is as it was", || match rig.config() == before {
                true => Ok(()),
                false => Err(rig.config()),
            });
        });
    }
}

#[test]
fn an_added_user_comes_in_and_a_deleted_one_does_not() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let before = rig.config();
    let added = rig.done(&["users", "add", "carol", "--policy", "basic"]);
    let credentials = added["credentials"].as_array().unwrap();
    let password = credentials[0]["entry"]["password"].as_str().unwrap();
    assert!(rig.config().contains(password), "{added}");
    assert_eq!(rig.show("carol")["period"]["quota_bytes"], json!(100_u64 << 30));
    wait("sing-box has read it", || {
        let status = rig.agent.ask(&["status"])?;
        match status["enforcement"]["reloads"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(status["enforcement"].to_string()),
        }
    });
    rig.done(&["users", "delete", "carol", "--yes"]);
    wait("the file is as it was", || match rig.config() == before {
        true => Ok(()),
        false => Err(rig.config()),
    });
    let gone = rig.refused(&["users", "show", "carol"]);
    assert_eq!(gone["error"]["kind"], json!("not_found"), "{gone}");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let alice = rig.alice().name.clone();
    let before = rig.config();
    for words in [
        &["users", "add", &alice][..],
        &["users", "add", "new\nline"],
        &["users", "add", "dave", "--inbounds", "nowhere"],
        &["users", "add", "dave", "--policy", "gold"],
        &["users", "set", "nobody", "--quota", "1GiB"],
        &["users", "set", &alice, "--expires", "2020-01-01"],
        &["users", "set", &alice, "--quota", "many"],
        &["policies", "delete", "unlimited", "--yes"],
        &["packages", "add", "nobody", "1GiB"],
        &["users", "set", &alice, "--quota", "1GiB", "--inbounds", "trojan-tls-in,nowhere"],
    ] {
        let output = rig.agent.command(words);
        assert!(!output.status.success(), "{words:?} was accepted");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(rig.config(), before);
    assert_eq!(rig.done(&["users", "list"])["users"].as_array().unwrap().len(), 2);
    assert_eq!(rig.show(&alice)["period"]["quota_bytes"], json!(null));
}

/// sing-box itself lets a deleted user in until it reads its files again; the kernel does not.
#[test]
fn a_deleted_user_is_cut_before_sing_box_knows() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (alice, bob) = (rig.alice(), rig.bob());
    let mut open = Stream::open(&rig, alice);
    while_streaming(&rig, bob, || {
        rig.done(&["users", "delete", &alice.name, "--yes"]);
        open.take(&false.into(), &0.into()).expect_err("the open connection lives on");
        wait("the edit was told", || match rig.events("users_edited").is_empty() {
            true => Err("not yet".to_owned()),
            false => Ok(()),
        });
        assert!(!rig.config().contains(&alice.name));
        // What the edit has the agent read anew changes nothing.
        for _ in 0..3 {
            rig.exchange(alice, 0, 64 * MIB).expect_err("a deleted user got through");
        }
        let reloads = rig.events("singbox_reloaded");
        assert!(reloads.is_empty(), "not by the kernel alone: {reloads:?}");
    });
}

/// Each of two changes at once is made from what the other one left.
#[test]
fn changes_at_once_lose_nothing() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = &rig.alice().name;
    for round in 1..=5_u64 {
        let (quota, flows) = (format!("{round}GiB"), (100 + round).to_string());
        std::thread::scope(|scope| {
            scope.spawn(|| rig.done(&["users", "set", name, "--quota", &quota]));
            scope.spawn(|| rig.done(&["users", "set", name, "--max-flows", &flows]));
        });
        let overrides = &rig.show(name)["overrides"];
        assert_eq!(overrides["quota_bytes"], json!(round << 30), "{overrides}");
        assert_eq!(overrides["max_flows"], json!(100 + round), "{overrides}");
    }
}
