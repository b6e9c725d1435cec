//! A server with two users, and questions about them.

pub use boxmeter_tests::scene::{Stops, Stream, while_streaming};
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    scene::Scene,
    singbox::{Site, User},
    target::Target,
};
use serde_json::Value;

pub const MIB: u64 = 1 << 20;

pub struct Rig {
    /// The first to be dropped: it needs the site's folder.
    pub agent: Agent,
    pub site: Site,
}

impl Scene for Rig {
    fn users(&self) -> &[User] {
        &self.site.users
    }

    fn target(&self) -> Target {
        self.site.target
    }
}

impl Rig {
    pub fn new(version: &'static str, case: &'static str) -> Rig {
        let site = Site::new(version, &[named(case)]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.start();
        Rig { agent, site }
    }

    /// As [`Rig::new`], and the agent's intervals of address limits are shorter.
    pub fn hurried(version: &'static str, case: &'static str) -> Rig {
        let site = Site::new(version, &[named(case)]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.hurries();
        agent.start();
        Rig { agent, site }
    }

    /// A command that must work.
    pub fn done(&self, words: &[&str]) -> Value {
        self.agent.done(words)
    }

    /// A command that must be refused, with what it said.
    pub fn refused(&self, words: &[&str]) -> Value {
        let output = self.agent.command(words);
        assert!(!output.status.success(), "{words:?} was accepted");
        serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub fn show(&self, user: &str) -> Value {
        self.agent.show(user)
    }

    pub fn until_state(&self, user: &str, state: &str) -> Value {
        self.agent.until_state(user, state)
    }

    /// Both directions of the payload that is counted for a user.
    pub fn used(&self, user: &str) -> u64 {
        self.agent.used(user)
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        self.agent.events(kind)
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(self.site.config()).unwrap()
    }
}
