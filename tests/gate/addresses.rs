//! Addresses: too many at a time, and accounts that are shared. The agent's intervals are shortened; their
//! lengths have tests of their own in `core::crowd`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use boxmeter_tests::{needs_machine, singbox::VERSIONS, wait};
use serde_json::json;

use crate::rig::{Rig, Stops, Stream};
use boxmeter_tests::scene::Scene as _;

/// The second address of the clients' namespace.
const SECOND: &str = "10.77.0.3";

/// From here on the first user's new connections come from this address; open ones stay.
fn come_from(rig: &Rig, address: &str) {
    let far = rig.site.cable.as_deref().unwrap().replace('a', "b");
    rig.site.outside.ip(&["route", "replace", "10.77.0.0/24", "dev", &far, "src", address]);
}

/// Addresses of a user's open connections.
fn addresses(rig: &Rig, user: &str) -> Vec<IpAddr> {
    let flows = rig.done(&["flows", "--user", user])["flows"].clone();
    let peer = |flow: &serde_json::Value| flow["peer"].as_str().unwrap().parse::<SocketAddr>().unwrap().ip();
    let mut found: Vec<IpAddr> = flows.as_array().unwrap().iter().map(peer).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// New connections come from the second address, once the first one's is there: clients connect when they will.
fn move_on(rig: &Rig, user: &str) {
    wait("the first is seen", || match addresses(rig, user).len() {
        1 => Ok(()),
        seen => Err(seen.to_string()),
    });
    come_from(rig, SECOND);
}

/// A connection that moves a little all the time, in both directions, until it is ended.
fn busy(stream: &mut Stream, ended: &AtomicBool, stop: &AtomicBool) {
    let done = stream.take(stop, &AtomicU64::new(0));
    ended.store(done.is_err(), Ordering::Relaxed);
}

/// Two addresses with traffic at the same time where one is allowed: `wins` says who stays.
fn one_stays(wins: &str, stays: usize) {
    let rig = Rig::hurried(VERSIONS[2], "trojan-tls");
    let alice = rig.alice().name.clone();
    rig.done(&["users", "set", &alice, "--max-addresses", "1", "--wins", wins, "--speed-down", "8MiB/s"]);
    let first = Stream::open(&rig, rig.alice());
    move_on(&rig, &alice);
    let second = Stream::open(&rig, rig.alice());
    let mut streams = [first, second];
    let (ended, stop) = ([AtomicBool::new(false), AtomicBool::new(false)], AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for (stream, ended) in streams.iter_mut().zip(&ended) {
            scope.spawn(|| busy(stream, ended, &stop));
        }
        wait("one of them is ended", || match &ended[1 - stays].load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(format!("{:?}", addresses(&rig, &alice))),
        });
    });
    assert!(!ended[stays].load(Ordering::Relaxed), "{wins}: both were ended");
    let told = rig.events("user_over_limit");
    assert!(told.iter().any(|event| event["data"]["limit"] == json!("max_addresses")), "{told:?}");
}

#[test]
fn the_newest_address_stays_or_the_oldest() {
    needs_machine!();
    one_stays("newest", 1);
    one_stays("oldest", 0);
}

/// Used from two addresses at the same time: suspended, with what was seen, until somebody enables it.
#[test]
fn a_shared_account_is_suspended_with_its_evidence() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["users", "set", &alice, "--sharing", "1/10s=suspend", "--speed-down", "1MiB/s"]);
    rig.done(&["users", "set", &bob, "--sharing", "1/10s=suspend", "--speed-down", "1MiB/s"]);
    let alone = Stream::open(&rig, rig.bob());
    let first = Stream::open(&rig, rig.alice());
    move_on(&rig, &alice);
    let second = Stream::open(&rig, rig.alice());
    let mut streams = [first, second, alone];
    let ended: [AtomicBool; 3] = Default::default();
    let stop = AtomicBool::new(false);
    let shown = std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for (stream, ended) in streams.iter_mut().zip(&ended) {
            scope.spawn(|| busy(stream, ended, &stop));
        }
        let shown = rig.until_state(&alice, "suspended");
        wait("both connections are ended", || {
            let live = ended[..2].iter().filter(|ended| !ended.load(Ordering::Relaxed)).count();
            if live == 0 { Ok(()) } else { Err(live.to_string()) }
        });
        shown
    });
    assert_eq!(shown["cause"]["kind"], json!("suspended"), "{shown}");
    assert!(!ended[2].load(Ordering::Relaxed), "the one who is alone was ended");
    assert_eq!(rig.show(&bob)["state"], json!("active"));
    let told = rig.events("sharing_suspected").pop().unwrap();
    let seen: Vec<_> =
        told["data"]["addresses"].as_array().unwrap().iter().map(|a| a["address"].clone()).collect();
    assert!(seen.contains(&json!("10.77.0.2")) && seen.contains(&json!(SECOND)), "{told}");
    rig.done(&["users", "enable", &alice]);
    rig.until_state(&alice, "active");
}

/// The same account under the other actions: noted, it goes on as before; throttled, it goes on slowly until it is
/// not shared any more.
#[test]
fn a_shared_account_is_noted_or_slowed() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let alice = rig.alice().name.clone();
    rig.done(&["users", "set", &alice, "--sharing", "1/10s=note", "--speed-down", "1MiB/s"]);
    let first = Stream::open(&rig, rig.alice());
    move_on(&rig, &alice);
    let mut streams = [first, Stream::open(&rig, rig.alice())];
    // Who was ended, and why.
    let (ended, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for (at, stream) in streams.iter_mut().enumerate() {
            let (ended, stop) = (&ended, &stop);
            scope.spawn(move || {
                let done = stream.take(stop, &AtomicU64::new(0));
                ended.lock().unwrap().extend(done.err().map(|why| (at, why)));
            });
        }
        let told = wait("it is noted", || {
            let seen = || format!("{:?} {ended:?}", addresses(&rig, &alice));
            rig.events("sharing_suspected").pop().ok_or_else(seen)
        });
        assert_eq!(told["data"]["action"], json!("note"), "{told}");
        assert_eq!(told["severity"], json!("info"), "{told}");
        let shown = rig.show(&alice);
        assert_eq!(
            (&shown["state"], &shown["enforcement"]["speed"]["down"]),
            (&json!("active"), &json!(1 << 20))
        );
        rig.done(&["users", "set", &alice, "--sharing", "1/10s=throttle:512KiB/s"]);
        let shown = rig.until_state(&alice, "throttled");
        assert_eq!(shown["cause"]["kind"], json!("shared"), "{shown}");
        assert_eq!(shown["enforcement"]["speed"], json!({"up": 512 << 10, "down": 512 << 10}), "{shown}");
    });
    let ended = ended.into_inner().unwrap();
    assert!(ended.is_empty(), "nobody's connection is ended for it: {ended:?}");
    // The relay takes bytes on and on, whoever has gone: more addresses are allowed instead.
    rig.done(&["users", "set", &alice, "--sharing", "5/10s=throttle:512KiB/s"]);
    let shown = rig.until_state(&alice, "active");
    assert_eq!(shown["enforcement"]["speed"]["down"], json!(1 << 20), "{shown}");
}
