//! A sing-box, a client of it per user with a relay in between, and an agent: all real, all in one
//! temporary folder, all gone when the rig is dropped.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{relay::Relay, target};

pub const USERS: [&str; 2] = ["alice", "bob"];

/// Anything that a test waits for comes within this time, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until `ready` gives something.
pub fn wait<T>(what: &str, mut ready: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ready() {
            Ok(value) => return value,
            Err(why) if Instant::now() > deadline => panic!("{what}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A process in a group of its own, ended with SIGTERM and then SIGKILL.
pub struct Process(pub Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Process(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), signal);
    }

    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How a user's client reaches the inbound: what differs between the shapes.
pub struct Shape {
    pub name: &'static str,
    /// The inbound without tag, listen, port and users.
    pub inbound: Value,
    /// One of its users.
    pub user: fn(name: &str, number: usize) -> Value,
    /// The client's outbound without tag, server and port.
    pub outbound: fn(number: usize) -> Value,
    pub tls: bool,
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub version: &'static str,
    pub server: Option<Process>,
    clients: Vec<Process>,
    pub agent: Option<Process>,
    relays: Vec<Relay>,
    proxies: Vec<SocketAddr>,
    target: SocketAddr,
    _turn: MutexGuard<'static, ()>,
}

fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn sing_box(version: &str) -> PathBuf {
    let tools = std::env::var_os("BOXMETER_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"), PathBuf::from);
    tools.join(format!("sing-box-{version}/sing-box"))
}

fn boxmeter() -> PathBuf {
    std::env::var_os("BOXMETER_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/boxmeter"), PathBuf::from)
}

impl Rig {
    /// Everything but the agent runs.
    pub fn new(version: &'static str, shape: &Shape) -> Rig {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = tempfile::Builder::new().prefix("bm-flow-").tempdir().unwrap();
        let path = folder.path().to_owned();
        fs::create_dir(path.join("bpf")).unwrap();
        mount(Some("bpf"), &path.join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("needs root: mounting a bpf file system");
        let mut rig = Rig {
            folder,
            version,
            server: None,
            clients: Vec::new(),
            agent: None,
            relays: Vec::new(),
            proxies: Vec::new(),
            target: target::serve(),
            _turn: turn,
        };
        rig.certificate();
        let port = free_port();
        rig.write_server(shape, port);
        rig.write_agent();
        rig.start_server();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for number in 0..USERS.len() {
            rig.relays.push(Relay::new(address));
            rig.start_client(shape, number);
        }
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn certificate(&self) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "30", "-subj", "/CN=test.invalid", "-addext", "subjectAltName=DNS:test.invalid"])
            .arg("-keyout")
            .arg(self.path("key.pem"))
            .arg("-out")
            .arg(self.path("cert.pem"))
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn write_server(&self, shape: &Shape, port: u16) {
        let mut inbound = shape.inbound.clone();
        inbound["tag"] = json!("in");
        inbound["listen"] = json!("127.0.0.1");
        inbound["listen_port"] = json!(port);
        inbound["users"] =
            USERS.iter().enumerate().map(|(number, name)| (shape.user)(name, number)).collect();
        if shape.tls {
            inbound["tls"] = json!({
                "enabled": true,
                "certificate_path": self.path("cert.pem"),
                "key_path": self.path("key.pem"),
            });
        }
        let mut config = json!({
            "log": {"level": "info"},
            "inbounds": [inbound],
            "outbounds": [{"type": "direct"}],
        });
        if self.version.starts_with("1.14") {
            config["services"] = json!([{"type": "api", "listen": "127.0.0.1", "listen_port": free_port(), "secret": "s3cret"}]);
        } else {
            config["experimental"] = json!({"clash_api": {
                "external_controller": format!("127.0.0.1:{}", free_port()), "secret": "s3cret"}});
        }
        fs::write(self.path("server.json"), serde_json::to_string_pretty(&config).unwrap()).unwrap();
    }

