//! What sing-box would need to listen like an inbound of Xray: printed for people, who put it where it
//! belongs; never written.

use serde_json::{Map, Value, json};

use super::panel;

type Object = Map<String, Value>;

/// The type of inbound in sing-box's words; `None` where it has no such one with users.
pub fn kind(protocol: &str, settings: &Object, stream: Option<&Value>) -> Option<&'static str> {
    let version = || {
        let of = |value: Option<&Value>| value.and_then(|it| it.get("version")).and_then(Value::as_i64);
        settings.get("version").and_then(Value::as_i64).or_else(|| of(stream?.get("hysteriaSettings")))
    };
    Some(match protocol {
        "vmess" => "vmess",
        "vless" => "vless",
        "trojan" => "trojan",
        "shadowsocks" => "shadowsocks",
        "hysteria" if version() == Some(1) => "hysteria",
        "hysteria" | "hysteria2" => "hysteria2",
        _ => return None,
    })
}

/// The inbound with nobody in it.
///
/// # Errors
/// A sentence about what sing-box cannot do: then the inbound has to be made by hand.
pub fn snippet(
    kind: &str,
    (tag, listen, port): (&str, &str, Option<u16>),
    settings: &Object,
    stream: Option<&Value>,
) -> Result<Value, String> {
    let port = port.ok_or("it has no port, so no inbound can be suggested")?;
    if listen.starts_with(['/', '@']) {
        return Err("it listens on a socket file, which sing-box cannot".to_owned());
    }
    let listen = if matches!(listen, "" | "0.0.0.0") { "::" } else { listen };
    let mut inbound = Object::new();
    let mut set = |key: &str, value: Value| drop(inbound.insert(key.to_owned(), value));
    set("type", kind.into());
    set("tag", tag.into());
    set("listen", listen.into());
    set("listen_port", port.into());
    if kind == "shadowsocks" {
        set("method", text(settings, "method").into());
        let password = text(settings, "password");
        if !password.is_empty() {
            set("password", password.into());
        }
    }
    let decryption = text(settings, "decryption");
    if kind == "vless" && !matches!(decryption, "" | "none") {
        return Err("sing-box does not know the encryption of this vless inbound".to_owned());
    }
    let empty = Object::new();
    let stream = stream.and_then(Value::as_object).unwrap_or(&empty);
    if let Some(tls) = tls(stream)? {
        set("tls", tls);
    } else if kind.starts_with("hysteria") {
        return Err("it has no TLS settings, which sing-box needs here".to_owned());
    }
    if !kind.starts_with("hysteria")
        && kind != "shadowsocks"
        && let Some(transport) = transport(stream)?
    {
        set("transport", transport);
    }
    Ok(panel::with_nobody(inbound))
}

fn text<'v>(object: &'v Object, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn inside<'v>(object: &'v Object, key: &str) -> Option<&'v Object> {
    object.get(key).and_then(Value::as_object)
}

fn tls(stream: &Object) -> Result<Option<Value>, String> {
    match text(stream, "security") {
        "" | "none" => Ok(None),
        "tls" => {
            let settings = inside(stream, "tlsSettings").ok_or("its TLS settings cannot be read")?;
            let mut tls = Object::new();
            tls.insert("enabled".to_owned(), true.into());
            if !text(settings, "serverName").is_empty() {
                tls.insert("server_name".to_owned(), text(settings, "serverName").into());
            }
            if let Some(alpn) = settings.get("alpn").filter(|alpn| alpn.is_array()) {
                tls.insert("alpn".to_owned(), alpn.clone());
            }
            let certificates = settings.get("certificates").and_then(Value::as_array);
            let certificate = certificates.and_then(|all| all.first()).and_then(Value::as_object);
            let certificate = certificate.ok_or("it has no certificate")?;
            for (theirs, ours) in [
                ("certificateFile", "certificate_path"),
                ("keyFile", "key_path"),
                ("certificate", "certificate"),
                ("key", "key"),
            ] {
                let there =
                    |value: &&Value| value.as_str().is_some_and(|it| !it.is_empty()) || value.is_array();
                if let Some(value) = certificate.get(theirs).filter(there) {
                    tls.insert(ours.to_owned(), value.clone());
                }
            }
            Ok(Some(Value::Object(tls)))
        }
        "reality" => {
            let settings = inside(stream, "realitySettings").ok_or("its REALITY settings cannot be read")?;
            let target = [text(settings, "target"), text(settings, "dest")];
            let target = target.into_iter().find(|it| !it.is_empty()).ok_or("its REALITY has no target")?;
            let (server, port) = target.rsplit_once(':').unwrap_or((target, "443"));
            let port: u16 = port.parse().map_err(|_| "the target of its REALITY has no port".to_owned())?;
            let names = settings.get("serverNames").and_then(Value::as_array);
            let name = names.and_then(|names| names.first()).and_then(Value::as_str).unwrap_or(server);
            Ok(Some(json!({
                "enabled": true,
                "server_name": name,
                "reality": {
                    "enabled": true,
                    "handshake": { "server": server, "server_port": port },
                    "private_key": text(settings, "privateKey"),
                    "short_id": settings.get("shortIds").filter(|ids| ids.is_array()).cloned().unwrap_or(json!([""])),
                }
            })))
        }
        other => Err(format!("sing-box has no security {other:?}")),
    }
}

