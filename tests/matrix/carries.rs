//! The harness itself: every case carries real traffic between real binaries, and the relay sees all of it.
//! Without this a case that carries nothing would be metered right.

use boxmeter_tests::cases::matrix;
use boxmeter_tests::singbox::{Site, User, VERSIONS};
use boxmeter_tests::{long, needs_machine};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each user moves up; three times as much comes down.
pub const BYTES: u64 = 60_000;

/// Users who saw connections dropped by sing-box itself, by name.
pub type Dropped = std::collections::BTreeMap<String, u32>;

/// Drives all users, a few at a time; nobody may fail.
pub fn drive(site: &Site, rounds: u64) -> Dropped {
    let next = AtomicUsize::new(0);
    let (failures, dropped) = (Mutex::new(Vec::new()), Mutex::new(Dropped::new()));
    let work = |user: &User, index: u64| {
        for round in 1..=rounds {
            match user.drive(site.target, BYTES * round + 1_000 * index) {
                Ok(0) => {}
                Ok(times) => *dropped.lock().unwrap().entry(user.name.clone()).or_default() += times,
                Err(why) => failures.lock().unwrap().push(why),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((index, user)) = next_of(&next, &site.users) {
                    work(user, index);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}:\n{}\n{}", site.version, failures.join("\n"), site.client_log());
    let dropped = dropped.into_inner().unwrap();
    if !dropped.is_empty() {
        println!("{}: connections dropped by sing-box itself: {dropped:?}", site.version);
    }
    dropped
}

fn next_of<'a>(next: &AtomicUsize, users: &'a [User]) -> Option<(u64, &'a User)> {
    let index = next.fetch_add(1, Ordering::SeqCst);
    users.get(index).map(|user| (index as u64, user))
}

fn carries(version: &'static str) {
    needs_machine!();
    let mut site = Site::new(version, &matrix(long()));
    drive(&site, 1);
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