    fn write_agent(&self) {
        let text = format!(
            "[singbox]\nconfig = [\"{0}/server.json\"]\n[kernel]\npins = \"{0}/bpf/boxmeter\"\n\
             [ledger]\npath = \"{0}/ledger/ledger.db\"\n[api]\nsocket = \"{0}/boxmeter.sock\"\n",
            self.folder.path().display()
        );
        fs::create_dir(self.path("ledger")).unwrap();
        fs::write(self.path("boxmeter.toml"), text).unwrap();
    }

    /// Puts the ledger on a disk of 4 MiB of its own.
    pub fn small_disk(&self) -> PathBuf {
        let disk = self.path("ledger");
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
        disk
    }

    fn listens(&self) -> bool {
        let config: Value = serde_json::from_slice(&fs::read(self.path("server.json")).unwrap()).unwrap();
        let port = config["services"][0]["listen_port"].as_u64().or_else(|| {
            let address = config["experimental"]["clash_api"]["external_controller"].as_str()?;
            address.rsplit(':').next()?.parse().ok()
        });
        TcpStream::connect(("127.0.0.1", port.unwrap() as u16)).is_ok()
    }

    pub fn start_server(&mut self) {
        let mut command = Command::new(sing_box(self.version));
        command.arg("run").arg("-c").arg(self.path("server.json"));
        self.server = Some(Process::start(&mut command, &self.path("server.log")));
        wait("sing-box listens", || if self.listens() { Ok(()) } else { Err(self.log("server.log")) });
    }

    pub fn stop_server(&mut self) {
        self.server = None;
    }

    fn start_client(&mut self, shape: &Shape, number: usize) {
        let port = free_port();
        let mut outbound = (shape.outbound)(number);
        outbound["tag"] = json!("out");
        outbound["server"] = json!("127.0.0.1");
        outbound["server_port"] = json!(self.relays[number].port);
        if shape.tls {
            outbound["tls"] = json!({"enabled": true, "insecure": true, "server_name": "test.invalid"});
        }
        let config = json!({
            "log": {"level": "warn"},
            "inbounds": [{"type": "socks", "listen": "127.0.0.1", "listen_port": port}],
            "outbounds": [outbound],
        });
        let name = format!("client-{number}");
        fs::write(self.path(&format!("{name}.json")), config.to_string()).unwrap();
        let mut command = Command::new(sing_box(self.version));
        command.arg("run").arg("-c").arg(self.path(&format!("{name}.json")));
        let log = self.path(&format!("{name}.log"));
        self.clients.push(Process::start(&mut command, &log));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait("the client listens", || {
            TcpStream::connect(address).map(drop).map_err(|_| fs::read_to_string(&log).unwrap_or_default())
        });
        self.proxies.push(address);
    }

