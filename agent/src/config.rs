//! boxmeter's own configuration: one TOML file, every key optional, unknown keys refused by name.
//!
//! It only says what is wanted. What `auto` means on this machine is found out by the parts
//! themselves.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use boxmeter_web::panel::options::Network;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub use kernel::Kernel;
use keys::{check_keys, without_secrets};
pub use ledger::Ledger;
pub use notify::Notify;
pub use panel::{Language, Panel};
pub use service::Service;
use values::duration;
pub use values::{AutoPath, Reload};

mod kernel;
mod keys;
mod ledger;
pub mod notify;
#[cfg(test)]
mod packaged;
mod panel;
#[cfg(test)]
mod reference;
mod service;
mod values;

/// Read when no file is named and it exists.
pub const DEFAULT_PATH: &str = "/etc/boxmeter/config.toml";

/// A user who was taken out keeps being cut by the kernel alone until then.
const RELOAD_WITHIN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration {path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is not valid:\n{detail}")]
    Invalid { path: PathBuf, detail: String },
    #[error("unknown key `{key}` in {path}{}", hint(.nearest))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String> },
    #[error(
        "`[fleet]` in {path} is reserved for metering over many machines, which this version cannot; remove it"
    )]
    Fleet { path: PathBuf },
    #[error("`{key}` in {path}: {detail}")]
    Value { path: PathBuf, key: &'static str, detail: String },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub singbox: Singbox,
    pub kernel: Kernel,
    pub ledger: Ledger,
    pub api: Api,
    pub panel: Panel,
    pub billing: Billing,
    pub metrics: Metrics,
    pub notify: Notify,
    /// Proxies beside sing-box.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// What was read.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Singbox {
    /// Files or directories, as given to `sing-box -c` and `-C`.
    pub config: Vec<PathBuf>,
    pub source: Source,
    /// For `sing-box check`; `auto`: the running process's executable.
    pub binary: AutoPath,
    pub reload: Reload,
    #[serde(with = "duration")]
    pub reload_within: Duration,
    /// Addresses or networks of reverse proxies and CDNs that clients come through: address limits and the
    /// detection of sharing do not look at them.
    pub proxies: Vec<String>,
}

impl Singbox {
    /// As its key is read; `check` has read it once.
    ///
    /// # Errors
    /// For what is no address and no network.
    pub fn networks(&self) -> Result<Vec<Network>, String> {
        self.proxies.iter().map(|text| text.parse()).collect()
    }
}

impl Default for Singbox {
    fn default() -> Self {
        Singbox {
            config: vec![PathBuf::from("/etc/sing-box")],
            source: Source::Auto,
            binary: AutoPath::Auto,
            reload: Reload::Auto,
            reload_within: Duration::from_secs(600),
            proxies: Vec::new(),
        }
    }
}

/// Where the owners of connections come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    #[default]
    Auto,
    Api,
    ClashLogs,
    LogFile,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    pub socket: PathBuf,
}

impl Default for Api {
    fn default() -> Self {
        Api { socket: PathBuf::from("/run/boxmeter/boxmeter.sock") }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Billing {
    /// An IANA name, or `local`.
    pub time_zone: String,
    pub meter: Meter,
    /// Of users found in sing-box's configuration.
    pub default_policy: String,
}

impl Default for Billing {
    fn default() -> Self {
        Billing {
            time_zone: "local".to_owned(),
            meter: Meter::Payload,
            default_policy: "unlimited".to_owned(),
        }
    }
}

/// What quotas are measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Meter {
    #[default]
    Payload,
    Wire,
}

/// What `GET /metrics` has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Series of each user; without them only sums.
    pub users: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { users: true }
    }
}

