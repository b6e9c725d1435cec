//! Users of V2Ray are metered in the kernel, to the byte.

use std::fs;
use std::io::Write as _;

use boxmeter_tests::{
    agent::Agent,
    cases::{Udp, named},
    needs_machine,
    questions::exact,
    scene::Scene as _,
    singbox::{Dropped, Site, VERSIONS},
    target::{head, receive, send},
    v2ray::{TUTORIAL_USERS, V2raySite, tutorial, with_handler},
    wait,
};
use serde_json::{Value, json};

fn metered(site: &V2raySite) -> Agent {
    let mut agent = Agent::beside(&site.scratch, &[], &[&site.config()], &site.inside);
    agent.start();
    agent
}

#[test]
fn the_tutorials_users_are_metered_to_the_byte() {
    needs_machine!();
    let mut site = V2raySite::new(&tutorial(), TUTORIAL_USERS);
    let agent = metered(&site);
    site.drive(2);
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
    let status = agent.done(&["status"]);
    assert_eq!(status["services"][0]["version"], json!("4.34.0"), "{status}");
    assert_eq!(
        status["services"][0]["source"],
        json!({"kind": "log-file", "connected": true, "counters": {}})
    );
    assert_eq!(status["singbox"]["pid"], Value::Null);
    let inbounds: Vec<_> =
        status["inbounds"].as_array().unwrap().iter().map(|it| it["tag"].clone()).collect();
    assert_eq!(inbounds, [json!("v2ray/trojan"), json!("v2ray/vmess")], "the API's is none");
}

