//! sing-box, V2Ray and nginx with one list of accounts.

use std::time::Duration;

use boxmeter_tests::{
    agent::Agent,
    cases::{Udp, named},
    needs_machine,
    nginx::{Nginx, Vts},
    scene::Scene,
    singbox::{Site, VERSIONS},
    v2ray::{TUTORIAL_USERS, V2raySite, with_handler},
    wait,
};
use serde_json::json;

use crate::{
    nginx::{nginx_lines, reported},
    rig::MIB,
};

/// The three set-ups at once: one name in all of them is one account. What it uses adds up and each has its share; over
/// quota it is cut in the kernel on two and refused by the third, while others go on; and the period's turn lets it in by
/// all of them.
#[test]
fn a_user_of_sing_box_v2ray_and_nginx_is_one_account() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let (alice, bob) = (&site.users[0], &site.users[1]);
    let mut config = with_handler();
    config["inbounds"][1]["settings"]["clients"][0]["email"] = json!(alice.name);
    let v2ray =
        V2raySite::beside(&site, &config, &[(&alice.name, "trojan", Udp::Watched), TUTORIAL_USERS[1]]);
    let vts = Vts::serve(&site.inside);
    let users = [("alice", alice.name.as_str()), ("bob", bob.name.as_str())];
    let mut nginx = Nginx::new(site.scratch.join("ng"), &site.inside, 30_881, &users);
    let files = (site.config(), v2ray.config());
    let mut agent = Agent::beside(&site.scratch, &[&files.0], &[&files.1], &site.inside);
    agent.hurries();
    agent.configure("ledger", "tick = \"200ms\"");
    agent.serve(&nginx_lines(&nginx, &nginx.answer_for(&vts), true));
    agent.start();
    wait("the file is there", || match nginx.refused().is_file() {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    });
    nginx.start();
    vts.until_asked(2);
    let exchange = |scene: &dyn Scene, at: usize| {
        let moved = scene.users()[at].proxy.exchange(scene.target(), 0, MIB);
        moved.map(drop).map_err(|error| error.to_string())
    };
    exchange(&site, 0).unwrap();
    exchange(&site, 1).unwrap();
    exchange(&v2ray, 0).unwrap();
    exchange(&v2ray, 1).unwrap();
    vts.grow(&format!("{}::example.org", alice.name), "/a", [1_000, 2 * MIB]);
    let used = wait("all are counted", || {
        let usage = agent.ask(&["usage"])?;
        let (kernel, told) = (Agent::payload(&usage, &alice.name), reported(&usage, &alice.name));
        match kernel[1] >= 2 * MIB && told == [1_000, 2 * MIB] {
            true => Ok(kernel.iter().chain(&told).sum::<u64>()),
            false => Err(format!("{kernel:?} {told:?}")),
        }
    });
    assert_eq!([&alice.name, &bob.name].map(|name| accounts(&agent, name)), [1, 1]);
    let shown = agent.show(&alice.name);
    let share = |of: &str, key: &str| {
        let shares = shown["services"].as_array().unwrap();
        let share = shares.iter().find(|share| share["service"] == json!(of));
        share.and_then(|share| share[key].as_u64()).unwrap_or_else(|| panic!("{of} {key}: {shown}"))
    };
    for of in ["sing-box", "v2ray"] {
        assert!((MIB..2 * MIB).contains(&share(of, "download_payload_bytes")), "{of}: {shown}");
    }
    assert_eq!(share("nginx", "reported_download_bytes"), 2 * MIB);
    // No two of them have so much.
    agent.done(&["users", "set", &alice.name, "--quota", "5MiB", "--period", "day"]);
    let shown = agent.show(&alice.name);
    assert!(shown["period"]["used_bytes"].as_u64().unwrap() >= used, "{shown}");
    assert_eq!(shown["state"], json!("active"));
    vts.grow(&format!("{}::example.org", alice.name), "/a", [0, MIB]);
    agent.until_state(&alice.name, "limited");
    nginx.until("alice", 403);
    exchange(&site, 0).expect_err("she is cut on sing-box");
    exchange(&v2ray, 0).expect_err("she is cut on V2Ray");
    exchange(&site, 1).unwrap();
    exchange(&v2ray, 1).unwrap();
    assert_eq!(nginx.get("bob"), 200);
    agent.moves_clock(Duration::from_secs(25 * 3600));
    agent.until_state(&alice.name, "active");
    nginx.until("alice", 200);
    wait("sing-box lets her in", || exchange(&site, 0));
    wait("V2Ray lets her in", || exchange(&v2ray, 0));
    assert_eq!(agent.done(&["audit"])["difference_bytes"], json!(0));
}

fn accounts(agent: &Agent, name: &str) -> usize {
    let list = agent.done(&["users", "list"])["users"].clone();
    list.as_array().unwrap().iter().filter(|user| user["name"] == json!(name)).count()
}
