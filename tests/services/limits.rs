//! Limits of users of V2Ray beside quota and speed: connections, addresses; and who is out of the running proxy, on
//! every kind of inbound whose users it changes while it runs.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use boxmeter_tests::{
    agent::Agent,
    cases::{Udp, named},
    needs_machine,
    scene::{Scene as _, Stops, Stream},
    singbox::{Site, VERSIONS},
    v2ray::{TUTORIAL_USERS, V2raySite, with_handler},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig};

/// Reads until each is ended, and says so.
fn until_ended(streams: &mut [Stream], rig: impl FnOnce(&[AtomicBool])) {
    let ended: Vec<AtomicBool> = streams.iter().map(|_| AtomicBool::default()).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        for (stream, ended) in streams.iter_mut().zip(&ended) {
            let stop = &stop;
            scope.spawn(move || {
                let done = stream.take(stop, &AtomicU64::new(0));
                ended.store(done.is_err(), Ordering::Relaxed);
            });
        }
        rig(&ended);
    });
}

fn count(ended: &[AtomicBool]) -> usize {
    ended.iter().filter(|it| it.load(Ordering::Relaxed)).count()
}

#[test]
fn connections_beyond_the_limit_are_ended() {
    needs_machine!();
    let rig = Rig::new(&with_handler());
    let alice = rig.alice();
    rig.agent.done(&["users", "set", &alice.name, "--max-flows", "2"]);
    let mut streams: Vec<_> = (0..5).map(|_| Stream::open(&rig, alice)).collect();
    until_ended(&mut streams, |ended| {
        wait("three are ended", || match count(ended) {
            3 => Ok(()),
            ended => Err(format!("{ended} ended")),
        });
        assert_eq!(rig.agent.show(&alice.name)["live"]["flows"], json!(2));
    });
    assert!(!rig.agent.events("user_over_limit").is_empty());
    rig.exchange(rig.bob(), 0, MIB).unwrap();
}

/// One address is allowed: the connection from the first one is ended when the second one moves bytes.
#[test]
fn addresses_beyond_the_limit_are_ended() {
    needs_machine!();
    // Its clients' namespace has two addresses.
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let v2ray = V2raySite::beside(&site, &with_handler(), TUTORIAL_USERS);
    let mut agent = Agent::beside(&site.scratch, &[], &[&v2ray.config()], &site.inside);
    agent.hurries();
    agent.start();
    let alice = v2ray.alice();
    agent.done(&["users", "set", &alice.name, "--max-addresses", "1", "--wins", "newest"]);
    agent.done(&["users", "set", &alice.name, "--speed-down", "8MiB/s"]);
    let addresses = || {
        let flows = agent.done(&["flows", "--user", &alice.name])["flows"].clone();
        let peers = flows.as_array().unwrap().iter().map(|flow| flow["peer"].as_str().unwrap().to_owned());
        peers.map(|peer| peer.parse::<SocketAddr>().unwrap().ip()).collect::<BTreeSet<_>>()
    };
    let first = Stream::open(&v2ray, alice);
    wait("the first is seen", || match addresses().len() {
        1 => Ok(()),
        seen => Err(seen.to_string()),
    });
    let far = site.cable.as_deref().unwrap().replace('a', "b");
    site.outside.ip(&["route", "replace", "10.77.0.0/24", "dev", &far, "src", "10.77.0.3"]);
    let second = Stream::open(&v2ray, alice);
    until_ended(&mut [first, second], |ended| {
        wait("the first is ended", || match ended[0].load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(format!("{:?}", addresses())),
        });
        assert_eq!(count(ended), 1, "both are ended");
    });
    let told = agent.events("user_over_limit");
    assert!(told.iter().any(|event| event["data"]["limit"] == json!("max_addresses")), "{told:?}");
}

/// V2Ray itself turns them away, and lets them in again, without a restart.
#[test]
fn users_of_vmess_and_vless_go_and_come_while_v2ray_runs() {
    needs_machine!();
    let mut config = with_handler();
    config["inbounds"].as_array_mut().unwrap().push(json!({
        "tag": "vless", "listen": "10.77.0.1", "port": 30_445, "protocol": "vless", "settings": {
            "decryption": "none",
            "clients": [{"id": "00000000-0000-4000-8000-000000000001", "email": "vless@x", "level": 0},
                        {"id": "00000000-0000-4000-8000-000000000002", "email": "other@x", "level": 0}]}}));
    let comers = [
        ("user3@example.com", "vmess", Udp::Watched),
        ("vless@x", "vless", Udp::Watched),
        ("other@x", "vless", Udp::Watched),
    ];
    let mut rig = Rig::of(V2raySite::new(&config, &comers));
    rig.agent.start();
    let before = rig.site.text();
    let (out, stays) = rig.users().split_at(2);
    for user in out {
        rig.exchange(user, MIB, MIB).unwrap();
        rig.agent.done(&["users", "disable", &user.name]);
        rig.until_text("the entry is out of the file", |text| !text.contains(&user.name));
        rig.until_turned_away(user);
        rig.exchange(&stays[0], 0, MIB).unwrap();
        rig.agent.done(&["users", "enable", &user.name]);
        wait("the user is let in", || rig.exchange(user, 0, MIB));
    }
    rig.until_text("the file is as it was", |text| text == before);
    assert!(rig.agent.events("service_restarted").is_empty());
}
