//! `[[service]]`: proxies beside sing-box, and nginx.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{AutoPath, RELOAD_WITHIN_MAX, Reload, values::duration};
use crate::{
    service::{self, Kind},
    source::vts::Url,
};

/// Tags of its inbounds begin with the name, and the kernel keeps the beginning of tags.
const NAME_MAX: usize = 24;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// `v2ray`, `xray` or `nginx`.
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
    /// Who counts its users' bytes.
    pub meter: Counts,
    /// How often totals that it reports are read.
    #[serde(with = "duration")]
    pub every: Duration,
    /// nginx: where nginx-module-vts answers in JSON.
    pub status: String,
    /// nginx: the file of users whom it refuses; empty: it refuses nobody.
    pub refuse: PathBuf,
    /// nginx: the file with its pid; `auto`: the one nginx that runs.
    pub pid_file: AutoPath,
    /// nginx: whom it has as users; empty: whoever it counts.
    pub users: Vec<String>,
}

/// Who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    #[default]
    Kernel,
    /// The service itself.
    Reported,
}

/// More often is no more exact: nginx counts a request when it ends.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// What a service loses at a restart, and what somebody may use beyond a quota.
const EVERY_MAX: Duration = Duration::from_secs(600);

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
            meter: Counts::Kernel,
            every: Duration::from_secs(5),
            status: String::new(),
            refuse: PathBuf::new(),
            pid_file: AutoPath::Auto,
            users: Vec::new(),
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

    pub fn is_nginx(&self) -> bool {
        self.kind == Some(Kind::Nginx)
    }

    /// Does it count its users' bytes itself?
    pub fn is_reported(&self) -> bool {
        self.is_nginx() || self.meter == Counts::Reported
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.kind.is_none() {
            return Err(("service.kind", "must be \"v2ray\", \"xray\" or \"nginx\"".to_owned()));
        }
        if !(EVERY_MIN..=EVERY_MAX).contains(&self.every) {
            return Err(("service.every", "must be between 1s and 10m".to_owned()));
        }
        if self.is_nginx() {
            return self.check_name().and_then(|()| self.check_nginx());
        }
        let nginx = Service { kind: self.kind, ..Service::default() };
        if (&self.status, &self.refuse, &self.pid_file, &self.users)
            != (&nginx.status, &nginx.refuse, &nginx.pid_file, &nginx.users)
        {
            let what = "`status`, `refuse`, `pid_file` and `users` are for kind = \"nginx\" only";
            return Err(("service.status", what.to_owned()));
        }
        self.check_name()?;
        self.check_proxy()
    }

    fn check_nginx(&self) -> Result<(), (&'static str, String)> {
        Url::parse(&self.status).map_err(|error| ("service.status", error.to_string()))?;
        if self.config.len() > 1 {
            return Err((
                "service.config",
                "nginx has one configuration file, as given to nginx -c".to_owned(),
            ));
        }
        let relative = |path: &PathBuf| !path.as_os_str().is_empty() && path.is_relative();
        if relative(&self.refuse) {
            return Err(("service.refuse", "must be a whole path, as /etc/nginx/boxmeter.conf".to_owned()));
        }
        let proxy = Service::default();
        if (&self.access_log, &self.restart, self.meter) != (&proxy.access_log, &proxy.restart, proxy.meter) {
            let what = "`access_log`, `restart` and `meter` are not for kind = \"nginx\": it always reports";
            return Err(("service.meter", what.to_owned()));
        }
        Ok(())
    }

    fn check_name(&self) -> Result<(), (&'static str, String)> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.len() > NAME_MAX || !self.name.chars().all(good) || self.name == Kind::Singbox.program()
        {
            let what =
                format!("at most {NAME_MAX} letters, digits, dots, dashes and underscores, and not sing-box");
            return Err(("service.name", what));
        }
        Ok(())
    }

    fn check_proxy(&self) -> Result<(), (&'static str, String)> {
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
        let url = Url::parse(&service.status).ok().filter(|_| service.is_nginx());
        let same = |other: &Service| {
            Url::parse(&other.status).is_ok_and(|it| Some(it.addr) == url.as_ref().map(|it| it.addr))
        };
        if let Some(other) = services[..at].iter().find(|other| other.is_nginx() && same(other)) {
            let what = format!(
                "{name:?} and {:?} are one nginx: its bytes would count twice",
                other.identity().name
            );
            return Err(("service.status", what));
        }
        let refuses = !service.refuse.as_os_str().is_empty();
        if let Some(other) = services[..at].iter().find(|other| refuses && other.refuse == service.refuse) {
            let other = other.identity().name;
            let what =
                format!("{name:?} and {other:?} name one file: each would write its own users into it");
            return Err(("service.refuse", what));
        }
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
        let text = "[[service]]\nkind = \"nginx\"\nstatus = \"http://127.0.0.1:8080/status/format/json\"\n\
                    refuse = \"/etc/nginx/boxmeter.conf\"\n[[service]]\nkind = \"v2ray\"\nconfig = [\"/x\"]\n\
                    meter = \"reported\"\nevery = \"2s\"";
        let config = parse(text).unwrap();
        assert!(config.services.iter().all(Service::is_reported));
        assert_eq!(config.proxies().count(), 1, "nginx has no inbounds");
        assert!(Config::default().has_singbox());
        assert!(parse(&format!("{text}\n[singbox]\nconfig = [\"/elsewhere\"]")).unwrap().has_singbox());
        assert!(!parse(&format!("{text}\n[singbox]\nconfig = []")).unwrap().has_singbox());
    }

    #[test]
    fn bad_services_say_what_to_write() {
        for (text, part) in [
            ("config = [\"/x\"]", "service.kind"),
            ("kind = \"caddy\"", "v2ray"),
            ("kind = \"nginx\"", "service.status"),
            ("kind = \"nginx\"\nstatus = \"https://127.0.0.1/s\"", "http://"),
            ("kind = \"nginx\"\nstatus = \"http://127.0.0.1/s\"\nrefuse = \"a.conf\"", "service.refuse"),
            ("kind = \"nginx\"\nstatus = \"http://127.0.0.1/s\"\nrestart = \"never\"", "always reports"),
            (
                "kind = \"nginx\"\nstatus = \"http://127.0.0.1/s\"\n[[service]]\nkind = \"nginx\"\nname = \"b\"\n\
                 status = \"http://localhost:80/t\"",
                "one nginx",
            ),
            (
                "kind = \"nginx\"\nstatus = \"http://127.0.0.1/s\"\nrefuse = \"/etc/b.conf\"\n[[service]]\n\
                 kind = \"nginx\"\nname = \"b\"\nstatus = \"http://127.0.0.1:81/s\"\nrefuse = \"/etc//./b.conf\"",
                "name one file",
            ),
            ("kind = \"nginx\"\nstatus = \"http://127.0.0.1/s\"\nevery = \"11m\"", "service.every"),
            ("kind = \"v2ray\"\nconfig = [\"/x\"]\nusers = [\"a\"]", "nginx"),
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
