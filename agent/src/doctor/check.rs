//! The findings, from facts alone. Pure: no IO.

use serde::Serialize;

use crate::{
    core::event::SourceKind,
    singbox::{
        ProxyConfig,
        config::{Inbound, NameDanger, Warning, carries_users},
        process::major_minor,
    },
    source::{Choice, Setting, choose},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, for scripts.
    pub id: &'static str,
    pub severity: Severity,
    pub title: String,
    pub detail: String,
    /// Empty if nothing needs to be done.
    pub what_to_do: String,
}

/// A result of the kernel's probe, as the kernel module tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFact {
    pub id: &'static str,
    pub severity: Severity,
    pub title: String,
    pub detail: String,
    pub what_to_do: String,
}

/// The running sing-box.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProcessFact {
    pub pid: u32,
    pub version: Option<String>,
    pub unit: Option<String>,
    /// In another network or mount namespace, as a container is.
    pub contained: bool,
    pub user_id: u32,
    /// It listens with Multipath TCP.
    pub mptcp: bool,
}

/// Everything that was gathered.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub config: Result<&'a ProxyConfig, String>,
    pub process: Result<ProcessFact, String>,
    pub setting: Setting,
    /// Whether the chosen source answered; `None`: not asked.
    pub answers: Option<Result<String, String>>,
    /// Established connections from loopback to an inbound's port were seen: a proxy is in front.
    pub loopback_peers: Vec<String>,
    pub kernel: Vec<KernelFact>,
}

pub(super) fn finding(
    id: &'static str,
    severity: Severity,
    title: impl Into<String>,
    detail: impl Into<String>,
    what_to_do: impl Into<String>,
) -> Finding {
    Finding { id, severity, title: title.into(), detail: detail.into(), what_to_do: what_to_do.into() }
}

/// What the kernel has of what is needed.
pub fn machine(facts: &[KernelFact]) -> Vec<Finding> {
    let found = facts.iter();
    found.map(|fact| finding(fact.id, fact.severity, &fact.title, &fact.detail, &fact.what_to_do)).collect()
}

/// All findings of machine and sing-box, the good ones too.
pub fn check(inputs: &Inputs<'_>) -> Vec<Finding> {
    let mut found = machine(&inputs.kernel);
    process(inputs, &mut found);
    match &inputs.config {
        Err(error) => found.push(finding(
            "config",
            Severity::Fail,
            "sing-box's configuration cannot be read",
            error,
            "Correct `[singbox] config` in boxmeter's configuration, or the file itself (`sing-box check`).",
        )),
        Ok(config) => {
            let files: Vec<_> = config.files.iter().map(|file| file.display().to_string()).collect();
            found.push(finding(
                "config",
                Severity::Ok,
                "sing-box's configuration is readable",
                files.join(", "),
                "",
            ));
            source(inputs, config, &mut found);
            secrets(config, &mut found);
            for inbound in &config.inbounds {
                listener(inbound, inputs, &mut found);
            }
            config.warnings.iter().for_each(|warning| found.push(config_warning(warning, "sing-box")));
            tutorial(config, &mut found);
        }
    }
    found
}

fn process(inputs: &Inputs<'_>, found: &mut Vec<Finding>) {
    let process = match &inputs.process {
        Err(error) => {
            found.push(finding(
                "process",
                Severity::Fail,
                "sing-box's process was not found",
                error,
                "Start sing-box with this configuration.",
            ));
            return;
        }
        Ok(process) => process,
    };
    let version = process.version.as_deref().unwrap_or("unknown");
    let place = match (&process.unit, process.contained) {
        (Some(unit), false) => format!("the service {unit}; reloads go through it if it is that unit's main process"),
        (_, true) => "a container: its API is reached inside its network namespace, and checks run inside its mount namespace".into(),
        (None, false) => "no systemd service: reloads are a SIGHUP".into(),
    };
    found.push(finding(
        "process",
        Severity::Ok,
        format!("sing-box {version} is running"),
        format!("pid {}, user id {}, {place}", process.pid, process.user_id),
        "",
    ));
    match process.version.as_deref().and_then(major_minor) {
        Some(version) if version < (1, 12) => found.push(finding(
            "version",
            Severity::Fail,
            "sing-box is too old",
            "boxmeter needs 1.12 or newer, best 1.14.",
            "Upgrade sing-box.",
        )),
        Some(version) if version > (1, 14) => found.push(finding(
            "version",
            Severity::Warn,
            "sing-box is newer than any that boxmeter was tested with",
            "Tested: 1.12, 1.13, 1.14.",
            "Look at `boxmeter audit` and `boxmeter flows` after a while.",
        )),
        Some(_) | None => {}
    }
    let written =
        inputs.config.as_ref().is_ok_and(|c| c.inbounds.iter().any(|i| i.multipath_tcp == Some(true)));
    if written || process.mptcp {
        found.push(finding(
            "mptcp", Severity::Warn, "sing-box accepts Multipath TCP",
            "A client can move bytes to a second path whose address sing-box does not report; they are counted as unattributed.",
            "Set GODEBUG=multipathtcp=0 in sing-box's environment (`systemctl edit sing-box`: [Service] Environment=GODEBUG=multipathtcp=0), and remove `tcp_multi_path`.",
        ));
    }
}

