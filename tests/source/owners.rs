//! Each source tells who owns a real connection.

use std::{io::Write as _, net::TcpStream, time::Duration};

use boxmeter::{
    core::event::{Network, Sighting, SourceEvent},
    singbox::{Secret, files, process},
    source::{Choice, KnownInbounds, Setting, choose, run, singbox_api},
};
use tokio::sync::{mpsc, watch};

use crate::server::{DEADLINE, Server, V12, V13, V14, echo, free_port, mixed, socks};

/// A running source on a thread of its own.
pub struct Source {
    events: mpsc::Receiver<SourceEvent>,
    shutdown: watch::Sender<bool>,
    known: watch::Sender<KnownInbounds>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Source {
    pub fn start(choice: Choice, known: KnownInbounds, renew: Option<Duration>) -> Source {
        let (tx, events) = mpsc::channel(1024);
        let (shutdown, end) = watch::channel(false);
        let (known, known_rx) = watch::channel(known);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            match (choice, renew) {
                (Choice::Api(endpoint), Some(renew)) => {
                    runtime.block_on(singbox_api::run(singbox_api::ApiConfig { endpoint, renew }, tx, end));
                }
                (choice, _) => runtime.block_on(run(choice, known_rx, tx, end)),
            }
        });
        Source { events, shutdown, known, thread: Some(thread) }
    }

    fn of(server: &Server, setting: Setting, version: &str) -> Source {
        let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
        let choice = choose(&config, setting, process::major_minor(version)).unwrap();
        Source::start(choice, KnownInbounds::of(&config), None)
    }

    fn next(&mut self, what: &str) -> SourceEvent {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let next = runtime.block_on(async { tokio::time::timeout(DEADLINE, self.events.recv()).await });
        next.unwrap_or_else(|_| panic!("never: {what}")).unwrap_or_else(|| panic!("ended before: {what}"))
    }

    fn until<T>(&mut self, what: &str, mut pick: impl FnMut(SourceEvent) -> Option<T>) -> T {
        loop {
            let event = self.next(what);
            if let Some(found) = pick(event) {
                return found;
            }
        }
    }

    pub fn connected(&mut self) {
        self.until("connected", |event| matches!(event, SourceEvent::Connected { .. }).then_some(()));
    }

    /// The sighting of a client's connection.
    fn sighting(&mut self, client: &TcpStream) -> Sighting {
        let peer = client.local_addr().unwrap();
        self.until("sighting", |event| match event {
            SourceEvent::Sighting(sighting) if sighting.peer == peer => Some(sighting),
            _ => None,
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.shutdown.send(true);
        self.events.close();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the source panicked");
        }
        let _ = self.known.send(KnownInbounds::default());
    }
}

fn api(port: u16) -> String {
    format!(r#", "services": [{{"type": "api", "listen_port": {port}, "secret": "s3"}}]"#)
}

fn clash(port: u16, level: &str) -> String {
    format!(
        r#", "log": {{"level": "{level}"}}, "experimental": {{"clash_api": {{"external_controller": "127.0.0.1:{port}", "secret": "s3"}}}}"#
    )
}

#[test]
fn api_tells_user_address_totals_and_end() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, &api(free_port())))]);
    let target = echo();
    let early = socks(port, "bob", target, 10);
    let mut source = Source::of(&server, Setting::Auto, V14);
    source.connected();
    let replayed = source.sighting(&early);
    assert_eq!((&*replayed.user, &*replayed.inbound, replayed.closed), ("bob", "m", false));
    assert_eq!(replayed.totals, Some([10, 10]));
    assert!(replayed.created_ms.is_some());
    let client = socks(port, "alice", target, 1000);
    let seen = source.sighting(&client);
    assert_eq!(&*seen.user, "alice");
    drop(client);
    let totals = source.until("end", |event| match event {
        SourceEvent::Ended { connection, totals, .. } if connection == seen.connection => Some(totals),
        _ => None,
    });
    assert_eq!(totals, Some([1000, 1000]));
}

#[test]
fn api_renews_without_telling_an_end_twice() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, &api(free_port())))]);
    let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
    let choice = choose(&config, Setting::Api, None).unwrap();
    let mut source = Source::start(choice, KnownInbounds::default(), Some(Duration::from_millis(100)));
    source.connected();
    let client = socks(port, "alice", echo(), 10);
    let first = source.sighting(&client);
    // Three replays repeat the open connection, under the same id.
    for _ in 0..3 {
        assert_eq!(source.sighting(&client).connection, first.connection);
    }
    drop(client);
    let mut ended = 0;
    let later = loop {
        let event = source.next("ended");
        if let SourceEvent::Ended { connection, .. } = &event {
            ended += u32::from(*connection == first.connection);
            if ended == 1 {
                break socks(port, "bob", echo(), 10);
            }
        }
    };
    let mut replays = 0;
    source.until("later replays", |event| {
        match event {
            SourceEvent::Ended { connection, .. } => assert_ne!(connection, first.connection, "ended twice"),
            SourceEvent::Sighting(s) => {
                assert_ne!(s.connection, first.connection, "seen after its end");
                replays += u32::from(s.peer == later.local_addr().unwrap());
            }
            SourceEvent::Lost { counter, .. } => panic!("{counter}"),
            SourceEvent::Connected { .. } | SourceEvent::Disconnected { .. } => {
                panic!("renewals keep the connection")
            }
        }
        (replays > 12).then_some(())
    });
}

