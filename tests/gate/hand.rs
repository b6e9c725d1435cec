//! Edits by hand beside boxmeter's: neither is lost, and nobody is said to have done what boxmeter did.

use std::{fs, os::unix::fs::PermissionsExt as _};

use boxmeter_tests::scene::Scene as _;
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS, binary},
    wait,
};

use crate::{
    rig::{MIB, Rig},
    troubles::{until_trouble, until_well},
};

fn until_out(rig: &Rig, name: &str) {
    wait("the entry is out", || if rig.config().contains(name) { Err(rig.config()) } else { Ok(()) });
}

/// sing-box refuses what somebody has written, so that nothing of it can be edited; when it is mended, who was cut
/// meanwhile is taken out of the mended text.
#[test]
fn a_bad_edit_by_hand_keeps_nobody_in_the_file() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (name, before) = (rig.alice().name.clone(), rig.config());
    let bad = before.replacen('{', "{\"nobody_knows_this\": true,", 1);
    fs::write(rig.site.config(), &bad).unwrap();
    rig.done(&["users", "disable", &name]);
    until_trouble(&rig, "nobody_knows_this");
    let refused = rig.refused(&["users", "add", "carol"]).to_string();
    assert!(refused.contains("nobody_knows_this"), "{refused}");
    assert_eq!(rig.config(), bad, "nothing was changed");
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
    // Not as it was before.
    let mended = before.replacen('{', "{ // by hand", 1).replacen("// by hand", "// by hand\n", 1);
    fs::write(rig.site.config(), &mended).unwrap();
    until_out(&rig, &name);
    until_well(&rig);
    assert!(!rig.config().contains("carol"));
    assert!(rig.events("put_back_by_hand").is_empty());
    rig.done(&["users", "enable", &name]);
    wait("the file is as it was mended", || if rig.config() == mended { Ok(()) } else { Err(rig.config()) });
    assert!(rig.events("put_back_by_hand").is_empty());
}

/// Somebody saves the file while sing-box checks boxmeter's edit of it.
#[test]
fn a_file_that_changes_meanwhile_keeps_both_edits() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let (script, due) = (site.scratch.join("sing-box-check"), site.scratch.join("due"));
    let text = format!(
        "#!/bin/sh\nif rm {due} 2>/dev/null; then echo '// by hand' >> {config}; fi\nexec {binary} \"$@\"\n",
        due = due.display(),
        config = site.config().display(),
        binary = binary(VERSIONS[2]).display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("singbox", &format!("binary = {:?}", script.display().to_string()));
    agent.start();
    let rig = Rig { agent, site };
    let (name, before) = (rig.alice().name.clone(), rig.config());
    fs::write(&due, "").unwrap();
    rig.done(&["users", "disable", &name]);
    until_out(&rig, &name);
    assert!(!due.exists() && rig.config().ends_with("// by hand\n"), "{}", rig.config());
    rig.done(&["users", "enable", &name]);
    let wanted = format!("{before}// by hand\n");
    wait("both edits are there", || if rig.config() == wanted { Ok(()) } else { Err(rig.config()) });
    until_well(&rig);
    let told = rig.events("put_back_by_hand");
    assert!(told.is_empty(), "{told:?}");
}

/// Really put back by hand: it stays, it is told once, and the kernel cuts.
#[test]
fn an_entry_put_back_by_hand_is_told_once_and_stays() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (name, before) = (rig.alice().name.clone(), rig.config());
    rig.done(&["users", "disable", &name]);
    until_out(&rig, &name);
    wait("the ledger has it", || match rig.show(&name)["enforcement"].to_string() {
        shown if shown.contains("\"taken_out\":true") => Ok(()),
        shown => Err(shown),
    });
    let by_hand = format!("{before}// by hand\n");
    fs::write(rig.site.config(), &by_hand).unwrap();
    wait("it is told", || match rig.events("put_back_by_hand").len() {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
    rig.agent.kill();
    rig.agent.start();
    let edits = || rig.events("users_edited").len();
    let seen = edits();
    rig.done(&["users", "disable", &rig.bob().name]);
    wait("the next edit was made", || if edits() > seen { Ok(()) } else { Err("not yet".to_owned()) });
    assert!(rig.config().contains(&name), "a hand edit wins");
    assert_eq!(rig.events("put_back_by_hand").len(), 1);
}

/// The disk takes the new text, and does not say that it lasts: the file has it, and so the ledger.
#[test]
fn a_folder_that_cannot_be_synced_is_no_edit_that_failed() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let (name, before) = (rig.alice().name.clone(), rig.config());
    rig.agent.stop();
    rig.agent.fails_at(Some("folder-sync"));
    rig.agent.start();
    rig.done(&["users", "disable", &name]);
    wait("the edit is told", || match rig.events("users_edited").len() {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    assert!(!rig.config().contains(&name));
    assert!(rig.events("edit_failed").is_empty());
    rig.done(&["users", "enable", &name]);
    wait("the file is as it was", || if rig.config() == before { Ok(()) } else { Err(rig.config()) });
}
