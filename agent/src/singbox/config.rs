//! What boxmeter needs of a proxy's configuration: listeners, users, log, API; and how sing-box's is read
//! (`v2ray::config` reads the others'). Pure: a merged tree goes in, structs come out. Credentials are
//! compared with each other and then forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use crate::core::event::Network;

use super::{
    services::{self, ApiService, ClashApi, GrpcApi, ManagerService},
    tree::{Node, Value},
};

/// The name of entries that boxmeter writes where a list of users would otherwise become empty, which
/// opens some inbound types to everyone. Nobody knows their credential.
pub const LOCKED_USER: &str = boxmeter_web::api::names::LOCKED_NAME;

/// Everything that was understood.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    pub inbounds: Vec<Inbound>,
    pub log: LogOptions,
    pub api_service: Option<ApiService>,
    pub clash_api: Option<ClashApi>,
    /// Services of type `ssm-api`, which have the users of managed shadowsocks inbounds.
    pub managers: Vec<ManagerService>,
    /// V2Ray's and Xray's gRPC API.
    pub grpc_api: Option<GrpcApi>,
    pub warnings: Vec<Warning>,
    /// In the order in which sing-box merges them.
    pub files: Vec<PathBuf>,
    /// In lower case.
    pub top_level_keys: Vec<String>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Place among all inbounds, from 0.
    pub index: usize,
    /// See [`crate::service::Service::tag`]. sing-box names an inbound without a tag by its index, also in its
    /// API and log.
    pub tag: Arc<str>,
    pub tagged: bool,
    pub kind: String,
    /// sing-box's default is 127.0.0.1.
    pub listen: IpAddr,
    /// `None` where it listens on no fixed port: such an inbound cannot be watched.
    pub listen_port: Option<u16>,
    pub transports: Transports,
    /// `ws`, `grpc`, `http`, `httpupgrade`, `quic`.
    pub transport: Option<String>,
    pub users: Vec<FoundUser>,
    /// The option `users` is written (also when empty).
    pub has_users: bool,
    /// Shadowsocks whose users live in sing-box's `ssm-api` service.
    pub managed: bool,
    /// What sing-box reports as the client's address can come from an HTTP header.
    pub reports_forwarded_addresses: bool,
    /// Several users can share one TCP socket.
    pub shares_sockets: bool,
    /// A forwarded address is reported without a port.
    pub loses_port: bool,
    /// Its UDP goes over ports of its own, which are not watched.
    pub reported_udp: bool,
    /// What people should know of its figures, beside what follows from the rest.
    pub note: Option<&'static str>,
    /// Where this inbound hands its connections to.
    pub detour: Option<Arc<str>>,
    /// Inbounds that hand their connections to this one: clients are on their ports, while sing-box
    /// reports this inbound's tag.
    pub detour_from: Vec<Arc<str>>,
    pub tls: bool,
    /// `tcp_multi_path`, where written.
    pub multipath_tcp: Option<bool>,
    pub file: PathBuf,
    pub range: Range<usize>,
}

/// The networks on which a listener has a socket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transports {
    pub tcp: bool,
    pub udp: bool,
}

impl Transports {
    pub const TCP: Self = Transports { tcp: true, udp: false };
    pub const UDP: Self = Transports { tcp: false, udp: true };
    pub const BOTH: Self = Transports { tcp: true, udp: true };
    pub const NONE: Self = Transports { tcp: false, udp: false };

    pub fn networks(self) -> impl Iterator<Item = Network> {
        [(self.tcp, Network::Tcp), (self.udp, Network::Udp)]
            .into_iter()
            .filter_map(|(listens, network)| listens.then_some(network))
    }
}

/// A user of an inbound, as written.
#[derive(Clone, Debug)]
pub struct FoundUser {
    /// May be empty.
    pub name: Arc<str>,
    /// What sing-box's log prints: the name, or the place among the inbound's users if it is empty.
    pub log_name: Arc<str>,
    pub index: usize,
    pub file: PathBuf,
    /// The user's object in the file.
    pub range: Range<usize>,
}

impl FoundUser {
    /// Is it no user at all, but boxmeter's own entry of a list that is otherwise empty?
    pub fn is_locked(&self) -> bool {
        &*self.name == LOCKED_USER
    }
}

