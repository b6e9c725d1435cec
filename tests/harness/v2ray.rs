//! Real V2Ray: a server with the tutorial's configuration, a client with an outbound per user, and the
//! namespaces and relays between them.

use crate::cases::{Case, Udp, named};
use crate::netns::Netns;
use crate::process::Process;
use crate::program;
use crate::relay::Relay;
use crate::scene::{Scene, drive};
use crate::scratch::Scratch;
use crate::singbox::{Site, User};
use crate::socks::Proxy;
use crate::target::{self, Target};
use crate::wait;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

/// The server's address as its clients reach it.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The client's SOCKS ports count from here.
const FIRST_SOCKS: u16 = 31_500;
/// The port of the tutorial's gRPC API.
pub const API_PORT: u16 = 30_085;
/// The tutorial's, with what real machines add: addresses to listen on.
const TUTORIAL: &str = include_str!("../fixtures/v2ray/v2ray4_server.json");

/// A server and its clients in two namespaces with a cable between.
pub struct V2raySite {
    pub server: Option<Process>,
    client: Option<Process>,
    pub users: Vec<User>,
    pub target: Target,
    pub outside: Netns,
    pub inside: Netns,
    /// The last: processes write there until they have ended.
    pub scratch: Scratch,
}

impl Scene for V2raySite {
    fn users(&self) -> &[User] {
        &self.users
    }

    fn target(&self) -> Target {
        self.target
    }
}

/// Where the server has its inbounds, and how users come in: `(name, tag, udp)`.
type Comers<'a> = &'a [(&'a str, &'a str, Udp)];

/// Users of the tutorial's trojan inbound.
pub const TUTORIAL_USERS: Comers<'_> =
    &[("user1@example.com", "trojan", Udp::Watched), ("user2@example.com", "trojan", Udp::Watched)];

/// The tutorial's configuration of a server that others reach.
pub fn tutorial() -> Value {
    let mut config: Value = serde_json::from_str(TUTORIAL).unwrap();
    for inbound in config["inbounds"].as_array_mut().unwrap() {
        if inbound["tag"] != json!("api") {
            inbound["listen"] = json!(SERVER.to_string());
        }
    }
    config
}

/// The same, with an API that lets users in and takes them out.
pub fn with_handler() -> Value {
    let mut config = tutorial();
    config["api"]["services"] = json!(["HandlerService", "StatsService"]);
    config
}

impl V2raySite {
    /// Server and clients run, each side in a namespace of its own; the agent does not.
    pub fn new(config: &Value, comers: Comers<'_>) -> V2raySite {
        let (inside, outside) = (Netns::new(), Netns::new());
        inside.connect(&outside, &["10.77.0.1/24"], &["10.77.0.2/24"]);
        V2raySite::at(config, comers, (inside, outside), Scratch::new())
    }

    /// On the machine of a sing-box, with its clients beside that one's.
    pub fn beside(site: &Site, config: &Value, comers: Comers<'_>) -> V2raySite {
        V2raySite::at(
            config,
            comers,
            (site.inside.clone(), site.outside.clone()),
            Scratch::beside(&site.scratch),
        )
    }

    fn at(
        config: &Value,
        comers: Comers<'_>,
        (inside, outside): (Netns, Netns),
        scratch: Scratch,
    ) -> V2raySite {
        let target = target::serve(&inside);
        let mut site =
            V2raySite { server: None, client: None, users: vec![], target, outside, inside, scratch };
        fs::create_dir_all(site.folder()).unwrap();
        fs::write(site.config(), serde_json::to_string_pretty(config).unwrap()).unwrap();
        let mut client = json!({"log": {"loglevel": "warning"}, "inbounds": [], "outbounds": [],
                                "routing": {"rules": []}});
        for &(name, tag, udp) in comers {
            site.add(config, &mut client, (name, tag, udp));
        }
        fs::write(site.folder().join("client.json"), client.to_string()).unwrap();
        site.start_server();
        site.start_client();
        site
    }

    /// A folder of its own: the server's access log is relative to where it was started.
    pub fn folder(&self) -> PathBuf {
        self.scratch.join("v2")
    }

    pub fn config(&self) -> PathBuf {
        self.folder().join("v2ray.json")
    }