fn transport(stream: &Object) -> Result<Option<Value>, String> {
    let settings = |key: &str| inside(stream, key).cloned().unwrap_or_default();
    let path = |of: &Object| match text(of, "path") {
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    match text(stream, "network") {
        "" | "tcp" | "raw" => {
            let tcp = [settings("tcpSettings"), settings("rawSettings")];
            let obfuscated = |tcp: &Object| {
                inside(tcp, "header").is_some_and(|header| !matches!(text(header, "type"), "" | "none"))
            };
            match tcp.iter().any(obfuscated) {
                true => Err("sing-box cannot pretend to be HTTP as this inbound does".to_owned()),
                false => Ok(None),
            }
        }
        "ws" => {
            let ws = settings("wsSettings");
            let header = inside(&ws, "headers").map(|headers| text(headers, "Host")).unwrap_or_default();
            let host = [text(&ws, "host"), header].into_iter().find(|it| !it.is_empty());
            let mut transport = json!({ "type": "ws", "path": path(&ws) });
            if let Some(host) = host {
                transport["headers"] = json!({ "Host": host });
            }
            Ok(Some(transport))
        }
        "grpc" => {
            let grpc = settings("grpcSettings");
            Ok(Some(json!({ "type": "grpc", "service_name": text(&grpc, "serviceName") })))
        }
        "httpupgrade" => {
            let upgrade = settings("httpupgradeSettings");
            let mut transport = json!({ "type": "httpupgrade", "path": path(&upgrade) });
            if !text(&upgrade, "host").is_empty() {
                transport["host"] = text(&upgrade, "host").into();
            }
            Ok(Some(transport))
        }
        other => Err(format!("sing-box has no transport {other:?}: its clients need another inbound")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        serde_json::from_str(text).unwrap()
    }

    fn made(kind: &str, settings: &str, stream: &str) -> Result<Value, String> {
        let stream: Value = serde_json::from_str(stream).unwrap();
        let mut made = snippet(kind, ("t", "", Some(443)), &object(settings), Some(&stream))?;
        let locked = made["users"].take();
        let locked = locked.as_array().unwrap();
        assert_eq!(locked.len(), 1, "never an empty list");
        assert!(locked[0].as_object().unwrap().values().any(|it| it == "boxmeter-locked"), "{locked:?}");
        Ok(made)
    }

    #[test]
    fn reality_is_said_in_sing_boxs_words() {
        let stream = r#"{"network": "tcp", "security": "reality", "realitySettings": {"dest": "a.example:8443",
            "serverNames": ["b.example", "c.example"], "privateKey": "secret", "shortIds": ["ab", ""]}}"#;
        let wanted = json!({
            "type": "vless", "tag": "t", "listen": "::", "listen_port": 443,
            "tls": {"enabled": true, "server_name": "b.example", "reality": {"enabled": true,
                "handshake": {"server": "a.example", "server_port": 8443}, "private_key": "secret",
                "short_id": ["ab", ""]}},
            "users": null
        });
        assert_eq!(made("vless", r#"{"decryption": "none"}"#, stream), Ok(wanted));
    }

    #[test]
    fn transports_and_certificates_come_over() {
        let stream = r#"{"network": "ws", "security": "tls",
            "tlsSettings": {"serverName": "a.example", "alpn": ["h2"],
                "certificates": [{"certificateFile": "/c", "keyFile": "/k", "certificate": ""}]},
            "wsSettings": {"path": "/p", "headers": {"Host": "h.example"}}}"#;
        let made_ws = made("trojan", "{}", stream).unwrap();
        let tls = json!({"enabled": true, "server_name": "a.example", "alpn": ["h2"],
            "certificate_path": "/c", "key_path": "/k"});
        assert_eq!(made_ws["tls"], tls);
        assert_eq!(
            made_ws["transport"],
            json!({"type": "ws", "path": "/p", "headers": {"Host": "h.example"}})
        );
        let grpc =
            made("vmess", "{}", r#"{"network": "grpc", "grpcSettings": {"serviceName": "s"}}"#).unwrap();
        assert_eq!(grpc["transport"], json!({"type": "grpc", "service_name": "s"}));
        let ss = r#"{"method": "2022-blake3-aes-128-gcm", "password": "k"}"#;
        let ss = made("shadowsocks", ss, r#"{"network": "tcp"}"#).unwrap();
        assert_eq!((&ss["method"], &ss["password"]), (&json!("2022-blake3-aes-128-gcm"), &json!("k")));
    }

    #[test]
    fn what_sing_box_cannot_do_is_said() {
        for (kind, settings, stream) in [
            ("vless", "{}", r#"{"network": "xhttp"}"#),
            ("vless", r#"{"decryption": "mlkem768x25519plus"}"#, "{}"),
            ("vmess", "{}", r#"{"tcpSettings": {"header": {"type": "http"}}}"#),
            ("trojan", "{}", r#"{"security": "tls", "tlsSettings": {}}"#),
            ("trojan", "{}", r#"{"security": "reality", "realitySettings": {"dest": "a:b"}}"#),
            ("trojan", "{}", r#"{"security": "xtls"}"#),
            ("hysteria2", "{}", "{}"),
        ] {
            assert!(made(kind, settings, stream).is_err(), "{kind} {settings} {stream}");
        }
        assert!(snippet("trojan", ("t", "/run/x.sock", Some(1)), &Object::new(), None).is_err());
        assert!(snippet("trojan", ("t", "", None), &Object::new(), None).is_err());
    }

    #[test]
    fn hysteria_is_of_the_second_version_unless_it_says_the_first() {
        let none = Object::new();
        assert_eq!(kind("hysteria", &none, None), Some("hysteria2"));
        assert_eq!(kind("hysteria", &object(r#"{"version": 1}"#), None), Some("hysteria"));
        let stream = json!({"hysteriaSettings": {"version": 2}});
        assert_eq!(kind("hysteria", &none, Some(&stream)), Some("hysteria2"));
        for no in ["wireguard", "tunnel", "dokodemo-door", "mtproto", "mixed", ""] {
            assert_eq!(kind(no, &none, None), None, "{no}");
        }
    }
}
