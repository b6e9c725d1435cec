//! The sing-box beside the agent: its configuration, its process, and the source of owners that runs
//! for it. Observes; what it sees is applied to kernel, core and ledger in one place.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context;
use boxmeter_web::api::types::{InboundStatus, SingboxStatus, SourceKind};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{meter::Meter, people};
use crate::{
    core::event::{self, InboundIndex, SourceEvent},
    kernel::Namespace,
    ledger::{InboundRecord, Ledger, UserRecord},
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
    version: Option<String>,
    events: mpsc::Receiver<SourceEvent>,
    sender: mpsc::Sender<SourceEvent>,
    known: watch::Sender<KnownInbounds>,
    running: Option<Running>,
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

/// What a look found.
#[derive(Default)]
pub struct Changes {
    pub config: bool,
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

impl Proxy {
    pub fn new(paths: Vec<PathBuf>, setting: Setting, default_policy: String) -> Self {
        let (sender, events) = mpsc::channel(SIGHTINGS_MAX);
        Proxy {
            watch: ConfigWatch::new(paths),
            setting,
            default_policy,
            config: None,
            process: None,
            version: None,
            events,
            sender,
            known: watch::Sender::new(KnownInbounds::default()),
            running: None,
            apply_again: true,
            lost: BTreeMap::new(),
        }
    }

    /// The next event of the source; never, while there is none.
    pub async fn next_event(&mut self) -> SourceEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The proxy holds a sender itself.
            None => std::future::pending().await,
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

    /// Looks whether configuration or process changed, and starts or changes the source.
    pub async fn look(&mut self) -> Changes {
        let mut changes = Changes { config: std::mem::take(&mut self.apply_again), ..Changes::default() };
        if self.config.is_none() || self.watch.changed() {
            self.read_config(&mut changes);
        }
        self.look_at_process(&mut changes).await;
        self.choose_source(&mut changes);
        changes
    }

    /// A configuration that cannot be read changes nothing: the last good one stays in force.
    fn read_config(&mut self, changes: &mut Changes) {
        match self.watch.load() {
            Ok(config) => {
                self.known.send_replace(KnownInbounds::of(&config));
                self.config = Some(config);
                changes.config = true;
                changes.parts.push(("singbox_config", None));
            }
            Err(error) => changes.parts.push(("singbox_config", Some(error.to_string()))),
        }
    }

    async fn look_at_process(&mut self, changes: &mut Changes) {
        if self.process.as_ref().is_some_and(process::Process::alive) {
            return;
        }
        let before = self.process.take();
        let paths = self.watch.paths().to_vec();
        let found = tokio::task::spawn_blocking(move || {
            process::find(&paths).map(|process| {
                let version = process.version();
                (process, version)
            })
        });
        match found.await {
            Ok(Ok((process, version))) => {
                self.version = version.ok();
                let data = serde_json::json!({"pid": process.pid, "version": self.version});
                let kind = if before.is_some() { "singbox_restarted" } else { "singbox_found" };
                changes.events.push((kind, data));
                changes.config = true;
                changes.parts.push(("singbox", None));
                self.process = Some(process);
            }
            Ok(Err(reason)) => {
                if before.is_some() {
                    changes.events.push(("singbox_gone", serde_json::json!({"severity": "warning"})));
                }
                changes.parts.push(("singbox", Some(reason.to_string())));
            }
            Err(error) => changes.parts.push(("singbox", Some(error.to_string()))),
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

    /// Watches the ports, adopts inbounds and users, tells the core. In an order in which nothing is
    /// counted for a name that the ledger does not have.
    ///
    /// # Errors
    /// When the ledger or the kernel refuses; what was done stays, and trying again is safe.
    pub async fn apply(
        &mut self,
        meter: &mut Meter,
        ledger: &Ledger,
        now_ms: i64,
    ) -> anyhow::Result<Applied> {
        let config = self.config.as_ref().context("sing-box's configuration was never read")?;
        let namespace = match &self.process {
            Some(process) => Namespace::of(process.pid),
            None => Namespace::own(),
        }?;
        let ports = people::ports(config, namespace.cookie());
        meter.kernel.set_namespaces(vec![namespace]);
        let indexes = meter.kernel.watch(&ports)?;
        let by_tag: BTreeMap<Arc<str>, InboundIndex> =
            ports.iter().zip(&indexes).map(|(port, &index)| (Arc::from(port.tag.as_str()), index)).collect();
        meter.set_inbounds(&people::infos(config, &by_tag), meter_inbounds(meter));
        let inbounds = ledger.sync_inbounds(people::inbounds(config), now_ms).await?;
        let users = ledger.sync_users(people::users(config), self.default_policy.clone(), now_ms).await?;
        let names = users
            .iter()
            .filter(|user| user.tombstoned_ms.is_none())
            .map(|user| (Arc::clone(&user.name), user.id))
            .collect();
        meter.set_users(names)?;
        let tags = meter
            .kernel
            .inbounds()
            .into_iter()
            .map(|inbound| (inbound.index, Arc::from(inbound.tag)))
            .collect();
        Ok(Applied { users, inbounds, tags, listeners: people::listeners(config) })
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
