//! Real sing-box: one server with an inbound per case, one client with an outbound per user and case, and the
//! namespaces and relays between them.

use crate::cases::{Case, Client, Tls, Udp};
use crate::netns::Netns;
use crate::process::Process;
use crate::relay::Relay;
use crate::scene::{Scene, drive};
use crate::scratch::Scratch;
use crate::socks::Proxy;
use crate::target::{self, Target};
use crate::users::{Account, accounts, inbound_extra, merge};
use crate::wait;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One release per source of owners.
pub const VERSIONS: [&str; 3] = ["1.12.23", "1.13.21", "1.14.4"];
/// Addresses of the server as its clients reach it; the first user comes over IPv4, the second over IPv6.
pub const SERVER: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// What each user moves up in a round of [`Site::drive`], at least; three times as much comes down.
pub const BYTES: u64 = 60_000;

/// Users who saw connections dropped by sing-box itself, by name.
pub type Dropped = BTreeMap<String, u32>;
/// Ports of inbounds count from here; the namespaces are the test's own, so they are free.
const FIRST_PORT: u16 = 21_000;
/// The client's SOCKS ports count from here.
const FIRST_SOCKS: u16 = 31_000;
/// Of [`Site::public_target`].
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Where sing-box tells who owns connections.
const API_PORT: u16 = 20_999;
/// A TLS server of the client's own, which shadowtls borrows the handshake of.
const HANDSHAKE_PORT: u16 = 30_999;
/// Of a configuration in several files.
const FOLDER: &str = "server.d";
const SECRET: &str = "test-secret";

/// The binary of a release, where `cargo xtask setup` puts it.
pub fn binary(version: &str) -> PathBuf {
    crate::tools().join(format!("sing-box-{version}/sing-box"))
}

/// A user of a case: the client, the truth about what it moved, and the name it is metered under.
pub struct User {
    pub case: Case,
    pub name: String,
    pub proxy: Proxy,
    pub relay: Relay,
}

/// A server and its clients in two namespaces with a cable between.
pub struct Site {
    pub version: &'static str,
    client: Option<Process>,
    pub server: Option<Process>,
    pub users: Vec<User>,
    pub target: Target,
    pub outside: Netns,
    pub inside: Netns,
    /// The server's end of the cable to the outside.
    pub cable: Option<String>,
    /// The last: processes write there until they have ended.
    pub scratch: Scratch,
}

/// The name in certificates.
pub const SERVER_NAME: &str = "test.invalid";

/// A key and a self-signed certificate for it, made by sing-box itself.
pub fn certificate(version: &str) -> (String, String) {
    let words = ["generate", "tls-keypair", SERVER_NAME];
    let made = Command::new(binary(version)).args(words).output().unwrap();
    let pem = String::from_utf8(made.stdout).unwrap();
    let at = pem.find("-----BEGIN CERTIFICATE").expect("a certificate");
    (pem[..at].trim().to_owned(), pem[at..].trim().to_owned())
}

impl Scene for Site {
    fn users(&self) -> &[User] {
        &self.users
    }

    fn target(&self) -> Target {
        self.target
    }
}

impl Site {
    /// Server and clients run, each side in a namespace of its own; the agent does not.
    pub fn new(version: &'static str, cases: &[Case]) -> Site {
        let (inside, outside) = (Netns::new(), Netns::new());
        let there = ["10.77.0.2/24", "fd77::2/64", "10.77.0.3/24"];
        let cable = inside.connect(&outside, &["10.77.0.1/24", "fd77::1/64"], &there);
        let mut site = Site::of(version, cases, inside, outside);
        site.cable = Some(cable);
        site
    }

    /// As [`Site::new`], but everything is in one namespace: each packet meets the programs once at the
    /// client's socket and once at the server's.
    pub fn on_one_machine(version: &'static str, cases: &[Case]) -> Site {
        let inside = Netns::new();
        for address in [format!("{}/32", SERVER[0]), format!("{}/128", SERVER[1])] {
            inside.ip(&["addr", "add", &address, "dev", "lo"]);
        }
        let outside = inside.clone();
        Site::of(version, cases, inside, outside)
    }

