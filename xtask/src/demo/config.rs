//! The demonstration's three configurations: sing-box as a server, sing-box as two clients, the agent.

use crate::shell::{clean, output};
use crate::singbox;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

/// Names of the two users. Their credentials never leave loopback and end with the demonstration.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// Loopback ports that were free a moment ago.
pub struct Ports {
    pub trojan: u16,
    pub hysteria2: u16,
    api: u16,
    socks: [u16; 2],
}

impl Ports {
    pub fn free() -> Result<Ports> {
        // All are held until all are chosen, so that none is given twice.
        let tcp: Vec<TcpListener> =
            (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = |index: usize| -> Result<u16> { Ok(tcp[index].local_addr()?.port()) };
        Ok(Ports {
            trojan: port(0)?,
            api: port(1)?,
            socks: [port(2)?, port(3)?],
            hysteria2: udp.local_addr()?.port(),
        })
    }

    pub fn loopback(&self, port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// Each user's own SOCKS port, where the user's client listens.
    pub fn clients(&self) -> [(&'static str, u16); 2] {
        [(USERS[0], self.socks[0]), (USERS[1], self.socks[1])]
    }
}

/// Where the files are.
pub struct Plan {
    pub server: PathBuf,
    pub client: PathBuf,
    pub agent: PathBuf,
}

fn secret() -> Result<String> {
    let mut bytes = [0u8; 16];
    let mut source = fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(crate::shell::sha256_bytes(&bytes))
}

/// A self-signed certificate and its key, made by sing-box itself.
fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let binary = singbox::binary(singbox::NEWEST);
    let pem = output(clean(binary).args(["generate", "tls-keypair", "demo.test"]))
        .context("sing-box generate tls-keypair failed")?;
    let at = pem.find("-----BEGIN CERTIFICATE").context("no certificate in what sing-box generated")?;
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    fs::write(&key, pem[..at].trim())?;
    fs::write(&certificate, pem[at..].trim())?;
    Ok((certificate, key))
}

impl Plan {
    pub fn write(folder: &Path, ports: &Ports) -> Result<Plan> {
        let (certificate, key) = certificate(folder)?;
        let passwords = [secret()?, secret()?];
        let users: Vec<Value> = USERS
            .iter()
            .zip(&passwords)
            .map(|(name, password)| json!({"name": name, "password": password}))
            .collect();
        let tls = json!({"enabled": true, "certificate_path": certificate, "key_path": key, "alpn": ["h3"]});
        let inbound = |kind: &str, port: u16, tls: Value| {
            json!({"type": kind, "tag": format!("{kind}-in"), "listen": "127.0.0.1", "listen_port": port,
                   "users": users, "tls": tls})
        };
        let mut plain = tls.clone();
        plain["alpn"] = json!(["h2", "http/1.1"]);
        let server = json!({
            "log": {"level": "info", "timestamp": true},
            "inbounds": [inbound("trojan", ports.trojan, plain), inbound("hysteria2", ports.hysteria2, tls)],
            "outbounds": [{"type": "direct"}],
            "services": [{"type": "api", "listen": "127.0.0.1", "listen_port": ports.api, "secret": secret()?}],
        });
        let client = client(ports, &passwords);
        let plan = Plan {
            server: folder.join("server.json"),
            client: folder.join("client.json"),
            agent: folder.join("boxmeter.toml"),
        };
        fs::write(&plan.server, serde_json::to_string_pretty(&server)?)?;
        fs::write(&plan.client, serde_json::to_string_pretty(&client)?)?;
        fs::write(&plan.agent, agent(folder, &plan.server))?;
        Ok(plan)
    }
}

/// alice comes over trojan (TCP), bob over hysteria2 (UDP).
fn client(ports: &Ports, passwords: &[String; 2]) -> Value {
    let tls = json!({"enabled": true, "server_name": "demo.test", "insecure": true});
    let kinds = [("trojan", ports.trojan), ("hysteria2", ports.hysteria2)];
    let mut config =
        json!({"log": {"level": "warn"}, "inbounds": [], "outbounds": [], "route": {"rules": []}});
    for (index, (name, socks)) in ports.clients().into_iter().enumerate() {
        let (kind, port) = kinds[index];
        let push = |list: &mut Value, item: Value| list.as_array_mut().expect("a list").push(item);
        push(
            &mut config["inbounds"],
            json!({"type": "socks", "tag": name, "listen": "127.0.0.1", "listen_port": socks}),
        );
        push(
            &mut config["outbounds"],
            json!({"type": kind, "tag": format!("{name}-out"), "server": "127.0.0.1", "server_port": port,
                   "password": passwords[index], "tls": tls}),
        );
        push(&mut config["route"]["rules"], json!({"inbound": name, "outbound": format!("{name}-out")}));
    }
    config
}

fn agent(folder: &Path, server: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        "[singbox]\nconfig = [{:?}]\n\n[kernel]\npins = {:?}\n\n[ledger]\npath = {:?}\n\n[api]\nsocket = {:?}\n",
        server.display().to_string(),
        path("bpf/boxmeter"),
        path("ledger.db"),
        path("boxmeter.sock"),
    )
}
