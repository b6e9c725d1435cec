//! A server with two users and an agent beside it.

use std::path::PathBuf;

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    singbox::{Site, User, VERSIONS},
    wait,
};
use serde_json::{Value, json};

pub const MIB: u64 = 1 << 20;

pub struct Rig {
    /// The first to be dropped: it needs the site's folder.
    pub agent: Agent,
    pub site: Site,
}

impl Rig {
    /// Configured with these lines more below `[ledger]`, not started.
    pub fn configured(ledger: &str) -> Rig {
        let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
        let agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        let file = site.scratch.join("boxmeter.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, text.replace("[ledger]\n", &format!("[ledger]\n{ledger}"))).unwrap();
        Rig { agent, site }
    }

    pub fn new() -> Rig {
        let mut rig = Rig::configured("");
        rig.agent.start();
        rig
    }

    pub fn alice(&self) -> &User {
        &self.site.users[0]
    }

    pub fn exchange(&self, user: &User, up: u64, down: u64) {
        user.proxy.exchange(self.site.target, up, down).unwrap();
    }

    /// A command that must work.
    pub fn done(&self, words: &[&str]) -> Value {
        self.agent.ask(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A command that must end with this code; what it said.
    pub fn fails(&self, words: &[&str], code: i32) -> String {
        let output = self.agent.command(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        said
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.done(&["events"])["events"].clone();
        events.as_array().unwrap().iter().filter(|event| event["kind"] == json!(kind)).cloned().collect()
    }

    /// Waits for an event of a kind.
    pub fn told(&self, kind: &str) -> Value {
        wait(&format!("{kind} is told"), || self.events(kind).pop().ok_or_else(|| "not yet".to_owned()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.site.scratch.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}
