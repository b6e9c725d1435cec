//! What is not well with the proxies of `[[service]]`, and what to do. `gather` reads; `check` is pure over
//! what was read.

use std::path::PathBuf;

use super::check::{Finding, Severity, config_warning, finding};
use crate::{
    config::{AutoPath, Config},
    service::Service,
    singbox::{ProxyConfig, process::Process},
    source::{Choice, choose_access_log},
};

/// What was read of one.
#[derive(Debug)]
pub struct Facts {
    pub service: Service,
    pub config: Result<ProxyConfig, String>,
    pub process: Result<Process, String>,
    pub version: Option<String>,
    /// Where owners are logged, and whether the file is there.
    pub log: Option<Result<(PathBuf, bool), String>>,
}

/// Reads what there is of all of them.
pub fn gather(config: &Config) -> Vec<Facts> {
    let one = |configured: &crate::config::Service| {
        let service = configured.identity();
        let config = service.read(&configured.config).and_then(|files| service.parse(&files));
        let process = service.find(&configured.config);
        let named = match &configured.access_log {
            AutoPath::Auto => None,
            AutoPath::Path(path) => Some(path.as_path()),
        };
        let log = config.as_ref().ok().map(|config| {
            match choose_access_log(&service, config, named, process.as_ref().ok()) {
                Ok(Choice::AccessLog { path, .. }) => {
                    let there = path.is_file();
                    Ok((path, there))
                }
                Ok(_) => Err("it is no access log".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        Facts {
            config: config.map_err(|error| error.to_string()),
            version: process.as_ref().ok().and_then(|process| process.version().ok()),
            process: process.map_err(|error| error.to_string()),
            log,
            service,
        }
    };
    config.services.iter().map(one).collect()
}

/// All findings, the good ones too.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let (name, program) = (&facts.service.name, facts.service.kind.title());
    let mut found = Vec::new();
    found.push(match &facts.process {
        Err(error) => finding(
            "service-process",
            Severity::Fail,
            format!("{name}: its process was not found"),
            error,
            format!("Start {program} with this configuration."),
        ),
        Ok(process) => {
            let version = facts.version.as_deref().unwrap_or("of unknown version");
            let pid = format!("pid {}, user id {}", process.pid, process.user_id);
            finding(
                "service-process",
                Severity::Ok,
                format!("{name}: {program} {version} is running"),
                pid,
                "",
            )
        }
    });
    let config = match &facts.config {
        Err(error) => {
            let title = format!("{name}: its configuration cannot be read");
            let what = format!(
                "Correct `config` of its `[[service]]`, or the file itself ({program} has a test for it)."
            );
            found.push(finding("service-config", Severity::Fail, title, error, what));
            return found;
        }
        Ok(config) => config,
    };
    log(facts, &mut found);
    api(facts, config, &mut found);
    for inbound in &config.inbounds {
        if let Some(note) = inbound.note {
            let title =
                format!("{}: users of an inbound of type {} are not told apart", inbound.tag, inbound.kind);
            found.push(finding(
                "service-nameless",
                Severity::Warn,
                title,
                note,
                "Use trojan, vless or vmess for them.",
            ));
        }
        let carries = facts.service.kind.carries_users(&inbound.kind);
        if carries && inbound.listen_port.is_none() {
            let title = format!("{}: it listens on no single port", inbound.tag);
            let detail =
                "A range of ports, a variable or a socket file cannot be watched: its bytes are not counted.";
            found.push(finding("service-port", Severity::Warn, title, detail, "Give it one port."));
        }
    }
    found.extend(config.warnings.iter().map(|warning| config_warning(warning, program)));
    found
}

fn log(facts: &Facts, found: &mut Vec<Finding>) {
    let name = &facts.service.name;
    match &facts.log {
        None => {}
        Some(Err(error)) => found.push(finding(
            "service-source",
            Severity::Fail,
            format!("{name}: nobody tells who owns connections"),
            error,
            "Set `log.access` in its configuration to a file, and restart it.",
        )),
        Some(Ok((path, false))) => found.push(finding(
            "service-source",
            Severity::Fail,
            format!("{name}: its access log is not there"),
            path.display().to_string(),
            "It is made when the proxy starts and the first client comes; is it a path that the proxy may write to?",
        )),
        Some(Ok((path, true))) => {
            let title = format!("{name}: owners come from its access log");
            found.push(finding("service-source", Severity::Ok, title, path.display().to_string(), ""));
            found.push(finding(
                "service-source-forgeable",
                Severity::Warn,
                format!("{name}: clients can forge lines of the access log"),
                "A line break in a domain is written as it is, so that a client can blame another user. No other source tells owners.",
                "Let in only whom you know; `boxmeter flows` marks connections on which two users were seen.",
            ));
        }
    }
}

fn api(facts: &Facts, config: &ProxyConfig, found: &mut Vec<Finding>) {
    let name = &facts.service.name;
    match &config.grpc_api {
        Some(api) if api.handler => {
            let title = format!("{name}: it is told its users while it runs");
            found.push(finding("service-api", Severity::Ok, title, format!("its API at {}", api.addr), ""));
            if !api.addr.ip().is_loopback() {
                found.push(finding(
                    "service-api-open",
                    Severity::Fail,
                    format!("{name}: everybody who reaches {} may change its users", api.addr),
                    "The API asks for no password.",
                    "Let its inbound listen on 127.0.0.1.",
                ));
            }
        }
        _ => found.push(finding(
            "service-api",
            Severity::Warn,
            format!("{name}: it cannot be told its users while it runs"),
            "Its configuration has no API with HandlerService, so that a changed user needs a restart, which drops everybody.",
            "Add HandlerService to `api.services`, and an inbound on 127.0.0.1 that is routed to it.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{service::Kind, singbox::files::FileText};

    fn facts(config: &str) -> Facts {
        let service = Service { kind: Kind::V2ray, name: "v".into() };
        let file = FileText {
            service: service.clone(),
            path: Arc::new("c.json".into()),
            text: config.to_owned(),
            sha256: [0; 32],
        };
        let config = service.parse(&[file]).map_err(|error| error.to_string());
        let log = Some(Ok(("/var/log/access.log".into(), true)));
        Facts { service, config, process: Err("it does not run".to_owned()), version: None, log }
    }

    fn ids(facts: &Facts) -> Vec<(&'static str, Severity)> {
        check(facts).into_iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn what_is_not_well_is_found() {
        let text = include_str!("../../../tests/fixtures/v2ray/v2ray4_server.json");
        let found = ids(&facts(text));
        for expected in [
            ("service-process", Severity::Fail),
            ("service-source", Severity::Ok),
            ("service-source-forgeable", Severity::Warn),
            ("service-api", Severity::Warn),
        ] {
            assert!(found.contains(&expected), "{expected:?}: {found:?}");
        }
        let with_handler = text.replace("\"StatsService\"", "\"HandlerService\"");
        assert!(ids(&facts(&with_handler)).contains(&("service-api", Severity::Ok)));
        let open = with_handler.replacen("\"listen\":\"127.0.0.1\"", "\"listen\":\"0.0.0.0\"", 1);
        assert!(ids(&facts(&open)).contains(&("service-api-open", Severity::Fail)));
        let odd = r#"{"inbounds": [{"protocol": "socks", "port": "1-9", "settings": {"accounts": []}}]}"#;
        let found = ids(&facts(odd));
        assert!(found.contains(&("service-nameless", Severity::Warn)), "{found:?}");
        assert!(found.contains(&("service-port", Severity::Warn)), "{found:?}");
        assert!(ids(&facts("{")).contains(&("service-config", Severity::Fail)));
        let silent = Facts { log: Some(Err("no log".to_owned())), ..facts(text) };
        assert!(ids(&silent).contains(&("service-source", Severity::Fail)));
    }
}
