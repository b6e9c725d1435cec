//! Quotas.

use std::thread::available_parallelism;

use boxmeter_tests::{needs_machine, singbox::VERSIONS, wait};
use serde_json::json;

use crate::rig::{MIB, Rig, while_streaming};
use boxmeter_tests::scene::Scene as _;

/// The most that passes beyond a quota: one packet of the largest size for each CPU.
fn overshoot_max() -> u64 {
    // Packets on loopback and veth reach twice the usual 64 KiB.
    (128 << 10) * available_parallelism().unwrap().get() as u64
}

/// Over the quota in the middle of a download: cut at the byte, while another user streams on; a package
/// brings the user back without a reload.
fn cut_and_back(version: &'static str, case: &'static str) {
    let rig = Rig::new(version, case);
    let (alice, bob) = (rig.alice(), rig.bob());
    let quota = 4 * MIB;
    let before = rig.config();
    rig.done(&["users", "set", &alice.name, "--quota", "4MiB"]);
    while_streaming(&rig, bob, || {
        rig.exchange(alice, 0, 64 * MIB).expect_err("more than the quota passed");
        let shown = rig.until_state(&alice.name, "limited");
        let used = rig.used(&alice.name);
        assert!((quota..=quota + overshoot_max()).contains(&used), "{version} {case}: {used} of {quota}");
        assert_eq!(shown["cause"]["kind"], json!("period_quota"), "{shown}");
        assert!(shown["reason"].as_str().unwrap().contains("comes back"), "{shown}");
        // It is said why, once.
        let told = rig.events("state_changed");
        let told: Vec<_> = told.iter().filter(|event| event["user"] == json!(alice.name)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["data"]["to"], json!("limited"));
        // New connections are cut when their owner is known, long before they are through. How long that
        // takes is a matter of the benchmarks.
        rig.exchange(alice, 0, 64 * MIB).expect_err("a cut user got through");
        assert!(rig.used(&alice.name) < quota + 64 * MIB);
        wait("the entry is out of the file", || match rig.config().contains(&alice.name) {
            true => Err("it is there".to_owned()),
            false => Ok(()),
        });
        assert!(rig.config().contains(&bob.name));
        rig.done(&["packages", "add", &alice.name, "8MiB"]);
        assert_eq!(rig.show(&alice.name)["state"], "active", "at once, with the answer");
        rig.exchange(alice, 0, 2 * MIB).unwrap();
        wait("the file is as it was", || match rig.config() == before {
            true => Ok(()),
            false => Err(rig.config()),
        });
        // Nothing waits for a reload, and none was made.
        wait("nothing waits", || match rig.done(&["status"])["enforcement"].clone() {
            now if now["pending"].is_null() => Ok(()),
            now => Err(now.to_string()),
        });
        assert_eq!(rig.done(&["status"])["enforcement"]["reloads"], json!(0));
    });
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

#[test]
fn a_user_over_quota_is_cut_at_the_byte_and_a_package_brings_it_back() {
    needs_machine!();
    for version in VERSIONS {
        cut_and_back(version, "trojan-tls");
    }
}

#[test]
fn a_quic_user_over_quota_is_cut_at_the_byte_and_a_package_brings_it_back() {
    needs_machine!();
    for version in VERSIONS {
        cut_and_back(version, "hysteria2");
    }
}

/// When the command has answered, the kernel holds the new quota: nothing more passes.
#[test]
fn a_quota_lowered_on_the_command_line_cuts_at_once() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--quota", "100GiB"]);
    let mut stream = crate::rig::Stream::open(&rig, rig.alice());
    while_streaming(&rig, rig.bob(), || {
        let (stop, taken) = (false.into(), std::sync::atomic::AtomicU64::new(0));
        std::thread::scope(|scope| {
            let taking = scope.spawn(|| stream.take(&stop, &taken));
            wait("more than the new quota passed", || {
                match taken.load(std::sync::atomic::Ordering::Relaxed) {
                    bytes if bytes > 8 * MIB => Ok(()),
                    bytes => Err(bytes.to_string()),
                }
            });
            rig.done(&["users", "set", &name, "--quota", "4MiB"]);
            let used = rig.used(&name);
            taking.join().unwrap().expect_err("the quota ends the stream");
            let after = rig.used(&name);
            assert!(after - used <= overshoot_max(), "{} bytes passed after the answer", after - used);
        });
    });
    rig.until_state(&name, "limited");
}

/// The agent may die at any moment: the kernel cuts on, and the next agent explains it.
#[test]
fn the_cut_holds_without_an_agent() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--quota", "4MiB"]);
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    rig.agent.kill();
    // Owned before: nobody is needed to cut it. A new connection has no owner without an agent, so that
    // the quota is used up on one that was open.
    rig.agent.start();
    let mut stream = crate::rig::Stream::open(&rig, rig.alice());
    let (stop, taken) = (false.into(), 0.into());
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| stream.take(&stop, &taken));
        taking.join().unwrap().expect_err("the quota ends the stream");
    });
    rig.until_state(&name, "limited");
    rig.agent.kill();
    rig.agent.start();
    let shown = rig.until_state(&name, "limited");
    assert_eq!(rig.events("state_changed").len(), 1, "what goes on is not told again");
    assert!(shown["enforcement"]["cut"].as_bool().unwrap());
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a cut user got through");
    rig.done(&["users", "reset", &name]);
    rig.until_state(&name, "active");
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    let used = rig.show(&name)["period"]["used_bytes"].as_u64().unwrap();
    assert!((MIB..2 * MIB).contains(&used), "the period began anew: {used}");
    assert!(rig.used(&name) > 5 * MIB, "history stays");
}

/// The ring of news was full when the kernel told of a crossing, which it does once: state, event and file follow
/// all the same.
#[test]
fn a_crossing_whose_news_was_lost_is_made_up_for() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    rig.agent.stop();
    rig.agent.fails_at(Some("user-event"));
    rig.agent.start();
    let alice = rig.alice().name.clone();
    rig.done(&["users", "set", &alice, "--quota", "8MiB"]);
    assert!(rig.exchange(rig.alice(), 0, 16 * MIB).is_err());
    rig.until_state(&alice, "limited");
    wait("she is out of the file", || match rig.config().contains(&alice) {
        true => Err(rig.config()),
        false => Ok(()),
    });
    assert_eq!(rig.events("state_changed").len(), 1);
}
