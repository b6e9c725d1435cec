//! `[[service]]`: proxies beside sing-box.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{AutoPath, RELOAD_WITHIN_MAX, Reload, values::duration};
use crate::service::{self, Kind};

/// Tags of its inbounds begin with the name, and the kernel keeps the beginning of tags.
const NAME_MAX: usize = 24;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// `v2ray` or `xray`.
    pub kind: Option<Kind>,
    /// What it is called here; empty: its kind.
    pub name: String,
    /// Files or directories, in the order in which they are given to it.
    pub config: Vec<PathBuf>,
    /// `auto`: as its configuration says.
    pub access_log: AutoPath,
    /// For checks; `auto`: the running process's executable.
    pub binary: AutoPath,
    /// How it reads changed users where its API cannot be told; a restart, which drops everybody.
    pub restart: Reload,
    #[serde(with = "duration")]
    pub restart_within: Duration,
}

impl Default for Service {
    fn default() -> Self {
        Service {
            kind: None,
            name: String::new(),
            config: Vec::new(),
            access_log: AutoPath::Auto,
            binary: AutoPath::Auto,
            restart: Reload::Auto,
            restart_within: Duration::from_secs(600),
        }
    }
}

impl Service {
    /// Who it is; `check` has seen that it says so.
    pub fn identity(&self) -> service::Service {
        let kind = self.kind.unwrap_or_default();
        let name = if self.name.is_empty() { kind.program() } else { &self.name };
        service::Service { kind, name: name.into() }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.kind.is_none() {
            return Err(("service.kind", "must be \"v2ray\" or \"xray\"".to_owned()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.len() > NAME_MAX || !self.name.chars().all(good) || self.name == Kind::Singbox.program()
        {
            let what =
                format!("at most {NAME_MAX} letters, digits, dots, dashes and underscores, and not sing-box");
            return Err(("service.name", what));
        }
        if self.config.is_empty() {
            return Err((
                "service.config",
                "must name its configuration, as [\"/etc/v2ray/config.json\"]".to_owned(),
            ));
        }
        if self.restart == Reload::Signal {
            let what = "it reads its files only when it starts: \"auto\", \"systemd:UNIT\", \"command:…\" or \"never\"";
            return Err(("service.restart", what.to_owned()));
        }
        if self.restart_within > RELOAD_WITHIN_MAX {
            return Err(("service.restart_within", "must be at most 7d".to_owned()));
        }
        Ok(())
    }
}

/// Each by itself, and no two of one name.
pub(super) fn check(services: &[Service]) -> Result<(), (&'static str, String)> {
    for (at, service) in services.iter().enumerate() {
        service.check()?;
        let name = service.identity().name;
        if services[..at].iter().any(|earlier| earlier.identity().name == name) {
            return Err((
                "service.name",
                format!("two services are called {name:?}; give one a `name` of its own"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::Config, *};

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn services_are_read_and_sing_box_is_there_only_where_it_is_meant() {
        let text = "[[service]]\nkind = \"v2ray\"\nconfig = [\"/etc/v2ray/config.json\"]\n\
                    [[service]]\nkind = \"xray\"\nname = \"edge\"\nconfig = [\"/etc/xray\"]\naccess_log = \"/var/log/x\"\n\
                    restart = \"systemd:xray.service\"\nrestart_within = \"1h\"";
        let config = parse(text).unwrap();
        let names: Vec<_> = config.services.iter().map(|it| it.identity().name.to_string()).collect();
        assert_eq!(names, ["v2ray", "edge"]);
        assert_eq!(config.services[1].access_log, AutoPath::Path("/var/log/x".into()));
        assert!(Config::default().has_singbox());
        assert!(parse(&format!("{text}\n[singbox]\nconfig = [\"/elsewhere\"]")).unwrap().has_singbox());
        assert!(!parse(&format!("{text}\n[singbox]\nconfig = []")).unwrap().has_singbox());
    }

    #[test]
    fn bad_services_say_what_to_write() {
        for (text, part) in [
            ("config = [\"/x\"]", "service.kind"),
            ("kind = \"nginx\"", "v2ray"),
            ("kind = \"v2ray\"", "service.config"),
            ("kind = \"v2ray\"\nconfg = [\"/x\"]", "did you mean `config`"),
            ("kind = \"v2ray\"\nconfig = [\"/x\"]\nname = \"a/b\"", "service.name"),
            ("kind = \"v2ray\"\nconfig = [\"/x\"]\nname = \"sing-box\"", "service.name"),
            ("kind = \"v2ray\"\nconfig = [\"/x\"]\nrestart = \"signal\"", "service.restart"),
            (
                "kind = \"v2ray\"\nconfig = [\"/x\"]\n[[service]]\nkind = \"v2ray\"\nconfig = [\"/y\"]",
                "two services",
            ),
        ] {
            let error = parse(&format!("[[service]]\n{text}")).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
