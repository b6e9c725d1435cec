//! What boxmeter needs of the configuration of V2Ray and Xray: listeners, clients, the access log, the gRPC
//! API. Pure: a merged tree goes in, the structs of `singbox::config` come out.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    service::{Kind, Service},
    singbox::{
        GrpcApi,
        config::{
            FoundUser, Inbound, LogOptions, NameDanger, ProxyConfig, Transports, Warning, Wrong,
            user_warnings, wrong,
        },
        tree::{self, Node, Value},
    },
};

/// What V2Ray's log does not say: users of socks and http inbounds.
const NAMELESS: &str =
    "V2Ray's access log does not name users of this type: all of its bytes are unattributed";

/// Behind a load balancer, whose connections are the ones that the kernel sees.
pub const PROXY_PROTOCOL: &str = "With `acceptProxyProtocol` the log has the client's address in place of that of the connection: nothing \
     tells which connection it is, all of its bytes are unattributed, and none of its users' limits hold";

/// The option that names a user of an inbound type.
pub fn name_key(kind: &str) -> &'static str {
    match kind {
        "socks" | "http" | "mixed" => "user",
        _ => "email",
    }
}

/// The option that is a user's credential.
pub fn credential_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "vmess" | "vless" => &["id"],
        "socks" | "http" | "mixed" => &["user"],
        _ => &["password"],
    }
}

/// Does the inbound type know users?
pub fn carries_users(kind: &str) -> bool {
    matches!(kind, "trojan" | "vmess" | "vless" | "shadowsocks" | "socks" | "http" | "mixed")
}

/// The list of an inbound's users.
pub fn users(inbound: &Node) -> Option<&Node> {
    let settings = inbound.get("settings")?;
    settings.get("clients").or_else(|| settings.get("accounts"))
}

/// A later file's options take the place of earlier ones', but for inbounds and outbounds: those of the same
/// tag are replaced, others added.
pub fn merge(earlier: &mut Node, later: Node) {
    let (Value::Object(entries), Value::Object(more)) = (&mut earlier.value, later.value) else { return };
    for (key, node) in more {
        let known = entries.iter_mut().find(|(name, _)| *name == key).map(|(_, known)| known);
        match (known, node) {
            (Some(known), node) if matches!(key.as_str(), "inbounds" | "outbounds") => by_tag(known, node),
            (_, Node { value: Value::Null, .. }) => {}
            (Some(known), node) => *known = node,
            (None, node) => entries.push((key, node)),
        }
    }
}

fn by_tag(earlier: &mut Node, later: Node) {
    let (Value::Array(elements), Value::Array(more)) = (&mut earlier.value, later.value) else { return };
    for node in more {
        let tag = text(&node, "tag");
        let same = tag.and_then(|tag| elements.iter().position(|known| text(known, "tag") == Some(tag)));
        match same {
            Some(at) => elements[at] = node,
            None => elements.push(node),
        }
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.get(key).and_then(Node::str).filter(|text| !text.is_empty())
}

/// The text with its logs on the console: a program that checks its configuration opens the files of its logs,
/// which whoever checks may not write to, or would own afterwards.
pub fn without_log_files(text: &str) -> String {
    let Ok((root, _)) = tree::parse(&Arc::new(PathBuf::new()), text) else { return text.to_owned() };
    let Value::Object(entries) = &root.value else { return text.to_owned() };
    // One that stands twice is in the tree once, as it holds.
    let logs = entries.iter().filter(|(key, _)| key == "log").map(|(_, node)| node);
    let mut ranges: Vec<_> = logs
        .flat_map(|log| ["access", "error"].into_iter().filter_map(|key| log.get(key)))
        .filter(|node| node.str().is_some_and(|path| path != "none"))
        .map(|node| node.range.clone())
        .collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for range in ranges {
        text.replace_range(range, "\"\"");
    }
    text
}

/// Reads the merged tree.
///
/// # Errors
/// A value that the program cannot mean.
pub fn read(root: &Node, service: &Service) -> Result<ProxyConfig, Wrong> {
    let mut config = ProxyConfig { log: log(root), ..ProxyConfig::default() };
    if let Value::Object(entries) = &root.value {
        config.top_level_keys = entries.iter().map(|(key, _)| key.clone()).collect();
    }
    let Some(inbounds) = root.get("inbounds") else { return Ok(config) };
    let elements = inbounds.array().ok_or_else(|| wrong(inbounds, "`inbounds` must be an array"))?;
    for (index, node) in elements.iter().enumerate() {
        let inbound = inbound(index, node, service)?;
        let listed = users(node).and_then(Node::array).unwrap_or_default();
        user_warnings(&inbound, listed, credential_keys(&inbound.kind), &mut config.warnings);
        if config.inbounds.iter().any(|known| known.tag == inbound.tag) {
            config.warnings.push(Warning::DuplicateTag { tag: Arc::clone(&inbound.tag) });
        }
        config.inbounds.push(inbound);
    }
    // What stands behind the name is known here by the list of names, not by punctuation.
    config.warnings.retain(|it| !matches!(it, Warning::DangerousName { why: NameDanger::Bracket, .. }));
    config.grpc_api = grpc_api(root, &config.inbounds, service);
    Ok(config)
}

/// Of the log only who connects matters, which is in the access log.
fn log(root: &Node) -> LogOptions {
    let access = root.get("log").and_then(|log| text(log, "access"));
    LogOptions {
        disabled: access == Some("none"),
        level: None,
        output: access.filter(|path| *path != "none").map(PathBuf::from),
        timestamp: true,
    }
}

fn listen(node: &Node) -> Result<Option<IpAddr>, Wrong> {
    let Some(listen) = node.get("listen") else { return Ok(Some(Ipv4Addr::UNSPECIFIED.into())) };
    let text = listen.str().unwrap_or_default();
    if text.starts_with(['/', '@']) {
        return Ok(None);
    }
    match text {
        "" => Ok(Some(Ipv4Addr::UNSPECIFIED.into())),
        "localhost" => Ok(Some(Ipv4Addr::LOCALHOST.into())),
        _ => match text.trim_matches(['[', ']']).parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(wrong(listen, format!("`listen`: {text:?} is no IP address"))),
        },
    }
}

