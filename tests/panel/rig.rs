//! A server with users, the agent, the panel with its own system user, and a plain HTTP client that sends
//! exactly what a test says.

use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::{Case, named};
use boxmeter_tests::netns::Netns;
use boxmeter_tests::process::Process;
use boxmeter_tests::scratch::Scratch;
use boxmeter_tests::singbox::{Site, VERSIONS};
use boxmeter_tests::{boxmeter, wait};
use boxmeter_web::access;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

/// The user of [`case`].
pub const ALICE: &str = "alice-trojan-tls";
/// Where the panel listens in its network namespace: as the configuration has it by default.
pub const PANEL: &str = "127.0.0.1:8790";
/// The id of the panel's user, in the test's own list of users.
pub const PANEL_UID: u32 = 64_042;
/// An answer that takes longer will not come.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const PASSWORD_LINE: &str = "told only now: ";

fn case() -> Case {
    named("trojan-tls")
}

/// The last is dropped last: processes need the site's folder.
pub struct Rig {
    pub panel: Option<Process>,
    pub agent: Agent,
    /// The first password, if it was told.
    pub password: String,
    pub site: Site,
}

impl Rig {
    /// Addresses that loopback says with X-Forwarded-For count.
    pub fn new() -> Rig {
        Rig::at(Site::new(VERSIONS[2], &[case()]), "")
    }

    /// As [`Rig::new`], with more lines under `[panel]`.
    pub fn with(lines: impl Fn(&Site) -> String) -> Rig {
        let site = Site::new(VERSIONS[2], &[case()]);
        let lines = lines(&site);
        Rig::at(site, &lines)
    }

    /// As [`Rig::new`], with so many users more.
    pub fn with_users(more: usize) -> Rig {
        let mut site = Site::new(VERSIONS[2], &[case()]);
        let file = site.config();
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let users = config["inbounds"][0]["users"].as_array_mut().unwrap();
        let user =
            |number| serde_json::json!({"name": format!("user-{number}"), "password": format!("p{number}")});
        users.extend((0..more).map(user));
        std::fs::write(&file, config.to_string()).unwrap();
        site.stop_client();
        site.server = None;
        site.start_server();
        Rig::at(site, "")
    }

