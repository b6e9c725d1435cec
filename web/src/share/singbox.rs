//! A whole configuration for a sing-box client, in the words that 1.12, 1.13 and 1.14 all understand.
//!
//! Whole, because sing-box's own apps take a remote profile as it is: one with outbounds only would
//! start and carry nothing. Apps of a phone or desktop get a TUN inbound, which carries the whole
//! device; everything else gets a mixed inbound on loopback, which needs no rights and takes nothing
//! over. The app's User-Agent decides, `tun=true` and `tun=false` overrule it.
//!
//! Not in it: naive (most builds of sing-box lack the outbound, and one unknown outbound makes a
//! client refuse the whole file) and snell (unknown before 1.14). Both are in the links or on the page.

use serde_json::{Value, json};

use super::{
    Labelled,
    links::{FINGERPRINT, MBPS, alpn, shadowsocks_password},
};
use crate::api::sharing::{Server, ServerTls, ServerTransport};

/// The mixed inbound's port, the one that sing-box's documentation uses.
const PORT: u16 = 2080;

/// What is asked for finding the quickest server.
const TEST_URL: &str = "https://www.gstatic.com/generate_204";

const SELECTOR: &str = "proxy";
const AUTOMATIC: &str = "auto";

/// The text of the configuration.
pub fn config(servers: &[Labelled<'_>], tun: bool) -> String {
    let mut outbounds = Vec::new();
    let mut tags = Vec::new();
    for it in servers {
        if let Some(mut found) = outbound(it.server, &it.label) {
            outbounds.append(&mut found);
            tags.push(it.label.clone());
        }
    }
    let mut all = groups(&tags);
    all.append(&mut outbounds);
    all.push(json!({"type": "direct", "tag": "direct"}));
    let mut inbounds =
        vec![json!({"type": "mixed", "tag": "mixed-in", "listen": "127.0.0.1", "listen_port": PORT})];
    if tun {
        inbounds.insert(
            0,
            json!({"type": "tun", "tag": "tun-in", "address": ["172.19.0.1/30", "fdfe:dcba:9876::1/126"],
                   "auto_route": true, "strict_route": true}),
        );
    }
    let text = json!({
        "log": {"level": "warn"},
        "dns": dns(!tags.is_empty()),
        "inbounds": inbounds,
        "outbounds": all,
        "route": route(!tags.is_empty(), tun),
    });
    serde_json::to_string_pretty(&text).unwrap_or_default()
}

/// Names that apps of the device ask for are found through the server; the server's own name is found
/// by the device.
fn dns(proxied: bool) -> Value {
    let local = json!({"type": "local", "tag": "local"});
    if !proxied {
        return json!({"servers": [local]});
    }
    let remote = json!({"type": "https", "tag": "remote", "server": "1.1.1.1", "detour": SELECTOR});
    json!({"servers": [remote, local], "final": "remote"})
}

fn route(proxied: bool, tun: bool) -> Value {
    let mut rules = vec![
        json!({"action": "sniff"}),
        json!({"protocol": "dns", "action": "hijack-dns"}),
        json!({"ip_is_private": true, "outbound": "direct"}),
    ];
    if !proxied {
        rules.push(json!({"action": "reject"}));
    }
    let last = if proxied { SELECTOR } else { "direct" };
    let mut route = json!({"rules": rules, "final": last, "default_domain_resolver": "local"});
    if tun {
        // What sing-box itself sends must not come back through its own device.
        route["auto_detect_interface"] = json!(true);
    }
    route
}

fn groups(tags: &[String]) -> Vec<Value> {
    match tags {
        [] => Vec::new(),
        [only] => vec![json!({"type": "selector", "tag": SELECTOR, "outbounds": [only]})],
        tags => {
            let choices: Vec<&str> =
                std::iter::once(AUTOMATIC).chain(tags.iter().map(String::as_str)).collect();
            vec![
                json!({"type": "selector", "tag": SELECTOR, "outbounds": choices, "default": AUTOMATIC}),
                json!({"type": "urltest", "tag": AUTOMATIC, "outbounds": tags, "url": TEST_URL, "interval": "10m"}),
            ]
        }
    }
}

/// The outbound of a server, and what it goes through; `None` where not every sing-box has it.
fn outbound(server: &Server, tag: &str) -> Option<Vec<Value>> {
    if server.kind == "shadowtls" {
        return shadowtls(server, tag);
    }
    let entry = |key: &str| server.entry.get(key);
    let mut out =
        json!({"type": server.kind, "tag": tag, "server": server.address, "server_port": server.port});
    match server.kind.as_str() {
        "trojan" | "hysteria2" | "anytls" => out["password"] = json!(entry("password")?),
        "vmess" => {
            out["uuid"] = json!(entry("uuid")?);
            out["security"] = json!("auto");
        }
        "vless" => {
            out["uuid"] = json!(entry("uuid")?);
            if let Some(flow) = entry("flow").filter(|flow| !flow.is_empty()) {
                out["flow"] = json!(flow);
            }
        }
        "shadowsocks" => {
            out["method"] = json!(server.method.as_ref()?);
            out["password"] = json!(shadowsocks_password(server)?);
        }
        "hysteria" => {
            match (entry("auth_str"), entry("auth")) {
                (Some(text), _) => out["auth_str"] = json!(text),
                (None, auth) => out["auth"] = json!(auth?),
            }
            out["up_mbps"] = json!(server.up_mbps.unwrap_or(MBPS));
            out["down_mbps"] = json!(server.down_mbps.unwrap_or(MBPS));
        }
        "tuic" => {
            out["uuid"] = json!(entry("uuid")?);
            out["password"] = json!(entry("password").cloned().unwrap_or_default());
            out["congestion_control"] = json!("bbr");
        }
        "http" | "socks" | "mixed" => {
            // sing-box has no outbound of type mixed, and none for SOCKS in TLS.
            let http = server.kind == "http" || server.tls.is_some();
            out["type"] = json!(if http { "http" } else { "socks" });
            out["username"] = json!(entry("username")?);
            out["password"] = json!(entry("password")?);
        }
        _ => return None,
    }
    if let Some(network) = &server.network
        && matches!(server.kind.as_str(), "trojan" | "vmess" | "vless" | "shadowsocks")
    {
        out["network"] = json!(network);
    }
    match (&server.obfs, server.kind.as_str()) {
        (Some(obfs), "hysteria2") => out["obfs"] = json!({"type": "salamander", "password": obfs}),
        (Some(obfs), "hysteria") => out["obfs"] = json!(obfs),
        _ => {}
    }
    if let Some(tls) = &server.tls {
        out["tls"] = self::tls(server, tls);
    }
    if let Some(transport) = &server.transport {
        out["transport"] = self::transport(transport);
    }
    Some(vec![out])
}

/// shadowsocks inside, shadowtls outside.
fn shadowtls(server: &Server, tag: &str) -> Option<Vec<Value>> {
    let inner = server.inner.as_ref()?;
    let mut inside = outbound(inner, tag)?.pop()?;
    let outer_tag = format!("{tag} (shadowtls)");
    let fields = inside.as_object_mut()?;
    fields.remove("server");
    fields.remove("server_port");
    fields.insert("detour".to_owned(), json!(outer_tag));
    let tls = server.tls.clone().unwrap_or_default();
    let outer = json!({
        "type": "shadowtls", "tag": outer_tag, "server": server.address, "server_port": server.port,
        "version": 3, "password": server.entry.get("password")?, "tls": self::tls(server, &tls),
    });
    Some(vec![inside, outer])
}

fn tls(server: &Server, tls: &ServerTls) -> Value {
    let mut out = json!({"enabled": true});
    if let Some(name) = &tls.server_name {
        out["server_name"] = json!(name);
    }
    if tls.insecure {
        out["insecure"] = json!(true);
    }
    let alpn = alpn(server, tls);
    if !alpn.is_empty() {
        out["alpn"] = json!(alpn);
    }
    if let Some(reality) = &tls.reality {
        out["utls"] = json!({"enabled": true, "fingerprint": FINGERPRINT});
        out["reality"] =
            json!({"enabled": true, "public_key": reality.public_key, "short_id": reality.short_id});
    }
    out
}

fn transport(transport: &ServerTransport) -> Value {
    let mut out = json!({"type": transport.kind});
    if let Some(path) = &transport.path {
        out["path"] = json!(path);
    }
    if let Some(service) = &transport.service_name {
        out["service_name"] = json!(service);
    }
    if let Some(host) = &transport.host {
        match transport.kind.as_str() {
            "ws" => out["headers"] = json!({"Host": host}),
            "http" => out["host"] = json!([host]),
            "httpupgrade" => out["host"] = json!(host),
            _ => {}
        }
    }
    out
}
