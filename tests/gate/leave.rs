//! What is left when boxmeter goes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{MIB, Rig, Stops, Stream};
use boxmeter_tests::scene::Scene as _;

/// A server whose configuration has no API until `doctor --fix` puts one in.
fn fixed(version: &'static str) -> (Rig, String) {
    let mut site = Site::new(version, &[named("trojan-tls")]);
    site.server = None;
    let text = std::fs::read_to_string(site.config()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for key in ["services", "experimental"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["log"]["level"] = json!("warn");
    let text = serde_json::to_string_pretty(&config).unwrap();
    std::fs::write(site.config(), &text).unwrap();
    site.start_server_without_api();
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    // What else doctor finds on this machine does not matter here.
    let fix = agent.command(&["doctor", "--fix", "--yes"]);
    let said = String::from_utf8_lossy(&fix.stderr).into_owned();
    let now = std::fs::read_to_string(site.config()).unwrap();
    assert!(now.contains("\"secret\""), "{said}");
    agent.start();
    (Rig { agent, site }, text)
}

/// `detach` takes out what boxmeter put in and nothing else, and says what stops holding.
fn leaves_as_it_was(version: &'static str) {
    let (mut rig, first) = fixed(version);
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["users", "set", &bob, "--quota", "100GiB", "--speed-down", "9MiB/s"]);
    rig.done(&["users", "disable", &alice]);
    rig.done(&["users", "disable", &bob]);
    wait("both are out", || {
        match rig.config().contains("boxmeter-locked") && !rig.config().contains(&alice) {
            true => Ok(()),
            false => Err(rig.config()),
        }
    });
    rig.agent.stop();
    let out = rig.config();
    let would = rig.done(&["detach", "--dry-run"]);
    assert_eq!((&would["attached"], &would["ledger"]), (&json!(true), &json!(true)), "{would}");
    assert_eq!((&would["out"], &would["limits"]), (&json!([alice, bob]), &json!(4)), "{would}");
    // There is nobody to say yes.
    let asked = rig.refused(&["detach"]);
    assert!(asked.to_string().contains("--yes"), "{asked}");
    assert_eq!(rig.config(), out);
    // Somebody puts another user in by hand, beside the locked entry.
    let entry = r#"{ "name": "dave", "password": "by hand" },"#;
    let edited = out.replacen("\"users\": [", &format!("\"users\": [ {entry}"), 1);
    assert_ne!(edited, out);
    std::fs::write(rig.site.config(), &edited).unwrap();
    let left = rig.done(&["detach", "--yes"]);
    assert_eq!(left["put_back"], json!([alice, bob]), "{left}");
    assert_eq!((&left["still_out"], &left["api_removed"]), (&json!([]), &json!(true)), "{left}");
    // bob's quota and speed, and two who are disabled.
    assert_eq!((&left["limits"], &left["limited_users"]), (&json!(4), &json!(2)), "{left}");
    assert_eq!(left["locked_entries_left"], json!(0), "{left}");
    let now = rig.config();
    assert!(now.contains("dave"), "{now}");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let mut without = parsed(&now);
    let users = without["inbounds"][0]["users"].as_array_mut().unwrap();
    users.retain(|user| user["name"] != json!("dave"));
    assert_eq!(without, parsed(&first), "{version}: {now}");
    // The running sing-box has read it, and nothing holds any more.
    for user in [rig.alice(), rig.bob()] {
        wait("everybody is let in", || rig.exchange(user, 0, MIB));
    }
    let would = rig.done(&["detach", "--dry-run"]);
    assert_eq!((&would["attached"], &would["out"]), (&json!(false), &json!([])), "{would}");
    // A second time there is nothing to do.
    assert!(rig.refused(&["detach", "--yes"]).to_string().contains("nothing is attached"));
    rig.agent.start_unheard();
}

#[test]
fn detach_takes_out_what_boxmeter_put_in_and_nothing_else() {
    needs_machine!();
    leaves_as_it_was(VERSIONS[0]);
    leaves_as_it_was(VERSIONS[2]);
}

/// Another version takes over: what was counted is on the books, sing-box's files are as they were, and who is out is
/// out.
#[test]
fn detach_of_the_programs_alone_leaves_the_files() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let alice = rig.alice().name.clone();
    rig.done(&["users", "disable", &alice]);
    wait("alice is out", || match rig.config().contains(&alice) {
        true => Err("not yet".to_owned()),
        false => Ok(()),
    });
    // A connection that is known to be bob's moves bytes when no agent is there to read them.
    let bob = rig.bob().name.clone();
    let used = |rig: &Rig| Agent::payload(&rig.done(&["usage"]), &bob)[1];
    let mut open = Stream::open(&rig, rig.bob());
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let taking = scope.spawn(|| open.take(&stop, &taken));
        wait("bob is known", || if used(&rig) > MIB { Ok(()) } else { Err(used(&rig).to_string()) });
        rig.agent.stop();
        let before = taken.load(Ordering::Relaxed);
        wait("more comes", || match taken.load(Ordering::Relaxed) {
            now if now > before + MIB => Ok(()),
            now => Err(now.to_string()),
        });
        stop.store(true, Ordering::Relaxed);
        taking.join().unwrap().unwrap();
    });
    drop(open);
    let out = rig.config();
    let left = rig.done(&["detach", "--yes", "--programs-only"]);
    assert_eq!((&left["put_back"], &left["api_removed"]), (&json!([]), &json!(false)), "{left}");
    assert_eq!(rig.config(), out);
    assert_eq!(rig.done(&["detach", "--dry-run"])["attached"], json!(false));
    rig.agent.start();
    assert_eq!(rig.show(&alice)["state"], json!("disabled"));
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
    assert_eq!(rig.config(), out);
    let counted = used(&rig);
    assert!(counted >= taken.load(Ordering::Relaxed), "{counted}: what nobody had read is committed");
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    wait("the new programs count", || {
        if used(&rig) > counted + MIB { Ok(()) } else { Err(used(&rig).to_string()) }
    });
    rig.done(&["users", "enable", &alice]);
    wait("alice is back", || rig.exchange(rig.alice(), 0, MIB));
}

/// Who is to stay out stays out, and no list becomes empty.
#[test]
fn detach_can_leave_out_who_is_out() {
    needs_machine!();
    let mut rig = Rig::new(VERSIONS[2], "trojan-tls");
    let before = rig.config();
    let alice = rig.alice().name.clone();
    rig.done(&["users", "disable", &alice]);
    wait("alice is out", || match rig.config().contains(&alice) {
        true => Err("not yet".to_owned()),
        false => Ok(()),
    });
    rig.agent.stop();
    let left = rig.done(&["detach", "--yes", "--leave-out"]);
    assert_eq!((&left["still_out"], &left["put_back"]), (&json!([alice]), &json!([])), "{left}");
    assert!(!rig.config().contains(&alice));
    rig.exchange(rig.alice(), 0, MIB).expect_err("sing-box has read who is out");
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    // The API is the admin's own.
    assert_eq!(left["api_removed"], json!(false));
    assert_eq!(rig.done(&["detach", "--yes"])["put_back"], json!([alice]));
    assert_eq!(rig.config(), before);
    rig.agent.start();
}