    fn at(site: Site, lines: &str) -> Rig {
        std::fs::set_permissions(site.scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        with_panel_user(&site.scratch);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        let file = site.scratch.join("boxmeter.toml");
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("[panel]\ntrusted_proxies = [\"127.0.0.1\"]\n");
        text.push_str(lines);
        std::fs::write(&file, text).unwrap();
        agent.start();
        let mut rig = Rig { panel: None, agent, password: String::new(), site };
        rig.start_panel();
        let log = rig.log();
        let told = log.split(PASSWORD_LINE).nth(1).and_then(|rest| rest.lines().next());
        rig.password = told.unwrap_or_else(|| panic!("no first password in:\n{log}")).to_owned();
        rig
    }

    pub fn start_panel(&mut self) {
        let mut command = Command::new(boxmeter());
        command.arg("--config").arg(self.site.scratch.join("boxmeter.toml")).args(["--lang", "en", "panel"]);
        let (log, before) = (self.site.scratch.join("panel.log"), self.log().len());
        let mut process = Process::start(&mut command, &self.site.inside, &log);
        wait("the panel tells its address", || {
            if let Some(status) = process.ended() {
                panic!("the panel ended with {status}:\n{}", process.log());
            }
            let log = process.log();
            if log[before..].contains("The panel is at ") { Ok(()) } else { Err(log) }
        });
        self.panel = Some(process);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.scratch.join("panel.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.panel.as_ref().unwrap().pid()
    }

    /// A request, from an address of its own unless the test says another.
    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let netns = &self.site.inside;
        let ask = Ask {
            netns,
            method: method.into(),
            path: path.into(),
            host: PANEL.into(),
            headers: Vec::new(),
            body: String::new(),
            length: true,
        };
        ask.from("198.51.100.1")
    }

    /// Tries to sign in from an address.
    pub fn try_password(&self, password: &str, code: &str, from: &str) -> Answer {
        let form = format!("password={password}&code={code}");
        self.ask("POST", "/sign-in").from(from).form(&form).send()
    }

    /// Signs in with the first password; the session's secret.
    pub fn sign_in(&self) -> String {
        let answer = self.try_password(&self.password, "", "198.51.100.1");
        answer.session().unwrap_or_else(|| panic!("not signed in: {} {}", answer.status, answer.body))
    }

    /// A token of a scope, made by a session.
    pub fn token(&self, session: &str, name: &str, scope: &str) -> String {
        let body = serde_json::json!({"name": name, "scope": scope});
        let answer = self.ask("POST", "/api/v1/tokens").session(session).json(&body).send();
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.value()["secret"].as_str().unwrap().to_owned()
    }

    /// The command line as the panel's user.
    pub fn as_panel_user(&self, words: &[&str]) -> Output {
        let mut command = Command::new(boxmeter());
        command.arg("--json").arg("--socket").arg(self.site.scratch.join("boxmeter.sock")).args(words);
        command.uid(PANEL_UID).gid(PANEL_UID).output().unwrap()
    }

    /// Kinds of events with their actors, oldest first.
    pub fn events(&self) -> Vec<(String, String)> {
        let answer = self.agent.ask(&["events"]).unwrap();
        let events = answer["events"].as_array().unwrap().iter();
        events
            .map(|it| (it["kind"].as_str().unwrap().into(), it["who"].as_str().unwrap_or_default().into()))
            .collect()
    }
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(PANEL.parse::<SocketAddr>().unwrap())?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// The panel's user, in a list of users that only this test and what it starts see.
pub fn with_panel_user(scratch: &Scratch) {
    let user = format!("boxmeter-panel:x:{PANEL_UID}:{PANEL_UID}::/nonexistent:/usr/sbin/nologin");
    scratch.instead("/etc/passwd", "boxmeter-panel:", &user);
    scratch.instead("/etc/group", "boxmeter-panel:", &format!("boxmeter-panel:x:{PANEL_UID}:"));
}

/// A request that is being written.
pub struct Ask<'a> {
    netns: &'a Netns,
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
    body: String,
    /// Whether the head says how long the body is.
    length: bool,
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// As a trusted proxy says it.
    pub fn from(self, address: &str) -> Self {
        self.header("x-forwarded-for", address)
    }

    pub fn cookie(self, session: &str) -> Self {
        self.header("cookie", &format!("boxmeter_session={session}"))
    }

    /// A session as the panel's own pages use it.
    pub fn session(self, session: &str) -> Self {
        let csrf = access::csrf(session);
        self.cookie(session).header("x-csrf-token", &csrf)
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn form(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string();
        self.header("content-type", "application/json")
    }

    /// A form in pieces, whose length is only known at its end.
    pub fn chunked(self, body: &str) -> Self {
        let piece = |it: &[u8]| format!("{:x}\r\n{}\r\n", it.len(), String::from_utf8_lossy(it));
        let pieces: String = body.as_bytes().chunks(16 << 10).map(piece).collect();
        let mut ask = self.form("").header("transfer-encoding", "chunked").body(format!("{pieces}0\r\n\r\n"));
        ask.length = false;
        ask
    }

    pub fn body(mut self, body: String) -> Self {
        self.body = body;
        self
    }

    /// The whole of it, for a connection of the test's own.
    pub fn text(&self) -> String {
        self.head() + &self.body
    }

    fn head(&self) -> String {
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, self.path, self.host);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.length && (self.method != "GET" || !self.body.is_empty()) {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head + "\r\n"
    }

    /// Sends it, and gives the connection as it is then.
    pub fn open(&self) -> TcpStream {
        let mut stream = self.netns.run(connect).unwrap();
        stream.write_all(self.head().as_bytes()).unwrap();
        // Whoever refuses a body by its head alone may be gone before all of it is sent.
        let _ = stream.write_all(self.body.as_bytes());
        stream
    }

    pub fn send(&self) -> Answer {
        Answer::read(self.open())
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
    session: Option<String>,
}

impl Answer {
    /// Everything until the panel closes the connection.
    pub fn read(mut stream: impl Read) -> Answer {
        let mut bytes = Vec::new();
        // A reset after the answer, where the request was not read to its end.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
        let names = ["boxmeter_session=", "__Host-boxmeter="];
        let begun = names.iter().find_map(|name| head.split(name).nth(1)?.split(';').next());
        let session = begun.filter(|it| !it.is_empty()).map(str::to_owned);
        let head = head.to_ascii_lowercase();
        let body = if head.contains("transfer-encoding: chunked") { joined(body) } else { body.to_owned() };
        Answer { status, head, body, session }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The secret of the session that this answer began.
    pub fn session(&self) -> Option<String> {
        self.session.clone()
    }
}

/// Chunks without their lengths.
fn joined(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 || more.len() < length {
            break;
        }
        whole.push_str(&more[..length]);
        rest = more[length..].trim_start_matches("\r\n");
    }
    whole
}
