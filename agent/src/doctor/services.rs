//! What is not well with the proxies of `[[service]]`, and what to do. `gather` reads; `check` is pure over
//! what was read.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use super::check::{Finding, Severity, config_warning, finding};
use crate::{
    config::{AutoPath, Config},
    service::Service,
    singbox::{
        ProxyConfig,
        config::{Inbound, Transports},
        process::Process,
    },
    source::{Choice, choose_access_log},
    v2ray::config::PROXY_PROTOCOL,
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
        hidden(facts, inbound, &mut found);
        if inbound.note == Some(PROXY_PROTOCOL) {
            found.push(finding(
                "service-proxy-protocol",
                Severity::Fail,
                format!("{}: behind the PROXY protocol nobody's connections are known", inbound.tag),
                PROXY_PROTOCOL,
                "Let clients connect to it themselves, without `acceptProxyProtocol`; a balancer of IP packets keeps addresses.",
            ));
        } else if let Some(note) = inbound.note {
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

/// On transports of the web a client says in a header where it comes from, and the log has that in place of the
/// truth.
fn hidden(facts: &Facts, inbound: &Inbound, found: &mut Vec<Finding>) {
    let carries = facts.service.kind.carries_users(&inbound.kind);
    let Some(transport) = inbound.transport.as_deref().filter(|_| carries && inbound.loses_port) else {
        return;
    };
    let (tag, program) = (&inbound.tag, facts.service.kind.title());
    let (severity, title, what) = match inbound.listen.is_loopback() {
        true => (
            Severity::Warn,
            format!("{tag}: behind a reverse proxy that sends X-Forwarded-For its users' bytes are nobody's"),
            "Have the reverse proxy send no X-Forwarded-For to it, or use an inbound over plain TCP or TLS.",
        ),
        false => (
            Severity::Fail,
            format!("{tag}: a client can make its bytes nobody's, and so pass its limits"),
            "Use plain TCP or TLS as its transport; or set `guard = \"64MiB\"` under [kernel], which ends connections \
             that move much and are nobody's; or let it listen on 127.0.0.1, behind a reverse proxy that removes \
             X-Forwarded-For.",
        ),
    };
    let detail = format!(
        "{program} believes the X-Forwarded-For of the transport {transport:?}, and logs that address without a port: \
         nothing tells which connection it is, and nobody is charged. `forwarded_addresses` in `boxmeter status` \
         counts them."
    );
    found.push(finding("service-forwarded", severity, title, detail, what));
}

/// Ports on which two services listen: the kernel could not tell whose a connection is.
pub fn collisions(all: &[Facts], singbox: Option<&ProxyConfig>) -> Vec<Finding> {
    let of = |config: &ProxyConfig| {
        let places = config.inbounds.iter().filter_map(|inbound| {
            Some((inbound.listen_port?, inbound.listen, inbound.transports, Arc::clone(&inbound.tag)))
        });
        places.collect::<Vec<_>>()
    };
    let configs = all.iter().filter_map(|facts| facts.config.as_ref().ok()).map(of);
    let places: Vec<_> = singbox.map(of).into_iter().chain(configs).collect();
    let mut found = Vec::new();
    for (at, later) in places.iter().enumerate() {
        for (port, listen, transports, tag) in later {
            let same = |(other_port, other_listen, other, _): &&(u16, IpAddr, Transports, Arc<str>)| {
                let meets =
                    listen == other_listen || listen.is_unspecified() || other_listen.is_unspecified();
                let network = transports.tcp && other.tcp || transports.udp && other.udp;
                port == other_port && meets && network
            };
            let Some((.., other)) = places[..at].iter().flatten().find(same) else { continue };
            found.push(finding(
                "service-port-taken",
                Severity::Fail,
                format!("{other} and {tag} are to listen on the same port, {port}"),
                "Only one of them can; of the other neither users nor bytes are known.",
                "Give one of them another port, and restart it.",
            ));
        }
    }
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
        let believes =
            "\"port\": 30443, \"streamSettings\": {\"tcpSettings\": {\"acceptProxyProtocol\": true}}";
        let behind = text.replacen("\"port\": 30443", believes, 1);
        assert!(ids(&facts(&behind)).contains(&("service-proxy-protocol", Severity::Fail)), "{behind}");
        let open = with_handler.replacen("\"listen\":\"127.0.0.1\"", "\"listen\":\"0.0.0.0\"", 1);
        assert!(ids(&facts(&open)).contains(&("service-api-open", Severity::Fail)));
        let odd = r#"{"inbounds": [{"protocol": "socks", "port": "1-9", "settings": {"accounts": []}}]}"#;
        let found = ids(&facts(odd));
        assert!(found.contains(&("service-nameless", Severity::Warn)), "{found:?}");
        assert!(found.contains(&("service-port", Severity::Warn)), "{found:?}");
        assert!(ids(&facts("{")).contains(&("service-config", Severity::Fail)));
        let web = |listen: &str| {
            format!(
                r#"{{"inbounds": [{{"tag": "w", "protocol": "vmess", "port": 9, "listen": "{listen}",
                    "streamSettings": {{"network": "ws"}}, "settings": {{"clients": []}}}}]}}"#
            )
        };
        assert!(ids(&facts(&web("0.0.0.0"))).contains(&("service-forwarded", Severity::Fail)));
        assert!(ids(&facts(&web("127.0.0.1"))).contains(&("service-forwarded", Severity::Warn)));
        assert!(!ids(&facts(text)).iter().any(|(id, _)| *id == "service-forwarded"));
        let all = [facts(&web("0.0.0.0")), facts(&web("127.0.0.1")), facts(odd)];
        let found = collisions(&all, None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].id, found[0].severity), ("service-port-taken", Severity::Fail));
        let silent = Facts { log: Some(Err("no log".to_owned())), ..facts(text) };
        assert!(ids(&silent).contains(&("service-source", Severity::Fail)));
    }
}
