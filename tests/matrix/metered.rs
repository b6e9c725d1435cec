//! Each user of each case is metered to the byte, and the audit finds nothing lost.

use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::{Case, Client, matrix, named};
use boxmeter_tests::netns::Netns;
use boxmeter_tests::questions::{exact, sum};
use boxmeter_tests::singbox::{Site, VERSIONS};
use boxmeter_tests::{long, needs_machine};

/// Cases whose users can be known from the outside.
fn cases() -> Vec<Case> {
    matrix(long()).into_iter().filter(|c| c.client != Client::ShadowTls).collect()
}

fn metered(version: &'static str, agent_in: fn(&Site) -> Netns) {
    needs_machine!();
    let mut site = Site::new(version, &cases());
    let mut agent = Agent::new(&site.scratch, &site.config(), &agent_in(&site));
    agent.start();
    let dropped = site.drive(2);
    site.stop_client();
    exact(&site, &agent, &dropped);
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

/// sing-box reports users behind shadowtls under another inbound, or not at all: nobody may get a byte that is
/// not his, and the sum holds.
#[test]
fn shadowtls_bills_nobody_else() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("shadowtls"), named("ss2022")]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.start();
        site.drive(2);
        site.stop_client();
        let said = sum(&site, &agent);
        println!("{version}: shadowtls users were metered with {:?}", &said[..2]);
    }
}
