//! A *service* is one proxy on the machine: what kind of program it is, what it is called here, and where
//! its configuration has what boxmeter looks for. Everything that is asked of all proxies alike is asked
//! of their [`Service`]; what only one kind has is in its own module (`singbox`, `v2ray`).

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    singbox::{
        config::{self, ProxyConfig},
        files::{self, ConfigError, FileText},
        process::{self, NotFound, Process},
        tree::Node,
    },
    v2ray,
};

/// The program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    #[serde(skip)]
    Singbox,
    V2ray,
    Xray,
}

impl Kind {
    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Singbox => "sing-box",
            Kind::V2ray => "V2Ray",
            Kind::Xray => "Xray",
        }
    }

    /// What its executable is called.
    pub fn program(self) -> &'static str {
        match self {
            Kind::Singbox => "sing-box",
            Kind::V2ray => "v2ray",
            Kind::Xray => "xray",
        }
    }

    /// The option of an inbound that says its type.
    pub fn type_key(self) -> &'static str {
        match self {
            Kind::Singbox => "type",
            Kind::V2ray | Kind::Xray => "protocol",
        }
    }

    /// The option that names a user of an inbound type.
    pub fn name_key(self, inbound: &str) -> &'static str {
        match self {
            Kind::Singbox => config::name_key(inbound),
            Kind::V2ray | Kind::Xray => v2ray::config::name_key(inbound),
        }
    }

    /// The options that are a user's credential. The proxy looks users up by it.
    pub fn credential_keys(self, inbound: &str) -> &'static [&'static str] {
        match self {
            Kind::Singbox => config::credential_keys(inbound),
            Kind::V2ray | Kind::Xray => v2ray::config::credential_keys(inbound),
        }
    }

    /// Does the inbound type know users?
    pub fn carries_users(self, inbound: &str) -> bool {
        match self {
            Kind::Singbox => config::carries_users(inbound),
            Kind::V2ray | Kind::Xray => v2ray::config::carries_users(inbound),
        }
    }

    /// A file's text as it may be checked, without what a check would do beside.
    pub fn checked_text(self, text: &str) -> Cow<'_, str> {
        match self {
            Kind::Singbox => Cow::Borrowed(text),
            Kind::V2ray | Kind::Xray => Cow::Owned(v2ray::config::without_log_files(text)),
        }
    }

    /// The list of an inbound's users.
    pub fn users(self, node: &Node) -> Option<&Node> {
        match self {
            Kind::Singbox => node.get("users"),
            Kind::V2ray | Kind::Xray => v2ray::config::users(node),
        }
    }
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    pub kind: Kind,
    /// As `[[service]] name` says; its inbounds' tags begin with it here. sing-box's tags stay as they are.
    pub name: Arc<str>,
}

impl Service {
    /// The one of `[singbox]`.
    pub fn singbox() -> Service {
        Service { kind: Kind::Singbox, name: Kind::Singbox.program().into() }
    }

    pub fn is_singbox(&self) -> bool {
        self.kind == Kind::Singbox
    }

    /// What all of its inbounds' tags begin with.
    fn prefix(&self) -> String {
        if self.is_singbox() { String::new() } else { format!("{}/", self.name) }
    }

    /// An inbound's tag as boxmeter has it everywhere, from how it is written.
    pub fn tag(&self, written: &str) -> Arc<str> {
        format!("{}{written}", self.prefix()).into()
    }

    /// How a tag is written, if the inbound is (or was) this service's. Every tag may be sing-box's: ask
    /// the other services first.
    pub fn written<'t>(&self, tag: &'t str) -> Option<&'t str> {
        tag.strip_prefix(self.prefix().as_str())
    }

    /// The files that it reads, in its order.
    ///
    /// # Errors
    /// A path that cannot be read, or too many files.
    pub fn list(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
        match self.kind {
            Kind::Singbox => files::list(paths),
            Kind::V2ray | Kind::Xray => files::list_in_order(paths),
        }
    }

    /// Reads all files of its configuration.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Vec<FileText>, ConfigError> {
        let read = |path: &PathBuf| Ok(FileText { service: self.clone(), ..files::read_file(path)? });
        self.list(paths)?.iter().map(read).collect()
    }

    /// Parses and merges files that were read.
    ///
    /// # Errors
    /// What is not the program's JSON, or cannot be meant.
    pub fn parse(&self, files: &[FileText]) -> Result<ProxyConfig, ConfigError> {
        match self.kind {
            Kind::Singbox => files::parse(files),
            Kind::V2ray | Kind::Xray => {
                files::parse_as(files, v2ray::config::merge, |root| v2ray::config::read(root, self))
            }
        }
    }

    /// Its process that runs with these files or directories.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, paths: &[PathBuf]) -> Result<Process, NotFound> {
        process::find_of(self, paths)
    }

    /// The version of an executable.
    ///
    /// # Errors
    /// It does not say one.
    pub fn version_of(&self, exe: &Path) -> std::io::Result<String> {
        process::version_of_kind(self.kind, exe)
    }
}

/// Whose inbound a tag is: one of these, or sing-box's.
pub fn of_tag<'s>(services: &'s [Service], tag: &str) -> Option<&'s Service> {
    let named = services.iter().filter(|service| !service.is_singbox());
    named
        .into_iter()
        .find(|service| service.written(tag).is_some())
        .or_else(|| services.iter().find(|service| service.is_singbox()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_their_service() {
        let v2ray = Service { kind: Kind::V2ray, name: "v2ray".into() };
        let services = [Service::singbox(), v2ray.clone()];
        assert_eq!(&*v2ray.tag("trojan"), "v2ray/trojan");
        assert_eq!(&*Service::singbox().tag("trojan"), "trojan");
        assert_eq!(v2ray.written("v2ray/a/b"), Some("a/b"));
        assert_eq!(of_tag(&services, "v2ray/trojan"), Some(&v2ray));
        assert_eq!(of_tag(&services, "trojan"), Some(&services[0]));
        assert_eq!(of_tag(&services[1..], "trojan"), None);
    }
}
