//! What becomes of a subscription while its user lives: cut, changed, deleted, and made anew.

use crate::rig::Rig;
use boxmeter_tests::cases::named;
use boxmeter_tests::singbox::VERSIONS;
use boxmeter_tests::{needs_machine, wait};
use http::StatusCode;
use serde_json::json;

const ALICE: &str = "alice-trojan-tls";

#[test]
fn a_subscription_lives_as_long_as_its_user() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], &[named("trojan-tls")]);
    let before = rig.credentials(ALICE);
    assert_eq!(rig.credentials(ALICE), before, "asked again, it is the same");
    assert_eq!(rig.get(&before.path, "mihomo").status, StatusCode::OK);

    // Taken out of the file, the user keeps what was there, and the page says why.
    rig.agent.ask(&["users", "disable", ALICE]).unwrap();
    wait("the entry is out of the file", || {
        let shown = rig.agent.ask(&["users", "show", ALICE])?["user"]["enforcement"].clone();
        if shown["taken_out"] == json!(true) { Ok(()) } else { Err(shown.to_string()) }
    });
    assert_eq!(rig.credentials(ALICE).servers, before.servers);
    let page = rig.get(&format!("{}?format=html&lang=en", before.path), "");
    assert!(page.body.contains("disabled at"), "{}", page.body);
    rig.agent.ask(&["users", "enable", ALICE]).unwrap();

    let after = rig.rotate(ALICE);
    assert_ne!(after.token, before.token);
    assert_eq!(after.servers, before.servers, "the credentials stay");
    assert_eq!(rig.get(&before.path, "mihomo").status, StatusCode::NOT_FOUND);
    assert_eq!(rig.get(&after.path, "mihomo").status, StatusCode::OK);

    // The command line shows the same, and nobody else's.
    let shown = rig.agent.ask(&["users", "links", ALICE]).unwrap();
    assert_eq!(shown["token"], json!(after.token));
    assert_eq!(shown["servers"][0]["link"], json!(after.servers[0].link));

    rig.agent.ask(&["users", "delete", ALICE, "--yes"]).unwrap();
    assert_eq!(rig.get(&after.path, "mihomo").status, StatusCode::NOT_FOUND);
    wait("the name is free again", || rig.agent.ask(&["users", "add", ALICE]).map(drop));
    let anew = rig.credentials(ALICE);
    assert_ne!(anew.token, after.token);
    assert_ne!(anew.servers[0].link, after.servers[0].link);
    assert_eq!(rig.get(&after.path, "mihomo").status, StatusCode::NOT_FOUND);
}

/// Secrets are nowhere but in the ledger, which nobody else can read.
#[test]
fn secrets_are_in_no_log_and_no_event() {
    use std::os::unix::fs::MetadataExt;
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], &[named("trojan-tls")]);
    let before = rig.credentials(ALICE);
    let after = rig.rotate(ALICE);
    rig.get(&after.path, "mihomo");
    let events = rig.agent.ask(&["events"]).unwrap().to_string();
    let log = rig.agent.process().log();
    let password = &before.servers[0].server.entry["password"];
    for secret in [&before.token, &after.token, password] {
        assert!(!events.contains(secret.as_str()), "an event has a secret");
        assert!(!log.contains(secret.as_str()), "the log has a secret");
    }
    let ledger = std::fs::metadata(rig.site.scratch.join("ledger/ledger.db")).unwrap();
    assert_eq!(ledger.mode() & 0o777, 0o600);
}