/// Every inbound type that names its users, and every way their bytes come.
#[test]
fn users_of_every_inbound_are_metered_to_the_byte() {
    needs_machine!();
    let id = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    let mut config = tutorial();
    let inbound = |tag: &str, port: u16, kind: &str, settings: Value| json!({"tag": tag, "listen": "10.77.0.1", "port": port, "protocol": kind, "settings": settings});
    let client = |n: u32, name: &str| json!([{"id": id(n), "email": name, "level": 0}]);
    let mut web = inbound("web", 30_446, "vmess", json!({"clients": client(2, "web@x")}));
    web["streamSettings"] = json!({"network": "ws", "wsSettings": {"path": "/w"}});
    let list = config["inbounds"].as_array_mut().unwrap();
    list.extend([
        inbound("vless", 30_445, "vless", json!({"decryption": "none", "clients": client(1, "vless@x")})),
        web,
        inbound(
            "shadow",
            30_448,
            "shadowsocks",
            json!({"method": "aes-128-gcm", "password": "shadow", "email": "shadow@x", "network": "tcp,udp"}),
        ),
    ]);
    let comers = [
        ("user1@example.com", "trojan", Udp::Watched),
        ("user3@example.com", "vmess", Udp::Watched),
        ("vless@x", "vless", Udp::Watched),
        ("web@x", "web", Udp::Watched),
        ("shadow@x", "shadow", Udp::Watched),
    ];
    let mut site = V2raySite::new(&config, &comers);
    let agent = metered(&site);
    site.drive(2);
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// Killed under traffic: what came and went while no agent ran is its users' too.
#[test]
fn a_killed_agent_loses_nothing() {
    needs_machine!();
    const BYTES: u64 = 251 * 1_200;
    let mut site = V2raySite::new(&tutorial(), TUTORIAL_USERS);
    let mut agent = metered(&site);
    let user = &site.users[0];
    let mut open = user.proxy.connect(site.target.tcp).unwrap();
    open.write_all(&head(2 * BYTES, BYTES)).unwrap();
    send(&mut open, BYTES).unwrap();
    for _ in 0..3 {
        site.drive(1);
        agent.kill();
        // Opened and ended while nobody looks.
        site.drive(1);
        agent.start();
    }
    send(&mut open, BYTES).unwrap();
    receive(&mut open, BYTES).unwrap();
    drop(open);
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// V2Ray restarts, its log is rotated by moving and by cutting: each byte stays its user's.
#[test]
fn restarts_and_rotated_logs_lose_nothing() {
    needs_machine!();
    let mut site = V2raySite::new(&tutorial(), TUTORIAL_USERS);
    let agent = metered(&site);
    site.drive(1);
    // It writes to the moved file until it restarts.
    fs::rename(site.access_log(), site.folder().join("access.log.1")).unwrap();
    site.drive(1);
    site.server = None;
    site.start_server();
    wait("the agent has seen the restart", || match agent.events("service_restarted").len() {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    site.drive(1);
    // Lines that were not read when a file is cut are lost, as docs/services.md says.
    wait("everything is somebody's", || {
        let audit = agent.ask(&["audit"])?;
        let free = &audit["unattributed"];
        match free["upload_payload_bytes"] == json!(0) && free["download_payload_bytes"] == json!(0) {
            true => Ok(()),
            false => Err(audit.to_string()),
        }
    });
    fs::File::options().write(true).open(site.access_log()).unwrap().set_len(0).unwrap();
    wait("the cut was seen", || {
        let status = agent.ask(&["status"])?;
        match status["source"]["counters"].to_string() + &status["kernel"]["counters"].to_string() {
            text if text.contains("log_truncated") => Ok(()),
            text => Err(text),
        }
    });
    site.drive(1);
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}

/// sing-box and V2Ray on one machine: a user of both is one account, and each has its share.
#[test]
fn a_user_of_two_services_is_one_account() {
    needs_machine!();
    let singbox = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let name = singbox.users[0].name.clone();
    let mut config = with_handler();
    config["inbounds"][1]["settings"]["clients"][0]["email"] = json!(name);
    let v2ray = V2raySite::beside(&singbox, &config, &[(&name, "trojan", Udp::Watched)]);
    let files = (singbox.config(), v2ray.config());
    let mut agent = Agent::beside(&singbox.scratch, &[&files.0], &[&files.1], &singbox.inside);
    agent.start();
    let users = agent.done(&["users", "list"]);
    let names: Vec<_> = users["users"].as_array().unwrap().iter().map(|user| user["name"].clone()).collect();
    assert_eq!(names.iter().filter(|it| **it == json!(name)).count(), 1, "{names:?}");
    singbox.users[0].proxy.exchange(singbox.target(), 100_000, 300_000).unwrap();
    v2ray.users[0].proxy.exchange(v2ray.target(), 200_000, 700_000).unwrap();
    wait("both are counted", || {
        let [_, down] = Agent::payload(&agent.ask(&["usage"])?, &name);
        if down >= 1_000_000 { Ok(()) } else { Err(format!("{down} bytes")) }
    });
    let shown = agent.show(&name);
    let shares = shown["services"].as_array().unwrap();
    assert_eq!(
        shares.iter().map(|share| share["service"].as_str().unwrap()).collect::<Vec<_>>(),
        ["sing-box", "v2ray"]
    );
    let [one, two] = [0, 1].map(|at| shares[at]["download_payload_bytes"].as_u64().unwrap());
    assert!((300_000..400_000).contains(&one) && (700_000..800_000).contains(&two), "{shares:?}");
    assert_eq!(shown["traffic"]["download_payload_bytes"], json!(one + two));
    // One quota over both: cut on the one, used up on the other.
    agent.done(&["users", "set", &name, "--quota", "3MiB"]);
    v2ray.users[0].proxy.exchange(v2ray.target(), 0, 64 << 20).expect_err("more than the quota passed");
    agent.until_state(&name, "limited");
    singbox.users[0].proxy.exchange(singbox.target(), 0, 64 << 20).expect_err("a cut user got through");
    singbox.users[1].proxy.exchange(singbox.target(), 0, 1 << 20).unwrap();
    wait("the user is in neither file", || {
        let texts = [&files.0, &files.1].map(|file| fs::read_to_string(file).unwrap());
        if texts.iter().any(|text| text.contains(&name)) { Err(texts.concat()) } else { Ok(()) }
    });
    assert_eq!(agent.done(&["audit"])["difference_bytes"], json!(0));
}
