//! The sing-box beside the agent: its configuration, its process, and the source of owners that runs
//! for it. Observes; what it sees is applied to kernel, core and ledger in one place.

mod lists;

use std::{collections::BTreeMap, path::PathBuf, pin::Pin, sync::Arc};

use anyhow::Context;
use boxmeter_web::api::types::{InboundStatus, SingboxStatus, SourceKind};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};

use super::{hands::Removed, meter::Meter, people, shared::Directory};
use crate::{
    core::event::{self, InboundIndex, SourceEvent},
    enforcer::singbox::Singbox,
    kernel::Namespace,
    ledger::{CommitError, InboundRecord, Ledger, UserRecord},
    singbox::{ConfigWatch, SingboxConfig, process},
    source::{self, Choice, KnownInbounds, Setting},
};

/// Sightings on their way from the source. A full channel makes the source wait, never lose: the
/// agent takes hundreds in one turn.
const SIGHTINGS_MAX: usize = 16_384;

pub struct Proxy {
    watch: ConfigWatch,
    setting: Setting,
    default_policy: String,
    config: Option<SingboxConfig>,
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
    managed: people::Managed,
    /// Who was taken out of them since.
    removed: Removed,
    /// When the list of each that is there was asked for (ns, monotonic).
    managed_ns: BTreeMap<Arc<str>, u64>,
    /// Where sing-box was seen last: its ports are watched there while it is stopped.
    namespace: Option<Namespace>,
    version: Option<String>,
    events: mpsc::Receiver<SourceEvent>,
    sender: mpsc::Sender<SourceEvent>,
    known: watch::Sender<KnownInbounds>,
    running: Option<Running>,
    applying: Option<Applying>,
    apply_again: bool,
    lost: BTreeMap<&'static str, u64>,
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

/// What the ledger says to a configuration.
pub type Synced = Result<(Vec<InboundRecord>, Vec<UserRecord>), CommitError>;

/// A configuration on its way into the ledger, which may be slow or locked.
struct Applying {
    synced: Pin<Box<dyn Future<Output = Synced> + Send>>,
    watched: BTreeMap<InboundIndex, Arc<str>>,
    listeners: Vec<InboundStatus>,
}

/// What may happen at any time.
pub enum News {
    Source(SourceEvent),
    Changes(Changes),
    Synced(Synced),
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

/// What followed from a configuration.
pub struct Applied {
    pub users: Vec<UserRecord>,
    pub inbounds: Vec<InboundRecord>,
    pub tags: BTreeMap<InboundIndex, Arc<str>>,
    pub listeners: Vec<InboundStatus>,
}

impl Changes {
    fn add(&mut self, more: Changes) {
        self.config |= more.config;
        self.gone |= more.gone;
        self.source |= more.source;
        self.parts.extend(more.parts);
        self.events.extend(more.events);
    }
}

impl Proxy {
    pub fn new(paths: Vec<PathBuf>, setting: Setting, default_policy: String, removed: Removed) -> Self {
        let (sender, events) = mpsc::channel(SIGHTINGS_MAX);
        Proxy {
            watch: ConfigWatch::new(paths),
            setting,
            default_policy,
            config: None,
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
            applying: None,
            apply_again: true,
            lost: BTreeMap::new(),
        }
    }

    /// What happens next. May be called again without having ended.
    pub async fn next(&mut self) -> News {
        tokio::select! {
            // The proxy holds a sender itself, so that this never ends.
            Some(event) = self.events.recv() => News::Source(event),
            found = ended(&mut self.searching) => News::Changes(self.take_found(found)),
            lists = ended(&mut self.listing) => News::Changes(self.take_lists(lists)),
            synced = synced(&mut self.applying) => News::Synced(synced),
        }
    }

    pub fn try_event(&mut self) -> Option<SourceEvent> {
        self.events.try_recv().ok()
    }