fn source(inputs: &Inputs<'_>, config: &ProxyConfig, found: &mut Vec<Finding>) {
    let version = inputs.process.as_ref().ok().and_then(|p| p.version.as_deref()).and_then(major_minor);
    let choice = match choose(config, inputs.setting, version) {
        Err(reason) => {
            found.push(finding(
                "source",
                Severity::Fail,
                "sing-box does not tell who owns a connection",
                reason.to_string(),
                "Run `boxmeter doctor --fix`: it shows the change before it makes it.",
            ));
            return;
        }
        Ok(choice) => choice,
    };
    match &inputs.answers {
        Some(Err(error)) => found.push(finding("source", Severity::Fail, "the source of owners does not answer", error, "See the reason; if sing-box was not reloaded after an edit, reload it (this drops open connections).")),
        Some(Ok(_)) | None => {
            let name = match choice.kind() {
                SourceKind::Api => "sing-box's API service",
                SourceKind::ClashLogs => "the Clash API's log stream",
                SourceKind::LogFile => "the log file",
            };
            found.push(finding("source", Severity::Ok, format!("owners come from {name}"), "", ""));
        }
    }
    match choice {
        Choice::Api(_) => {}
        Choice::ClashLogs(_) => found.push(finding(
            "source-lossy", Severity::Warn, "the Clash API's log stream can lose lines under load",
            "Connections whose line is lost are unattributed. Users' destinations are written to sing-box's log at level info.",
            "Upgrade to sing-box 1.14 for its API service.",
        )),
        Choice::LogFile { .. } | Choice::AccessLog { .. } => found.push(finding(
            "source-forgeable", Severity::Warn, "clients can forge lines of the log file",
            "A line break in a user name or domain is written as it is, even before authentication, so that a client can blame another user.",
            "Use the Clash API's log stream (`source = \"auto\"`), or sing-box 1.14's API service.",
        )),
    }
}

fn secrets(config: &ProxyConfig, found: &mut Vec<Finding>) {
    if let Some(api) = config.api_service.as_ref().filter(|api| api.secret.0.is_empty()) {
        let reach = if api.listen.is_loopback() { "every local user" } else { "the whole network" };
        found.push(finding(
            "api-secret",
            Severity::Fail,
            "sing-box's API service has no secret",
            format!("{reach} can see and close all connections"),
            "Run `boxmeter doctor --fix`, which writes a random secret.",
        ));
    } else if let Some(api) = config.api_service.as_ref().filter(|api| !api.listen.is_loopback()) {
        found.push(finding(
            "api-listen",
            Severity::Warn,
            "sing-box's API service listens beyond loopback",
            format!("on {}", api.listen),
            "Set its `listen` to 127.0.0.1, unless something else needs it.",
        ));
    }
    if config.clash_api.as_ref().is_some_and(|clash| clash.secret.0.is_empty()) {
        found.push(finding(
            "clash-secret",
            Severity::Fail,
            "sing-box's Clash API has no secret",
            "whoever reaches it can see and close all connections",
            "Set `experimental.clash_api.secret`; on 1.12 and 1.13 `boxmeter doctor --fix` does it.",
        ));
    }
}