    fn of(version: &'static str, cases: &[Case], inside: Netns, outside: Netns) -> Site {
        let scratch = Scratch::new();
        let target = target::serve(&inside);
        let mut site = Site {
            version,
            scratch,
            outside,
            inside,
            cable: None,
            target,
            users: Vec::new(),
            server: None,
            client: None,
        };
        site.certificate();
        let mut server = base("info");
        let mut client = base("warn");
        if version.starts_with("1.14") {
            server["services"] =
                json!([{"type": "api", "listen": "127.0.0.1", "listen_port": API_PORT, "secret": SECRET}]);
        } else {
            let address = format!("127.0.0.1:{API_PORT}");
            server["experimental"] = json!({"clash_api": {"external_controller": address, "secret": SECRET}});
        }
        push(&mut client, "inbounds", site.handshake_server());
        for (index, case) in cases.iter().enumerate() {
            site.add(case, index, &mut server, &mut client);
        }
        site.write("server.json", &server);
        site.write("client.json", &client);
        site.start_server();
        site.start_client();
        site
    }

    /// A file, or a folder after [`Site::splits_config`].
    pub fn config(&self) -> PathBuf {
        let folder = self.scratch.join(FOLDER);
        if folder.is_dir() { folder } else { self.scratch.join("server.json") }
    }