#[test]
fn api_comes_back_after_a_reload() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, &api(free_port())))]);
    let mut source = Source::of(&server, Setting::Auto, V14);
    source.connected();
    let target = echo();
    let client = socks(port, "alice", target, 10);
    source.sighting(&client);
    server.hup();
    let reason = source.until("disconnected", |event| match event {
        SourceEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    });
    assert!(reason.contains("reload"), "{reason}");
    source.connected();
    let client = socks(port, "bob", target, 10);
    assert_eq!(&*source.sighting(&client).user, "bob");
}

#[test]
fn log_stream_tells_owners_on_old_versions() {
    for version in [V12, V13] {
        let port = free_port();
        let server = Server::start(version, port, &[("a.json", &mixed(port, &clash(free_port(), "info")))]);
        let mut source = Source::of(&server, Setting::Auto, version);
        source.connected();
        let target = echo();
        // The stream begins when sing-box has accepted the request, which nothing announces.
        let client = loop {
            let client = socks(port, "alice", target, 10);
            if let Ok(SourceEvent::Sighting(_)) = try_next(&mut source) {
                break client;
            }
        };
        drop(client);
        let client = socks(port, "bob", target, 10);
        let seen = source.sighting(&client);
        assert_eq!((&*seen.user, &*seen.inbound), ("bob", "m"), "{version}");
        server.hup();
        source.until("disconnected", |event| matches!(event, SourceEvent::Disconnected { .. }).then_some(()));
        source.connected();
    }
}

fn try_next(source: &mut Source) -> Result<SourceEvent, ()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wait = Duration::from_millis(200);
    runtime
        .block_on(async { tokio::time::timeout(wait, source.events.recv()).await })
        .map_err(drop)?
        .ok_or(())
}

#[test]
fn warn_level_is_refused_on_1_12_and_works_on_1_13() {
    let port = free_port();
    let server = Server::start(V13, port, &[("a.json", &mixed(port, &clash(free_port(), "warn")))]);
    let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
    assert!(choose(&config, Setting::Auto, Some((1, 12))).is_err());
    let mut source = Source::of(&server, Setting::Auto, V13);
    source.connected();
    let target = echo();
    loop {
        let _client = socks(port, "alice", target, 10);
        if let Ok(SourceEvent::Sighting(sighting)) = try_next(&mut source) {
            assert_eq!(&*sighting.user, "alice");
            break;
        }
    }
}

#[test]
fn a_wrong_secret_says_what_to_do() {
    for (version, more) in [(V14, api(free_port())), (V12, clash(free_port(), "info"))] {
        let port = free_port();
        let server = Server::start(version, port, &[("a.json", &mixed(port, &more))]);
        let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
        let mut choice = choose(&config, Setting::Auto, process::major_minor(version)).unwrap();
        if let Choice::Api(endpoint) | Choice::ClashLogs(endpoint) = &mut choice {
            endpoint.secret = Secret("wrong".into());
        }
        let mut source = Source::start(choice, KnownInbounds::of(&config), None);
        // At first the API may not listen yet.
        let reason = source.until("refused", |event| match event {
            SourceEvent::Disconnected { reason, .. } if reason.contains("secret") => Some(reason),
            SourceEvent::Disconnected { .. } => None,
            other => panic!("{other:?}"),
        });
        assert!(reason.contains("reload"), "{reason}");
    }
}

