//! Exports: what other programs get, and what they do not.

use boxmeter_tests::{needs_machine, wait};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig};

fn exported(rig: &Rig, words: &[&str]) -> String {
    let output = rig.agent.command(&[&["export"][..], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn exports_have_the_figures_and_no_credentials() {
    needs_machine!();
    let rig = Rig::new();
    let alice = rig.alice().name.clone();
    rig.exchange(rig.alice(), MIB, MIB);
    rig.done(&["users", "set", &alice, "--note", "=HYPERLINK(\"http://x\")"]);
    let row = wait("alice's bytes are hers", || {
        let usage = rig.agent.ask(&["usage", "--user", &alice])?;
        match &usage["rows"][0] {
            row if row["download_payload_bytes"].as_u64() > Some(MIB) => Ok(row.clone()),
            row => Err(row.to_string()),
        }
    });
    let csv = exported(&rig, &["--format", "csv"]);
    let mut lines = csv.lines();
    assert!(lines.next().unwrap().starts_with("user,start,end,upload_payload_bytes,"));
    let line = csv.lines().find(|line| line.starts_with(&alice)).unwrap();
    let cells: Vec<&str> = line.split(',').collect();
    assert_eq!(cells[4], row["download_payload_bytes"].to_string());
    // The last row is nobody's.
    assert!(csv.lines().last().unwrap().starts_with(','), "{csv}");
    let json: Vec<Value> = exported(&rig, &["--format", "ndjson", "--by", "day", "--from", "today"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json[0]["download_payload_bytes"], row["download_payload_bytes"], "{json:?}");
    assert_eq!(json.last().unwrap()["unattributed"], json!(true));
    let one = exported(&rig, &["--format", "csv", "--user", &alice]);
    assert_eq!(one.lines().count(), 2, "{one}");
    let users = exported(&rig, &["--format", "csv", "--what", "users"]);
    assert!(users.contains("\"'=HYPERLINK(\"\"http://x\"\")\""), "{users}");
    let events = exported(&rig, &["--format", "ndjson", "--what", "events", "--user", &alice]);
    assert!(events.lines().any(|line| line.contains("user_changed")), "{events}");
    let everything =
        [csv, users, exported(&rig, &["--format", "ndjson", "--what", "users"]), events].concat();
    assert!(!everything.contains("password-"), "a credential is exported");
    // Wrong use, and a name that nobody has.
    rig.fails(&["export"], 2);
    rig.fails(&["export", "--format", "csv", "--what", "users", "--by", "day"], 2);
    rig.fails(&["export", "--format", "csv", "--user", "nobody"], 5);
}
