//! One proxy beside the agent: its configuration, its process, and the source of owners that runs for it.
//! Observes; what all of them see is applied to kernel, core and ledger in one place (`proxies`).

mod lists;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use boxmeter_web::api::types::{ServiceStatus, SingboxStatus, SourceKind, SourceStatus};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};

use super::{hands::Removed, people};
use crate::{
    core::event::{self, SourceEvent},
    enforcer::editor::Editor,
    kernel::Namespace,
    ledger::{InboundRecord, UserRecord},
    service::Service,
    singbox::{ConfigWatch, ProxyConfig, process},
    source::{self, Choice, KnownInbounds, Setting},
};

/// Sightings on their way from the source. A full channel makes the source wait, never lose: the
/// agent takes hundreds in one turn.
const SIGHTINGS_MAX: usize = 16_384;

/// Where the owners of a proxy's connections are told.
#[derive(Clone, Debug)]
pub enum Owners {
    /// By sing-box.
    Singbox(Setting),
    /// In the access log, at this place if it is named.
    AccessLog(Option<PathBuf>),
}

/// A part of what a proxy does for boxmeter, as people see it when it does not.
#[derive(Clone, Copy)]
struct Part {
    singbox: &'static str,
    /// One for all other services: their reasons stand together.
    service: &'static str,
}

const CONFIG: Part = Part { singbox: "singbox_config", service: "service_config" };
const PROCESS: Part = Part { singbox: "singbox", service: "service" };
const SOURCE: Part = Part { singbox: "source", service: "service_source" };

/// The part that says that clients hide where they come from.
const FORWARDED: &str = "service_forwarded";
/// Connections of which a proxy told an address without a port.
const FORWARDED_ADDRESSES: &str = "forwarded_addresses";

pub struct Proxy {
    pub service: Service,
    watch: ConfigWatch,
    owners: Owners,
    pub config: Option<ProxyConfig>,
    /// The files are not as they were when that was read, and cannot be read now.
    pub is_unread: bool,
    process: Option<process::Process>,
    /// The newest one that was found, whether it still runs or not.
    last: Option<process::Process>,
    /// A process was there and is gone, and people do not know yet.
    process_gone: bool,
    searching: Option<Search>,
    listing: Option<JoinHandle<lists::Lists>>,
    listed_ns: Option<u64>,
    /// When the list that is under way was asked for (ns, monotonic).
    asked_ns: u64,
    /// The users of managed inbounds, as their services told last.
    pub managed: people::Managed,
    /// Who was taken out of them since.
    removed: Removed,
    /// When the list of each that is there was asked for (ns, monotonic).
    pub managed_ns: BTreeMap<Arc<str>, u64>,
    /// Where it was seen last: its ports are watched there while it is stopped.
    namespace: Option<Namespace>,
    version: Option<String>,
    events: mpsc::Receiver<SourceEvent>,
    sender: mpsc::Sender<SourceEvent>,
    known: watch::Sender<KnownInbounds>,
    running: Option<Running>,
    /// The source has said that it hears.
    pub connected: bool,
    lost: BTreeMap<&'static str, u64>,
    /// People were told that clients hide where they come from.
    said_forwarded: bool,
}

struct Running {
    /// What it was started for: a change makes a new one.
    choice: String,
    kind: event::SourceKind,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A process and its version, or why there is none.
type Found = Result<(process::Process, Option<String>), process::NotFound>;

/// The search runs on a thread of its own: `/proc` and an executable on a slow disk may take long.
type Search = JoinHandle<Found>;

/// What may happen at any time.
pub enum News {
    Source(SourceEvent),
    Changes(Changes),
}

/// What a look found.
#[derive(Default)]
pub struct Changes {
    pub config: bool,
    /// The process is no more.
    pub gone: bool,
    pub source: bool,
    /// Parts that are degraded now, or well again (`None`).
    pub parts: Vec<(&'static str, Option<String>)>,
    pub events: Vec<(&'static str, serde_json::Value)>,
}

impl Changes {
    pub fn add(&mut self, more: Changes) {
        self.config |= more.config;
        self.gone |= more.gone;
        self.source |= more.source;
        self.parts.extend(more.parts);
        self.events.extend(more.events);
    }
}

impl Proxy {
    pub fn new(service: Service, paths: Vec<PathBuf>, owners: Owners, removed: Removed) -> Self {
        let (sender, events) = mpsc::channel(SIGHTINGS_MAX);
        Proxy {
            watch: ConfigWatch::new(service.clone(), paths),
            service,
            owners,
            config: None,
            is_unread: false,
            process: None,
            last: None,
            process_gone: false,
            searching: None,
            listing: None,
            listed_ns: None,
            asked_ns: 0,
            managed: people::Managed::new(),
            removed,
            managed_ns: BTreeMap::new(),
            namespace: None,
            version: None,
            events,
            sender,
            known: watch::Sender::new(KnownInbounds::default()),
            running: None,
            connected: false,
            lost: BTreeMap::new(),
            said_forwarded: false,
        }
    }

    /// What happens next. May be called again without having ended.
    pub async fn next(&mut self) -> News {
        tokio::select! {
            // The proxy holds a sender itself, so that this never ends.
            Some(event) = self.events.recv() => News::Source(event),
            found = ended(&mut self.searching) => News::Changes(self.take_found(found)),
            lists = ended(&mut self.listing) => News::Changes(self.take_lists(lists)),
        }
    }

    pub fn try_event(&mut self) -> Option<SourceEvent> {
        self.events.try_recv().ok()
    }

    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.lost.iter().map(|(&name, &value)| (name, value))
    }

    fn part(&self, part: Part) -> &'static str {
        if self.service.is_singbox() { part.singbox } else { part.service }
    }

