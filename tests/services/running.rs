//! Who is out of the running V2Ray, on every kind of inbound whose users it changes while it runs.

use boxmeter_tests::{
    cases::Udp,
    needs_machine,
    scene::Scene as _,
    v2ray::{V2raySite, with_handler},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig};

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
