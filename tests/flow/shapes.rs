//! Every socket shape that sing-box's users come in, on each version: exact bytes per user.

use serde_json::{Value, json};

use crate::rig::{Rig, Shape};

pub const VERSIONS: [&str; 3] = ["1.12.23", "1.13.21", "1.14.4"];

fn password_user(name: &str, number: usize) -> Value {
    json!({"name": name, "password": format!("password-{number}")})
}

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn uuid_user(name: &str, number: usize) -> Value {
    json!({"name": name, "uuid": uuid(number)})
}

/// 16 bytes in base64.
fn key(number: usize) -> &'static str {
    ["AAAAAAAAAAAAAAAAAAAAAA==", "AQAAAAAAAAAAAAAAAAAAAA=="][number]
}

const SERVER_KEY: &str = "AgAAAAAAAAAAAAAAAAAAAA==";

pub fn trojan() -> Shape {
    Shape {
        name: "trojan over TLS",
        inbound: json!({"type": "trojan"}),
        user: password_user,
        outbound: |number| json!({"type": "trojan", "password": format!("password-{number}")}),
        tls: true,
    }
}

pub fn hysteria2() -> Shape {
    Shape {
        name: "hysteria2",
        inbound: json!({"type": "hysteria2"}),
        user: password_user,
        outbound: |number| json!({"type": "hysteria2", "password": format!("password-{number}")}),
        tls: true,
    }
}

fn shapes() -> Vec<Shape> {
    vec![
        trojan(),
        hysteria2(),
        Shape {
            name: "trojan with smux",
            inbound: json!({"type": "trojan", "multiplex": {"enabled": true}}),
            user: password_user,
            outbound: |number| {
                json!({"type": "trojan", "password": format!("password-{number}"),
                       "multiplex": {"enabled": true, "protocol": "smux", "max_connections": 2}})
            },
            tls: true,
        },
        Shape {
            name: "vmess over websocket",
            inbound: json!({"type": "vmess", "transport": {"type": "ws", "path": "/w"}}),
            user: uuid_user,
            outbound: |number| {
                json!({"type": "vmess", "uuid": uuid(number), "security": "auto",
                       "transport": {"type": "ws", "path": "/w"}})
            },
            tls: false,
        },
        Shape {
            name: "vless over grpc",
            inbound: json!({"type": "vless", "transport": {"type": "grpc", "service_name": "g"}}),
            user: uuid_user,
            outbound: |number| json!({"type": "vless", "uuid": uuid(number), "transport": {"type": "grpc", "service_name": "g"}}),
            tls: true,
        },
        Shape {
            name: "shadowsocks 2022",
            inbound: json!({"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": SERVER_KEY}),
            user: |name, number| json!({"name": name, "password": key(number)}),
            outbound: |number| {
                json!({"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm",
                       "password": format!("{SERVER_KEY}:{}", key(number))})
            },
            tls: false,
        },
        Shape {
            name: "tuic",
            inbound: json!({"type": "tuic", "congestion_control": "cubic"}),
            user: |name, number| json!({"name": name, "uuid": uuid(number), "password": "p"}),
            outbound: |number| json!({"type": "tuic", "uuid": uuid(number), "password": "p"}),
            tls: true,
        },
        Shape {
            name: "anytls",
            inbound: json!({"type": "anytls"}),
            user: password_user,
            outbound: |number| json!({"type": "anytls", "password": format!("password-{number}")}),
            tls: true,
        },
        Shape {
            name: "socks",
            inbound: json!({"type": "mixed"}),
            user: |name, number| json!({"username": name, "password": format!("password-{number}")}),
            outbound: |number| {
                json!({"type": "socks", "username": crate::rig::USERS[number],
                       "password": format!("password-{number}")})
            },
            tls: false,
        },
    ]
}

fn metered(version: &'static str, shape: &Shape) {
    eprintln!("{version}: {}", shape.name);
    let mut rig = Rig::new(version, shape);
    rig.start_agent();
    std::thread::scope(|scope| {
        for user in 0..2 {
            let rig = &rig;
            scope.spawn(move || {
                for round in 0..3 {
                    let bytes = 100_000 * (round + 1) * (user as u64 + 1);
                    rig.exchange(user, bytes, bytes * 3)
                        .unwrap_or_else(|error| panic!("{}: {error}", shape.name));
                }
            });
        }
    });
    rig.check();
}

#[test]
fn every_shape_on_1_14() {
    shapes().iter().for_each(|shape| metered(VERSIONS[2], shape));
}

#[test]
fn every_shape_on_1_13() {
    shapes().iter().for_each(|shape| metered(VERSIONS[1], shape));
}

#[test]
fn every_shape_on_1_12() {
    shapes().iter().for_each(|shape| metered(VERSIONS[0], shape));
}
