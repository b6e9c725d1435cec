//! What is wrong with one service is no other's: sing-box and V2Ray on one machine.

use std::fs;

use boxmeter_tests::{
    agent::Agent,
    cases::{Udp, named},
    needs_machine,
    scene::Scene as _,
    singbox::{Site, VERSIONS},
    v2ray::{V2raySite, with_handler},
    wait,
};
use serde_json::{Value, json};

use crate::rig::MIB;

/// A sing-box and a V2Ray; the first user of the one is the first user of the other.
struct Both {
    agent: Agent,
    v2ray: V2raySite,
    singbox: Site,
}

fn both(change: impl FnOnce(&mut Value)) -> Both {
    let singbox = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let name = singbox.users[0].name.clone();
    let mut config = with_handler();
    config["inbounds"][1]["settings"]["clients"][0]["email"] = json!(name);
    change(&mut config);
    let v2ray = V2raySite::beside(&singbox, &config, &[(&name, "trojan", Udp::Watched)]);
    let files = (singbox.config(), v2ray.config());
    let mut agent = Agent::beside(&singbox.scratch, &[&files.0], &[&files.1], &singbox.inside);
    agent.hurries();
    Both { agent, v2ray, singbox }
}

impl Both {
    fn name(&self) -> &str {
        &self.singbox.users[0].name
    }

    fn texts(&self) -> [String; 2] {
        [self.singbox.config(), self.v2ray.config()].map(|file| fs::read_to_string(file).unwrap())
    }

    /// Whether sing-box's file and V2Ray's have the user.
    fn until_in(&self, what: &str, wanted: [bool; 2]) {
        wait(what, || {
            let texts = self.texts();
            let found = [0, 1].map(|at| texts[at].contains(self.name()));
            if found == wanted { Ok(()) } else { Err(format!("{found:?}\n{}", texts.concat())) }
        });
    }

    fn exchange(&self, at: usize) -> Result<(), String> {
        let user = &self.singbox.users[at];
        user.proxy.exchange(self.singbox.target(), 0, MIB).map_err(|error| error.to_string())
    }
}

/// V2Ray tells nobody's owners: that is said of V2Ray, and sing-box's users are metered and cut as ever.
#[test]
fn a_source_that_is_down_is_down_for_its_own_service_only() {
    needs_machine!();
    let mut both = both(|config| config["log"]["access"] = json!("none"));
    both.agent.start();
    let status = wait("sing-box's source is connected", || {
        let status = both.agent.ask(&["status"])?;
        if status["source"]["connected"] == json!(true) { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["source"]["kind"], json!("api"));
    assert_eq!(status["services"][0]["source"]["connected"], json!(false), "{status}");
    let parts: Vec<_> =
        status["degraded"].as_array().unwrap().iter().map(|it| it["part"].as_str().unwrap()).collect();
    assert!(parts.contains(&"service_source") && !parts.contains(&"source"), "{parts:?}");
    both.exchange(0).unwrap();
    wait("sing-box's user is metered", || match both.agent.used(both.name()) {
        used if used >= MIB => Ok(()),
        used => Err(format!("{used} bytes")),
    });
    // A change of V2Ray's users is told at once; sing-box's waits for quiet as ever, and is not hurried.
    let open = boxmeter_tests::scene::Stream::open(&both.singbox, &both.singbox.users[1]);
    both.agent.done(&["users", "disable", both.name()]);
    both.until_in("the user is out of both files", [false, false]);
    let status = both.agent.done(&["status"]);
    assert_eq!(status["enforcement"]["reloads"], json!(0), "{status}");
    drop(open);
}

/// V2Ray's file is no configuration for a while: sing-box's edits come to pass, a deleted user is not settled
/// before V2Ray's file was read, also by an agent that never read it, and is nobody new when it is.
#[test]
fn a_file_that_cannot_be_read_holds_up_its_own_service_only() {
    needs_machine!();
    let mut both = both(|_| {});
    both.agent.start();
    let (name, file) = (both.name().to_owned(), both.v2ray.config());
    let good = both.v2ray.text();
    fs::write(&file, "{ \"inbounds\": [").unwrap();
    both.agent.done(&["users", "disable", &name]);
    wait("sing-box's file is edited", || {
        let text = both.texts()[0].clone();
        if text.contains(&name) { Err(text) } else { Ok(()) }
    });
    both.exchange(0).expect_err("a disabled user got through");
    both.agent.done(&["users", "delete", &name, "--yes"]);
    both.agent.stop();
    both.agent.start();
    // Somebody of that name would be the one who is still in V2Ray's file.
    let error = both.agent.ask(&["users", "add", &name]).unwrap_err();
    assert!(error.contains("may still be in files"), "{error}");
    let listed = |agent: &Agent| agent.done(&["users", "list"]).to_string().contains(&format!("\"{name}\""));
    assert!(!listed(&both.agent));
    fs::write(&file, &good).unwrap();
    both.until_in("the deleted user is out of V2Ray's file too", [false, false]);
    assert!(!listed(&both.agent), "adopted");
    wait("the name is free", || both.agent.ask(&["users", "add", &name]));
    both.until_in("somebody new has the name", [true, true]);
}

/// V2Ray refuses its own file: who is on both is out of sing-box's at once, and comes back there.
#[test]
fn a_check_that_fails_holds_up_its_own_service_only() {
    needs_machine!();
    let mut both = both(|_| {});
    both.agent.start();
    let (name, file) = (both.name().to_owned(), both.v2ray.config());
    let good = both.v2ray.text();
    let mut bad: Value = serde_json::from_str(&good).unwrap();
    bad["outbounds"].as_array_mut().unwrap().push(json!({"protocol": "nonsense"}));
    let bad = serde_json::to_string_pretty(&bad).unwrap();
    fs::write(&file, &bad).unwrap();
    both.agent.done(&["users", "disable", &name]);
    both.until_in("sing-box's file is edited, V2Ray's is not", [false, true]);
    let failed = wait("it is said why", || match both.agent.events("edit_failed").pop() {
        Some(event) => Ok(event.to_string()),
        None => Err("not yet".to_owned()),
    });
    assert!(failed.contains("V2Ray refuses"), "{failed}");
    assert_eq!(both.v2ray.text(), bad);
    fs::write(&file, &good).unwrap();
    both.until_in("V2Ray's follows", [false, false]);
    both.agent.done(&["users", "enable", &name]);
    both.until_in("both have the user", [true, true]);
    assert_eq!(both.v2ray.text(), good);
    wait("sing-box lets the user in", || both.exchange(0));
    both.v2ray.users[0].proxy.exchange(both.v2ray.target(), 0, MIB).unwrap();
}