#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub disabled: bool,
    /// Unset is `trace`.
    pub level: Option<String>,
    /// `None`: standard error.
    pub output: Option<PathBuf>,
    pub timestamp: bool,
}

impl LogOptions {
    /// Are lines of level info written?
    pub fn shows_info(&self) -> bool {
        let level = self.level.as_deref().unwrap_or("trace").to_lowercase();
        !self.disabled && matches!(level.as_str(), "" | "trace" | "debug" | "info")
    }
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(empty)" } else { "Secret(…)" })
    }
}

/// What is allowed, but makes users indistinguishable or was not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    RepeatedKey {
        file: PathBuf,
        line: usize,
        key: String,
    },
    /// Nobody can be told apart by name: `index` is printed in logs, nothing by the API.
    UnnamedUser {
        inbound: Arc<str>,
        index: usize,
    },
    DuplicateName {
        inbound: Arc<str>,
        name: Arc<str>,
        count: usize,
    },
    /// Users with the same credential: sing-box takes the last one for all of them.
    DuplicateCredential {
        inbound: Arc<str>,
        names: Vec<Arc<str>>,
    },
    /// Line breaks and other control characters, brackets.
    DangerousName {
        inbound: Arc<str>,
        name: Arc<str>,
        why: NameDanger,
    },
    /// The name of one user is what the log prints for another one without a name.
    NameIsIndex {
        inbound: Arc<str>,
        name: Arc<str>,
    },
    /// Two listeners with one tag: sing-box refuses to start.
    DuplicateTag {
        tag: Arc<str>,
    },
    /// The detour names an inbound that does not exist.
    UnknownDetour {
        inbound: Arc<str>,
        detour: Arc<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameDanger {
    /// Splits or hides log lines.
    Control,
    /// Looks like the log's own punctuation.
    Bracket,
}

/// A value that sing-box cannot mean.
#[derive(Debug)]
pub struct Wrong {
    pub file: PathBuf,
    pub at: usize,
    pub what: String,
}

pub fn wrong(node: &Node, what: impl Into<String>) -> Wrong {
    Wrong { file: node.file.as_ref().clone(), at: node.range.start, what: what.into() }
}

/// The option that names a user of an inbound type.
pub fn name_key(kind: &str) -> &'static str {
    match kind {
        "naive" | "http" | "socks" | "mixed" => "username",
        _ => "name",
    }
}

/// The option that is a user's credential. sing-box looks users up by it.
pub fn credential_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "vmess" | "vless" | "tuic" => &["uuid"],
        "hysteria" => &["auth", "auth_str"],
        "naive" | "http" | "socks" | "mixed" => &["username"],
        "snell" => &["userkey"],
        _ => &["password"],
    }
}

/// Does the inbound type know users?
pub fn carries_users(kind: &str) -> bool {
    matches!(
        kind,
        "trojan"
            | "vmess"
            | "vless"
            | "shadowsocks"
            | "hysteria"
            | "hysteria2"
            | "tuic"
            | "naive"
            | "http"
            | "socks"
            | "mixed"
            | "shadowtls"
            | "anytls"
            | "snell"
    )
}

/// Reads the merged tree.
pub fn read(root: &Node) -> Result<ProxyConfig, Wrong> {
    let mut config = ProxyConfig { log: log(root), ..ProxyConfig::default() };
    if let Value::Object(entries) = &root.value {
        config.top_level_keys = entries.iter().map(|(key, _)| key.clone()).collect();
    }
    if let Some(inbounds) = root.get("inbounds") {
        let elements = inbounds.array().ok_or_else(|| wrong(inbounds, "`inbounds` must be an array"))?;
        for (index, node) in elements.iter().enumerate() {
            let inbound = inbound(index, node)?;
            let users = node.get("users").and_then(Node::array).unwrap_or_default();
            user_warnings(&inbound, users, credential_keys(&inbound.kind), &mut config.warnings);
            config.inbounds.push(inbound);
        }
    }
    link_detours(&mut config);
    for service in root.get("services").and_then(Node::array).unwrap_or_default() {
        match service.get("type").and_then(Node::str) {
            Some("api") if config.api_service.is_none() => config.api_service = Some(services::api(service)?),
            Some("ssm-api") => config.managers.push(services::manager(service)?),
            _ => {}
        }
    }
    config.clash_api = root.get("experimental").and_then(|e| e.get("clash_api")).and_then(services::clash);
    Ok(config)
}