    pub fn access_log(&self) -> PathBuf {
        self.folder().join("access.log")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    fn add(&mut self, config: &Value, client: &mut Value, (name, tag, udp): (&str, &str, Udp)) {
        let inbounds = config["inbounds"].as_array().unwrap();
        let inbound = inbounds.iter().find(|inbound| inbound["tag"] == json!(tag)).expect("an inbound");
        let port = u16::try_from(inbound["port"].as_u64().unwrap()).unwrap();
        let relay = Relay::new(&self.outside, SocketAddr::new(SERVER.into(), port));
        let socks = FIRST_SOCKS + u16::try_from(self.users.len()).unwrap();
        let own = format!("{name}-{tag}");
        let push = |list: &mut Value, item: Value| list.as_array_mut().unwrap().push(item);
        push(
            &mut client["inbounds"],
            json!({"tag": own, "listen": "127.0.0.1", "port": socks, "protocol": "socks",
                   "settings": {"auth": "noauth", "udp": true, "ip": "127.0.0.1"}}),
        );
        push(&mut client["outbounds"], outbound(inbound, name, &own, relay.address.port()));
        push(
            &mut client["routing"]["rules"],
            json!({"type": "field", "inboundTag": [own], "outboundTag": own}),
        );
        let address = (Ipv4Addr::LOCALHOST, socks).into();
        let proxy = Proxy { netns: self.outside.clone(), address, padded: false };
        let case = Case { udp, ..named("trojan-plain") };
        self.users.push(User { case, name: name.to_owned(), proxy, relay });
    }

    /// Starts V2Ray and waits until it answers.
    pub fn start_server(&mut self) {
        let mut process = self.start("v2ray", &self.inside);
        for port in self.ports() {
            listens(&self.inside, port, &mut process);
        }
        self.server = Some(process);
    }

    pub fn start_client(&mut self) {
        let mut process = self.start("client", &self.outside);
        for user in &self.users {
            listens(&self.outside, user.proxy.address, &mut process);
        }
        self.client = Some(process);
    }

    /// Ends the clients' process: no byte is on its way after that.
    pub fn stop_client(&mut self) {
        self.client = None;
    }

    /// Drives all users, a few at a time; nobody may fail.
    pub fn drive(&self, rounds: u64) {
        let (dropped, failures) = drive(self, rounds);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(dropped.is_empty(), "{dropped:?}");
    }

    /// Runs the server so that it starts again whenever it ends; the command that ends it, for `restart`.
    pub fn supervise(&mut self) -> String {
        self.server = None;
        let (program, pid) = (program("v2ray").expect("v2ray"), self.folder().join("pid"));
        let script = format!(
            "trap 'kill $p; exit' TERM; while :; do setpriv --pdeathsig KILL {} -config v2ray.json & p=$!; \
             echo $p > {}; wait $p; done",
            program.display(),
            pid.display()
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).current_dir(self.folder());
        let mut process = Process::start(&mut command, &self.inside, &self.folder().join("v2ray.log"));
        for port in self.ports() {
            listens(&self.inside, port, &mut process);
        }
        self.server = Some(process);
        format!("kill $(cat {})", pid.display())
    }

    fn ports(&self) -> Vec<SocketAddr> {
        let config: Value = serde_json::from_str(&self.text()).unwrap();
        let ports = config["inbounds"].as_array().unwrap().iter().map(|inbound| {
            let address: Ipv4Addr = inbound["listen"].as_str().unwrap().parse().unwrap();
            SocketAddr::new(address.into(), u16::try_from(inbound["port"].as_u64().unwrap()).unwrap())
        });
        ports.collect()
    }

    fn start(&self, name: &str, netns: &Netns) -> Process {
        let mut command = Command::new(program("v2ray").expect("v2ray"));
        command.arg("-config").arg(self.folder().join(format!("{name}.json"))).current_dir(self.folder());
        Process::start(&mut command, netns, &self.folder().join(format!("{name}.log")))
    }
}

/// A client's way in with the user's entry.
fn outbound(inbound: &Value, name: &str, tag: &str, port: u16) -> Value {
    let settings = &inbound["settings"];
    let kind = inbound["protocol"].as_str().unwrap();
    let clients = settings["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = clients.iter().find(|client| client["email"] == json!(name)).cloned().unwrap_or_default();
    let server = match kind {
        "trojan" => {
            json!({"servers": [{"address": "127.0.0.1", "port": port, "password": entry["password"]}]})
        }
        "shadowsocks" => json!({"servers": [{"address": "127.0.0.1", "port": port,
            "method": settings["method"], "password": settings["password"]}]}),
        "vless" => json!({"vnext": [{"address": "127.0.0.1", "port": port,
            "users": [{"id": entry["id"], "encryption": "none"}]}]}),
        _ => json!({"vnext": [{"address": "127.0.0.1", "port": port,
            "users": [{"id": entry["id"], "alterId": 0}]}]}),
    };
    let mut outbound = json!({"tag": tag, "protocol": kind, "settings": server});
    if let Some(stream) = inbound.get("streamSettings") {
        outbound["streamSettings"] = stream.clone();
    }
    outbound
}

fn listens(netns: &Netns, address: SocketAddr, process: &mut Process) {
    wait("v2ray listens", || {
        if let Some(status) = process.ended() {
            panic!("v2ray ended with {status}:\n{}", process.log());
        }
        netns.run(|| TcpStream::connect(address)).map(drop).map_err(|_| process.log())
    });
}
