//! Reads share links as a client does that knows nothing of who wrote them: each of a link's fields becomes one of an
//! outbound of sing-box.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Value, json};

/// Clients take either alphabet, with or without its padding.
fn base64(text: &str) -> String {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let plain = text.replace('-', "+").replace('_', "/");
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(plain).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        match (first, more) {
            (b'%', [a, b, more @ ..]) => {
                let digits = [*a, *b];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = more;
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// `LOGIN@HOST:PORT/?FIELDS#LABEL`
struct Link {
    login: String,
    host: String,
    port: u16,
    fields: BTreeMap<String, String>,
}

impl Link {
    fn read(rest: &str) -> Link {
        let rest = rest.split('#').next().unwrap();
        let (place, fields) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, place) = place.trim_end_matches('/').rsplit_once('@').unwrap();
        let (host, port) = place.rsplit_once(':').unwrap();
        let pairs = fields.split('&').filter_map(|it| it.split_once('='));
        Link {
            login: login.to_owned(),
            host: unescaped(host.trim_matches(['[', ']'])),
            port: port.parse().unwrap(),
            fields: pairs.map(|(key, value)| (key.to_owned(), unescaped(value))).collect(),
        }
    }

    fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// The two halves of the login, each escaped by itself.
    fn pair(&self) -> (String, String) {
        let (name, password) = self.login.split_once(':').unwrap();
        (unescaped(name), unescaped(password))
    }

    fn out(&self, kind: &str) -> Value {
        json!({"type": kind, "server": self.host, "server_port": self.port})
    }

    /// The names of the fields differ between families of links.
    fn tls(&self, name: &str, insecure: &str) -> Value {
        let mut tls = json!({"enabled": true, "insecure": self.get(insecure) == "1"});
        if !self.get(name).is_empty() {
            tls["server_name"] = json!(self.get(name));
        }
        if !self.get("alpn").is_empty() {
            tls["alpn"] = self.get("alpn").split(',').collect();
        }
        tls
    }

    /// TLS and transport of the V2Ray family.
    fn v2ray(&self, mut out: Value) -> Value {
        if self.get("security") == "tls" {
            out["tls"] = self.tls("sni", "allowInsecure");
        }
        transport(&mut out, self.get("type"), self.get("path"), self.get("host"), self.get("serviceName"));
        out
    }
}

fn transport(out: &mut Value, kind: &str, path: &str, host: &str, service: &str) {
    out["transport"] = match kind {
        "" | "tcp" => return,
        "grpc" => json!({"type": "grpc", "service_name": service}),
        "ws" => json!({"type": "ws", "path": path}),
        "httpupgrade" => json!({"type": "httpupgrade", "path": path}),
        other => json!({"type": other}),
    };
    if !host.is_empty() {
        out["transport"]["headers"] = json!({"Host": host});
    }
}

fn vmess(rest: &str) -> Value {
    let link: Value = serde_json::from_str(&base64(rest)).unwrap();
    let text = |key: &str| link[key].as_str().unwrap_or_default();
    let port: u16 = text("port").parse().unwrap();
    let mut out = json!({"type": "vmess", "server": text("add"), "server_port": port, "uuid": text("id"),
                         "security": text("scy"), "alter_id": text("aid").parse::<u32>().unwrap()});
    if text("tls") == "tls" {
        out["tls"] =
            json!({"enabled": true, "insecure": text("insecure") == "1", "server_name": text("sni")});
        if !text("alpn").is_empty() {
            out["tls"]["alpn"] = text("alpn").split(',').collect();
        }
    }
    transport(&mut out, text("net"), text("path"), text("host"), text("path"));
    out
}

/// The outbound that a link stands for.
pub fn outbound(link: &str) -> Value {
    let (scheme, rest) = link.split_once("://").unwrap();
    if scheme == "vmess" {
        return vmess(rest);
    }
    let link = Link::read(rest);
    let with = |kind: &str, fields: &[(&str, String)]| {
        let mut out = link.out(kind);
        for (name, value) in fields {
            out[*name] = json!(value);
        }
        out
    };
    let whole = unescaped(&link.login);
    match scheme {
        "trojan" => link.v2ray(with("trojan", &[("password", whole)])),
        "vless" => link.v2ray(with("vless", &[("uuid", whole), ("flow", link.get("flow").to_owned())])),
        "ss" => {
            let login = if link.login.contains(':') { whole } else { base64(&link.login) };
            let (method, password) = login.split_once(':').unwrap();
            with("shadowsocks", &[("method", method.to_owned()), ("password", password.to_owned())])
        }
        "hysteria2" | "anytls" => {
            let mut out = with(scheme, &[("password", whole)]);
            out["tls"] = link.tls("sni", "insecure");
            if !link.get("obfs").is_empty() {
                out["obfs"] = json!({"type": link.get("obfs"), "password": link.get("obfs-password")});
            }
            out
        }
        "tuic" => {
            let (uuid, password) = link.pair();
            let mut out = with("tuic", &[("uuid", uuid), ("password", password)]);
            out["congestion_control"] = json!(link.get("congestion_control"));
            out["tls"] = link.tls("sni", "allow_insecure");
            out
        }
        "socks" => {
            let login = base64(&link.login);
            let (name, password) = login.split_once(':').unwrap();
            with("socks", &[("username", name.to_owned()), ("password", password.to_owned())])
        }
        "http" | "https" | "naive+https" => {
            let (name, password) = link.pair();
            let mut out = link.v2ray(with("http", &[("username", name), ("password", password)]));
            // Its own clients trust what their system trusts, which the certificate of a test is not.
            if scheme.starts_with("naive") {
                out["tls"] = json!({"enabled": true, "insecure": true});
                out["headers"] = json!({"Padding": "~".repeat(32)});
            }
            out
        }
        "hysteria" => {
            let mut out = with("hysteria", &[("auth_str", link.get("auth").to_owned())]);
            for (ours, theirs) in [("up_mbps", "upmbps"), ("down_mbps", "downmbps")] {
                out[ours] = json!(link.get(theirs).parse::<u32>().unwrap());
            }
            out["tls"] = link.tls("peer", "insecure");
            out
        }
        other => panic!("a link of {other}"),
    }
}