fn log(root: &Node) -> LogOptions {
    let Some(log) = root.get("log") else {
        return LogOptions::default();
    };
    let text = |key| log.get(key).and_then(Node::str).map(str::to_owned);
    LogOptions {
        disabled: log.get("disabled").and_then(Node::bool).unwrap_or(false),
        level: text("level").filter(|level| !level.is_empty()),
        output: text("output").filter(|o| !matches!(o.as_str(), "" | "stderr" | "stdout")).map(PathBuf::from),
        timestamp: log.get("timestamp").and_then(Node::bool).unwrap_or(false),
    }
}

pub(super) fn listen(node: &Node) -> Result<IpAddr, Wrong> {
    match node.get("listen") {
        None => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(listen) => {
            let text = listen.str().unwrap_or_default();
            let plain = text.split('%').next().unwrap_or_default();
            plain.parse().map_err(|_| wrong(listen, format!("`listen`: {text:?} is no IP address")))
        }
    }
}

pub(super) fn listen_port(node: &Node) -> Result<Option<u16>, Wrong> {
    match node.get("listen_port") {
        None => Ok(None),
        Some(port) => port
            .port()
            .map(|port| Some(port).filter(|&port| port != 0))
            .ok_or_else(|| wrong(port, "`listen_port` must be a number from 0 to 65535")),
    }
}

fn inbound(index: usize, node: &Node) -> Result<Inbound, Wrong> {
    if !matches!(node.value, Value::Object(_)) {
        return Err(wrong(node, format!("`inbounds[{index}]` must be an object")));
    }
    let text = |key| node.get(key).and_then(Node::str).filter(|text| !text.is_empty());
    let kind =
        text("type").ok_or_else(|| wrong(node, format!("`inbounds[{index}]` has no `type`")))?.to_owned();
    let transport = node.get("transport").and_then(|t| t.get("type")).and_then(Node::str).map(str::to_owned);
    let tag = text("tag");
    let listed = node.get("users");
    let users = match listed {
        None => Vec::new(),
        Some(list) => users(&kind, list)?,
    };
    let http_like = matches!(transport.as_deref(), Some("ws" | "httpupgrade" | "http" | "grpc"));
    Ok(Inbound {
        index,
        tag: tag.map_or_else(|| index.to_string(), str::to_owned).into(),
        tagged: tag.is_some(),
        listen: listen(node)?,
        listen_port: listen_port(node)?,
        transports: transports(&kind, transport.as_deref(), node),
        users,
        has_users: listed.is_some(),
        managed: node.get("managed").and_then(Node::bool).unwrap_or(false),
        reports_forwarded_addresses: http_like || matches!(kind.as_str(), "naive" | "http" | "mixed"),
        shares_sockets: matches!(transport.as_deref(), Some("http" | "grpc")),
        loses_port: matches!(kind.as_str(), "http" | "mixed"),
        reported_udp: matches!(kind.as_str(), "socks" | "mixed"),
        note: None,
        detour: text("detour").map(Arc::from),
        detour_from: Vec::new(),
        tls: node.get("tls").and_then(|t| t.get("enabled")).and_then(Node::bool).unwrap_or(false),
        multipath_tcp: node.get("tcp_multi_path").and_then(Node::bool),
        file: node.file.as_ref().clone(),
        range: node.range.clone(),
        kind,
        transport,
    })
}

/// SOCKS5 UDP is not here: it uses an ephemeral port per association.
fn transports(kind: &str, transport: Option<&str>, node: &Node) -> Transports {
    let named = node.get("network").map(|network| {
        let names = network.list();
        Transports { tcp: names.contains(&"tcp"), udp: names.contains(&"udp") }
    });
    match kind {
        "hysteria" | "hysteria2" | "tuic" => Transports::UDP,
        "trojan" | "vmess" | "vless" if transport == Some("quic") => Transports::UDP,
        "shadowsocks" | "naive" | "direct" | "tproxy" => named.unwrap_or(Transports::BOTH),
        "tun" | "cloudflared" => Transports::NONE,
        // Snell's UDP is carried over TCP; other types that are not known here listen on TCP as all do.
        _ => Transports::TCP,
    }
}