/// One port, also as a string or as a range of one; more than one cannot be watched.
fn port(node: &Node) -> Result<Option<u16>, Wrong> {
    let Some(port) = node.get("port") else { return Ok(None) };
    let bad = || wrong(port, "`port` must be a number from 0 to 65535, or a range of them");
    let found = match &port.value {
        Value::String(text) if text.starts_with("env:") => None,
        Value::String(text) => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            // A list of ranges, as newer versions have it, is no single port either.
            let one = |text: &str| text.trim().parse::<u16>();
            match (one(from), one(to)) {
                (Ok(from), Ok(to)) => (from == to).then_some(from),
                _ if text.contains(',') => None,
                _ => return Err(bad()),
            }
        }
        _ => Some(port.port().ok_or_else(bad)?),
    };
    Ok(found.filter(|&port| port != 0))
}

fn transports(kind: &str, transport: Option<&str>, node: &Node) -> Transports {
    let settings = node.get("settings");
    let networks = settings.and_then(|settings| settings.get("network")).map(Node::list).unwrap_or_default();
    let names = |wanted: &str| networks.iter().any(|text| text.split(',').any(|name| name.trim() == wanted));
    match (kind, transport) {
        (_, Some("kcp" | "mkcp" | "quic")) => Transports::UDP,
        (_, Some("domainsocket" | "ds")) => Transports::NONE,
        ("shadowsocks" | "dokodemo-door" | "tunnel", _) if !networks.is_empty() => {
            Transports { tcp: names("tcp"), udp: names("udp") }
        }
        // Associations are on the same port.
        ("socks" | "mixed", _) => {
            let udp = settings.and_then(|settings| settings.get("udp")).and_then(Node::bool).unwrap_or(false);
            Transports { tcp: true, udp }
        }
        ("vmess" | "vless" | "trojan" | "shadowsocks" | "http" | "dokodemo-door" | "tunnel", _) => {
            Transports::TCP
        }
        // Nothing is waited for on a port of a kind that is not known: it may be one of UDP, as WireGuard's.
        _ => Transports::NONE,
    }
}