    /// Ends the users' clients: no more bytes are on their way.
    pub fn end_clients(&mut self) {
        self.clients.clear();
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn agent_process(&self) -> Process {
        let mut command = Command::new(boxmeter());
        command.arg("--config").arg(self.path("boxmeter.toml")).arg("run");
        Process::start(&mut command, &self.path("agent.log"))
    }

    /// Starts the agent and waits until it knows who owns connections.
    pub fn start_agent(&mut self) {
        self.agent = Some(self.agent_process());
        wait("the agent is connected", || {
            let status = self.ask(&["status"])?;
            let connected = status["source"]["connected"] == json!(true);
            if connected { Ok(()) } else { Err(format!("{status}\n{}", self.log("agent.log"))) }
        });
    }

    pub fn kill_agent(&mut self) {
        self.agent.take().expect("an agent runs").kill();
    }

    pub fn command(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new(boxmeter());
        command.arg("--config").arg(self.path("boxmeter.toml")).arg("--json").args(words);
        command.output().unwrap()
    }

    /// A command's answer.
    pub fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let output = self.command(words);
        if !output.status.success() {
            return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    pub fn exchange(&self, user: usize, up: u64, down: u64) -> std::io::Result<()> {
        target::exchange(self.proxies[user], self.target, up, down)
    }

    /// As [`Rig::exchange`], to be called while the rig is busy with something else.
    pub fn traffic(&self, user: usize) -> impl Fn(u64, u64) -> std::io::Result<()> + Send + Sync + use<> {
        let (proxy, target) = (self.proxies[user], self.target);
        move |up, down| target::exchange(proxy, target, up, down)
    }

    /// Payload by user, as the ledger has it.
    pub fn usage(&self) -> Result<[[u64; 2]; 2], String> {
        let usage = self.ask(&["usage"])?;
        Ok(USERS.map(|name| {
            let row =
                usage["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["user"] == json!(name)));
            let field = |key: &str| row.and_then(|row| row[key].as_u64()).unwrap_or(0);
            [field("upload_payload_bytes"), field("download_payload_bytes")]
        }))
    }

    /// As [`Rig::check`], where connections may have come and gone while nobody could say whose they
    /// were: those are unattributed, and the sum is exact all the same.
    pub fn check_sum(&mut self) {
        self.end_clients();
        wait("every byte is counted once", || {
            let (usage, audit) = (self.usage()?, self.ask(&["audit"])?);
            let unattributed = ["upload_payload_bytes", "download_payload_bytes"]
                .map(|key| audit["unattributed"][key].as_u64().unwrap_or(0));
            let mut right = audit["difference_bytes"] == json!(0);
            let (mut least, mut most) = ([0; 2], [0; 2]);
            for (relay, usage) in self.relays.iter().zip(usage) {
                let [low, high] = relay.truth.bounds().ok_or("connections are open")?;
                for direction in 0..2 {
                    right = right && usage[direction] <= high[direction];
                    least[direction] += low[direction];
                    most[direction] += high[direction];
                }
            }
            for direction in 0..2 {
                let all = usage[0][direction] + usage[1][direction] + unattributed[direction];
                right = right && (least[direction]..=most[direction]).contains(&all);
            }
            let truth: Vec<_> = self.relays.iter().map(|relay| &relay.truth).collect();
            if right { Ok(()) } else { Err(format!("usage {usage:?}, truth {truth:?}, audit {audit}")) }
        });
    }

    /// One user has exactly the relay's bytes, whatever became of the others'.
    pub fn check_user(&self, number: usize) {
        wait("every byte of the user", || {
            let (truth, usage) = (&self.relays[number].truth, self.usage()?[number]);
            if truth.allows(usage) { Ok(()) } else { Err(format!("usage {usage:?}, truth {truth:?}")) }
        });
    }

    /// The three questions.
    pub fn check(&mut self) {
        self.end_clients();
        wait("every byte is its user's", || {
            let usage = self.usage()?;
            if self.relays.iter().zip(usage).all(|(relay, usage)| relay.truth.allows(usage)) {
                return Ok(());
            }
            let truth: Vec<_> = self.relays.iter().map(|relay| &relay.truth).collect();
            Err(format!("usage {usage:?}, truth {truth:?}\n{}", self.ask(&["status"])?))
        });
        let audit = self.ask(&["audit"]).unwrap();
        assert_eq!(audit["difference_bytes"], json!(0), "{audit}");
        assert_eq!(audit["unattributed"]["upload_payload_bytes"], json!(0), "{audit}");
        assert_eq!(audit["unattributed"]["download_payload_bytes"], json!(0), "{audit}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.clients.clear();
        self.agent = None;
        let detached = self.command(&["detach", "--yes"]);
        self.server = None;
        let bpf = self.path("bpf");
        let left = bpf.join("boxmeter").exists();
        let _ = umount2(&bpf, MntFlags::MNT_DETACH);
        // Only mounted where a test has put the ledger on a disk of its own.
        let _ = umount2(&self.path("ledger"), MntFlags::MNT_DETACH);
        if !thread::panicking() {
            assert!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
            assert!(!left, "pins are left");
        }
    }
}