fn listener(inbound: &Inbound, inputs: &Inputs<'_>, found: &mut Vec<Finding>) {
    let name = format!("{} ({})", inbound.tag, inbound.kind);
    let mut warn = |id, title: String, detail: &str, what: &str| {
        found.push(finding(id, Severity::Warn, title, detail, what))
    };
    if !carries_users(&inbound.kind) {
        return;
    }
    if inbound.users.is_empty() && !inbound.managed && inbound.detour.is_none() {
        warn(
            "no-users",
            format!("{name} has no users"),
            "Its traffic is counted as unattributed. For http, socks, mixed and hysteria2 everyone may use it.",
            "Add users to it in sing-box's configuration.",
        );
    }
    if inbound.listen_port.is_none() && inbound.detour_from.is_empty() {
        warn(
            "no-port",
            format!("{name} has no fixed port"),
            "It cannot be watched.",
            "Give it a `listen_port`.",
        );
    }
    if inbound.kind == "shadowtls" {
        warn(
            "shadowtls",
            format!("{name}: users of ShadowTLS itself are not told"),
            "sing-box reports the inbound behind it, so owners are known only if that one has users of its own, and only by 1.14's API service, not by logs. Failed handshakes are relayed without a user.",
            "Let its `detour` be a Shadowsocks inbound with several users, on sing-box 1.14.",
        );
    }
    if inbound.transport.as_deref() == Some("quic")
        && inputs.config.as_ref().is_ok_and(|c| c.api_service.is_none())
    {
        warn(
            "quic-log",
            format!("{name}: owners over QUIC are joined by neighbouring log lines"),
            "The log does not number these connections; where two come at once, they stay unattributed.",
            "Upgrade to sing-box 1.14 for its API service.",
        );
    }
    if inbound.shares_sockets {
        warn(
            "shared",
            format!("{name}: several users can share one TCP connection"),
            "Such a connection is marked shared; its bytes cannot be split in the kernel.",
            "Nothing, unless you see `shared` in `boxmeter flows`.",
        );
    }
    if inbound.listen.is_loopback() || inputs.loopback_peers.iter().any(|tag| **tag == *inbound.tag) {
        warn(
            "behind-proxy",
            format!("{name} is reached over loopback"),
            "A web server or another proxy (nginx) is in front: the kernel sees its address, and sing-box the forwarded one. Owners are matched by port; limits of addresses and sharing detection are off here.",
            "Nothing; set `trusted_proxies` for the clients' addresses to be shown.",
        );
    } else if inbound.reports_forwarded_addresses {
        warn(
            "forwarded",
            format!("{name}: clients can change the address that sing-box reports (X-Forwarded-For)"),
            "boxmeter then matches by port, and leaves the flow unattributed where that is not unique. A forged header makes no traffic free.",
            "Nothing.",
        );
    }
}

/// `program` is the proxy in words.
pub(super) fn config_warning(warning: &Warning, program: &str) -> Finding {
    let warn = |id, title: String, detail: &str, what: &str| finding(id, Severity::Warn, title, detail, what);
    match warning {
        Warning::RepeatedKey { file, line, key } => warn(
            "repeated-key",
            format!("{}:{line}: the key {key:?} is written again", file.display()),
            &format!("{program} takes the later one without a word."),
            "Leave one of them.",
        ),
        Warning::UnnamedUser { inbound, index } => warn(
            "unnamed-user",
            format!("{inbound}: user {index} has no name"),
            "Its traffic is unattributed.",
            "Give it a name.",
        ),
        Warning::DuplicateName { inbound, name, count } => warn(
            "duplicate-name",
            format!("{inbound}: {count} users are named {name:?}"),
            "They are one account here.",
            "Give each its own name.",
        ),
        Warning::DuplicateCredential { inbound, names } => warn(
            "duplicate-credential",
            format!("{inbound}: {} have the same credential", names.join(", ")),
            &format!("{program} takes all of them for the last one."),
            "Give each its own credential.",
        ),
        Warning::DangerousName { inbound, name, why } => match why {
            NameDanger::Control => warn(
                "dangerous-name",
                format!("{inbound}: the name {name:?} has control characters"),
                "It can hide or forge lines in logs.",
                "Rename the user.",
            ),
            NameDanger::Bracket => warn(
                "dangerous-name",
                format!("{inbound}: the name {name:?} has brackets"),
                "It looks like the log's own punctuation.",
                "Rename the user.",
            ),
        },
        Warning::NameIsIndex { inbound, name } => warn(
            "name-is-index",
            format!("{inbound}: the user {name:?} looks in the log like an unnamed one"),
            "Neither can be told apart by logs.",
            "Give every user a name.",
        ),
        Warning::DuplicateTag { tag } => finding(
            "duplicate-tag",
            Severity::Fail,
            format!("two inbounds have the tag {tag:?}"),
            format!("{program} does not start with that."),
            "Rename one.",
        ),
        Warning::UnknownDetour { inbound, detour } => finding(
            "unknown-detour",
            Severity::Fail,
            format!("{inbound}: its detour {detour:?} does not exist"),
            "sing-box cannot hand on its connections.",
            "Correct the tag.",
        ),
    }
}

