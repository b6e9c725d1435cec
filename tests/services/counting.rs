//! What a service has counted, each byte once: an nginx whose process is not at hand, one whose program is exchanged,
//! and V2Ray's own totals over restarts.

use std::time::Duration;

use boxmeter::source::stats::Stats;
use boxmeter_tests::{
    agent::Agent,
    needs_machine,
    netns::Netns,
    nginx::{Nginx, Vts},
    scene::Scene as _,
    scratch::Scratch,
    v2ray::{API_PORT, TUTORIAL_USERS, V2raySite, with_handler},
    wait,
};
use rand::RngExt as _;
use serde_json::json;

use crate::rig::{MIB, Rig};

/// Only the module's answers are at hand: it stands for an nginx on another machine.
struct Away {
    agent: Agent,
    vts: Vts,
    netns: Netns,
    scratch: Scratch,
}

impl Away {
    fn new() -> Away {
        let (scratch, netns) = (Scratch::new(), Netns::new());
        netns.ip(&["link", "set", "lo", "up"]);
        let vts = Vts::serve(&netns);
        let mut agent = Agent::beside(&scratch, &[], &[], &netns);
        agent.hurries();
        agent.configure("ledger", "tick = \"200ms\"");
        agent.serve(&format!("kind = \"nginx\"\nstatus = {:?}\nevery = \"1s\"", vts.url()));
        agent.start();
        vts.until_asked(2);
        Away { agent, vts, netns, scratch }
    }

    fn grow(&self, bytes: [u64; 2]) {
        self.vts.grow("users::example.org", "alice", bytes);
    }

    fn until_used(&self, bytes: [u64; 2]) {
        wait(&format!("{bytes:?} are counted"), || match self.used()? {
            used if used == bytes => Ok(()),
            used => Err(format!("{used:?}")),
        });
    }

    fn used(&self) -> Result<[u64; 2], String> {
        let usage = self.agent.ask(&["usage"])?;
        let row =
            usage["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["user"] == json!("alice")));
        Ok(["reported_upload_bytes", "reported_download_bytes"]
            .map(|key| row.and_then(|row| row[key].as_u64()).unwrap_or_default()))
    }
}

/// The nginx of this machine says nothing about the one that is counted: its restarts are none of that one's.
#[test]
fn a_restart_of_another_nginx_bills_nothing_again() {
    needs_machine!();
    let away = Away::new();
    away.grow([1_000, 2_000]);
    away.until_used([1_000, 2_000]);
    for _ in 0..2 {
        let mut here = Nginx::new(away.scratch.join("ng"), &away.netns, 30_883, &[]);
        std::fs::write(here.refused(), "").unwrap();
        here.start();
        away.vts.until_asked(3);
        drop(here);
        away.vts.until_asked(3);
        away.grow([1, 2]);
    }
    away.until_used([1_002, 2_004]);
    away.vts.until_asked(3);
    away.until_used([1_002, 2_004]);
    let status = away.agent.done(&["status"]);
    assert_eq!(status["services"][0]["pid"], json!(null), "{status}");
    assert_eq!(away.agent.events("service_totals_restarted").len(), 0);
}

/// Read anew, exchanged while it runs, and restarted while no agent does: its answers say which.
#[test]
fn an_nginx_that_is_reloaded_exchanged_or_restarted_counts_each_byte_once() {
    needs_machine!();
    let mut away = Away::new();
    away.grow([1_000, 2_000]);
    away.vts.was_busy();
    away.until_used([1_000, 2_000]);
    away.vts.reload();
    away.grow([10, 20]);
    away.until_used([1_010, 2_020]);
    assert_eq!(away.agent.events("service_totals_restarted").len(), 0);
    // Two answer in turn, the new one and the old one, which is higher.
    away.vts.exchange();
    for step in 1..=3 {
        away.grow([100, 200]);
        away.until_used([1_010 + 100 * step, 2_020 + 200 * step]);
        away.vts.until_asked(4);
    }
    away.until_used([1_310, 2_620]);
    away.vts.exchanged();
    away.grow([100, 200]);
    away.until_used([1_410, 2_820]);
    assert_eq!(away.agent.events("service_totals_restarted").len(), 1);
    // Higher than ever when it is seen again.
    away.vts.was_busy();
    away.grow([1, 1]);
    away.until_used([1_411, 2_821]);
    away.agent.kill();
    away.vts.begin_anew();
    away.grow([5_000, 5_000]);
    away.agent.start();
    away.until_used([6_411, 7_821]);
    away.vts.until_asked(3);
    away.until_used([6_411, 7_821]);
}

/// `vhost_traffic_status_dump`: counters are where they were after a restart, and a worker that starts puts back what
/// was forgotten. Whoever has paid for them has.
#[test]
fn an_nginx_that_keeps_its_totals_over_a_restart_bills_nothing_again() {
    needs_machine!();
    let mut away = Away::new();
    // Each start has fewer requests than the one before: that is how it is known as one.
    away.vts.had_requests(1 << 30);
    away.grow([300_000, 600_000]);
    away.until_used([300_000, 600_000]);
    for step in 1..=2 {
        // Beside an agent, and while none runs.
        if step == 2 {
            away.agent.kill();
        }
        away.vts.restore();
        away.vts.had_requests(1 << (30 - 8 * step));
        away.grow([1, 2]);
        if step == 2 {
            away.agent.start();
        }
        away.until_used([300_000 + step, 600_000 + 2 * step]);
        away.vts.until_asked(3);
        away.until_used([300_000 + step, 600_000 + 2 * step]);
        wait("the restart is told", || match away.agent.events("service_totals_restarted").len() as u64 {
            told if told == step => Ok(()),
            told => Err(told.to_string()),
        });
    }
    away.vts.forget("users::example.org", "alice");
    away.vts.until_asked(3);
    away.grow([300_007, 600_009]);
    away.until_used([300_007, 600_009]);
    away.vts.until_asked(3);
    away.until_used([300_007, 600_009]);
}

/// What V2Ray itself says of a user: upload and download; nothing while it does not run.
fn told(site: &V2raySite, user: &str) -> Option<[u64; 2]> {
    let reading = site.inside.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stats = Stats::connect(([127, 0, 0, 1], API_PORT).into(), None).await.ok()?;
            stats.read().await.ok()
        })
    })?;
    let own = reading.counters.iter().filter(|counter| *counter.name == *user);
    Some(own.fold([0, 0], |sum, counter| [sum[0] + counter.bytes[0], sum[1] + counter.bytes[1]]))
}

