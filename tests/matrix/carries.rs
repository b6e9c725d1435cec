//! The harness itself: every case carries real traffic between real binaries, and the relay sees all of it.
//! Without this a case that carries nothing would be metered right.

use boxmeter_tests::cases::matrix;
use boxmeter_tests::singbox::{BYTES, Site, VERSIONS};
use boxmeter_tests::{long, needs_machine};

fn carries(version: &'static str) {
    needs_machine!();
    let mut site = Site::new(version, &matrix(long()));
    site.drive(1);
    let mut failures = Vec::new();
    site.stop_client();
    for user in &site.users {
        let bounds = boxmeter_tests::wait("connections end", || {
            user.relay.truth.bounds().ok_or_else(|| user.name.clone())
        });
        // Framing only adds; vision and padding included.
        if bounds[0][0] < BYTES || bounds[0][1] < 3 * BYTES {
            failures.push(format!("{}: the relay saw {bounds:?}", user.name));
        }
    }
    assert!(failures.is_empty(), "{version}:\n{}\n{}", failures.join("\n"), site.client_log());
}

#[test]
fn harness_carries_every_case_on_1_12() {
    carries(VERSIONS[0]);
}

#[test]
fn harness_carries_every_case_on_1_13() {
    carries(VERSIONS[1]);
}

#[test]
fn harness_carries_every_case_on_1_14() {
    carries(VERSIONS[2]);
}