fn inbound(index: usize, node: &Node, service: &Service) -> Result<Inbound, Wrong> {
    let kind = text(node, "protocol")
        .ok_or_else(|| wrong(node, format!("`inbounds[{index}]` has no `protocol`")))?
        .to_lowercase();
    let stream = node.get("streamsettings");
    let transport = stream.and_then(|stream| text(stream, "network")).filter(|name| *name != "tcp");
    let transport = transport.map(str::to_lowercase);
    let tag = text(node, "tag");
    let (listens, listed) = (listen(node)?, users(node));
    let users = match listed {
        Some(list) => found_users(&kind, list)?,
        None => single_user(&kind, node),
    };
    let over_http = matches!(
        transport.as_deref(),
        Some("ws" | "http" | "h2" | "grpc" | "gun" | "httpupgrade" | "splithttp" | "xhttp")
    );
    Ok(Inbound {
        index,
        tag: service.tag(tag.unwrap_or(&index.to_string())),
        tagged: tag.is_some(),
        listen: listens.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        listen_port: listens.map_or(Ok(None), |_| port(node))?,
        transports: transports(&kind, transport.as_deref(), node),
        has_users: listed.is_some(),
        users,
        managed: false,
        // A forwarded address comes without a port, so that none with a port is forged.
        reports_forwarded_addresses: false,
        shares_sockets: matches!(transport.as_deref(), Some("http" | "h2" | "grpc" | "gun")),
        loses_port: over_http,
        reported_udp: false,
        note: match service.kind == Kind::V2ray && name_key(&kind) == "user" {
            _ if listed.is_some() && stream.is_some_and(believes_proxy_protocol) => Some(PROXY_PROTOCOL),
            true => Some(NAMELESS),
            false => None,
        },
        detour: None,
        detour_from: Vec::new(),
        tls: stream.and_then(|stream| text(stream, "security")).is_some_and(|name| name != "none"),
        multipath_tcp: None,
        file: node.file.as_ref().clone(),
        range: node.range.clone(),
        kind,
        transport,
    })
}

/// The option is the socket's, or that of a transport.
fn believes_proxy_protocol(stream: &Node) -> bool {
    let places = ["sockopt", "tcpsettings", "rawsettings", "wssettings", "httpupgradesettings"];
    let says = |place: &&str| Some(stream.get(place)?.get("acceptproxyprotocol")?.bool() == Some(true));
    places.iter().any(|place| says(place).unwrap_or(false))
}

fn found_user(name: &str, index: usize, node: &Node) -> FoundUser {
    // The log names nobody who has no name.
    let log_name = if name.is_empty() { format!("#{index}").into() } else { Arc::from(name) };
    FoundUser {
        name: name.into(),
        log_name,
        index,
        file: node.file.as_ref().clone(),
        range: node.range.clone(),
    }
}

fn found_users(kind: &str, list: &Node) -> Result<Vec<FoundUser>, Wrong> {
    let elements = list.array().ok_or_else(|| wrong(list, "the list of users must be an array"))?;
    let found = elements.iter().enumerate();
    Ok(found.map(|(at, node)| found_user(text(node, name_key(kind)).unwrap_or_default(), at, node)).collect())
}

/// V2Ray's shadowsocks has one user, whose options are the inbound's.
fn single_user(kind: &str, node: &Node) -> Vec<FoundUser> {
    let settings = node.get("settings").filter(|_| kind == "shadowsocks");
    let named = settings.and_then(|settings| Some((text(settings, "email")?, settings)));
    named.map(|(name, settings)| found_user(name, 0, settings)).into_iter().collect()
}

/// The listener whose connections are routed to the API, or the API's own.
fn grpc_api(root: &Node, inbounds: &[Inbound], service: &Service) -> Option<GrpcApi> {
    let api = root.get("api")?;
    let tag = text(api, "tag").unwrap_or("api");
    let services = api.get("services").map(Node::list).unwrap_or_default();
    let has = |name: &str| services.iter().any(|service| service.eq_ignore_ascii_case(name));
    let own = text(api, "listen").and_then(|text| text.parse::<SocketAddr>().ok());
    let rules = root.get("routing").and_then(|routing| routing.get("rules")).and_then(Node::array);
    let routed = |inbound: &&Inbound| {
        let written = service.written(&inbound.tag).unwrap_or_default();
        let mut to_api =
            rules.unwrap_or_default().iter().filter(|rule| text(rule, "outboundtag") == Some(tag));
        to_api.any(|rule| rule.get("inboundtag").map(Node::list).unwrap_or_default().contains(&written))
    };
    let listener = || {
        let inbound = inbounds.iter().find(routed)?;
        Some(SocketAddr::new(inbound.listen, inbound.listen_port?))
    };
    let addr = own.or_else(listener)?;
    Some(GrpcApi { addr, handler: has("HandlerService"), stats: has("StatsService") })
}