    /// An event's data, which says whose it is where that is not sing-box.
    fn data(&self, mut data: serde_json::Value) -> serde_json::Value {
        if !self.service.is_singbox() {
            data["service"] = serde_json::json!(&*self.service.name);
        }
        data
    }

    /// What the source says of itself.
    pub fn heard(&mut self, event: &SourceEvent) -> Changes {
        let mut changes = Changes::default();
        match event {
            SourceEvent::Connected { .. } => {
                self.connected = true;
                changes.parts.push((self.part(SOURCE), None));
                changes.events.push(("source_connected", self.data(serde_json::json!({}))));
            }
            SourceEvent::Disconnected { reason, .. } => {
                if std::mem::take(&mut self.connected) {
                    let data = serde_json::json!({"severity": "warning", "message": reason});
                    changes.events.push(("source_disconnected", self.data(data)));
                }
                changes.parts.push((self.part(SOURCE), Some(reason.clone())));
            }
            SourceEvent::Lost { counter, count } => {
                let sum = self.lost.entry(counter).or_default();
                *sum = sum.saturating_add(*count);
            }
            // A forwarded address: nothing tells which connection it is.
            SourceEvent::Sighting(sighting) if sighting.peer.port() == 0 && !self.service.is_singbox() => {
                let sum = self.lost.entry(FORWARDED_ADDRESSES).or_default();
                *sum = sum.saturating_add(1);
                if !std::mem::replace(&mut self.said_forwarded, true) {
                    let reason = "connections came with an X-Forwarded-For, so that nobody is charged for them; see \
                                  `boxmeter doctor`";
                    changes.parts.push((FORWARDED, Some(reason.to_owned())));
                }
            }
            SourceEvent::Sighting(_) | SourceEvent::Ended { .. } => {}
        }
        changes
    }

    pub fn kind(&self) -> Option<SourceKind> {
        self.running.as_ref().map(|running| match running.kind {
            event::SourceKind::Api => SourceKind::Api,
            event::SourceKind::ClashLogs => SourceKind::ClashLogs,
            event::SourceKind::LogFile => SourceKind::LogFile,
        })
    }

    /// The process and the files, for who edits them; how to edit is the configuration's to say.
    pub fn edited(&self, way: &Editor) -> Editor {
        let (config, process) = (self.watch.paths().to_vec(), self.process.clone());
        Editor { config, process, last: self.last.clone(), ..way.clone() }
    }

    pub fn status(&self) -> SingboxStatus {
        let paths: Vec<String> = self.watch.paths().iter().map(|path| path.display().to_string()).collect();
        SingboxStatus {
            pid: self.process.as_ref().map(|process| process.pid),
            version: self.version.clone(),
            config: Some(paths.join(", ")),
        }
    }

    pub fn service_status(&self) -> ServiceStatus {
        let SingboxStatus { pid, version, config } = self.status();
        ServiceStatus {
            name: self.service.name.to_string(),
            kind: self.service.kind.program().to_owned(),
            pid,
            version,
            config,
            source: SourceStatus { kind: self.kind(), connected: self.connected, ..SourceStatus::default() },
        }
    }

    /// Where its sockets are; `None`: it was never seen.
    ///
    /// # Errors
    /// Its namespace cannot be opened.
    pub fn namespace(&mut self) -> anyhow::Result<Option<Namespace>> {
        if let Some(process) = &self.process {
            self.namespace = Some(Namespace::of(process.pid)?);
        }
        Ok(self.namespace.clone())
    }

    /// Users of the running proxy whom its file does not have, or not yet.
    pub fn learn_users(&self, users: &[UserRecord], inbounds: &[InboundRecord]) {
        self.known.send_if_modified(|known| known.add(people::memberships(users, inbounds)));
    }

    /// Looks for configuration and process, and waits for what it finds: at the start.
    pub async fn first_look(&mut self) -> Changes {
        let mut changes = self.look();
        if self.searching.is_some() {
            let found = ended(&mut self.searching).await;
            changes.add(self.take_found(found));
        }
        changes
    }

    /// Looks whether the configuration or the process changed. Never waits: a search for the process
    /// ends with [`News::Changes`].
    pub fn look(&mut self) -> Changes {
        let mut changes = Changes::default();
        if self.config.is_none() || self.watch.changed() {
            self.read_config(&mut changes);
        }
        self.search();
        if self.searching.is_none() {
            self.choose_source(&mut changes);
        }
        self.list_managed();
        changes
    }

