//! What a client must be told of each inbound: the other side of sing-box's configuration. Pure: texts
//! of files and a user's entries go in, servers come out, credentials included.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use boxmeter_web::api::sharing::{Reality, Server, ServerTls, ServerTransport};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    config::{listen, listen_port},
    files::{ConfigError, FileText},
    tree::{self, Node},
};

/// A user's entry on an inbound, wherever it is kept now.
pub struct Entry {
    pub inbound: String,
    pub fields: BTreeMap<String, String>,
}

/// A way in as the configuration has it; where clients find the machine is not said there.
pub struct Found {
    /// Without an address; the port is 0 where the inbound listens on none.
    pub server: Server,
    /// Only programs on the same machine reach it: something else stands before it.
    pub local: bool,
}

/// The servers of a user's entries, in the order of the configuration.
///
/// # Errors
/// A file that is not JSON as sing-box reads it.
pub fn found(files: &[FileText], entries: &[Entry]) -> Result<Vec<Found>, ConfigError> {
    let mut inbounds = Vec::new();
    for file in files {
        let (root, _) = tree::parse(&file.path, &file.text)?;
        for node in root.get("inbounds").and_then(Node::array).unwrap_or_default() {
            let tag = match text(node, "tag") {
                Some(tag) => tag.to_owned(),
                None => inbounds.len().to_string(),
            };
            inbounds.push((tag, node.clone()));
        }
    }
    let mut servers = Vec::new();
    for (tag, node) in &inbounds {
        let mut add = |found: Option<Found>| servers.extend(found);
        let own = entries.iter().filter(|entry| entry.inbound == *tag);
        match text(node, "type").unwrap_or_default() {
            "shadowtls" => add(shadowtls(tag, node, &inbounds, entries)),
            // Clients are told of what stands before it instead.
            "shadowsocks" if inbounds.iter().any(|(_, other)| hides(other, tag)) => {}
            kind => own.for_each(|entry| add(server(tag, kind, node, &entry.fields))),
        }
    }
    Ok(servers)
}

fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.get(key).and_then(Node::str).filter(|text| !text.is_empty())
}

fn hides(outer: &Node, tag: &str) -> bool {
    text(outer, "type") == Some("shadowtls") && text(outer, "detour") == Some(tag)
}

fn server(tag: &str, kind: &str, node: &Node, entry: &BTreeMap<String, String>) -> Option<Found> {
    let method = text(node, "method").filter(|_| kind == "shadowsocks").map(str::to_owned);
    // Only with 2022 methods does the inbound's own key stand before the user's.
    let keyed = method.as_ref().is_some_and(|method| method.starts_with("2022-"));
    let server_key = text(node, "password").filter(|_| keyed).map(str::to_owned);
    let networks = node.get("network").map(Node::list).unwrap_or_default();
    let listens = listen(node).ok()?;
    Some(Found {
        local: listens.is_loopback(),
        server: Server {
            inbound: tag.to_owned(),
            kind: kind.to_owned(),
            address: String::new(),
            port: listen_port(node).ok()?.unwrap_or(0),
            entry: entry.clone(),
            method,
            server_key,
            tls: tls(node),
            transport: transport(node),
            network: match networks.as_slice() {
                [one] => Some((*one).to_owned()),
                _ => None,
            },
            obfs: obfs(kind, node),
            // What the server sends is what the client receives.
            up_mbps: mbps(kind, node, "down"),
            down_mbps: mbps(kind, node, "up"),
            inner: None,
        },
    })
}

/// shadowtls with shadowsocks inside, for whoever has an entry in one of them. Where shadowtls has one
/// user for all, and the people are told apart inside, its password is for all of them.
fn shadowtls(tag: &str, node: &Node, inbounds: &[(String, Node)], entries: &[Entry]) -> Option<Found> {
    let inside = text(node, "detour")?;
    let (_, inner) = inbounds.iter().find(|(tag, _)| tag == inside)?;
    let of = |tag: &str| entries.iter().find(|entry| entry.inbound == tag).map(|entry| entry.fields.clone());
    let listed = inner.get("users").and_then(Node::array).is_some_and(|users| !users.is_empty());
    let (own, inner_own) = (of(tag), of(inside));
    if own.is_none() && inner_own.is_none() || listed && inner_own.is_none() {
        return None;
    }
    let outer_entry = match (own, node.get("users").and_then(Node::array)) {
        (Some(own), _) => own,
        (None, Some([only])) => [("password".to_owned(), text(only, "password")?.to_owned())].into(),
        (None, None) => [("password".to_owned(), text(node, "password")?.to_owned())].into(),
        _ => return None,
    };
    let mut found = server(tag, "shadowtls", node, &outer_entry)?;
    let mut inner = server(inside, "shadowsocks", inner, &inner_own.unwrap_or_default())?.server;
    if !listed {
        // One password for all, which is the inbound's.
        let (_, node) = inbounds.iter().find(|(tag, _)| tag == inside)?;
        inner.server_key = None;
        inner.entry = [("password".to_owned(), text(node, "password")?.to_owned())].into();
    }
    let name = node.get("handshake").and_then(|handshake| text(handshake, "server"));
    found.server.tls = Some(ServerTls { server_name: name.map(str::to_owned), ..ServerTls::default() });
    found.server.inner = Some(Box::new(inner));
    Some(found)
}

