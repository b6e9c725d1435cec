//! Share links, in the forms that v2rayN, NekoBox, Hiddify, Shadowrocket and mihomo read. Where a field
//! has two names among them, both are written.

use base64::{
    Engine as _, engine::general_purpose::STANDARD as BASE64, engine::general_purpose::URL_SAFE_NO_PAD,
};
use serde_json::json;

use super::percent;
use crate::api::sharing::{Server, ServerTls};

/// The browser whose TLS handshake a client of REALITY imitates; REALITY cannot be without.
pub const FINGERPRINT: &str = "chrome";

/// What hysteria needs a client to say, where the inbound says nothing.
pub const MBPS: u32 = 100;

/// The link of a server. `None`: no form of links is agreed on (shadowtls, snell, types to come), or
/// the entry lacks its credential.
pub fn link(server: &Server, label: &str) -> Option<String> {
    let entry = |key: &str| server.entry.get(key).map(String::as_str);
    let name = percent(label);
    let place = place(server);
    let login = |user: &str| Some(format!("{}:{}", percent(entry(user)?), percent(entry("password")?)));
    match server.kind.as_str() {
        "trojan" => {
            let mut query = tls(server, Dialect::V2Ray);
            query.transport(server);
            Some(format!("trojan://{}@{place}{query}#{name}", percent(entry("password")?)))
        }
        "vless" => {
            let mut query = Query::default();
            query.push("encryption", "none");
            query.text("flow", entry("flow"));
            query.0.extend(tls(server, Dialect::V2Ray).0);
            query.transport(server);
            Some(format!("vless://{}@{place}{query}#{name}", percent(entry("uuid")?)))
        }
        "vmess" => vmess(server, label),
        "shadowsocks" => {
            let method = server.method.as_deref()?;
            let password = shadowsocks_password(server)?;
            // Keys of 2022 methods stand as they are, escaped; the others in base64 (SIP002, SIP022).
            let login = match method.starts_with("2022-") {
                true => format!("{method}:{}", percent(&password)),
                false => URL_SAFE_NO_PAD.encode(format!("{method}:{password}")),
            };
            Some(format!("ss://{login}@{place}#{name}"))
        }
        "hysteria2" => {
            let mut query = tls(server, Dialect::Hysteria2);
            if let Some(obfs) = &server.obfs {
                query.push("obfs", "salamander");
                query.push("obfs-password", obfs);
            }
            Some(format!("hysteria2://{}@{place}/{query}#{name}", percent(entry("password")?)))
        }
        "hysteria" => hysteria(server, &place, &name),
        "tuic" => {
            let mut query = tls(server, Dialect::Tuic);
            query.push("congestion_control", "bbr");
            query.push("udp_relay_mode", "native");
            let uuid = percent(entry("uuid")?);
            let password = percent(entry("password").unwrap_or_default());
            Some(format!("tuic://{uuid}:{password}@{place}{query}#{name}"))
        }
        "anytls" => {
            let query = tls(server, Dialect::Hysteria2);
            Some(format!("anytls://{}@{place}/{query}#{name}", percent(entry("password")?)))
        }
        "naive" => {
            let scheme = if server.network.as_deref() == Some("udp") { "quic" } else { "https" };
            Some(format!("naive+{scheme}://{}@{place}#{name}", login("username")?))
        }
        "http" => Some(http(server, &login("username")?, &place, &name)),
        // Through TLS no client speaks SOCKS.
        "mixed" if server.tls.is_some() => Some(http(server, &login("username")?, &place, &name)),
        "socks" | "mixed" => {
            let login = format!("{}:{}", entry("username")?, entry("password")?);
            Some(format!("socks://{}@{place}#{name}", URL_SAFE_NO_PAD.encode(login)))
        }
        _ => None,
    }
}

fn hysteria(server: &Server, place: &str, name: &str) -> Option<String> {
    let mut query = Query::default();
    query.push("protocol", "udp");
    query.push("auth", &hysteria_auth(server)?);
    query.push("upmbps", &server.up_mbps.unwrap_or(MBPS).to_string());
    query.push("downmbps", &server.down_mbps.unwrap_or(MBPS).to_string());
    if let Some(obfs) = &server.obfs {
        query.push("obfs", "xplus");
        query.push("obfsParam", obfs);
    }
    query.0.extend(tls(server, Dialect::Hysteria).0);
    Some(format!("hysteria://{place}{query}#{name}"))
}

fn http(server: &Server, login: &str, place: &str, name: &str) -> String {
    let query = server.tls.as_ref().map(|_| tls(server, Dialect::V2Ray)).unwrap_or_default();
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{login}@{place}{query}#{name}")
}

/// The password of a shadowsocks client: of 2022 methods the server's key stands before the user's.
pub fn shadowsocks_password(server: &Server) -> Option<String> {
    let own = server.entry.get("password");
    match (&server.server_key, own) {
        (Some(key), Some(own)) => Some(format!("{key}:{own}")),
        (Some(key), None) => Some(key.clone()),
        (None, own) => own.cloned(),
    }
}

