//! What time and usage do to users while the agent runs: periods, expiries, ladders, validities.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, Stream};
use boxmeter_tests::scene::Scene as _;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn until_reloads(rig: &Rig, count: u64) {
    wait(&format!("{count} reloads"), || {
        let reloads = rig.agent.ask(&["status"])?["enforcement"]["reloads"].as_u64().unwrap_or(0);
        if reloads >= count { Ok(()) } else { Err(reloads.to_string()) }
    });
}

/// A rig whose sing-box soon reads that somebody is out.
fn rig() -> Rig {
    rig_of(VERSIONS[2])
}

fn rig_of(version: &'static str) -> Rig {
    let site = Site::new(version, &[named("trojan-tls")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("singbox", "reload_within = \"3s\"");
    agent.start();
    Rig { agent, site }
}

/// Over the quota, taken out, and sing-box has read it; then the period turns, forth, and the clock back.
#[test]
fn a_period_that_turns_in_a_running_agent_lets_in_once() {
    needs_machine!();
    for version in [VERSIONS[0], VERSIONS[2]] {
        turns(version);
    }
}

fn turns(version: &'static str) {
    let rig = rig_of(version);
    let (name, before) = (rig.alice().name.clone(), rig.config());
    rig.done(&["users", "set", &name, "--quota", "4MiB", "--period", "day"]);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
    rig.until_state(&name, "limited");
    // Somebody else is connected, so that nobody waits for a quiet moment: the reload comes when its time is over.
    let _open = Stream::open(&rig, rig.bob());
    until_reloads(&rig, 1);
    wait("it is told why", || {
        let told = rig.events("singbox_reloaded");
        let waited = told.iter().any(|one| one["message"].as_str().unwrap().contains("reload_within"));
        if waited { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert!(!rig.config().contains(&name));
    let used = rig.used(&name);
    rig.agent.moves_clock(DAY);
    let shown = rig.until_state(&name, "active");
    assert_eq!(shown["period"]["used_bytes"], json!(0), "{shown}");
    until_reloads(&rig, 2);
    assert_eq!(rig.config(), before);
    wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
    assert_eq!(rig.events("period_turned").iter().filter(|one| one["user"] == json!(name)).count(), 1);
    // The clock goes back to yesterday: no new period, and nothing is forgotten.
    let in_period = |rig: &Rig| rig.show(&name)["period"]["used_bytes"].as_u64().unwrap();
    let spent = in_period(&rig);
    assert!(spent >= MIB);
    rig.agent.moves_clock(Duration::ZERO);
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    assert!(in_period(&rig) >= spent + MIB, "{} after {spent}", in_period(&rig));
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
    rig.until_state(&name, "limited");
    assert_eq!(rig.events("period_turned").iter().filter(|one| one["user"] == json!(name)).count(), 1);
    assert!(rig.used(&name) >= used + 4 * MIB, "history stays");
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

/// Another zone or reset day, and people are not let in by it.
#[test]
fn a_new_zone_or_reset_day_gives_no_second_quota() {
    needs_machine!();
    let mut rig = rig();
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--quota", "4MiB", "--time-zone", "Pacific/Kiritimati"]);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
    let before = rig.until_state(&name, "limited")["period"].clone();
    let changes: [&[&str]; 3] = [
        &["--time-zone", "Pacific/Niue"],
        &["--reset-day", "2"],
        &["--reset-day", "31", "--time-zone", "UTC"],
    ];
    for change in changes {
        rig.done(&[&["users", "set", &name], change].concat());
        rig.agent.kill();
        rig.agent.start();
        let shown = rig.until_state(&name, "limited");
        assert_eq!(shown["period"]["used_bytes"], before["used_bytes"], "{change:?}: {shown}");
        let start =
            |period: &Value| -> jiff::Timestamp { period["start"].as_str().unwrap().parse().unwrap() };
        assert_eq!(start(&shown["period"]), start(&before), "{change:?}: the period goes on");
        assert!(shown["period"]["end"].is_string(), "{shown}");
    }
    assert!(rig.events("period_turned").iter().all(|event| event["user"] != json!(name)));
    // And it does come back.
    rig.agent.moves_clock(32 * DAY);
    rig.until_state(&name, "active");
}

/// An expiry that comes while a connection is open ends it; one that is moved lets the user in again.
#[test]
fn an_expiry_comes_while_somebody_is_connected() {
    needs_machine!();
    let rig = rig();
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--expires", "1d"]);
    assert_eq!(rig.show(&name)["state"], json!("active"));
    let mut open = Stream::open(&rig, rig.alice());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let taking = scope.spawn(|| open.take(&stop, &AtomicU64::new(0)));
        rig.agent.moves_clock(DAY + HOUR);
        taking.join().unwrap().expect_err("the expiry ends the stream");
    });
    rig.until_state(&name, "expired");
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    rig.done(&["users", "set", &name, "--expires", "none"]);
    rig.until_state(&name, "active");
    wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
}

/// The days after the first use begin with it, and end.
#[test]
fn a_validity_begins_with_the_first_use() {
    needs_machine!();
    let rig = rig();
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--valid-days", "30"]);
    rig.until_state(&name, "pending");
    rig.agent.moves_clock(40 * DAY);
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    rig.until_state(&name, "active");
    wait("people see since when", || match rig.show(&name) {
        shown if shown["first_used_at"].is_string() => Ok(()),
        shown => Err(shown.to_string()),
    });
    rig.agent.moves_clock(69 * DAY);
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    rig.agent.moves_clock(71 * DAY);
    rig.until_state(&name, "expired");
    // A policy's new validity is counted from the next use, not from the first one of long ago.
    rig.done(&["policies", "add", "trial"]);
    rig.done(&["users", "set", &rig.bob().name, "--policy", "trial"]);
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    rig.agent.moves_clock(200 * DAY);
    rig.done(&["policies", "set", "trial", "--valid-days", "30"]);
    wait("bob is let in", || rig.exchange(rig.bob(), 0, MIB));
    rig.until_state(&rig.bob().name, "active");
}

/// What is over all time is not brought back by a period.
#[test]
fn a_total_quota_is_over_for_good() {
    needs_machine!();
    let rig = rig();
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--total-quota", "4MiB", "--period", "day", "--quota", "3MiB"]);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
    let cause = |shown: &Value| shown["cause"]["kind"].clone();
    assert_eq!(cause(&rig.until_state(&name, "limited")), json!("period_quota"));
    rig.agent.moves_clock(DAY);
    rig.until_state(&name, "active");
    wait("alice is let in", || rig.exchange(rig.alice(), 0, 64 << 10));
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the total passed");
    assert_eq!(cause(&rig.until_state(&name, "limited")), json!("total_quota"));
    rig.agent.moves_clock(2 * DAY);
    wait("the period has turned", || match rig.events("period_turned").len() {
        2.. => Ok(()),
        turns => Err(turns.to_string()),
    });
    let shown = rig.show(&name);
    assert_eq!((&shown["state"], cause(&shown)), (&json!("limited"), json!("total_quota")));
}

/// Past the quota the kernel slows the user, and nobody else; a new period takes it off.
#[test]
fn a_ladder_slows_in_the_kernel() {
    needs_machine!(alone);
    let rig = rig();
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["users", "set", &alice, "--quota", "4MiB", "--over-quota", "throttle:1MiB/s"]);
    rig.done(&["users", "set", &bob, "--speed-down", "4MiB/s"]);
    // Through the quota on one connection, which lives: slower is not cut.
    rig.exchange(rig.alice(), 0, 6 * MIB).unwrap();
    let shown = rig.until_state(&alice, "throttled");
    assert_eq!(shown["enforcement"]["speed"], json!({"up": MIB, "down": MIB}), "{shown}");
    let stop = AtomicBool::new(false);
    let taken = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut streams = [rig.alice(), rig.bob()].map(|user| Stream::open(&rig, user));
    thread::scope(|scope| {
        for (stream, taken) in streams.iter_mut().zip(&taken) {
            scope.spawn(|| stream.take(&stop, taken));
        }
        wait("bob has taken enough", || match taken[1].load(Ordering::Relaxed) {
            bytes if bytes >= 16 * MIB => Ok(()),
            bytes => Err(format!("{bytes} bytes")),
        });
        stop.store(true, Ordering::Relaxed);
    });
    let [slow, fast] = [0, 1].map(|at: usize| taken[at].load(Ordering::Relaxed));
    let ratio = fast as f64 / slow as f64;
    assert!((2.5..6.0).contains(&ratio), "{slow} and {fast} bytes");
    rig.done(&["users", "set", &alice, "--quota", "none"]);
    let shown = rig.until_state(&alice, "active");
    assert_eq!(shown["enforcement"]["speed"], json!({"up": null, "down": null}), "{shown}");
}

/// Uploads through a real server, side by side.
#[test]
fn uploads_are_kept_in_their_ratio() {
    needs_machine!(alone);
    let rig = rig();
    let names = [rig.alice().name.clone(), rig.bob().name.clone()];
    for (name, rate) in names.iter().zip(["1MiB/s", "4MiB/s"]) {
        rig.done(&["users", "set", name, "--speed-up", rate]);
    }
    thread::scope(|scope| {
        let slow = scope.spawn(|| rig.exchange(rig.alice(), 24 * MIB, 0));
        rig.exchange(rig.bob(), 24 * MIB, 0).unwrap();
        let [slow_bytes, fast_bytes] = [0, 1].map(|at: usize| rig.used(&names[at]));
        rig.done(&["users", "set", &names[0], "--speed-up", "none"]);
        slow.join().unwrap().unwrap();
        let ratio = fast_bytes as f64 / slow_bytes as f64;
        assert!((2.5..6.0).contains(&ratio), "{slow_bytes} and {fast_bytes} bytes");
    });
}

/// What is left of a quota lasts for one more period, in the wallet and in the kernel.
#[test]
fn what_is_left_rolls_over_for_one_period() {
    needs_machine!();
    let rig = rig();
    let names = [rig.alice().name.clone(), rig.bob().name.clone()];
    for name in &names {
        rig.done(&["users", "set", name, "--quota", "8MiB", "--period", "day", "--rollover", "yes"]);
    }
    rig.exchange(rig.alice(), 0, 3 * MIB).unwrap();
    rig.exchange(rig.bob(), 0, 3 * MIB).unwrap();
    let packages = |name: &str| rig.done(&["packages", "list", name]);
    let after = |days: u32, name: &str, count: usize| {
        rig.agent.moves_clock(days * DAY);
        wait("the period has turned", || {
            let listed = packages(name);
            match listed["packages"].as_array().unwrap().len() {
                now if now == count => Ok(listed),
                _ => Err(listed.to_string()),
            }
        })
    };
    let listed = after(1, &names[0], 1);
    let used = rig.used(&names[0]);
    let package = &listed["packages"][0];
    assert_eq!(
        (&package["origin"], &package["bytes"]),
        (&json!("rollover"), &json!(8 * MIB - used)),
        "{listed}"
    );
    assert_eq!(listed["remaining_bytes"], package["bytes"]);
    // 13 MiB in this period, 16 in both.
    after(1, &names[1], 1);
    rig.exchange(rig.bob(), 0, 64 * MIB).expect_err("more than quota and package passed");
    rig.until_state(&names[1], "limited");
    let used = rig.used(&names[1]);
    assert!((16 * MIB..17 * MIB).contains(&used), "{used}");
    // Nothing of the second period was used: its quota rolls over, what had rolled over does not.
    let listed = after(2, &names[0], 2);
    assert_eq!(listed["remaining_bytes"], json!(8 * MIB), "{listed}");
    let used = rig.used(&names[0]);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than quota and package passed");
    rig.until_state(&names[0], "limited");
    let in_period = rig.used(&names[0]) - used;
    assert!((16 * MIB..17 * MIB).contains(&in_period), "{in_period}");
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}