    pub fn lost(&mut self, counter: &'static str, count: u64) {
        let sum = self.lost.entry(counter).or_default();
        *sum = sum.saturating_add(count);
    }

    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.lost.iter().map(|(&name, &value)| (name, value)).collect()
    }

    pub fn kind(&self) -> Option<SourceKind> {
        self.running.as_ref().map(|running| match running.kind {
            event::SourceKind::Api => SourceKind::Api,
            event::SourceKind::ClashLogs => SourceKind::ClashLogs,
            event::SourceKind::LogFile => SourceKind::LogFile,
        })
    }

    /// The process and the files, for who edits them; how to edit is the configuration's to say.
    pub fn edited(&self, way: &Singbox) -> Singbox {
        let (config, process) = (self.watch.paths().to_vec(), self.process.clone());
        Singbox { config, process, last: self.last.clone(), ..way.clone() }
    }

    pub fn status(&self) -> SingboxStatus {
        let paths: Vec<String> = self.watch.paths().iter().map(|path| path.display().to_string()).collect();
        SingboxStatus {
            pid: self.process.as_ref().map(|process| process.pid),
            version: self.version.clone(),
            config: Some(paths.join(", ")),
        }
    }

    pub fn apply_again(&mut self) {
        self.apply_again = true;
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
        let again = self.applying.is_none() && std::mem::take(&mut self.apply_again);
        let mut changes = Changes { config: again, ..Changes::default() };
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
                // Whom the file does not name any more is a user of the running sing-box all the same,
                // until it reads the file.
                let mut known = KnownInbounds::of(&config);
                known.add(self.known.borrow().names());
                self.known.send_replace(known);
                self.config = Some(config);
                self.listed_ns = None;
                changes.config = true;
                changes.parts.push(("singbox_config", None));
            }
            Err(error) => changes.parts.push(("singbox_config", Some(error.to_string()))),
        }
    }

    fn search(&mut self) {
        if self.searching.is_some() || self.process.as_ref().is_some_and(process::Process::alive) {
            return;
        }
        self.process_gone |= self.process.take().is_some();
        let paths = self.watch.paths().to_vec();
        self.searching = Some(tokio::task::spawn_blocking(move || {
            process::find(&paths).map(|process| {
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
                let kind = if gone { "singbox_restarted" } else { "singbox_found" };
                changes.events.push((kind, data));
                changes.config = true;
                changes.parts.push(("singbox", None));
                self.last = Some(process.clone());
                self.process = Some(process);
                self.listed_ns = None;
                self.forget_former_users();
            }
            Ok(Err(reason)) => {
                changes.gone = gone;
                if gone {
                    changes.events.push(("singbox_gone", serde_json::json!({"severity": "warning"})));
                }
                changes.parts.push(("singbox", Some(reason.to_string())));
            }
            Err(error) => changes.parts.push(("singbox", Some(error.to_string()))),
        }
        self.choose_source(&mut changes);
        changes
    }

    /// This sing-box has read the file as it is: it knows nobody else.
    fn forget_former_users(&mut self) {
        if let Some(config) = &self.config {
            self.known.send_replace(KnownInbounds::of(config));
        }
    }

    fn choose_source(&mut self, changes: &mut Changes) {
        let Some(config) = &self.config else { return };
        let netns = self.process.as_ref().and_then(process::Process::netns_path);
        let version = self.version.as_deref().and_then(process::major_minor);
        match source::choose(config, self.setting, version) {
            Ok(choice) => self.run_source(choice.in_netns(netns), changes),
            Err(reason) => {
                if self.stop_source() {
                    changes.source = true;
                }
                changes.parts.push(("source", Some(reason.to_string())));
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
        let Some(running) = self.running.take() else { return false };
        let _ = running.shutdown.send(true);
        running.task.abort();
        true
    }

    /// Watches the ports and asks the ledger to adopt inbounds and users; it ends with
    /// [`News::Synced`] and [`Proxy::applied`]. In an order in which nothing is counted for a name
    /// that the ledger does not have.
    ///
    /// # Errors
    /// When the kernel refuses; what was done stays, and trying again is safe.
    pub fn apply(
        &mut self,
        meter: &mut Meter,
        ledger: &Ledger,
        directory: &Directory,
        now_ms: i64,
    ) -> anyhow::Result<()> {
        if self.applying.is_some() {
            self.apply_again = true;
            return Ok(());
        }
        let config = self.config.as_ref().context("sing-box's configuration was never read")?;
        if let Some(process) = &self.process {
            self.namespace = Some(Namespace::of(process.pid)?);
        }
        meter.walks_are_complete = self.namespace.is_some();
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => Namespace::own()?,
        };
        let ports = people::ports(config, namespace.cookie());
        meter.kernel.set_namespaces(vec![namespace]);
        let indexes = meter.kernel.watch(&ports)?;
        let watched = || ports.iter().zip(&indexes);
        let by_tag = watched().map(|(port, &index)| (Arc::from(port.tag.as_str()), index)).collect();
        meter.set_inbounds(&people::infos(config, &by_tag), meter_inbounds(meter));
        let inbounds = ledger.sync_inbounds(people::inbounds(config), now_ms);
        // Whoever was deleted meanwhile is nobody new.
        let told = self.managed.iter().map(|(tag, names)| {
            let listed_ns = self.managed_ns.get(tag).copied().unwrap_or(0);
            (tag.clone(), self.without_removed(tag, names.clone(), listed_ns))
        });
        let managed = people::managed(config, &told.collect(), directory);
        let elsewhere = config.inbounds.iter().filter(|inbound| inbound.managed);
        let elsewhere = elsewhere.map(|inbound| Arc::clone(&inbound.tag)).collect();
        let found = people::users(config, &managed);
        let users = ledger.sync_users(found, elsewhere, self.default_policy.clone(), now_ms);
        self.applying = Some(Applying {
            synced: Box::pin(async move { Ok((inbounds.await?, users.await?)) }),
            watched: watched().map(|(port, &index)| (index, Arc::from(port.tag.as_str()))).collect(),
            listeners: people::listeners(config),
        });
        Ok(())
    }

    /// Waits for the ledger's answer to [`Proxy::apply`], if it was asked: at the start.
    pub async fn first_synced(&mut self) -> Option<Synced> {
        if self.applying.is_some() { Some(synced(&mut self.applying).await) } else { None }
    }

    /// Tells the core and the source who the users are.
    ///
    /// # Errors
    /// When the ledger or the kernel refuses; trying again is safe.
    pub fn applied(&mut self, meter: &mut Meter, synced: Synced) -> anyhow::Result<Applied> {
        let applying = self.applying.take().context("nothing is being applied")?;
        let (inbounds, users) = synced?;
        self.known.send_if_modified(|known| known.add(people::memberships(&users, &inbounds)));
        meter.set_users(people::names(&users))?;
        let tags = people::tags(&meter.kernel.inbounds(), &applying.watched, &inbounds);
        Ok(Applied { users, inbounds, tags, listeners: applying.listeners })
    }
}

/// The end of a task; never, if there is none.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Never, if nothing is being applied.
async fn synced(applying: &mut Option<Applying>) -> Synced {
    match applying {
        Some(applying) => applying.synced.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop_source();
    }
}

/// Every inbound of this epoch, watched now or not: their unattributed bytes are still to be read.
fn meter_inbounds(meter: &Meter) -> Vec<InboundIndex> {
    meter.kernel.inbounds().into_iter().map(|inbound| inbound.index).collect()
}

/// Tells two secrets apart without showing them: a changed secret makes a new source.
fn secret_mark(choice: &Choice) -> String {
    use sha2::{Digest, Sha256};
    match choice {
        Choice::Api(endpoint) | Choice::ClashLogs(endpoint) => {
            let hash: [u8; 32] = Sha256::digest(endpoint.secret.0.as_bytes()).into();
            format!("{hash:?}")
        }
        Choice::LogFile { .. } => String::new(),
    }
}