#[test]
fn another_program_on_the_port_is_told() {
    let target = echo();
    for kind in ["api", "clash"] {
        let endpoint = boxmeter::source::Endpoint { addr: target, secret: Secret("s".into()), netns: None };
        let choice = if kind == "api" { Choice::Api(endpoint) } else { Choice::ClashLogs(endpoint) };
        let mut source = Source::start(choice, KnownInbounds::default(), None);
        match source.next("disconnected") {
            SourceEvent::Disconnected { reason, .. } => {
                assert!(reason.contains(&target.to_string()), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn log_file_tells_owners_over_rotation_and_truncation() {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let log = dir.path().join("box.log");
    let more = format!(r#", "log": {{"level": "info", "timestamp": true, "output": "{}"}}"#, log.display());
    let server = Server::start(V12, port, &[("a.json", &mixed(port, &more))]);
    let target = echo();
    let early = socks(port, "bob", target, 10);
    let mut source = Source::of(&server, Setting::LogFile, V12);
    let seen = source.sighting(&early);
    assert_eq!(&*seen.user, "bob");
    assert!(seen.created_ms.is_some(), "a line of the past has its own time");
    source.connected();
    let client = socks(port, "alice", target, 10);
    let seen = source.sighting(&client);
    assert_eq!((&*seen.user, seen.created_ms), ("alice", None));
    // copytruncate
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    source.until("truncated", |event| {
        matches!(event, SourceEvent::Lost { counter: "log_truncated", .. }).then_some(())
    });
    let client = socks(port, "bob", target, 10);
    assert_eq!(&*source.sighting(&client).user, "bob");
    // logrotate's create: sing-box still writes to the old file, then to the new one after a reload.
    std::fs::rename(&log, dir.path().join("box.log.1")).unwrap();
    std::fs::File::create(&log).unwrap();
    let client = socks(port, "alice", target, 10);
    assert_eq!(&*source.sighting(&client).user, "alice");
    let before = std::fs::metadata(&log).unwrap().len();
    server.hup();
    crate::server::wait_for("the new log", || {
        (std::fs::metadata(&log).unwrap().len() > before).then_some(())
    });
    crate::server::wait_for("sing-box again", || TcpStream::connect(("127.0.0.1", port)).ok());
    let mut client = socks(port, "bob", target, 10);
    client.write_all(b"x").unwrap();
    assert_eq!(&*source.sighting(&client).user, "bob");
}

#[test]
fn the_process_is_found_by_its_configuration() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let found = process::find(&server.config()).unwrap();
    assert_eq!(found.pid, server.child.id());
    assert_eq!(process::find(&[server.file("a.json")]).unwrap().pid, server.child.id());
    assert_eq!(found.version().unwrap(), V14);
    assert!(!found.other_netns && !found.other_mount_ns && found.alive());
    let before = found.listeners(&[(Network::Tcp, port)]);
    assert_eq!(before.len(), 1);
    server.hup();
    crate::server::wait_for("new listener", || {
        (found.listeners(&[(Network::Tcp, port)]).len() == 1
            && found.listeners(&[(Network::Tcp, port)]) != before)
            .then_some(())
    });
    assert!(found.alive());
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("x.json"), "{}").unwrap();
    let error = process::find(&[other.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("another configuration"), "{error}");
    drop(server);
    assert!(!found.alive());
}

/// How many connections a user had from an address: ports are used again within seconds.
type Connections = std::collections::HashMap<(std::net::SocketAddr, String), usize>;

/// Makes `count` short connections, by four clients at once.
fn burst(port: u16, count: usize, pause: Duration) -> Connections {
    let target = echo();
    let clients = ["alice", "bob", "alice", "bob"].map(|user| {
        std::thread::spawn(move || {
            let one = |_| {
                std::thread::sleep(pause);
                (socks(port, user, target, 10).local_addr().unwrap(), user.to_owned())
            };
            (0..count / 4).map(one).collect::<Vec<_>>()
        })
    });
    let mut made = Connections::new();
    for key in clients.into_iter().flat_map(|client| client.join().unwrap()) {
        *made.entry(key).or_default() += 1;
    }
    made
}

/// How many of them the source told, each once.
fn owned(source: &mut Source, made: &Connections) -> usize {
    let (mut left, mut owned, mut ids) = (made.clone(), 0, std::collections::HashSet::new());
    while owned < made.values().sum() {
        match try_next(source) {
            Ok(SourceEvent::Sighting(s)) if ids.insert(s.connection.clone()) => {
                if let Some(count @ 1..) = left.get_mut(&(s.peer, s.user.to_string())) {
                    *count -= 1;
                    owned += 1;
                }
            }
            Ok(_) => {}
            Err(()) => break,
        }
    }
    owned
}

#[test]
fn a_burst_of_short_connections_is_owned() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, &api(free_port())))]);
    let mut source = Source::of(&server, Setting::Auto, V14);
    source.connected();
    // Events wait in the channel and the source's own queue meanwhile: nobody reads.
    let made = burst(port, 4000, Duration::ZERO);
    let found = owned(&mut source, &made);
    assert!(found * 1000 >= 4000 * 999, "{found} of 4000");

    let port = free_port();
    let server = Server::start(V12, port, &[("a.json", &mixed(port, &clash(free_port(), "info")))]);
    let mut source = Source::of(&server, Setting::Auto, V12);
    source.connected();
    let target = echo();
    loop {
        let _client = socks(port, "alice", target, 10);
        if let Ok(SourceEvent::Sighting(_)) = try_next(&mut source) {
            break;
        }
    }
    let made = burst(port, 800, Duration::from_millis(20));
    let found = owned(&mut source, &made);
    assert!(found * 1000 >= 800 * 995, "{found} of 800");
}