fn tls(node: &Node) -> Option<ServerTls> {
    let tls = node.get("tls").filter(|tls| tls.get("enabled").and_then(Node::bool) == Some(true))?;
    let alpn = tls.get("alpn").map(Node::list).unwrap_or_default();
    Some(ServerTls {
        server_name: text(tls, "server_name").map(str::to_owned),
        insecure: false,
        alpn: alpn.into_iter().map(str::to_owned).collect(),
        reality: tls.get("reality").and_then(reality),
    })
}

/// The client's half of REALITY's key.
fn reality(node: &Node) -> Option<Reality> {
    node.get("enabled").and_then(Node::bool).filter(|enabled| *enabled)?;
    let key: [u8; 32] = URL_SAFE_NO_PAD.decode(text(node, "private_key")?).ok()?.try_into().ok()?;
    let public = PublicKey::from(&StaticSecret::from(key));
    let ids = node.get("short_id").map(Node::list).unwrap_or_default();
    Some(Reality {
        public_key: URL_SAFE_NO_PAD.encode(public.as_bytes()),
        short_id: ids.first().copied().unwrap_or_default().to_owned(),
    })
}

fn transport(node: &Node) -> Option<ServerTransport> {
    let transport = node.get("transport")?;
    let owned = |key| text(transport, key).map(str::to_owned);
    let header = transport.get("headers").and_then(|headers| headers.get("host"));
    let host = transport.get("host").or(header);
    Some(ServerTransport {
        kind: owned("type")?,
        path: owned("path"),
        host: host.and_then(|host| host.list().first().map(|host| (*host).to_owned())),
        service_name: owned("service_name"),
    })
}

fn obfs(kind: &str, node: &Node) -> Option<String> {
    match kind {
        "hysteria2" => node.get("obfs").and_then(|obfs| text(obfs, "password")).map(str::to_owned),
        "hysteria" => text(node, "obfs").map(str::to_owned),
        _ => None,
    }
}

