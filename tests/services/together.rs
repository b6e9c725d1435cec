//! sing-box and nginx with one list of accounts.

use std::time::Duration;

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    nginx::{Nginx, Vts},
    scene::Scene as _,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::json;

use crate::{
    nginx::{nginx_lines, reported},
    rig::MIB,
};

/// One name in both is one account: what it uses adds up, over quota it is cut in the kernel and refused by nginx,
/// and the period's turn lets it in by both.
#[test]
fn a_user_of_sing_box_and_nginx_is_one_account() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let (alice, bob) = (&site.users[0], &site.users[1]);
    let vts = Vts::serve(&site.inside);
    let mut nginx = Nginx::new(
        site.scratch.join("ng"),
        &site.inside,
        30_881,
        &[("alice", &alice.name), ("bob", &bob.name)],
    );
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
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
    let exchange = |at: usize| {
        let user = &site.users[at];
        user.proxy.exchange(site.target(), 0, MIB).map(drop).map_err(|error| error.to_string())
    };
    exchange(0).unwrap();
    exchange(1).unwrap();
    vts.grow(&format!("{}::example.org", alice.name), "/a", [1_000, 2 * MIB]);
    let used = wait("both are counted", || {
        let usage = agent.ask(&["usage"])?;
        let (kernel, told) = (Agent::payload(&usage, &alice.name), reported(&usage, &alice.name));
        match kernel[1] >= MIB && told == [1_000, 2 * MIB] {
            true => Ok(kernel.iter().chain(&told).sum::<u64>()),
            false => Err(format!("{kernel:?} {told:?}")),
        }
    });
    let users = agent.done(&["users", "list"])["users"].clone();
    let of_name =
        |name: &str| users.as_array().unwrap().iter().filter(|user| user["name"] == json!(name)).count();
    assert_eq!((of_name(&alice.name), of_name(&bob.name)), (1, 1), "{users}");
    // Neither has so much by itself.
    agent.done(&["users", "set", &alice.name, "--quota", "4MiB", "--period", "day"]);
    let shown = agent.show(&alice.name);
    assert!(shown["period"]["used_bytes"].as_u64().unwrap() >= used, "{shown}");
    assert_eq!(shown["state"], json!("active"));
    vts.grow(&format!("{}::example.org", alice.name), "/a", [0, MIB]);
    agent.until_state(&alice.name, "limited");
    nginx.until("alice", 403);
    exchange(0).expect_err("she is cut in the kernel");
    exchange(1).unwrap();
    assert_eq!(nginx.get("bob"), 200);
    agent.moves_clock(Duration::from_secs(25 * 3600));
    agent.until_state(&alice.name, "active");
    nginx.until("alice", 200);
    wait("sing-box lets her in", || exchange(0));
    assert_eq!(agent.done(&["audit"])["difference_bytes"], json!(0));
}