/// A real StatsService, and an agent that is killed at random points: nothing twice, and nothing lost that V2Ray
/// still has.
#[test]
fn totals_of_stats_service_are_exact_over_restarts_of_both_sides() {
    needs_machine!();
    let mut rig = Rig::of(V2raySite::new(&with_handler(), TUTORIAL_USERS));
    let alice = rig.alice().name.clone();
    rig.agent.hurries();
    rig.agent.configure("[service]", "meter = \"reported\"\nevery = \"1s\"");
    rig.agent.start();
    wait("the baseline is taken", || match rig.agent.events("service_totals_began").len() {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
    let used = |rig: &Rig| -> Result<[u64; 2], String> {
        let usage = rig.agent.ask(&["usage"])?;
        let row =
            usage["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["user"] == json!(alice)));
        Ok(["reported_upload_bytes", "reported_download_bytes"]
            .map(|key| row.and_then(|row| row[key].as_u64()).unwrap_or_default()))
    };
    let base = told(&rig.site, &alice).unwrap();
    assert_eq!(base, [0, 0], "nobody has used it yet");
    let mut before = [0, 0];
    for round in 0..6 {
        rig.exchange(rig.alice(), 1_000, MIB).unwrap();
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..700)));
        rig.agent.kill();
        rig.exchange(rig.alice(), 1_000, MIB).unwrap();
        rig.agent.start();
        let all = wait("everything is counted", || {
            let now = told(&rig.site, &alice).ok_or("V2Ray says nothing")?;
            let all = [before[0] + now[0], before[1] + now[1]];
            match used(&rig)? {
                used if used == all && now[1] >= MIB => Ok(all),
                used => Err(format!("{used:?} of {all:?}")),
            }
        });
        if round % 2 == 0 {
            before = all;
            rig.site.server = None;
            rig.site.start_server();
            // Higher than it was when it is read next, or lower.
            wait("clients are back", || rig.exchange(rig.alice(), 0, (round + 1) * MIB));
        }
    }
    let downloads = used(&rig).unwrap()[1];
    assert!(downloads > 12 * MIB, "{downloads}");
}

/// Both figures are there: what the kernel counts is more by what frames it, and is all that is counted.
#[test]
fn what_a_metered_v2ray_says_itself_is_shown_beside_the_kernels_figures() {
    needs_machine!();
    let mut rig = Rig::of(V2raySite::new(&with_handler(), TUTORIAL_USERS));
    rig.agent.hurries();
    rig.agent.start();
    let audit = |rig: &Rig| rig.agent.ask(&["audit"]);
    wait("both are compared", || match audit(&rig)?["services"].as_array() {
        Some(services) if services.len() == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    rig.exchange(rig.alice(), 1_000, 2 * MIB).unwrap();
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    let both = wait("both have grown", || {
        let one = audit(&rig)?["services"][0].clone();
        let of = |key: &str| one[key].as_u64().unwrap_or_default();
        // The answers of trojan have nothing around them, and its questions have.
        match [of("reported_download_bytes"), of("download_payload_bytes")] {
            [told, kernel] if told == 3 * MIB && kernel == told => {
                Ok([of("reported_upload_bytes"), of("upload_payload_bytes")])
            }
            other => Err(format!("{other:?} {one}")),
        }
    });
    assert!(both[0] >= 1_000 && both[1] > both[0] && both[1] < 2 * both[0], "{both:?}");
    let usage = rig.agent.done(&["usage"]);
    assert!(!usage.to_string().contains("reported_download_bytes"), "{usage}");
    assert_eq!(audit(&rig).unwrap()["difference_bytes"], json!(0));
}
