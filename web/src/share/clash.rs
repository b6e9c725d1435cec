//! A configuration for Clash's successors (mihomo, Clash Verge, FlClash, Stash), as YAML.
//!
//! Written as flow mappings with every text in double quotes: JSON's syntax, which is YAML's too, with
//! what YAML forbids inside of quotes escaped. Nothing that a name contains can end its quotes.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    Labelled,
    links::{FINGERPRINT, MBPS, alpn, hysteria_auth, shadowsocks_password},
};
use crate::api::sharing::{Server, ServerTls};

const TEST_URL: &str = "https://www.gstatic.com/generate_204";
const SELECTOR: &str = "PROXY";
const AUTOMATIC: &str = "AUTO";

/// The text of the configuration.
pub fn config(servers: &[Labelled<'_>]) -> String {
    let mut proxies = Vec::new();
    let mut names = Vec::new();
    for it in servers {
        if let Some(proxy) = proxy(it.server, &it.label) {
            proxies.push(proxy);
            names.push(it.label.clone());
        }
    }
    let mut text =
        String::from("mixed-port: 7890\nallow-lan: false\nmode: rule\nlog-level: warning\nproxies:");
    list(&mut text, &proxies);
    text.push_str("proxy-groups:");
    list(&mut text, &groups(&names));
    let last = if names.is_empty() { "REJECT" } else { SELECTOR };
    let private = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"];
    let mut rules: Vec<Value> =
        private.iter().map(|network| json!(format!("IP-CIDR,{network},DIRECT,no-resolve"))).collect();
    rules.push(json!(format!("MATCH,{last}")));
    text.push_str("rules:");
    list(&mut text, &rules);
    text
}

fn groups(names: &[String]) -> Vec<Value> {
    match names {
        [] => Vec::new(),
        [only] => vec![json!({"name": SELECTOR, "type": "select", "proxies": [only]})],
        names => {
            let choices: Vec<&str> =
                std::iter::once(AUTOMATIC).chain(names.iter().map(String::as_str)).collect();
            vec![
                json!({"name": SELECTOR, "type": "select", "proxies": choices}),
                json!({"name": AUTOMATIC, "type": "url-test", "proxies": names, "url": TEST_URL, "interval": 600}),
            ]
        }
    }
}

/// The proxy of a server; `None` for types that Clash does not have.
fn proxy(server: &Server, name: &str) -> Option<Value> {
    let entry = |key: &str| server.entry.get(key);
    let kind = match server.kind.as_str() {
        "shadowsocks" | "shadowtls" => "ss",
        "socks" => "socks5",
        "mixed" if server.tls.is_none() => "socks5",
        "mixed" => "http",
        kind @ ("trojan" | "vmess" | "vless" | "hysteria2" | "hysteria" | "tuic" | "anytls" | "http") => kind,
        _ => return None,
    };
    let mut out =
        json!({"name": name, "type": kind, "server": server.address, "port": server.port, "udp": true});
    match kind {
        "trojan" | "hysteria2" | "anytls" => out["password"] = json!(entry("password")?),
        "vmess" => {
            out["uuid"] = json!(entry("uuid")?);
            out["alterId"] = json!(0);
            out["cipher"] = json!("auto");
        }
        "vless" => {
            out["uuid"] = json!(entry("uuid")?);
            out["encryption"] = json!("");
            if let Some(flow) = entry("flow").filter(|flow| !flow.is_empty()) {
                out["flow"] = json!(flow);
            }
        }
        "ss" => shadowsocks(server, &mut out)?,
        "hysteria" => {
            out["auth-str"] = json!(hysteria_auth(server)?);
            out["up"] = json!(server.up_mbps.unwrap_or(MBPS).to_string());
            out["down"] = json!(server.down_mbps.unwrap_or(MBPS).to_string());
            out["obfs"] = json!(server.obfs.clone().unwrap_or_default());
        }
        "tuic" => {
            out["uuid"] = json!(entry("uuid")?);
            out["password"] = json!(entry("password").cloned().unwrap_or_default());
            out["congestion-controller"] = json!("bbr");
            out["udp-relay-mode"] = json!("native");
        }
        _ => {
            out["username"] = json!(entry("username")?);
            out["password"] = json!(entry("password")?);
        }
    }
    if let (Some(obfs), "hysteria2") = (&server.obfs, kind) {
        out["obfs"] = json!("salamander");
        out["obfs-password"] = json!(obfs);
    }
    if let Some(tls) = server.tls.as_ref().filter(|_| kind != "ss") {
        self::tls(server, tls, kind, &mut out);
    }
    transport(server, &mut out)?;
    Some(out)
}

fn shadowsocks(server: &Server, out: &mut Value) -> Option<()> {
    let inner = server.inner.as_deref().unwrap_or(server);
    out["cipher"] = json!(inner.method.as_ref()?);
    out["password"] = json!(shadowsocks_password(inner)?);
    if server.kind == "shadowtls" {
        let host = server.tls.as_ref().and_then(|tls| tls.server_name.clone());
        out["udp"] = json!(false);
        out["plugin"] = json!("shadow-tls");
        out["plugin-opts"] = json!({
            "host": host.unwrap_or_else(|| server.address.clone()), "version": 3,
            "password": server.entry.get("password")?,
        });
    }
    Some(())
}

fn tls(server: &Server, tls: &ServerTls, kind: &str, out: &mut Value) {
    // Types that are always inside of TLS have no switch for it.
    if matches!(kind, "vmess" | "vless" | "http") {
        out["tls"] = json!(true);
    }
    if let Some(name) = &tls.server_name {
        let key = if matches!(kind, "vmess" | "vless") { "servername" } else { "sni" };
        out[key] = json!(name);
    }
    if tls.insecure {
        out["skip-cert-verify"] = json!(true);
    }
    let alpn = alpn(server, tls);
    if !alpn.is_empty() {
        out["alpn"] = json!(alpn);
    }
    if let Some(reality) = &tls.reality {
        out["client-fingerprint"] = json!(FINGERPRINT);
        out["reality-opts"] = json!({"public-key": reality.public_key, "short-id": reality.short_id});
    }
}

/// `None`: Clash cannot go through it, so that the server is left out instead of being wrong. Its trojan
/// is always inside of TLS.
fn transport(server: &Server, out: &mut Value) -> Option<()> {
    if server.kind == "trojan" && server.tls.is_none() {
        return None;
    }
    let Some(transport) = &server.transport else { return Some(()) };
    let path = transport.path.clone().unwrap_or_else(|| "/".to_owned());
    let host = transport.host.as_ref();
    let websocket = |upgrade: bool| {
        let mut options = Map::new();
        options.insert("path".to_owned(), json!(path));
        if let Some(host) = host {
            options.insert("headers".to_owned(), json!({"Host": host}));
        }
        if upgrade {
            options.insert("v2ray-http-upgrade".to_owned(), json!(true));
        }
        Value::Object(options)
    };
    match transport.kind.as_str() {
        "ws" | "httpupgrade" => {
            out["network"] = json!("ws");
            out["ws-opts"] = websocket(transport.kind == "httpupgrade");
        }
        "grpc" => {
            out["network"] = json!("grpc");
            out["grpc-opts"] =
                json!({"grpc-service-name": transport.service_name.clone().unwrap_or_default()});
        }
        "http" if server.kind == "trojan" => return None,
        "http" if server.tls.is_some() => {
            out["network"] = json!("h2");
            let hosts: Vec<&String> = host.into_iter().collect();
            out["h2-opts"] = json!({"host": hosts, "path": path});
        }
        "http" => {
            out["network"] = json!("http");
            out["http-opts"] = json!({"method": "PUT", "path": [path]});
        }
        _ => return None,
    }
    Some(())
}

/// A block sequence of flow values.
fn list(text: &mut String, items: &[Value]) {
    if items.is_empty() {
        text.push_str(" []\n");
        return;
    }
    text.push('\n');
    for item in items {
        text.push_str("  - ");
        flow(text, item);
        text.push('\n');
    }
}

/// One value on one line.
fn flow(text: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (number, (key, value)) in fields.iter().enumerate() {
                if number > 0 {
                    text.push_str(", ");
                }
                // Keys are the words above.
                text.push_str(key);
                text.push_str(": ");
                flow(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    text.push_str(", ");
                }
                flow(text, item);
            }
            text.push(']');
        }
        Value::String(string) => quoted(text, string),
        other => text.push_str(&other.to_string()),
    }
}

/// In double quotes; everything that YAML does not take as it is becomes an escape.
fn quoted(text: &mut String, string: &str) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            ' '..='~' => text.push(c),
            '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..
                if !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') =>
            {
                text.push(c);
            }
            other => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\U{:08x}", u32::from(other));
            }
        }
    }
    text.push('"');
}