/// hysteria's password as text; an entry may have it in base64.
pub fn hysteria_auth(server: &Server) -> Option<String> {
    match (server.entry.get("auth_str"), server.entry.get("auth")) {
        (Some(text), _) => Some(text.clone()),
        (None, auth) => String::from_utf8(BASE64.decode(auth?).ok()?).ok(),
    }
}

/// Host and port, IPv6 in brackets.
fn place(server: &Server) -> String {
    match server.address.contains(':') {
        true => format!("[{}]:{}", server.address, server.port),
        false => format!("{}:{}", host(&server.address), server.port),
    }
}

/// A name beyond ASCII is escaped: clients read it as they read a browser's address.
fn host(address: &str) -> String {
    if address.is_ascii() { address.to_owned() } else { percent(address) }
}

/// v2rayN's form: JSON in base64.
fn vmess(server: &Server, label: &str) -> Option<String> {
    let transport = server.transport.clone().unwrap_or_default();
    let tls = server.tls.clone();
    // "http" there is HTTP/1.1 in disguise over plain TCP; HTTP/2 is "h2".
    let (network, disguise) = match (transport.kind.as_str(), tls.is_some()) {
        ("", _) => ("tcp", "none"),
        ("http", true) => ("h2", "none"),
        ("http", false) => ("tcp", "http"),
        (other, _) => (other, "none"),
    };
    let path = transport.path.or(transport.service_name).unwrap_or_default();
    let mut link = json!({
        "v": "2", "ps": label, "add": server.address, "port": server.port.to_string(),
        "id": server.entry.get("uuid")?, "aid": "0", "scy": "auto", "net": network, "type": disguise,
        "host": transport.host.unwrap_or_default(), "path": path,
        "tls": if tls.is_some() { "tls" } else { "" },
    });
    if let Some(tls) = tls {
        link["sni"] = json!(tls.server_name.clone().unwrap_or_default());
        link["alpn"] = json!(alpn(server, &tls).join(","));
        if tls.insecure {
            link["allowInsecure"] = json!(true);
            link["insecure"] = json!("1");
        }
    }
    Some(format!("vmess://{}", BASE64.encode(link.to_string())))
}

/// What an inbound's ALPN leaves for a client: WebSocket is HTTP/1.1, gRPC and the HTTP transport are
/// HTTP/2, and TUIC's clients want `h3` said.
pub fn alpn(server: &Server, tls: &ServerTls) -> Vec<String> {
    let transport = server.transport.as_ref().map(|transport| transport.kind.as_str());
    let only = match transport {
        Some("ws" | "httpupgrade") => Some("http/1.1"),
        Some("grpc" | "http") => Some("h2"),
        _ => None,
    };
    let mut alpn = tls.alpn.clone();
    alpn.retain(|name| only.is_none_or(|only| name == only));
    if alpn.is_empty() && server.kind == "tuic" {
        alpn.push("h3".to_owned());
    }
    alpn
}

/// How a family of links names the fields of TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2Ray,
    Hysteria,
    Hysteria2,
    Tuic,
}

fn tls(server: &Server, dialect: Dialect) -> Query {
    let mut query = Query::default();
    let Some(tls) = &server.tls else {
        if dialect == Dialect::V2Ray {
            query.push("security", "none");
        }
        return query;
    };
    if dialect == Dialect::V2Ray {
        query.push("security", if tls.reality.is_some() { "reality" } else { "tls" });
    }
    query.text(if dialect == Dialect::Hysteria { "peer" } else { "sni" }, tls.server_name.as_deref());
    if let Some(reality) = &tls.reality {
        query.push("fp", FINGERPRINT);
        query.push("pbk", &reality.public_key);
        query.push("sid", &reality.short_id);
    }
    let alpn = alpn(server, tls);
    // Hysteria 2 and AnyTLS have no field for it.
    if !alpn.is_empty() && dialect != Dialect::Hysteria2 {
        query.push("alpn", &alpn.join(","));
    }
    if tls.insecure {
        match dialect {
            Dialect::V2Ray => {
                query.push("allowInsecure", "1");
                query.push("insecure", "1");
            }
            Dialect::Tuic => {
                query.push("allow_insecure", "1");
                query.push("insecure", "1");
            }
            Dialect::Hysteria | Dialect::Hysteria2 => query.push("insecure", "1"),
        }
    }
    query
}

/// A query string in the making.
#[derive(Default)]
struct Query(Vec<(&'static str, String)>);

impl Query {
    fn push(&mut self, key: &'static str, value: &str) {
        self.0.push((key, value.to_owned()));
    }

    fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.push(key, value);
        }
    }

    fn transport(&mut self, server: &Server) {
        let Some(transport) = &server.transport else {
            self.push("type", "tcp");
            return;
        };
        match (transport.kind.as_str(), server.tls.is_some()) {
            ("http", false) => {
                self.push("type", "tcp");
                self.push("headerType", "http");
            }
            (kind, _) => self.push("type", kind),
        }
        self.text("path", transport.path.as_deref());
        self.text("host", transport.host.as_deref());
        self.text("serviceName", transport.service_name.as_deref());
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={}", if number == 0 { '?' } else { '&' }, percent(value))?;
        }
        Ok(())
    }
}