/// A block that a well-known tutorial shows and sing-box does not have.
fn tutorial(config: &ProxyConfig, found: &mut Vec<Finding>) {
    if config.top_level_keys.iter().any(|key| key == "stats") {
        found.push(finding(
            "stats-block",
            Severity::Fail,
            "sing-box has no `stats` block",
            "Some tutorials show one; sing-box refuses to start with it (unknown field \"stats\").",
            "Remove the block: boxmeter counts without it.",
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::singbox::{config, tree};

    fn found(text: &str, process: ProcessFact, setting: Setting) -> Vec<(&'static str, Severity)> {
        let node = tree::parse(&Arc::new(PathBuf::from("a.json")), text).unwrap().0;
        let config = config::read(&node).unwrap();
        let inputs = Inputs {
            config: Ok(&config),
            process: Ok(process),
            setting,
            answers: None,
            loopback_peers: Vec::new(),
            kernel: Vec::new(),
        };
        let findings = check(&inputs);
        for finding in &findings {
            assert_eq!(finding.what_to_do.is_empty(), finding.severity == Severity::Ok, "{finding:?}");
        }
        findings
            .into_iter()
            .map(|f| (f.id, f.severity))
            .filter(|(_, severity)| *severity != Severity::Ok)
            .collect()
    }

    fn version(version: &str) -> ProcessFact {
        ProcessFact { pid: 1, version: Some(version.into()), ..ProcessFact::default() }
    }

    const GOOD: &str = r#"{"services":[{"type":"api","listen_port":9,"secret":"s"}],"inbounds":[{"type":"trojan","listen":"::","listen_port":443,"users":[{"name":"a","password":"p"}]}]}"#;

    #[test]
    fn a_good_server_has_only_good_findings() {
        assert_eq!(found(GOOD, version("1.14.4"), Setting::Auto), []);
    }

    #[test]
    fn each_trap_has_its_finding() {
        use Severity::{Fail, Warn};
        let inbound = |inbound: &str| {
            format!(
                r#"{{"services":[{{"type":"api","listen_port":9,"secret":"s"}}],"inbounds":[{inbound}]}}"#
            )
        };
        for (text, wanted) in [
            ("{}".to_owned(), ("source", Fail)),
            (GOOD.replace(r#""secret":"s""#, r#""secret":"""#), ("api-secret", Fail)),
            (
                GOOD.replace(r#""listen_port":9"#, r#""listen_port":9,"listen":"0.0.0.0""#),
                ("api-listen", Warn),
            ),
            (GOOD.replace(r#"{"services"#, r#"{"stats":{},"services"#), ("stats-block", Fail)),
            (GOOD.replace(r#""type":"trojan""#, r#""type":"trojan","tcp_multi_path":true"#), ("mptcp", Warn)),
            (inbound(r#"{"type":"mixed","listen":"::","listen_port":1}"#), ("no-users", Warn)),
            (inbound(r#"{"type":"trojan","listen_port":1,"users":[{}]}"#), ("behind-proxy", Warn)),
            (
                inbound(r#"{"type":"trojan","listen":"::","listen_port":1,"users":[{}]}"#),
                ("unnamed-user", Warn),
            ),
            (
                inbound(
                    r#"{"type":"vless","listen":"::","listen_port":1,"users":[{"name":"a"}],"transport":{"type":"ws"}}"#,
                ),
                ("forwarded", Warn),
            ),
            (
                inbound(
                    r#"{"type":"vless","listen":"::","listen_port":1,"users":[{"name":"a"}],"transport":{"type":"grpc"}}"#,
                ),
                ("shared", Warn),
            ),
            (
                inbound(r#"{"type":"shadowtls","listen":"::","listen_port":1,"users":[{"name":"a"}]}"#),
                ("shadowtls", Warn),
            ),
        ] {
            let found = found(&text, version("1.14.4"), Setting::Auto);
            assert!(found.contains(&wanted), "{text}: {found:?}");
        }
        let mptcp = ProcessFact { mptcp: true, ..version("1.13.21") };
        assert!(found(GOOD, mptcp, Setting::Auto).contains(&("mptcp", Warn)));
        assert!(found(GOOD, version("1.11.0"), Setting::Auto).contains(&("version", Fail)));
        let clash = r#"{"experimental":{"clash_api":{"external_controller":":9","secret":"s"}},"log":{"level":"warn"}}"#;
        assert!(found(clash, version("1.12.23"), Setting::Auto).contains(&("source", Fail)));
        assert!(found(clash, version("1.13.21"), Setting::Auto).contains(&("source-lossy", Warn)));
        let file = r#"{"log":{"output":"a.log"}}"#;
        assert!(found(file, version("1.12.23"), Setting::LogFile).contains(&("source-forgeable", Warn)));
        assert!(
            found(file, version("1.12.23"), Setting::Auto).contains(&("source", Fail)),
            "never by itself"
        );
    }
}