impl Config {
    /// Reads the file named, or [`DEFAULT_PATH`] if that exists, or takes the defaults.
    ///
    /// # Errors
    /// See [`ConfigError`]: unreadable, not TOML, an unknown key, a value that cannot be.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Config { file: Some(file.to_owned()), ..Config::parse(&text, file)? }),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Config::default())
            }
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// `path` is only named in errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let invalid = |error: toml::de::Error| ConfigError::Invalid {
            path: path.to_owned(),
            detail: without_secrets(&error, text),
        };
        let table: toml::Table = text.parse().map_err(invalid)?;
        if table.contains_key("fleet") {
            return Err(ConfigError::Fleet { path: path.to_owned() });
        }
        check_keys(&table, path)?;
        // From the text again, not from the table: errors then show the line.
        let config: Config = toml::from_str(text).map_err(invalid)?;
        config.check().map_err(|(key, detail)| ConfigError::Value { path: path.to_owned(), key, detail })?;
        Ok(config)
    }

    /// Files with secrets that others than their owner can read, each with what to do.
    pub fn exposed(&self) -> Vec<String> {
        crate::notify::exposed(&self.notify, self.file.as_deref())
    }

    /// The zone that `[billing] time_zone` names; `local` is the machine's, and UTC where the machine has
    /// none (no `/etc/localtime`), as every other program there takes it.
    pub fn zone(&self) -> Result<TimeZone, jiff::Error> {
        match self.billing.time_zone.as_str() {
            "local" => Ok(TimeZone::try_system().unwrap_or(TimeZone::UTC)),
            name => TimeZone::get(name),
        }
    }

    /// Is there to be a sing-box? Not beside other services where nobody says so, and the usual place has
    /// none.
    pub fn has_singbox(&self) -> bool {
        let usual = Singbox::default().config;
        let meant = || self.singbox.config != usual || usual.iter().any(|path| path.exists());
        self.services.is_empty() || !self.singbox.config.is_empty() && meant()
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        self.ledger.check()?;
        service::check(&self.services)?;
        if self.singbox.reload_within > RELOAD_WITHIN_MAX {
            return Err(("singbox.reload_within", "must be at most 7d".to_owned()));
        }
        if self.singbox.config.is_empty() && self.services.is_empty() {
            return Err(("singbox.config", "names no file; leave it out for /etc/sing-box".to_owned()));
        }
        self.singbox.networks().map_err(|text| ("singbox.proxies", text))?;
        for (key, path) in [("kernel.pins", &self.kernel.pins), ("api.socket", &self.api.socket)] {
            if !path.is_absolute() {
                return Err((key, "must be an absolute path".to_owned()));
            }
        }
        self.kernel.check()?;
        if self.billing.default_policy.is_empty() {
            return Err(("billing.default_policy", "must name a policy, as \"unlimited\"".to_owned()));
        }
        self.panel.check()?;
        self.notify.check()?;
        self.zone().map(drop).map_err(|error| {
            ("billing.time_zone", format!("{error}; use an IANA name as \"Asia/Shanghai\", or \"local\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
    }

    /// The configuration as the contract prints it: every key, with its default.
    const CONTRACT: &str = r#"
        [singbox]
        config = ["/etc/sing-box"]
        source = "auto"
        binary = "auto"
        reload = "auto"
        reload_within = "10m"
        [kernel]
        cgroup = "auto"
        pins = "/sys/fs/bpf/boxmeter"
        [ledger]
        path = "/var/lib/boxmeter/ledger.db"
        tick = "1s"
        [api]
        socket = "/run/boxmeter/boxmeter.sock"
        [panel]
        listen = "127.0.0.1:8790"
        public_url = ""
        [billing]
        time_zone = "local"
        meter = "payload"
        default_policy = "unlimited"
        [notify]
    "#;

    #[test]
    fn the_contracts_values_are_the_defaults() {
        assert_eq!(parse(CONTRACT).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        insta::assert_snapshot!(parse("[ledger]\ntik = \"1s\"").unwrap_err(), @"unknown key `ledger.tik` in test.toml; did you mean `tick`?");
        insta::assert_snapshot!(parse("[leger]\ntick = \"1s\"").unwrap_err(), @"unknown key `leger` in test.toml; did you mean `ledger`?");
        insta::assert_snapshot!(parse("tick = \"1s\"").unwrap_err(), @"unknown key `tick` in test.toml; did you mean `[ledger] tick`?");
        insta::assert_snapshot!(parse("[api]\nzzzzzz = 1").unwrap_err(), @"unknown key `api.zzzzzz` in test.toml");
        assert!(parse("[fleet]\nhub = \"x\"").unwrap_err().contains("reserved"));
    }

    #[test]
    fn values_are_typed() {
        let config = parse(
            "[singbox]\nsource = \"clash-logs\"\nreload = \"systemd:sing-box.service\"\nreload_within = \"90s\"\n\
             [kernel]\ncgroup = \"/sys/fs/cgroup\"\n[billing]\ntime_zone = \"Asia/Kathmandu\"\nmeter = \"wire\"\n\
             [panel]\nlanguage = \"zh\"\n[notify]\nlanguage = \"zh\"",
        )
        .unwrap();
        assert_eq!(config.singbox.source, Source::ClashLogs);
        assert_eq!(config.singbox.reload, Reload::Systemd("sing-box.service".to_owned()));
        assert_eq!(config.singbox.reload_within, Duration::from_secs(90));
        assert_eq!(config.kernel.cgroup, AutoPath::Path(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(config.zone().unwrap().iana_name(), Some("Asia/Kathmandu"));
        assert_eq!(config.billing.meter, Meter::Wire);
        assert_eq!(config.panel.language, Language::Chinese);
    }

    #[test]
    fn bad_values_say_what_to_write() {
        for (text, part) in [
            ("[ledger]\ntick = \"1ms\"", "between 100ms and 60s"),
            ("[ledger]\ntick = \"1 fortnight\"", "expected a duration"),
            ("[ledger]\ntick = 1", "line 2"),
            ("[ledger]\npath = \"ledger.db\"", "absolute path"),
            ("[singbox]\nreload = \"kill\"", "systemd:UNIT"),
            ("[singbox]\nsource = \"apis\"", "clash-logs"),
            ("[billing]\ntime_zone = \"Asia/Nowhere\"", "IANA name"),
            ("[panel]\ntls_cert = \"/x\"", "panel.tls_key"),
            ("[panel]\nlisten = \"8790\"", "listen"),
            ("[panel]\npublic_listen = \"8791\"", "0.0.0.0:8791"),
            ("[panel]\npublic_url = \"panel.example\"", "https://"),
            ("[panel]\nbase_path = \"panel/\"", "\"/panel\""),
            ("[panel]\ntrusted_proxies = [\"10.0.0.0/40\"]", "10.0.0.0/40"),
            ("singbox = 1", "singbox"),
            ("[ledger", "test.toml"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn durations_do_not_overflow() {
        assert_eq!(duration::parse("99999999999999999999s"), None);
        assert_eq!(duration::parse("999999999999999999d"), None);
        assert_eq!(duration::parse("s"), None);
        assert_eq!(duration::parse("10"), None);
        assert_eq!(duration::parse("2h"), Some(Duration::from_secs(7200)));
    }
}