/// hysteria's speed: a number of Mbit/s, or a text as `100 Mbps`.
fn mbps(kind: &str, node: &Node, direction: &str) -> Option<u32> {
    if kind != "hysteria" {
        return None;
    }
    if let Some(number) = node.get(&format!("{direction}_mbps")).and_then(Node::port) {
        return Some(u32::from(number));
    }
    let said = text(node, direction)?.to_lowercase();
    let digits: String = said.chars().take_while(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().ok()?;
    match said[digits.len()..].trim() {
        "gbps" => number.checked_mul(1000),
        "kbps" => Some((number / 1000).max(1)),
        _ => Some(number),
    }
}

/// The entry of a node in `users`, by its name: for tests and for what is in the file.
pub fn entry_of(inbound: &str, fields: impl IntoIterator<Item = (&'static str, String)>) -> Entry {
    Entry {
        inbound: inbound.to_owned(),
        fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use serde_json::json;

    use super::*;

    fn of(config: serde_json::Value, entries: &[Entry]) -> Vec<Found> {
        let file = FileText {
            service: crate::service::Service::singbox(),
            path: Arc::new(PathBuf::from("c.json")),
            text: config.to_string(),
            sha256: [0; 32],
        };
        found(&[file], entries).unwrap()
    }

    fn password(inbound: &str) -> Entry {
        entry_of(inbound, [("name", "alice".to_owned()), ("password", "secret".to_owned())])
    }

    #[test]
    fn an_inbound_is_seen_from_the_other_side() {
        let config = json!({"inbounds": [
            {"type": "trojan", "tag": "t", "listen": "::", "listen_port": 443, "users": [],
             "tls": {"enabled": true, "server_name": "a.example", "alpn": ["h2", "http/1.1"]},
             "transport": {"type": "ws", "path": "/x", "headers": {"Host": "b.example"}}},
            {"type": "hysteria", "tag": "h", "listen": "::", "listen_port": 1, "up": "1 Gbps", "down_mbps": 20,
             "obfs": "fog", "tls": {"enabled": true}},
            {"type": "vless", "listen_port": 3, "tls": {"enabled": false}},
            {"type": "trojan", "tag": "nobody", "listen_port": 4},
        ]});
        let vless = entry_of("2", [("uuid", "u".to_owned())]);
        let found = of(config, &[password("t"), password("h"), vless]);
        let [trojan, hysteria, vless] = found.as_slice() else { panic!("three servers") };
        let tls = trojan.server.tls.as_ref().unwrap();
        assert_eq!((trojan.server.port, tls.server_name.as_deref()), (443, Some("a.example")));
        let transport = trojan.server.transport.as_ref().unwrap();
        assert_eq!((transport.kind.as_str(), transport.path.as_deref()), ("ws", Some("/x")));
        assert_eq!((transport.host.as_deref(), trojan.local), (Some("b.example"), false));
        assert_eq!((hysteria.server.up_mbps, hysteria.server.down_mbps), (Some(20), Some(1000)));
        assert_eq!(hysteria.server.obfs.as_deref(), Some("fog"));
        assert_eq!((vless.server.tls.is_none(), vless.local), (true, true));
    }

    #[test]
    fn the_key_of_2022_methods_stands_before_the_users() {
        let inbound = |method: &str| {
            json!({"inbounds": [{"type": "shadowsocks", "tag": "s", "listen": "::", "listen_port": 1,
                                 "method": method, "password": "server", "network": "tcp"}]})
        };
        let new = &of(inbound("2022-blake3-aes-128-gcm"), &[password("s")])[0].server;
        assert_eq!((new.server_key.as_deref(), new.network.as_deref()), (Some("server"), Some("tcp")));
        assert_eq!(of(inbound("aes-128-gcm"), &[password("s")])[0].server.server_key, None);
    }

    /// A pair that `sing-box generate reality-keypair` has made.
    #[test]
    fn realitys_public_key_follows_from_the_private_one() {
        let tls = json!({"enabled": true, "server_name": "c.example", "reality": {"enabled": true,
            "private_key": PRIVATE, "short_id": ["0123abcd"]}});
        let config = json!({"inbounds": [{"type": "vless", "tag": "v", "listen_port": 1, "tls": tls}]});
        let found = of(config, &[entry_of("v", [("uuid", "u".to_owned())])]);
        let reality = found[0].server.tls.as_ref().unwrap().reality.clone().unwrap();
        assert_eq!((reality.public_key.as_str(), reality.short_id.as_str()), (PUBLIC, "0123abcd"));
    }

    const PRIVATE: &str = "qDcK3bDJtVHjAx52OWF0la60jVO0n3jFlM1JJttG4mg";
    const PUBLIC: &str = "MOOvUIF3_gXlijB105DP66z1GzduTH9fbZH_tsJooxw";

    #[test]
    fn shadowsocks_inside_of_shadowtls_is_one_server() {
        let config = |outer: serde_json::Value, inner: serde_json::Value| {
            json!({"inbounds": [
                {"type": "shadowtls", "tag": "o", "listen": "::", "listen_port": 443, "version": 3, "users": outer,
                 "handshake": {"server": "d.example", "server_port": 443}, "detour": "i"},
                {"type": "shadowsocks", "tag": "i", "listen": "127.0.0.1", "method": "2022-blake3-aes-128-gcm",
                 "password": "key", "users": inner},
            ]})
        };
        let people = json!([{"name": "alice", "password": "secret"}, {"name": "bob", "password": "x"}]);
        let everyone = json!([{"name": "everyone", "password": "outer"}]);
        let found = of(config(everyone, people.clone()), &[password("i")]);
        let [one] = found.as_slice() else { panic!("one server") };
        let (outer, inner) = (&one.server, one.server.inner.as_deref().unwrap());
        assert_eq!((outer.kind.as_str(), outer.port, &*outer.entry["password"]), ("shadowtls", 443, "outer"));
        assert_eq!(outer.tls.as_ref().unwrap().server_name.as_deref(), Some("d.example"));
        assert_eq!((inner.server_key.as_deref(), &*inner.entry["password"]), (Some("key"), "secret"));
        // The people are told apart outside, and one key is inside.
        let found = of(config(people.clone(), json!([])), &[password("o")]);
        let inner = found[0].server.inner.as_deref().unwrap();
        assert_eq!((&*found[0].server.entry["password"], &*inner.entry["password"]), ("secret", "key"));
        assert_eq!(inner.server_key, None);
        // Somebody else's password outside is no way in for a user who is not inside.
        assert!(of(config(people.clone(), people), &[]).is_empty());
    }
}
