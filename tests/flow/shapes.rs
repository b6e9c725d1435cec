//! Everything on one machine and in one network namespace: the programs meet each packet at the client's
//! socket too, and must count it once. The matrix has both sides apart.

use boxmeter_tests::{
    agent::Agent,
    cases::{Client, matrix},
    needs_machine,
    questions::exact,
    singbox::{Site, VERSIONS},
};

fn metered(version: &'static str) {
    needs_machine!();
    let cases: Vec<_> = matrix(false).into_iter().filter(|case| case.client != Client::ShadowTls).collect();
    let mut site = Site::on_one_machine(version, &cases);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    let dropped = site.drive(2);
    site.stop_client();
    exact(&site, &agent, &dropped);
}

#[test]
fn every_shape_on_1_14() {
    metered(VERSIONS[2]);
}

#[test]
fn every_shape_on_1_13() {
    metered(VERSIONS[1]);
}

#[test]
fn every_shape_on_1_12() {
    metered(VERSIONS[0]);
}
