//! Backups: by hand and by the agent itself.

use std::{fs, os::unix::fs::MetadataExt};

use boxmeter_tests::{agent::Agent, needs_machine, wait};
use serde_json::json;

use crate::rig::{MIB, Rig};

#[test]
fn a_backup_by_hand_needs_no_agent_and_minds_none() {
    needs_machine!();
    let mut rig = Rig::new();
    let (alice, file) = (rig.alice().name.clone(), rig.text("backup.db"));
    rig.exchange(rig.alice(), MIB, MIB);
    let used = wait("alice's bytes are hers", || {
        let used = Agent::payload(&rig.agent.ask(&["usage"])?, &alice);
        if used[1] > MIB { Ok(used) } else { Err(format!("{used:?}")) }
    });
    let done = rig.done(&["backup", &file]);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(done["bytes"], json!(fs::metadata(&file).unwrap().len()));
    assert!(rig.fails(&["backup", &file], 1).contains("--force"));
    let ledger = rig.text("ledger/ledger.db");
    assert!(rig.fails(&["backup", &ledger, "--force"], 2).contains("itself"));
    rig.fails(&["backup", &rig.text("nowhere/backup.db")], 5);
    let offline = rig.done(&["usage", "--offline", &file]);
    assert_eq!(Agent::payload(&offline, &alice), used);
    rig.agent.stop();
    rig.done(&["backup", &file, "--force"]);
    rig.agent.start();
}

/// The agent makes the first one by itself, takes away what it made long ago and nothing else; a place that cannot
/// be written is told, and the agent goes on.
#[test]
fn the_agent_makes_backups_by_itself() {
    needs_machine!();
    let mut rig = Rig::configured("backup_keep = 2\nbackup_keep_for = \"9999d\"\n");
    rig.agent.hurries();
    let folder = rig.path("ledger/backups");
    fs::create_dir(&folder).unwrap();
    for name in ["ledger-20200101T000000Z.db", "ledger-20200102T000000Z.db", "notes.db"] {
        fs::write(folder.join(name), "old").unwrap();
    }
    rig.agent.start();
    let told = rig.told("backup_made");
    assert_eq!(told["data"]["old_ones_removed"], json!(1), "{told}");
    let made = told["data"]["file"].as_str().unwrap().to_owned();
    let left = |name: &str| folder.join(name).exists();
    assert!(!left("ledger-20200101T000000Z.db") && left("ledger-20200102T000000Z.db") && left("notes.db"));
    assert!(rig.done(&["usage", "--offline", &made])["rows"].is_array());
    let status = rig.done(&["status"]);
    let backups = &status["ledger"]["backups"];
    assert!(backups["last_at"].is_string() && backups["next_at"].is_string(), "{status}");
    assert_eq!(backups["last_bytes"], json!(fs::metadata(&made).unwrap().len()));
    rig.agent.stop();
    // A disk that is full: as when the ledger's own is not.
    fs::remove_dir_all(&folder).unwrap();
    rig.site.scratch.mount("ledger/backups", "tmpfs", Some("size=64k"));
    rig.agent.start();
    let failed = rig.told("backup_failed");
    assert!(failed["message"].as_str().unwrap().contains("no space is left"), "{failed}");
    assert_eq!(failed["severity"], json!("warning"));
    let status = rig.done(&["status"]);
    assert_eq!(status["degraded"][0]["part"], json!("backup"), "{status}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "half a backup is left");
    rig.exchange(rig.alice(), 0, MIB);
    // With room again the next agent makes one at once, and all is well.
    rig.agent.stop();
    nix::mount::umount(&folder).unwrap();
    rig.agent.start();
    wait("all is well", || {
        let status = rig.agent.ask(&["status"])?;
        let made = status["ledger"]["backups"]["last_at"].is_string();
        if made && status["ok"] == json!(true) { Ok(()) } else { Err(status.to_string()) }
    });
}