    /// The server is started anew with its configuration in a folder (`-C`): the first inbound and all that is no
    /// inbound in one file, the other inbounds in another.
    pub fn splits_config(&mut self) {
        self.server = None;
        let file = self.scratch.join("server.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let inbounds = config["inbounds"].as_array_mut().unwrap();
        let more = json!({"inbounds": inbounds.split_off(1)});
        std::fs::create_dir(self.scratch.join(FOLDER)).unwrap();
        self.write(&format!("{FOLDER}/10-server.json"), &config);
        self.write(&format!("{FOLDER}/20-more.json"), &more);
        std::fs::remove_file(file).unwrap();
        self.start_server();
    }

    /// Starts sing-box and waits until it answers.
    pub fn start_server(&mut self) {
        let mut process = self.start("server", &self.inside);
        wait_for(&self.inside, (Ipv4Addr::LOCALHOST, API_PORT).into(), &mut process);
        self.server = Some(process);
    }

    /// As [`Site::start_server`], of a configuration without an API.
    pub fn start_server_without_api(&mut self) {
        let mut process = self.start("server", &self.inside);
        wait_for(&self.inside, (Ipv4Addr::LOCALHOST, FIRST_PORT).into(), &mut process);
        self.server = Some(process);
    }

    pub fn start_client(&mut self) {
        let mut process = self.start("client", &self.outside);
        if let Some(user) = self.users.last() {
            wait_for(&self.outside, user.proxy.address, &mut process);
        }
        self.client = Some(process);
    }

    /// Ends the clients' process: no byte is on its way after that.
    pub fn stop_client(&mut self) {
        self.client = None;
    }

    /// A client that runs with a subscription's configuration exactly as it came.
    pub fn start_imported(&self, file: &Path) -> (Process, Proxy) {
        let config: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let inbounds = config["inbounds"].as_array().unwrap();
        let mixed = inbounds.iter().find(|it| it["type"] == "mixed").unwrap();
        let address =
            (Ipv4Addr::LOCALHOST, u16::try_from(mixed["listen_port"].as_u64().unwrap()).unwrap()).into();
        let mut command = Command::new(binary(self.version));
        command.arg("--disable-color").arg("run").arg("-c").arg(file);
        let mut process = Process::start(&mut command, &self.outside, &file.with_extension("log"));
        wait_for(&self.outside, address, &mut process);
        (process, Proxy { netns: self.outside.clone(), address, padded: false })
    }

    /// A target at an address that no client takes for one of its own network.
    pub fn public_target(&self) -> Target {
        self.inside.ip(&["addr", "add", &format!("{PUBLIC}/32"), "dev", "lo"]);
        target::serve_at(&self.inside, PUBLIC)
    }

    /// Drives all users, a few at a time; nobody may fail.
    pub fn drive(&self, rounds: u64) -> Dropped {
        let (dropped, failures) = drive(self, rounds);
        assert!(failures.is_empty(), "{}:\n{}\n{}", self.version, failures.join("\n"), self.client_log());
        if !dropped.is_empty() {
            println!("{}: connections dropped by sing-box itself: {dropped:?}", self.version);
        }
        dropped
    }

    /// What the clients said; for texts of failures.
    pub fn client_log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("client.log")).unwrap_or_default()
    }

    fn start(&self, name: &str, netns: &Netns) -> Process {
        let mut command = Command::new(binary(self.version));
        command.arg("--disable-color").arg("run");
        match name == "server" && self.config().is_dir() {
            true => command.arg("-C").arg(self.config()),
            false => command.arg("-c").arg(self.scratch.join(&format!("{name}.json"))),
        };
        Process::start(&mut command, netns, &self.scratch.join(&format!("{name}.log")))
    }

    fn write(&self, name: &str, config: &Value) {
        std::fs::write(self.scratch.join(name), serde_json::to_string_pretty(config).unwrap()).unwrap();
    }

    fn certificate(&self) {
        let (key, certificate) = certificate(self.version);
        std::fs::write(self.scratch.join("key.pem"), key).unwrap();
        std::fs::write(self.scratch.join("cert.pem"), certificate).unwrap();
    }

    fn server_tls(&self, tls: Tls) -> Value {
        let mut value = json!({"enabled": true, "certificate_path": self.scratch.join("cert.pem"),
                               "key_path": self.scratch.join("key.pem")});
        if tls == Tls::Quic {
            value["alpn"] = json!(["h3"]);
        }
        value
    }

    fn handshake_server(&self) -> Value {
        json!({"type": "trojan", "tag": "handshake", "listen": "::", "listen_port": HANDSHAKE_PORT,
               "users": [{"name": "nobody", "password": "nobody"}], "tls": self.server_tls(Tls::Tcp)})
    }

    fn add(&mut self, case: &Case, index: usize, server: &mut Value, client: &mut Value) {
        let port = FIRST_PORT + u16::try_from(index).unwrap() * 2;
        let accounts = accounts(case.name, index);
        for inbound in self.inbounds(case, port, &accounts) {
            push(server, "inbounds", inbound);
        }
        for (number, account) in accounts.iter().enumerate() {
            let upstream = SocketAddr::new(SERVER[number].parse().unwrap(), port);
            let relay = Relay::new(&self.outside, upstream);
            let socks = FIRST_SOCKS + u16::try_from(self.users.len()).unwrap();
            let tag = &account.name;
            let listen = json!({"type": "socks", "tag": tag, "listen": "127.0.0.1", "listen_port": socks});
            push(client, "inbounds", listen);
            for outbound in outbounds(case, account, relay.address.port()) {
                push(client, "outbounds", outbound);
            }
            push(&mut client["route"], "rules", json!({"inbound": tag, "outbound": format!("{tag}-out")}));
            let address = (Ipv4Addr::LOCALHOST, socks).into();
            let padded = case.client == Client::Naive;
            let proxy = Proxy { netns: self.outside.clone(), address, padded };
            self.users.push(User { case: case.clone(), name: account.name.clone(), proxy, relay });
        }
    }

    fn inbounds(&self, case: &Case, port: u16, accounts: &[Account]) -> Vec<Value> {
        let mut inbound = json!({"type": case.kind, "tag": format!("{}-in", case.name), "listen": "::",
                                 "listen_port": port});
        inbound["users"] = accounts.iter().map(|a| a.entry(case.login)).collect();
        for more in [&inbound_extra(case.login), &case.both, &case.inbound] {
            merge(&mut inbound, more);
        }
        if case.tls != Tls::None {
            inbound["tls"] = self.server_tls(case.tls);
        }
        if case.client != Client::ShadowTls {
            return vec![inbound];
        }
        // The users of shadowtls itself cannot be told apart; those of the shadowsocks inside can.
        let tag = inbound["tag"].clone();
        inbound["listen"] = json!("127.0.0.1");
        inbound["listen_port"] = json!(port + 1);
        let outer = json!({"type": "shadowtls", "tag": "shadowtls-outer", "listen": "::", "listen_port": port,
            "version": 3, "users": [{"name": "everyone", "password": "outer"}], "strict_mode": true,
            "handshake": {"server": "10.77.0.2", "server_port": HANDSHAKE_PORT}, "detour": tag});
        vec![outer, inbound]
    }
}

