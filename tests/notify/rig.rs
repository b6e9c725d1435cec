//! A server with two users, an agent that tells people, and questions about what it told.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    singbox::{Site, User, VERSIONS},
    wait,
};
use serde_json::{Value, json};

use crate::sink::Sink;

pub const MIB: u64 = 1 << 20;
/// What webhooks are signed with.
pub const SECRET: &str = "sink-secret";

pub struct Rig {
    /// The first to be dropped: it needs the site's folder.
    pub agent: Agent,
    pub site: Site,
}

impl Rig {
    /// Not started; its intervals pass faster.
    pub fn new() -> Rig {
        let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.hurries();
        Rig { agent, site }
    }

    /// These tables more in the configuration.
    pub fn configure(&self, tables: &str) {
        let file = self.path("boxmeter.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}{tables}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// With a webhook to a sink, and started.
    pub fn with_webhook(more: &str) -> (Rig, Sink) {
        let mut rig = Rig::new();
        let sink = Sink::new(&rig.site.inside);
        rig.configure(&format!("[notify]\n{more}\n{}", webhook(&sink)));
        rig.agent.start();
        (rig, sink)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.site.scratch.join(name)
    }

    pub fn alice(&self) -> &User {
        &self.site.users[0]
    }

    pub fn bob(&self) -> &User {
        &self.site.users[1]
    }

    /// A command that must work.
    pub fn done(&self, words: &[&str]) -> Value {
        self.agent.done(words)
    }

    /// Downloads for a user; that it breaks is fine where a quota ends it.
    pub fn download(&self, user: &User, bytes: u64) -> Result<(), String> {
        user.proxy.exchange(self.site.target, 0, bytes).map_err(|error| error.to_string())
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        self.agent.events(kind)
    }

    pub fn messages(&self) -> Vec<Value> {
        self.done(&["notify", "list"])["messages"].as_array().unwrap().clone()
    }

    /// Waits until nothing is waiting or under way.
    pub fn settled(&self) -> Vec<Value> {
        wait("nothing waits to be sent", || {
            let messages = self.messages();
            let open = |it: &&Value| ["waiting", "sending"].contains(&it["state"].as_str().unwrap());
            match messages.iter().find(open) {
                None => Ok(messages),
                Some(open) => Err(open.to_string()),
            }
        })
    }

    pub fn until_degraded(&self, part: &str) -> String {
        wait(&format!("{part} is degraded"), || {
            let status = self.agent.ask(&["status"])?;
            let degraded = status["degraded"].as_array().unwrap();
            let found = degraded.iter().find(|it| it["part"] == json!(part));
            found.map(|it| it["reason"].as_str().unwrap().to_owned()).ok_or_else(|| status.to_string())
        })
    }

    pub fn until_well(&self, part: &str) {
        wait(&format!("{part} is well"), || {
            let status = self.agent.ask(&["status"])?;
            let degraded = status["degraded"].as_array().unwrap();
            match degraded.iter().any(|it| it["part"] == json!(part)) {
                true => Err(status.to_string()),
                false => Ok(()),
            }
        });
    }

    /// One change of the ledger while no agent runs.
    pub fn in_ledger(&self, sql: &str) -> usize {
        let ledger = rusqlite::Connection::open(self.path("ledger/ledger.db")).unwrap();
        ledger.execute(sql, []).unwrap()
    }
}

pub fn webhook(sink: &Sink) -> String {
    format!(
        "[notify.webhook]\nurl = \"http://{}/hook?key=in-the-path\"\nsecret = \"{SECRET}\"\n",
        sink.address
    )
}
