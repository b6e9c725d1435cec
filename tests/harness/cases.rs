//! Every way a user of sing-box comes in that the released binaries run: inbound type, TLS, transport,
//! multiplexing, how UDP travels. A table; it starts nothing.

use crate::users::Login;
use serde_json::{Value, json};

/// TLS towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    None,
    Tcp,
    /// Inside QUIC, with `h3` negotiated.
    Quic,
}

/// How the user's UDP travels, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// The client cannot carry it.
    None,
    /// On sockets of the inbound: the relay sees all of it.
    Watched,
}

/// A special way of being a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The outbound of the same type.
    Same,
    /// Another outbound type (`http` for mixed and naive, `socks` for mixed).
    Other(&'static str),
    /// `http` with naive's header; the test adds naive's padding.
    Naive,
    /// shadowsocks inside shadowtls.
    ShadowTls,
}

/// One row of the matrix.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    /// The inbound's type.
    pub kind: &'static str,
    pub login: Login,
    pub tls: Tls,
    pub udp: Udp,
    pub client: Client,
    /// Fields that both sides have.
    pub both: Value,
    /// Fields that only the inbound has.
    pub inbound: Value,
    /// Fields that only the outbound has.
    pub outbound: Value,
    /// sing-box itself drops some connections of this kind before it knows whose they are, about one in six
    /// (seen without boxmeter on every release); their bytes are unattributed.
    pub drops: bool,
    /// Also in the short form: one case per socket shape.
    pub short: bool,
}

fn case(name: &'static str, kind: &'static str, login: Login) -> Case {
    Case {
        name,
        kind,
        login,
        tls: Tls::None,
        udp: Udp::Watched,
        client: Client::Same,
        both: json!({}),
        inbound: json!({}),
        outbound: json!({}),
        drops: false,
        short: false,
    }
}

impl Case {
    fn tls(mut self) -> Case {
        self.tls = Tls::Tcp;
        self
    }

    fn quic(mut self) -> Case {
        self.tls = Tls::Quic;
        self
    }

    fn short(mut self) -> Case {
        self.short = true;
        self
    }

    fn no_udp(mut self) -> Case {
        self.udp = Udp::None;
        self
    }

    fn client(mut self, client: Client) -> Case {
        self.drops = client == Client::Naive;
        self.client = client;
        self
    }

    fn both(mut self, more: Value) -> Case {
        crate::users::merge(&mut self.both, &more);
        self
    }

    fn inbound(mut self, more: Value) -> Case {
        crate::users::merge(&mut self.inbound, &more);
        self
    }

    /// With more fields of the outbound: what a hostile client adds.
    pub fn outbound(mut self, more: Value) -> Case {
        crate::users::merge(&mut self.outbound, &more);
        self
    }

    fn transport(mut self, kind: &str) -> Case {
        self.drops = kind == "httpupgrade";
        let transport = match kind {
            "grpc" => json!({"type": "grpc", "service_name": "meter"}),
            "quic" => json!({"type": "quic"}),
            other => json!({"type": other, "path": "/meter"}),
        };
        self.both(json!({"transport": transport}))
    }

    fn mux(self, protocol: &str) -> Case {
        self.inbound(json!({"multiplex": {"enabled": true}}))
            .outbound(json!({"multiplex": {"enabled": true, "protocol": protocol, "max_connections": 2}}))
    }
}

const SS2022: Login = Login::Key("2022-blake3-aes-128-gcm");
const UOT: &str = "udp_over_tcp";

fn trojan() -> Vec<Case> {
    let new = |name| case(name, "trojan", Login::Password);
    vec![
        new("trojan-plain"),
        new("trojan-tls").tls().short(),
        new("trojan-ws").transport("ws"),
        new("trojan-ws-tls").tls().transport("ws").short(),
        new("trojan-httpupgrade-tls").tls().transport("httpupgrade"),
        new("trojan-http-tls").tls().transport("http"),
        new("trojan-grpc-tls").tls().transport("grpc").short(),
        new("trojan-quic").quic().transport("quic"),
        new("trojan-tls-smux").tls().mux("smux").short(),
        new("trojan-tls-yamux").tls().mux("yamux"),
        new("trojan-tls-h2mux").tls().mux("h2mux"),
        new("trojan-ws-tls-smux").tls().transport("ws").mux("smux"),
    ]
}