/// Connections that a user tries before giving up, where sing-box drops some.
const TRIES: u32 = 10;

/// UDP sessions tried before the path counts as broken. Now and then one never answers (seen with UDP over TCP,
/// on 1.14 also without an agent); why is not known.
const SESSIONS: u32 = 3;

impl User {
    /// Some TCP and, where the case carries it, some UDP. Answers how many connections sing-box dropped.
    ///
    /// # Errors
    /// Whatever breaks on the way, with the user's name.
    pub fn drive(&self, target: Target, bytes: u64) -> Result<u32, String> {
        let named = |what: &str, error: std::io::Error| format!("{} {what}: {error}", self.name);
        let mut dropped = 0;
        while let Err(error) = self.proxy.exchange(target, bytes, bytes * 3) {
            dropped += 1;
            if !self.case.drops || dropped == TRIES {
                return Err(named("tcp", error));
            }
        }
        // A UDP session that gets no answer is one that sing-box dropped too: it cannot refuse one.
        let (mut sessions, most) = (0, if self.case.drops { TRIES } else { SESSIONS });
        let carry = || if self.case.udp == Udp::Watched { self.proxy.echo(target, 20, 700) } else { Ok(()) };
        while let Err(error) = carry() {
            sessions += 1;
            if sessions == most {
                return Err(named("udp", error));
            }
        }
        Ok(dropped + sessions)
    }
}

fn wait_for(netns: &Netns, address: SocketAddr, process: &mut Process) {
    wait("sing-box listens", || {
        if let Some(status) = process.ended() {
            panic!("sing-box ended with {status}:\n{}", process.log());
        }
        netns.run(|| TcpStream::connect(address)).map(drop).map_err(|_| process.log())
    });
}

fn base(level: &str) -> Value {
    json!({"log": {"level": level, "timestamp": true}, "inbounds": [],
           "outbounds": [{"type": "direct", "tag": "direct"}], "route": {"rules": [], "final": "direct"}})
}

fn push(config: &mut Value, list: &str, item: Value) {
    config[list].as_array_mut().expect("a list").push(item);
}

fn outbounds(case: &Case, account: &Account, port: u16) -> Vec<Value> {
    let kind = match case.client {
        Client::Other(kind) => kind,
        Client::Naive => "http",
        Client::Same | Client::ShadowTls => case.kind,
    };
    let tag = format!("{}-out", account.name);
    let mut outbound = json!({"type": kind, "tag": tag, "server": "127.0.0.1", "server_port": port});
    for more in [&account.credentials(case.login), &case.both, &case.outbound] {
        merge(&mut outbound, more);
    }
    let tls = json!({"enabled": true, "insecure": true, "server_name": "test.invalid"});
    if case.tls != Tls::None {
        outbound["tls"] = tls.clone();
        if case.tls == Tls::Quic {
            outbound["tls"]["alpn"] = json!(["h3"]);
        }
    }
    if case.client == Client::Naive {
        outbound["headers"] = json!({"Padding": "~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"});
    }
    if case.client != Client::ShadowTls {
        return vec![outbound];
    }
    outbound["detour"] = json!(format!("{tag}-outer"));
    for field in ["server", "server_port"] {
        outbound.as_object_mut().unwrap().remove(field);
    }
    let outer = json!({"type": "shadowtls", "tag": format!("{tag}-outer"), "server": "127.0.0.1",
        "server_port": port, "version": 3, "password": "outer", "tls": tls});
    vec![outbound, outer]
}