    /// A configuration that cannot be read changes nothing: the last good one stays in force.
    fn read_config(&mut self, changes: &mut Changes) {
        match self.watch.load() {
            Ok(config) => {
                // Whom the file does not name any more is a user of the running proxy all the same,
                // until it reads the file.
                let mut known = KnownInbounds::of(&config);
                known.add(self.known.borrow().names());
                self.known.send_replace(known);
                self.config = Some(config);
                self.is_unread = false;
                self.listed_ns = None;
                changes.config = true;
                changes.parts.push((self.part(CONFIG), None));
            }
            Err(error) => {
                self.is_unread = true;
                changes.parts.push((self.part(CONFIG), Some(error.to_string())));
            }
        }
    }

    fn search(&mut self) {
        if self.searching.is_some() || self.process.as_ref().is_some_and(process::Process::alive) {
            return;
        }
        self.process_gone |= self.process.take().is_some();
        let (service, paths) = (self.service.clone(), self.watch.paths().to_vec());
        self.searching = Some(tokio::task::spawn_blocking(move || {
            service.find(&paths).map(|process| {
                let version = process.version().ok();
                (process, version)
            })
        }));
    }

    /// The end of a search for the process.
    fn take_found(&mut self, found: Result<Found, JoinError>) -> Changes {
        self.searching = None;
        let mut changes = Changes::default();
        let gone = std::mem::take(&mut self.process_gone);
        match found {
            Ok(Ok((process, version))) => {
                self.version = version;
                let data = serde_json::json!({"pid": process.pid, "version": self.version});
                let kind = match (self.service.is_singbox(), gone) {
                    (true, true) => "singbox_restarted",
                    (true, false) => "singbox_found",
                    (false, true) => "service_restarted",
                    (false, false) => "service_found",
                };
                changes.events.push((kind, self.data(data)));
                changes.config = true;
                changes.parts.push((self.part(PROCESS), None));
                if std::mem::take(&mut self.said_forwarded) {
                    changes.parts.push((FORWARDED, None));
                }
                self.last = Some(process.clone());
                self.process = Some(process);
                self.listed_ns = None;
                self.forget_former_users();
            }
            Ok(Err(reason)) => {
                changes.gone = gone;
                if gone {
                    let kind = if self.service.is_singbox() { "singbox_gone" } else { "service_gone" };
                    changes.events.push((kind, self.data(serde_json::json!({"severity": "warning"}))));
                }
                changes.parts.push((self.part(PROCESS), Some(reason.to_string())));
            }
            Err(error) => changes.parts.push((self.part(PROCESS), Some(error.to_string()))),
        }
        self.choose_source(&mut changes);
        changes
    }

    /// This process has read the file as it is: it knows nobody else.
    fn forget_former_users(&mut self) {
        if let Some(config) = &self.config {
            self.known.send_replace(KnownInbounds::of(config));
        }
    }

    fn choose_source(&mut self, changes: &mut Changes) {
        let Some(config) = &self.config else { return };
        let netns = self.process.as_ref().and_then(process::Process::netns_path);
        let version = self.version.as_deref().and_then(process::major_minor);
        let chosen = match &self.owners {
            Owners::Singbox(setting) => source::choose(config, *setting, version),
            Owners::AccessLog(named) => {
                source::choose_access_log(&self.service, config, named.as_deref(), self.process.as_ref())
            }
        };
        match chosen {
            Ok(choice) => self.run_source(choice.in_netns(netns), changes),
            Err(reason) => {
                if self.stop_source() {
                    changes.source = true;
                }
                changes.parts.push((self.part(SOURCE), Some(reason.to_string())));
            }
        }
    }

    fn run_source(&mut self, choice: Choice, changes: &mut Changes) {
        let named = format!("{choice:?}{}", secret_mark(&choice));
        if self.running.as_ref().is_some_and(|running| running.choice == named && !running.task.is_finished())
        {
            return;
        }
        self.stop_source();
        changes.source = true;
        let (shutdown, ended) = watch::channel(false);
        let kind = choice.kind();
        let task = tokio::spawn(source::run(choice, self.known.subscribe(), self.sender.clone(), ended));
        self.running = Some(Running { choice: named, kind, shutdown, task });
    }

    fn stop_source(&mut self) -> bool {
        self.connected = false;
        let Some(running) = self.running.take() else { return false };
        let _ = running.shutdown.send(true);
        running.task.abort();
        true
    }
}

/// The end of a task; never, if there is none.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop_source();
    }
}

/// Tells two secrets apart without showing them: a changed secret makes a new source.
fn secret_mark(choice: &Choice) -> String {
    use sha2::{Digest, Sha256};
    match choice {
        Choice::Api(endpoint) | Choice::ClashLogs(endpoint) => {
            let hash: [u8; 32] = Sha256::digest(endpoint.secret.0.as_bytes()).into();
            format!("{hash:?}")
        }
        Choice::LogFile { .. } | Choice::AccessLog { .. } => String::new(),
    }
}
