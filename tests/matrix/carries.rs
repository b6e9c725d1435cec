//! The harness itself: every case carries real traffic between real binaries, and the relay sees all of it.
//! Without this a case that carries nothing would be metered right.

use boxmeter_tests::cases::matrix;
use boxmeter_tests::singbox::{Site, User, VERSIONS};
use boxmeter_tests::{long, needs_machine};

/// What each user moves up; three times as much comes down.
pub const BYTES: u64 = 60_000;

/// Drives all users, a few at a time, and answers who failed and why.
pub fn drive(site: &Site, rounds: u64) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    let work = |user: &User, index: u64| -> Result<(), String> {
        (1..=rounds).try_for_each(|round| user.drive(site.target, BYTES * round + 1_000 * index))
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some(user) = site.users.get(index) else { return };
                    if let Err(why) = work(user, index as u64) {
                        failures.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

fn carries(version: &'static str) {
    needs_machine!();
    let mut site = Site::new(version, &matrix(long()));
    let mut failures = drive(&site, 1);
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
