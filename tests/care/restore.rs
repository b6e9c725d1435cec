//! A backup in the ledger's place while the kernel has counted on.

use std::{
    fs,
    io::{Read, Write},
};

use boxmeter_tests::{agent::Agent, needs_machine, questions::exact, singbox::Dropped, target::head, wait};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig};

fn used(rig: &Rig, user: &str) -> Result<[u64; 2], String> {
    Ok(Agent::payload(&rig.agent.ask(&["usage"])?, user))
}

/// What the connection that stays carries: much more than buffers hold.
const STAYS: u64 = 64 << 20;

/// Everything of the same boot comes back from the kernel, once: also what came while no agent ran.
#[test]
fn a_restored_ledger_has_every_byte_once() {
    needs_machine!();
    let mut rig = Rig::new();
    let (alice, bob) = (rig.alice().name.clone(), rig.site.users[1].name.clone());
    rig.exchange(rig.alice(), MIB, MIB);
    wait("alice's bytes are hers", || match used(&rig, &alice)? {
        used if used[1] > MIB => Ok(()),
        used => Err(format!("{used:?}")),
    });
    let file = rig.text("backup.db");
    rig.done(&["backup", &file]);
    let before = rig.done(&["status"]);
    // A connection that stays: one that comes and goes while no agent runs may stay nobody's.
    let mut stays = rig.alice().proxy.connect(rig.site.target.tcp).unwrap();
    stays.write_all(&head(0, STAYS)).unwrap();
    let mut taken = vec![0; 64 << 10];
    stays.read_exact(&mut taken).unwrap();
    wait("it is alice's", || {
        let flows = rig.done(&["flows", "--user", &alice])["flows"].clone();
        if flows.as_array().unwrap().is_empty() { Err(flows.to_string()) } else { Ok(()) }
    });
    // After the backup: more bytes, a limit, and a user who is out of the file.
    rig.exchange(rig.alice(), 2 * MIB, 3 * MIB);
    rig.exchange(&rig.site.users[1], MIB, MIB);
    rig.done(&["users", "set", &alice, "--note", "after the backup"]);
    rig.done(&["users", "disable", &bob]);
    wait("bob is out", || {
        let config = fs::read_to_string(rig.site.config()).unwrap();
        if config.contains(&bob) { Err("not yet".to_owned()) } else { Ok(()) }
    });
    assert!(rig.fails(&["restore", &file], 1).contains("systemctl stop boxmeter"));
    rig.agent.stop();
    let done = rig.done(&["restore", &file]);
    let since = &done["since"];
    assert_eq!((&since["gone_bytes"], &since["unknown_users"]), (&json!(0), &json!([])), "{done}");
    assert!(since["in_kernel_bytes"].as_u64().unwrap() > 7 * MIB, "{done}");
    assert!(fs::metadata(done["kept"].as_str().unwrap()).unwrap().len() > 0);
    // No agent runs, and the kernel counts.
    taken.resize(STAYS as usize - taken.len(), 0);
    stays.read_exact(&mut taken).unwrap();
    drop(stays);
    rig.agent.start();
    let told = rig.told("ledger_restored");
    assert!(told["message"].as_str().unwrap().contains("counted again from the kernel"), "{told}");
    let caught_up = rig.told("restore_caught_up");
    assert!(caught_up["data"]["payload"][1].as_u64().unwrap() > 4 * MIB, "{caught_up}");
    let status = rig.done(&["status"]);
    assert_eq!(status["ledger"]["node_id"], before["ledger"]["node_id"]);
    assert_ne!(status["ledger"]["ledger_id"], before["ledger"]["ledger_id"]);
    // The file decides who exists, and bob was not deleted: the backup has him enabled, so he comes back.
    let shown = rig.done(&["users", "show", &bob])["user"].clone();
    assert_eq!(shown["state"], json!("active"), "{shown}");
    assert_eq!(rig.done(&["users", "show", &alice])["user"]["note"], Value::Null);
    wait("bob is in again", || {
        let config = fs::read_to_string(rig.site.config()).unwrap();
        if config.contains(&bob) { Ok(()) } else { Err(config) }
    });
    rig.site.stop_client();
    exact(&rig.site, &rig.agent, &Dropped::new());
}

/// A user who was made after the backup is somebody new to it: the kernel's old counts are nobody's, and the sum
/// over everything still holds.
#[test]
fn bytes_of_a_user_that_the_backup_does_not_know_are_nobodys() {
    needs_machine!();
    let mut rig = Rig::new();
    let alice = rig.alice().name.clone();
    let file = rig.text("backup.db");
    // Before anybody is in it: as an old backup of a machine that was set up anew.
    rig.agent.stop();
    let ledger = rig.path("ledger/ledger.db");
    let connection = rusqlite::Connection::open(&ledger).unwrap();
    connection.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    drop(connection);
    rig.done(&["backup", &file]);
    let backup = rusqlite::Connection::open(&file).unwrap();
    backup
        .execute_batch(
            "DELETE FROM events; DELETE FROM user_inbounds; DELETE FROM usage_days; DELETE FROM usage_hours;
             DELETE FROM usage_minutes; DELETE FROM usage_totals; DELETE FROM cursors; DELETE FROM watched;
             DELETE FROM watched_days; DELETE FROM watched_hours; DELETE FROM watched_minutes;
             DELETE FROM usage_keys; DELETE FROM users;",
        )
        .unwrap();
    drop(backup);
    rig.agent.start();
    rig.exchange(rig.alice(), MIB, 2 * MIB);
    wait("alice's bytes are hers", || match used(&rig, &alice)? {
        used if used[1] > 2 * MIB => Ok(()),
        used => Err(format!("{used:?}")),
    });
    rig.agent.stop();
    let done = rig.done(&["restore", &file]);
    assert_eq!(done["since"]["unknown_users"].as_array().unwrap().len(), 2, "{done}");
    rig.agent.start();
    rig.told("stranger_counted");
    let usage = rig.done(&["usage"]);
    assert_eq!(Agent::payload(&usage, &alice), [0, 0], "somebody new has used nothing: {usage}");
    assert!(usage["unattributed"]["download_payload_bytes"].as_u64().unwrap() > 2 * MIB, "{usage}");
    // And what comes now is the new one's.
    rig.exchange(rig.alice(), 0, MIB);
    wait("alice is metered", || match used(&rig, &alice)? {
        used if used[1] > MIB && used[1] < 2 * MIB => Ok(()),
        used => Err(format!("{used:?}")),
    });
    rig.site.stop_client();
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}
