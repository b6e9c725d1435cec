//! Many users at once: one edit that was checked, one reload, few transactions.

use std::{fmt::Write as _, os::unix::fs::PermissionsExt};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS, binary},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig};
use boxmeter_tests::scene::Scene as _;

const MANY: usize = 300;

fn name(at: usize) -> String {
    format!("user{at:04}")
}

/// A file of users to import.
fn file(rig: &Rig, text: &str) -> String {
    let path = rig.site.scratch.join("import.csv");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn many(enabled: bool) -> String {
    let mut text = "username,password,enabled\n".to_owned();
    for at in 0..MANY {
        writeln!(text, "{},secret-{at},{enabled}", name(at)).unwrap();
    }
    text
}

/// How many of a report came to this.
fn count(report: &Value, outcome: &str) -> usize {
    let users = report["users"].as_array().unwrap_or_else(|| panic!("{report}"));
    users.iter().filter(|user| user["outcome"] == json!(outcome)).count()
}

fn in_file(rig: &Rig) -> usize {
    rig.config().matches("\"user0").count()
}

fn until_in_file(rig: &Rig, wanted: usize) {
    wait("so many are in the file", || match in_file(rig) {
        now if now == wanted => Ok(()),
        now => Err(now.to_string()),
    });
}

fn enforcement(rig: &Rig) -> Value {
    rig.done(&["status"])["enforcement"].clone()
}

fn until_reloads(rig: &Rig, wanted: u64) {
    wait("so many reloads", || match enforcement(rig) {
        now if now["reloads"] == json!(wanted) && now["pending"].is_null() => Ok(()),
        now => Err(now.to_string()),
    });
}

#[test]
fn an_import_of_many_is_one_edit_and_one_reload() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let taken =
        serde_json::from_str::<Value>(&rig.config()).unwrap()["inbounds"][0]["users"][0]["password"].clone();
    let (alice, before) = (rig.alice().name.clone(), rig.config());
    let text = format!(
        "{}twin,{},true\n{alice},,true\n{},other,true\n",
        many(true),
        taken.as_str().unwrap(),
        name(7)
    );
    let import = file(&rig, &text);
    // Killed after the files were written: everybody is in with the next start, once.
    rig.agent.stop();
    rig.agent.fails_at(Some("written"));
    rig.agent.start();
    rig.agent.command(&["users", "import", &import]);
    rig.agent.dies();
    rig.agent.fails_at(None);
    rig.agent.start();
    assert_eq!(in_file(&rig), MANY);
    wait("everybody is there", || match rig.done(&["users", "list"])["users"].as_array().unwrap().len() {
        count if count == MANY + 2 => Ok(()),
        count => Err(count.to_string()),
    });
    assert_eq!(rig.events("user_adopted").len(), 2);
    let report = rig.agent.command(&["users", "import", &import]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((count(&report, "added"), count(&report, "refused")), (0, 1), "{report}");
    for at in 0..MANY {
        assert_eq!(rig.config().matches(&format!("\"{}\"", name(at))).count(), 1);
    }
    // What the dead agent has written is read.
    until_reloads(&rig, 1);
    // Out again by hand, and with nobody killed.
    std::fs::write(rig.site.config(), &before).unwrap();
    wait("they are gone", || match rig.done(&["users", "list"])["users"].as_array().unwrap().len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    let (edits, reloads) =
        (enforcement(&rig)["edits"].as_u64().unwrap(), enforcement(&rig)["reloads"].as_u64().unwrap());
    let report = rig.agent.command(&["users", "import", &import]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((count(&report, "added"), count(&report, "refused")), (MANY, 1), "{report}");
    assert_eq!(enforcement(&rig)["edits"], json!(edits + 1));
    until_reloads(&rig, reloads + 1);
    rig.exchange(rig.bob(), 0, MIB).unwrap();
}

/// An agent whose sing-box finds something in the word `poison` that nobody else does, and nothing else: boxmeter
/// itself looks for whatever the releases of today are known to refuse.
fn picky() -> (Agent, Site) {
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let script = site.scratch.join("sing-box-check");
    let text = format!(
        "#!/bin/sh\nfor word do\n  if [ -f \"$word\" ] && grep -q poison \"$word\"; then echo 'FATAL it is poison' >&2; exit 1; fi\ndone\n\
         exec {} \"$@\"\n",
        binary(VERSIONS[2]).display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("singbox", &format!("binary = {:?}", script.display().to_string()));
    (agent, site)
}

/// What only sing-box finds in one entry keeps nobody else out.
#[test]
fn one_that_sing_box_does_not_take_keeps_nobody_out() {
    needs_machine!();
    let (mut agent, site) = picky();
    agent.start();
    let rig = Rig { agent, site };
    let mut text = "username,password\n".to_owned();
    for at in 0..20_usize {
        let password = if at == 11 { "poison".to_owned() } else { format!("secret-{at}") };
        writeln!(text, "{},{password}", name(at)).unwrap();
    }
    let import = file(&rig, &text);
    let report = rig.agent.command(&["users", "import", &import]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((count(&report, "added"), count(&report, "refused")), (19, 1), "{report}");
    assert!(report["users"][11]["message"].as_str().unwrap().contains("it is poison"), "{report}");
    assert_eq!(in_file(&rig), 19);
    rig.refused(&["users", "show", &name(11)]);
    // Nothing of it is left in anybody's way.
    rig.done(&["users", "add", &name(11)]);
    assert_eq!(in_file(&rig), 20);
}

/// The same where the agent dies before anything of it is in the file: the next one lets in whom it can, and
/// nobody else's change waits for who cannot be.
#[test]
fn one_that_sing_box_does_not_take_keeps_nobody_out_after_a_crash() {
    needs_machine!();
    let (mut agent, site) = picky();
    agent.fails_at(Some("user-created"));
    agent.start();
    let mut rig = Rig { agent, site };
    let mut text = "username,password\n".to_owned();
    for at in 0..6_usize {
        let password = if at == 3 { "poison".to_owned() } else { format!("secret-{at}") };
        writeln!(text, "{},{password}", name(at)).unwrap();
    }
    let import = file(&rig, &text);
    assert!(!rig.agent.command(&["users", "import", &import]).status.success());
    assert_eq!(in_file(&rig), 0, "it died before");
    rig.agent.fails_at(None);
    rig.agent.kill();
    rig.agent.start();
    until_in_file(&rig, 5);
    wait("who cannot be added is given up", || match rig.events("user_not_added").len() {
        1.. => Ok(()),
        _ => Err(rig.done(&["users", "list"]).to_string()),
    });
    rig.refused(&["users", "show", &name(3)]);
    rig.done(&["users", "disable", &rig.bob().name]);
}

/// An agent that dies before it has written what it decided about many, and one that starts with many who are
/// out, have little to do, and do it together.
#[test]
fn a_start_with_many_who_are_out_is_few_transactions() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let today = rig.done(&["status"])["agent"]["started_at"].as_str().unwrap()[..10].to_owned();
    let mut text = "username,password,enabled,quota,used,created\n".to_owned();
    for at in 0..MANY {
        // One half is disabled, the other one is beyond its quota, with warnings on the way there.
        let enabled = at % 2 == 0;
        writeln!(text, "{},secret-{at},{enabled},1000,5000,{today}", name(at)).unwrap();
    }
    let import = file(&rig, &text);
    let rev = |rig: &Rig| rig.done(&["users", "list"])["rev"].as_u64().unwrap();
    let before = rev(&rig);
    assert_eq!(count(&rig.done(&["users", "import", &import]), "added"), MANY);
    rig.agent.kill();
    rig.agent.start();
    until_in_file(&rig, 0);
    let warned = name(MANY - 2);
    wait("everybody is warned", || {
        let events = rig.done(&["events", "--user", &warned])["events"].clone();
        let events = events.as_array().unwrap();
        let warnings = events.iter().filter(|event| event["kind"] == json!("quota_warning")).count();
        if warnings > 0 { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let first = rev(&rig);
    // Ticks are among them.
    assert!(first - before < MANY as u64, "{before} to {first}");
    assert!(enforcement(&rig)["reloads"].as_u64().unwrap() <= 1, "{}", enforcement(&rig));
    // And nothing of it is done again.
    rig.agent.stop();
    rig.agent.start();
    for (at, state) in [(5, "disabled"), (6, "limited")] {
        assert_eq!(rig.show(&name(at))["state"], json!(state));
    }
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    let status = enforcement(&rig);
    assert_eq!((&status["edits"], &status["reloads"]), (&json!(0), &json!(0)), "{status}");
    assert!(rev(&rig) - first < MANY as u64 / 3, "{first} to {}", rev(&rig));
}

/// A thousand who are out at once, and back at once, are one edit and one reload each.
#[test]
fn a_thousand_at_once_are_one_edit_and_one_reload() {
    needs_machine!();
    const THOUSAND: usize = 1_000;
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let before = rig.config();
    rig.done(&["policies", "add", "plan"]);
    let mut text = "username,password,policy,used\n".to_owned();
    for at in 0..THOUSAND {
        writeln!(text, "{},secret-{at},plan,5000", name(at)).unwrap();
    }
    let import = file(&rig, &text);
    assert_eq!(count(&rig.done(&["users", "import", &import]), "added"), THOUSAND);
    until_in_file(&rig, THOUSAND);
    until_reloads(&rig, 1);
    let full = rig.config();
    let edits = || enforcement(&rig)["edits"].as_u64().unwrap();
    let (once, twice) = (edits() + 1, edits() + 2);
    rig.done(&["policies", "set", "plan", "--quota", "1000"]);
    until_in_file(&rig, 0);
    assert_eq!(rig.config(), before, "nobody else's entry is touched");
    until_reloads(&rig, 2);
    assert_eq!(edits(), once);
    rig.done(&["policies", "set", "plan", "--quota", "none"]);
    until_in_file(&rig, THOUSAND);
    until_reloads(&rig, 3);
    assert_eq!((edits(), rig.config()), (twice, full));
    rig.exchange(rig.bob(), 0, MIB).unwrap();
}
