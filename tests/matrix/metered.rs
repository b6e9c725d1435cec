//! Each user of each case is metered to the byte, and the audit finds nothing lost.

use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::{Case, Client, matrix};
use boxmeter_tests::netns::Netns;
use boxmeter_tests::singbox::{Site, VERSIONS};
use boxmeter_tests::{long, needs_machine, wait};
use serde_json::{Value, json};

use crate::carries::drive;

/// Cases whose users can be known from the outside; the others are in `unowned`.
fn cases() -> Vec<Case> {
    matrix(long()).into_iter().filter(|c| c.client != Client::ShadowTls).collect()
}

/// Waits until every user has what the relay saw; answers the usage.
fn exact(site: &Site, agent: &Agent) -> Value {
    wait("every byte is its user's", || {
        let usage = agent.ask(&["usage"])?;
        let wrong: Vec<String> = site
            .users
            .iter()
            .filter_map(|user| {
                let said = Agent::payload(&usage, &user.name);
                user.relay.truth.check(said).err().map(|why| format!("{}: {why}", user.name))
            })
            .collect();
        if wrong.is_empty() { Ok(usage) } else { Err(wrong.join("\n")) }
    })
}

fn metered(version: &'static str, agent_in: fn(&Site) -> Netns) {
    needs_machine!();
    let mut site = Site::new(version, &cases());
    let mut agent = Agent::new(&site.scratch, &site.config(), &agent_in(&site));
    agent.start();
    let failures = drive(&site, 2);
    assert!(failures.is_empty(), "{version}:\n{}\n{}", failures.join("\n"), site.client_log());
    site.stop_client();
    exact(&site, &agent);
    let audit = agent.ask(&["audit"]).unwrap();
    assert_eq!(audit["difference_bytes"], json!(0), "{audit}");
    let unattributed =
        [&audit["unattributed"]["upload_payload_bytes"], &audit["unattributed"]["download_payload_bytes"]];
    assert_eq!(unattributed, [&json!(0), &json!(0)], "{audit}");
}

#[test]
fn every_case_on_1_12() {
    metered(VERSIONS[0], |site| site.inside.clone());
}

#[test]
fn every_case_on_1_13() {
    metered(VERSIONS[1], |site| site.inside.clone());
}

#[test]
fn every_case_on_1_14() {
    metered(VERSIONS[2], |site| site.inside.clone());
}

/// As sing-box in a container: the agent is outside its network namespace.
#[test]
fn every_case_with_the_agent_outside() {
    metered(VERSIONS[2], |_| Netns::current());
}