fn users(kind: &str, list: &Node) -> Result<Vec<FoundUser>, Wrong> {
    let elements = list.array().ok_or_else(|| wrong(list, "`users` must be an array"))?;
    let found = elements.iter().enumerate().map(|(index, node)| {
        if !matches!(node.value, Value::Object(_) | Value::Null) {
            return Err(wrong(node, format!("`users[{index}]` must be an object")));
        }
        let name: Arc<str> = node.get(name_key(kind)).and_then(Node::str).unwrap_or_default().into();
        let log_name = if name.is_empty() { index.to_string().into() } else { name.clone() };
        let file = node.file.as_ref().clone();
        Ok(FoundUser { name, log_name, index, file, range: node.range.clone() })
    });
    found.collect()
}

/// `elements` are the users, one for each of the inbound's, and `keys` their credentials'.
pub fn user_warnings(inbound: &Inbound, elements: &[Node], keys: &[&str], warnings: &mut Vec<Warning>) {
    let tag = || inbound.tag.clone();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for user in &inbound.users {
        if user.name.is_empty() {
            warnings.push(Warning::UnnamedUser { inbound: tag(), index: user.index });
            if inbound.users.iter().any(|other| other.name == user.log_name) {
                warnings.push(Warning::NameIsIndex { inbound: tag(), name: user.log_name.clone() });
            }
            continue;
        }
        *names.entry(&user.name).or_default() += 1;
        let why = if user.name.chars().any(char::is_control) {
            NameDanger::Control
        } else if user.name.contains(['[', ']']) {
            NameDanger::Bracket
        } else {
            continue;
        };
        warnings.push(Warning::DangerousName { inbound: tag(), name: user.name.clone(), why });
    }
    for (name, count) in names.into_iter().filter(|&(_, count)| count > 1) {
        warnings.push(Warning::DuplicateName { inbound: tag(), name: name.into(), count });
    }
    let mut credentials: HashMap<&str, Vec<Arc<str>>> = HashMap::new();
    for (user, node) in inbound.users.iter().zip(elements) {
        let credential =
            keys.iter().filter_map(|key| node.get(key).and_then(Node::str)).find(|c| !c.is_empty());
        if let Some(credential) = credential {
            credentials.entry(credential).or_default().push(user.log_name.clone());
        }
    }
    let mut shared: Vec<_> = credentials.into_values().filter(|names| names.len() > 1).collect();
    shared.sort();
    for names in shared {
        // The same name twice is told above already.
        if names.iter().any(|name| *name != names[0]) {
            warnings.push(Warning::DuplicateCredential { inbound: tag(), names });
        }
    }
}

fn link_detours(config: &mut ProxyConfig) {
    let mut first: HashMap<Arc<str>, usize> = HashMap::new();
    for (at, inbound) in config.inbounds.iter().enumerate() {
        if first.insert(inbound.tag.clone(), at).is_some() {
            config.warnings.push(Warning::DuplicateTag { tag: inbound.tag.clone() });
        }
    }
    for at in 0..config.inbounds.len() {
        let Some(detour) = config.inbounds[at].detour.clone() else {
            continue;
        };
        let tag = config.inbounds[at].tag.clone();
        match first.get(&detour) {
            Some(&target) => config.inbounds[target].detour_from.push(tag),
            None => config.warnings.push(Warning::UnknownDetour { inbound: tag, detour }),
        }
    }
}

impl ProxyConfig {
    pub fn inbound(&self, tag: &str) -> Option<&Inbound> {
        self.inbounds.iter().find(|inbound| &*inbound.tag == tag)
    }

    /// The inbounds on whose ports the clients of a reported inbound are: those that detour to it,
    /// and itself where it listens.
    pub fn listeners_of(&self, reported: &str) -> Vec<&Inbound> {
        let Some(inbound) = self.inbound(reported) else {
            return Vec::new();
        };
        let front = inbound.detour_from.iter().filter_map(|tag| self.inbound(tag));
        let own = inbound.listen_port.is_some().then_some(inbound);
        front.chain(own).filter(|i| i.listen_port.is_some()).collect()
    }
}
