//! A V2Ray server with the tutorial's two users, and its agent.

use boxmeter_tests::{
    agent::Agent,
    scene::Scene,
    singbox::User,
    target::Target,
    v2ray::{TUTORIAL_USERS, V2raySite},
    wait,
};
use serde_json::Value;

pub const MIB: u64 = 1 << 20;

pub struct Rig {
    /// The first to be dropped: it needs the site's folder.
    pub agent: Agent,
    pub site: V2raySite,
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
    pub fn new(config: &Value) -> Rig {
        let mut rig = Rig::of(V2raySite::new(config, TUTORIAL_USERS));
        rig.agent.start();
        rig
    }

    /// The agent does not run yet.
    pub fn of(site: V2raySite) -> Rig {
        let agent = Agent::beside(&site.scratch, &[], &[&site.config()], &site.inside);
        Rig { agent, site }
    }

    pub fn until_text(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        wait(what, || match self.site.text() {
            text if is_so(&text) => Ok(()),
            text => Err(text),
        });
    }

    /// Lines of the access log that say that V2Ray itself has turned somebody away.
    pub fn turned_away(&self) -> usize {
        std::fs::read_to_string(self.site.access_log()).unwrap_or_default().matches(" rejected ").count()
    }

    /// V2Ray itself lets the user in no more, whatever the kernel does.
    pub fn until_turned_away(&self, user: &User) {
        let before = self.turned_away();
        wait("V2Ray knows the user no more", || {
            self.exchange(user, 0, 64 * MIB).expect_err("a cut user got through");
            if self.turned_away() > before { Ok(()) } else { Err("it is let in".to_owned()) }
        });
    }
}
