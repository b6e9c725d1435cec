//! Speed, numbers of connections, and the turn of a period.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boxmeter_tests::{
    needs_machine,
    scene::side_by_side,
    singbox::{User, VERSIONS},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig, Stops, Stream};
use boxmeter_tests::scene::Scene as _;

/// A speed limit holds for its user, at once for connections that come, whatever the other one does.
#[test]
fn speeds_are_kept_in_their_ratio() {
    needs_machine!(alone);
    for case in ["trojan-tls", "hysteria2"] {
        let rig = Rig::new(VERSIONS[2], case);
        for (user, rate) in [(rig.alice(), "1MiB/s"), (rig.bob(), "4MiB/s")] {
            rig.done(&["users", "set", &user.name, "--speed-down", rate]);
        }
        let [slow, fast] = side_by_side(&rig, [rig.alice(), rig.bob()], 0..16 * MIB);
        let ratio = fast as f64 / slow as f64;
        assert!((2.5..6.0).contains(&ratio), "{case}: {slow} and {fast} bytes");
    }
}

fn alive(rig: &Rig, user: &User) -> u64 {
    rig.show(&user.name)["live"]["flows"].as_u64().unwrap()
}

/// More connections than the limit: so many live, the others are ended, and people see why.
#[test]
fn a_limit_of_connections_ends_those_beyond_it() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let alice = rig.alice();
    rig.done(&["users", "set", &alice.name, "--max-flows", "2"]);
    let mut streams: Vec<_> = (0..5).map(|_| Stream::open(&rig, alice)).collect();
    let ended = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(|| {
                if stream.take(&stop, &AtomicU64::new(0)).is_err() {
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait("three are ended", || match ended.load(Ordering::Relaxed) {
            3 => Ok(()),
            ended => Err(format!("{ended} ended, {} live", alive(&rig, alice))),
        });
        assert_eq!(alive(&rig, alice), 2);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(ended.load(Ordering::Relaxed), 3);
    assert!(!rig.events("user_over_limit").is_empty());
}

/// One connection too many: which one is ended is what `--wins` says.
#[test]
fn the_newest_connection_stays_or_the_oldest() {
    needs_machine!();
    for (wins, stays) in [("newest", 1), ("oldest", 0)] {
        let rig = Rig::new(VERSIONS[2], "trojan-tls");
        let alice = rig.alice();
        rig.done(&["users", "set", &alice.name, "--max-flows", "1", "--wins", wins]);
        let first = Stream::open(&rig, alice);
        wait("the first is seen", || match alive(&rig, alice) {
            1 => Ok(()),
            open => Err(open.to_string()),
        });
        let mut streams = [first, Stream::open(&rig, alice)];
        let (ended, stop) = ([AtomicBool::new(false), AtomicBool::new(false)], AtomicBool::new(false));
        let taken = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            for ((stream, ended), taken) in streams.iter_mut().zip(&ended).zip(&taken) {
                scope.spawn(|| ended.store(stream.take(&stop, taken).is_err(), Ordering::Relaxed));
            }
            wait("one of them is ended", || match ended[1 - stays].load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(format!("{wins}: {} live", alive(&rig, alice))),
            });
            let seen = taken[stays].load(Ordering::Relaxed);
            wait("the other one goes on", || match taken[stays].load(Ordering::Relaxed) > seen {
                true => Ok(()),
                false => Err(format!("{wins}: nothing more")),
            });
        });
        assert!(!ended[stays].load(Ordering::Relaxed), "{wins}: both were ended");
        let told = rig.events("user_over_limit");
        assert!(told.iter().any(|event| event["data"]["limit"] == json!("max_flows")), "{told:?}");
    }
}

/// Whoever was over last period's quota comes back by itself; whoever an admin disabled does not.
#[test]
fn the_turn_of_a_period_brings_back_whom_the_quota_has_cut() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let names = [rig.alice().name.clone(), rig.bob().name.clone()];
    rig.done(&["users", "set", &names[0], "--quota", "4MiB", "--period", "day"]);
    rig.done(&["users", "set", &names[1], "--quota", "4MiB", "--period", "day"]);
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("more than the quota passed");
    rig.until_state(&names[0], "limited");
    rig.done(&["users", "disable", &names[1]]);
    rig.until_state(&names[1], "disabled");
    let used = rig.used(&names[0]);
    rig.agent.stop();
    yesterday(&rig);
    rig.agent.start();
    let shown = rig.until_state(&names[0], "active");
    assert_eq!(shown["period"]["used_bytes"], json!(0), "{shown}");
    assert_eq!(rig.used(&names[0]), used, "history stays");
    assert!(!rig.events("period_turned").is_empty());
    wait("the user is let in", || rig.exchange(rig.alice(), 0, MIB));
    assert_eq!(rig.show(&names[1])["state"], json!("disabled"));
}

/// Everything that is in the ledger was a day earlier: the machine's clock is not ours to move.
fn yesterday(rig: &Rig) {
    const DAY_MS: i64 = 24 * 3_600_000;
    let ledger = rusqlite::Connection::open(rig.site.scratch.join("ledger/ledger.db")).unwrap();
    for statement in [
        "UPDATE users SET account_start_ms = account_start_ms - ?1, created_ms = created_ms - ?1",
        "UPDATE usage_keys SET account_start_ms = account_start_ms - ?1 WHERE user_id IS NOT NULL",
    ] {
        ledger.execute(statement, [DAY_MS]).unwrap();
    }
}