fn vmess() -> Vec<Case> {
    let new = |name| case(name, "vmess", Login::Uuid);
    vec![
        new("vmess-tcp"),
        new("vmess-tls").tls(),
        new("vmess-ws").transport("ws"),
        new("vmess-httpupgrade").transport("httpupgrade"),
        new("vmess-http").transport("http"),
        new("vmess-grpc").transport("grpc"),
        new("vmess-quic").quic().transport("quic").short(),
        new("vmess-h2mux").mux("h2mux"),
        new("vmess-packetaddr").outbound(json!({"packet_encoding": "packetaddr"})),
        new("vmess-xudp").outbound(json!({"packet_encoding": "xudp"})),
    ]
}

fn vless() -> Vec<Case> {
    let new = |name| case(name, "vless", Login::Flow(""));
    vec![
        new("vless-tcp"),
        new("vless-tls").tls(),
        case("vless-vision", "vless", Login::Flow("xtls-rprx-vision")).tls().short(),
        new("vless-ws").transport("ws"),
        new("vless-httpupgrade").transport("httpupgrade"),
        new("vless-http").transport("http"),
        new("vless-grpc").transport("grpc"),
        new("vless-quic").quic().transport("quic"),
        new("vless-tls-yamux").tls().mux("yamux"),
    ]
}

fn shadowsocks() -> Vec<Case> {
    let new = |name| case(name, "shadowsocks", SS2022);
    vec![
        new("ss2022").short(),
        new("ss2022-uot").outbound(json!({UOT: true})).short(),
        new("ss2022-smux").mux("smux"),
        new("ss2022-yamux").mux("yamux"),
        new("ss2022-h2mux").mux("h2mux"),
        case("ss-aes", "shadowsocks", Login::Key("aes-128-gcm")),
        new("shadowtls").client(Client::ShadowTls).no_udp(),
    ]
}

fn quic() -> Vec<Case> {
    let obfuscated = json!({"obfs": {"type": "salamander", "password": "obfuscation"}});
    vec![
        case("hysteria", "hysteria", Login::Auth).quic().both(json!({"up_mbps": 500, "down_mbps": 500})),
        case("hysteria2", "hysteria2", Login::Password).quic().short(),
        case("hysteria2-obfs", "hysteria2", Login::Password).quic().both(obfuscated),
        case("tuic", "tuic", Login::UuidPassword)
            .quic()
            .outbound(json!({"udp_relay_mode": "native"}))
            .short(),
        case("tuic-quic", "tuic", Login::UuidPassword).quic().outbound(json!({"udp_relay_mode": "quic"})),
    ]
}

/// Proxies of the plain kind. SOCKS5's UDP leaves the inbound's port: it is measured elsewhere.
fn plain() -> Vec<Case> {
    let new = |name, kind| case(name, kind, Login::UserName).no_udp();
    vec![
        case("anytls", "anytls", Login::Password).tls().short(),
        new("http", "http"),
        new("http-tls", "http").tls(),
        new("socks", "socks").short(),
        case("socks-uot", "socks", Login::UserName).outbound(json!({UOT: true})),
        new("mixed-socks", "mixed").client(Client::Other("socks")),
        new("mixed-http", "mixed").client(Client::Other("http")),
        new("naive", "naive").tls().client(Client::Naive).inbound(json!({"network": "tcp"})).short(),
        new("naive-plain", "naive").client(Client::Naive).inbound(json!({"network": "tcp"})),
    ]
}

/// A case by its name.
pub fn named(name: &str) -> Case {
    matrix(true).into_iter().find(|c| c.name == name).expect("a case of the matrix")
}

/// All cases, or one per socket shape.
pub fn matrix(long: bool) -> Vec<Case> {
    let all = [trojan(), vmess(), vless(), shadowsocks(), quic(), plain()].concat();
    all.into_iter().filter(|c| long || c.short).collect()
}
