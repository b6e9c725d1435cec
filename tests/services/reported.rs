//! V2Ray whose users are counted by its own StatsService.

use boxmeter::source::stats::Stats;
use boxmeter_tests::{
    agent::Agent,
    needs_machine,
    scene::Scene as _,
    v2ray::{API_PORT, TUTORIAL_USERS, V2raySite, with_handler},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig};

/// What V2Ray itself says of a user: upload and download.
fn told(site: &V2raySite, user: &str) -> [u64; 2] {
    let reading = site.inside.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stats = Stats::connect(([127, 0, 0, 1], API_PORT).into(), None).await.unwrap();
            stats.read().await.unwrap()
        })
    });
    assert!(reading.life.is_some(), "it says how long it runs");
    let own = reading.counters.iter().filter(|counter| *counter.name == *user);
    own.fold([0, 0], |sum, counter| [sum[0] + counter.bytes[0], sum[1] + counter.bytes[1]])
}

fn reported(agent: &Agent, user: &str) -> Result<([u64; 2], u64), String> {
    let usage: Value = agent.ask(&["usage"])?;
    let row = usage["rows"].as_array().unwrap().iter().find(|row| row["user"] == json!(user)).cloned();
    let row = row.unwrap_or_default();
    let of = |key: &str| row[key].as_u64().unwrap_or_default();
    let kernel = of("upload_payload_bytes") + of("download_payload_bytes");
    Ok(([of("reported_upload_bytes"), of("reported_download_bytes")], kernel))
}

/// Usage is what StatsService says, over restarts of V2Ray and the agent; nothing of it is counted in the kernel.
/// Over quota the user is taken out of the file and of the running V2Ray, and comes back.
#[test]
fn totals_of_stats_service_are_usage_and_quota() {
    needs_machine!();
    let site = V2raySite::new(&with_handler(), TUTORIAL_USERS);
    let mut rig = Rig::of(site);
    rig.agent.hurries();
    rig.agent.configure("[service]", "meter = \"reported\"\nevery = \"1s\"");
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    // Before boxmeter: nobody pays that.
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    let before = told(&rig.site, &alice);
    rig.agent.start();
    wait("the baseline is taken", || match rig.agent.events("service_totals_began").len() {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
    let until = |rig: &Rig, more: [u64; 2], base: [u64; 2]| {
        wait("everything is counted", || {
            let now = told(&rig.site, &alice);
            let expected = [0, 1].map(|at| more[at] + now[at] - base[at]);
            match reported(&rig.agent, &alice)? {
                (used, 0) if used == expected && used[1] > MIB => Ok(used),
                other => Err(format!("{other:?}, not {expected:?}")),
            }
        })
    };
    rig.exchange(rig.alice(), 1_000, 2 * MIB).unwrap();
    rig.exchange(rig.bob(), 5_000, 3 * MIB).unwrap();
    let used = until(&rig, [0, 0], before);
    // V2Ray begins at 0, and the agent is killed.
    rig.site.server = None;
    rig.agent.kill();
    rig.site.start_server();
    wait("clients are back", || rig.exchange(rig.alice(), 0, 4 * MIB));
    rig.agent.start();
    let earlier = used;
    let used = until(&rig, earlier, [0, 0]);
    // Downloads are counted without anything around them.
    assert_eq!(used[1], 6 * MIB, "{used:?} after {earlier:?}");
    let shown = rig.agent.show(&alice);
    assert_eq!(shown["services"][0]["reported_download_bytes"], json!(used[1]), "{shown}");
    let text = rig.site.text();
    rig.agent.done(&["users", "set", &alice, "--quota", "7MiB"]);
    rig.exchange(rig.alice(), 0, 4 * MIB).unwrap();
    rig.agent.until_state(&alice, "limited");
    rig.until_text("the entry is out of the file", |text| !text.contains(&alice) && text.contains(&bob));
    rig.until_turned_away(rig.alice());
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    rig.agent.done(&["packages", "add", &alice, "64MiB"]);
    rig.agent.until_state(&alice, "active");
    rig.until_text("the file is as it was", |now| now == text);
    wait("the user is let in", || rig.exchange(rig.alice(), 0, MIB));
    assert_eq!(rig.agent.done(&["audit"])["watched"]["download_payload_bytes"], json!(0));
    assert_eq!(rig.site.users().len(), 2);
}
