//! Debian's nginx with a location for each user, and what stands for nginx-module-vts, which Debian does not have:
//! a server that answers in its JSON, grows, forgets keys and begins again, and knows the truth.

use crate::netns::Netns;
use crate::process::Process;
use crate::program;
use crate::wait;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// (group, key) with its bytes: upload and download.
type Zones = BTreeMap<(String, String), [u64; 2]>;

/// What the stub knows.
#[derive(Default)]
struct State {
    zones: Zones,
    /// When it has read its configuration.
    loaded_ms: u64,
    requests: u64,
    /// Requests of starts before that its counters have.
    brought: u64,
    /// The one before it, which answers every second time: its program was exchanged while it runs.
    before: Option<Box<State>>,
    /// As of the last answer that went out whole.
    served: Zones,
    answers: u64,
    /// Nobody is answered.
    away: bool,
    /// Answered instead of the JSON.
    instead: Option<Vec<u8>>,
}

/// nginx-module-vts, as far as its status goes.
#[derive(Clone)]
pub struct Vts {
    state: Arc<Mutex<State>>,
    pub address: SocketAddr,
}

impl Vts {
    /// Serves in a namespace until the test ends.
    pub fn serve(netns: &Netns) -> Vts {
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let vts = Vts { state: Arc::default(), address };
        vts.state.lock().unwrap().loaded_ms = now_ms();
        let state = Arc::clone(&vts.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &state);
            }
        });
        vts
    }

    /// Its address, as boxmeter is told it.
    pub fn url(&self) -> String {
        format!("http://{}/status/format/json", self.address)
    }

    /// A request has ended.
    pub fn grow(&self, group: &str, key: &str, bytes: [u64; 2]) {
        let mut state = self.state.lock().unwrap();
        let zone = state.zones.entry((group.to_owned(), key.to_owned())).or_default();
        *zone = [zone[0] + bytes[0], zone[1] + bytes[1]];
        state.requests += 1;
    }

    /// Many requests of many clients have ended, so that another start is no further soon.
    pub fn was_busy(&self) {
        self.had_requests(1_000_000);
    }

    pub fn had_requests(&self, more: u64) {
        self.state.lock().unwrap().requests += more;
    }

    /// It has read its configuration anew, and counts on.
    pub fn reload(&self) {
        let mut state = self.state.lock().unwrap();
        state.loaded_ms = now_ms().max(state.loaded_ms + 1);
    }

    /// Its program was exchanged: a new one answers beside the old one, and counts from 0.
    pub fn exchange(&self) {
        let mut state = self.state.lock().unwrap();
        let new = State {
            loaded_ms: now_ms().max(state.loaded_ms + 1),
            answers: state.answers,
            ..State::default()
        };
        let old = std::mem::replace(&mut *state, new);
        state.before = Some(Box::new(old));
    }

    /// The old one has gone.
    pub fn exchanged(&self) {
        self.state.lock().unwrap().before = None;
    }

    /// The key is evicted.
    pub fn forget(&self, group: &str, key: &str) {
        self.state.lock().unwrap().zones.remove(&(group.to_owned(), key.to_owned()));
    }

    /// nginx begins anew.
    pub fn begin_anew(&self) {
        let mut state = self.state.lock().unwrap();
        state.zones.clear();
        state.served.clear();
        (state.requests, state.brought) = (0, 0);
        state.loaded_ms = now_ms().max(state.loaded_ms + 1);
    }

    /// nginx begins anew and reads its dump (`vhost_traffic_status_dump`): counters are where they were.
    pub fn restore(&self) {
        let mut state = self.state.lock().unwrap();
        state.brought += std::mem::take(&mut state.requests);
        state.loaded_ms = now_ms().max(state.loaded_ms + 1);
    }

    /// Nobody is answered, or everybody again.
    pub fn set_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    /// Answers this, whatever it is; `None`: the JSON.
    pub fn instead(&self, text: Option<Vec<u8>>) {
        self.state.lock().unwrap().instead = text;
    }

    fn sum(zones: &Zones, user: &str) -> [u64; 2] {
        let of = |(group, key): &(String, String)| match group.split_once("::") {
            Some(("users", _)) => key == user,
            Some((head, _)) => head == user,
            None => group == user,
        };
        let own = zones.iter().filter(|(name, _)| of(name));
        own.fold([0, 0], |sum, (_, bytes)| [sum[0] + bytes[0], sum[1] + bytes[1]])
    }

    /// A user's bytes since it began.
    pub fn truth(&self, user: &str) -> [u64; 2] {
        Vts::sum(&self.state.lock().unwrap().zones, user)
    }

    /// The same, as of the last whole answer.
    pub fn served(&self, user: &str) -> [u64; 2] {
        Vts::sum(&self.state.lock().unwrap().served, user)
    }

    /// Waits until so many more answers went out.
    pub fn until_asked(&self, more: u64) {
        let answers = || self.state.lock().unwrap().answers;
        let before = answers();
        wait("it is asked again", || match answers() - before {
            asked if asked >= more => Ok(()),
            asked => Err(format!("{asked} of {more}")),
        });
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let (mut request, mut byte) = (Vec::new(), [0; 1]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    // As a whole before or after whatever else happens to it.
    let mut state = state.lock().unwrap();
    if state.away {
        return;
    }
    state.requests += 1;
    let second = state.answers % 2 == 1;
    let answers = state.before.as_deref().filter(|_| second).unwrap_or(&state);
    let body = state.instead.clone().unwrap_or_else(|| json(answers).into_bytes());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    if stream.write_all(&[head.as_bytes(), &body].concat()).is_ok() && state.instead.is_none() {
        state.served = state.zones.clone();
    }
    state.answers += 1;
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// As the module writes it, without what nobody reads.
fn json(state: &State) -> String {
    let State { zones, loaded_ms, requests, brought, .. } = state;
    let mut groups: BTreeMap<&str, serde_json::Map<String, serde_json::Value>> = BTreeMap::new();
    for ((group, key), [upload, download]) in zones {
        let zone = serde_json::json!({"requestCounter": 1, "inBytes": upload, "outBytes": download,
            "responses": {"2xx": 1}, "overCounts": {"inBytes": 0, "outBytes": 0}});
        groups.entry(group).or_default().insert(key.clone(), zone);
    }
    serde_json::json!({"hostName": "vm", "moduleVersion": "v0.2.7", "nginxVersion": "1.22.1",
        "loadMsec": loaded_ms, "nowMsec": now_ms().max(*loaded_ms), "connections": {"active": 1, "requests": requests},
        "serverZones": {"*": {"requestCounter": requests + brought, "inBytes": 1, "outBytes": 1}}, "filterZones": groups})
    .to_string()
}

/// A real nginx in a namespace.
pub struct Nginx {
    folder: PathBuf,
    netns: Netns,
    process: Option<Process>,
    port: u16,
}

impl Nginx {
    /// Its folder is made; it does not run yet. The users' locations are `/NAME/`, with a variable as boxmeter's
    /// documentation says.
    pub fn new(folder: PathBuf, netns: &Netns, port: u16, users: &[(&str, &str)]) -> Nginx {
        fs::create_dir_all(&folder).unwrap();
        let nginx = Nginx { folder, netns: netns.clone(), process: None, port };
        let locations: String = users
            .iter()
            .map(|(path, user)| {
                format!(
                    "location /{path}/ {{ set $boxmeter_user {user}; if ($boxmeter_refused) {{ return 403; }} \
                     return 200 \"ok\"; }}\n"
                )
            })
            .collect();
        let text = format!(
            "worker_processes 1; pid nginx.pid; error_log error.log;\nevents {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
             uwsgi_temp_path t4; scgi_temp_path t5;\ninclude {};\n\
             server {{ listen 127.0.0.1:{port};\n{locations}}}\n}}\n",
            nginx.refused().display()
        );
        fs::write(nginx.config(), text).unwrap();
        nginx
    }

    /// Has it answer for the module, as a real one does itself; where. To be called before it is started.
    pub fn answer_for(&self, vts: &Vts) -> String {
        let status = format!(
            "location /status/ {{ proxy_pass http://{}; proxy_buffering off; }}\nlocation /",
            vts.address
        );
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), text.replacen("location /", &status, 1)).unwrap();
        format!("http://127.0.0.1:{}/status/format/json", self.port)
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("nginx.conf")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.folder.join("nginx.pid")
    }

    /// The file of refused users.
    pub fn refused(&self) -> PathBuf {
        self.folder.join("boxmeter.conf")
    }

    pub fn refused_text(&self) -> String {
        fs::read_to_string(self.refused()).unwrap_or_default()
    }

    pub fn start(&mut self) {
        let mut command = Command::new(program("nginx").expect("nginx"));
        command.arg("-p").arg(&self.folder).arg("-c").arg(self.config());
        command.args(["-e", "error.log", "-g", "daemon off;"]).current_dir(&self.folder);
        let mut process = Process::start(&mut command, &self.netns, &self.folder.join("nginx.log"));
        wait("nginx listens", || {
            if let Some(status) = process.ended() {
                panic!("nginx ended with {status}:\n{}", process.log());
            }
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            self.netns.run(|| TcpStream::connect(address)).map(drop).map_err(|error| error.to_string())
        });
        self.process = Some(process);
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("nginx runs").pid()
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("nginx runs")
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// What a location answers.
    pub fn get(&self, path: &str) -> u16 {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let ask = || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET /{path}/ HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let text = self.netns.run(ask).unwrap();
        text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
    }

    pub fn until(&self, path: &str, status: u16) {
        wait(&format!("/{path}/ answers {status}"), || match self.get(path) {
            got if got == status => Ok(()),
            got => Err(format!("{got}\n{}", self.refused_text())),
        });
    }
}
