//! The agent's one task: takes news, sightings, questions and the tick in turn, and is the only owner
//! of everything that changes.
//!
//! Order of work in each turn: the kernel's news first (a flow must be known before its sighting),
//! then sightings, then questions; the tick commits. A commit is never waited for: the kernel is the
//! queue, and the next batch has newer absolute counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use boxmeter_web::api::types::{KernelStatus, NsPerPacket};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    commits::Commits,
    delays::Delays,
    meter::Meter,
    proxy::Proxy,
    shared::{Directory, PictureSender, Question},
    totals::Totals,
};
use crate::{
    clock,
    core::{account::UserSlot, event::SourceEvent},
    kernel::{Events, KernelError, KernelEvent},
    ledger::{CommitError, Committed, NewEvent},
};

/// Sightings taken in one turn, so that the kernel's news and the tick get their turn under load.
const SIGHTINGS_PER_TURN: usize = 512;

/// Events that wait for a ledger that cannot write; the oldest go first, and are counted.
const EVENTS_MAX: usize = 4_096;

/// Whoever waits for "everything up to now is committed".
type Flushed = oneshot::Sender<Result<(), String>>;

pub struct Agent {
    pub meter: Meter,
    pub news: AsyncFd<Events>,
    pub commits: Commits,
    pub proxy: Proxy,
    pub pictures: PictureSender,
    pub directory: Directory,
    pub totals: Totals,
    pub tick: Duration,
    pub flush_waiting: Vec<Flushed>,
    pub flush_running: Vec<Flushed>,
    pub events: VecDeque<NewEvent>,
    pub delays: Delays,
}

impl Agent {
    /// Takes over what lives in the kernel, reads sing-box's configuration and starts the source.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.look_at_proxy().await?;
        self.on_tick()?;
        Ok(())
    }

    /// Runs until it is told to end.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read any more.
    pub async fn run(
        &mut self,
        mut questions: mpsc::Receiver<Question>,
        mut end: impl Future<Output = ()> + Unpin,
    ) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ready = self.news.readable_mut() => {
                    ready?.clear_ready();
                    self.kernel_news()?;
                }
                event = self.proxy.next_event() => self.sightings(event)?,
                done = self.commits.done() => self.committed(done),
                Some(question) = questions.recv() => self.question(question),
                _ = ticks.tick() => self.on_tick()?,
                _ = looks.tick() => self.look_at_proxy().await?,
                () = &mut end => return Ok(()),
            }
        }
    }

    fn kernel_news(&mut self) -> Result<(), KernelError> {
        for event in self.meter.kernel_events(self.news.get_mut())? {
            let (kind, slot) = match event {
                KernelEvent::Warned { user, .. } => ("quota_warned", user),
                KernelEvent::Cut { user, .. } => ("quota_cut", user),
                KernelEvent::Opened(_) | KernelEvent::Closed { .. } => continue,
            };
            let user = self.meter.accounts.user_in(UserSlot(slot.0));
            self.event(kind, user, serde_json::json!({}));
        }
        Ok(())
    }

    fn sightings(&mut self, first: SourceEvent) -> Result<(), KernelError> {
        self.kernel_news()?;
        self.sighting(first);
        for _ in 1..SIGHTINGS_PER_TURN {
            match self.proxy.try_event() {
                Some(event) => self.sighting(event),
                None => break,
            }
        }
        self.meter.carry_out()?;
        self.delays.told(clock::wall_ms());
        Ok(())
    }

    fn sighting(&mut self, event: SourceEvent) {
        match &event {
            SourceEvent::Connected { .. } => {
                self.directory.source_connected = true;
                self.meter.publisher.restore("source");
                self.event("source_connected", None, serde_json::json!({}));
            }
            SourceEvent::Disconnected { reason, .. } => {
                if self.directory.source_connected {
                    let data = serde_json::json!({"severity": "warning", "message": reason});
                    self.event("source_disconnected", None, data);
                }
                self.directory.source_connected = false;
                self.meter.publisher.degrade("source", reason.clone(), clock::now());
            }
            SourceEvent::Lost { counter, count } => self.proxy.lost(counter, *count),
            SourceEvent::Sighting(_) | SourceEvent::Ended { .. } => {}
        }
        self.delays.heard(&event);
        self.meter.source_event(event);
    }

    fn question(&mut self, question: Question) {
        match question {
            Question::Flush(answer) => {
                self.flush_waiting.push(answer);
                self.flush();
            }
            Question::Flows(answer) => {
                let _ = answer.send(self.meter.flows().map_err(|error| error.to_string()));
            }
            Question::Audit(answer) => {
                let _ = answer.send(Ok(self.meter.kernel.audit()));
            }
            Question::Kernel(answer) => {
                let _ = answer.send(self.kernel_status());
            }
        }
    }

    fn kernel_status(&self) -> KernelStatus {
        let cost = self.meter.kernel.ns_per_packet().map(|ns| (ns > 0).then_some(ns));
        KernelStatus {
            attached: true,
            epoch: uuid::Uuid::from_bytes(self.meter.kernel.epoch()).simple().to_string(),
            ns_per_packet: NsPerPacket { ingress: cost[0], egress: cost[1] },
            counters: self
                .meter
                .kernel
                .stats()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    fn on_tick(&mut self) -> Result<(), KernelError> {
        let tick = self.meter.tick()?;
        self.commits.take(tick);
        self.start_commit();
        self.publish();
        Ok(())
    }

    /// Begins a commit of everything up to now, unless one is under way: then the next one does it.
    fn flush(&mut self) {
        if self.commits.running() {
            return;
        }
        match self.meter.read_now() {
            Ok(tick) => self.commits.take(tick),
            Err(error) => tracing::warn!("reading the counters: {error}"),
        }
        self.start_commit();
    }

    fn start_commit(&mut self) {
        if self.commits.running() {
            return;
        }
        self.flush_running.append(&mut self.flush_waiting);
        let events = self.events.drain(..).collect();
        self.commits.start(self.meter.kernel.epoch(), self.meter.watched(), events, clock::now());
    }

    fn committed(&mut self, done: Result<Committed, (CommitError, Vec<NewEvent>)>) {
        let now = clock::now();
        let answer = match done {
            Ok(committed) => {
                self.directory.committed_ms = Some(committed.at_ms);
                self.directory.rev = committed.rev;
                self.meter.publisher.restore("ledger");
                if !committed.anomalies.is_empty() {
                    let reason =
                        format!("{} readings were refused; see `boxmeter events`", committed.anomalies.len());
                    self.meter.publisher.degrade("ledger", reason, now);
                }
                self.totals.committed(&self.commits.ledger, &self.meter.accounts, now);
                Ok(())
            }
            Err((error, events)) => {
                tracing::error!("commit: {error}");
                for event in events.into_iter().rev() {
                    self.events.push_front(event);
                }
                self.meter.publisher.degrade("ledger", error.to_string(), now);
                Err(error.to_string())
            }
        };
        self.publish();
        for waiting in self.flush_running.drain(..) {
            let _ = waiting.send(answer.clone());
        }
        if !self.flush_waiting.is_empty() {
            self.flush();
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        for (name, value) in self.proxy.counters() {
            self.meter.publisher.set_counter(name, value);
        }
        for (name, value) in self.delays.counters() {
            self.meter.publisher.set_counter(name, value);
        }
        self.meter.publisher.set_counter("events_dropped", self.totals.events_dropped);
        let snapshot = self.meter.publisher.publish(&self.meter.attributor, &self.meter.accounts, now);
        self.directory.source = self.proxy.kind();
        let picture = self.totals.picture(snapshot, &self.directory, &self.meter.accounts);
        self.pictures.send_replace(Arc::new(picture));
    }

    /// Has sing-box's configuration or process changed?
    async fn look_at_proxy(&mut self) -> anyhow::Result<()> {
        let changes = self.proxy.look().await;
        for (part, degraded) in changes.parts {
            match degraded {
                Some(reason) => self.meter.publisher.degrade(part, reason, clock::now()),
                None => self.meter.publisher.restore(part),
            }
        }
        for (kind, data) in changes.events {
            self.event(kind, None, data);
        }
        self.directory.singbox = self.proxy.status();
        if changes.config {
            self.apply_config().await;
        }
        if changes.source {
            self.directory.source_connected = false;
        }
        Ok(())
    }

    /// Makes kernel, core and ledger follow the configuration that was read last.
    pub async fn apply_config(&mut self) {
        let now = clock::now();
        match self.proxy.apply(&mut self.meter, &self.commits.ledger, now.wall_ms).await {
            Ok(applied) => {
                self.commits.set_inbounds(&applied.inbounds, &applied.tags);
                self.directory.users = Arc::new(
                    applied.users.into_iter().map(|user| (user.id, user)).collect::<BTreeMap<_, _>>(),
                );
                self.directory.inbounds = Arc::new(applied.inbounds);
                self.directory.tags = Arc::new(applied.tags);
                self.directory.listeners = Arc::new(applied.listeners);
                self.meter.publisher.restore("configuration");
            }
            Err(error) => {
                // The next look tries again.
                self.proxy.apply_again();
                self.meter.publisher.degrade("configuration", format!("{error:#}"), now);
            }
        }
    }

    pub fn event(&mut self, kind: &str, user: Option<crate::core::event::UserId>, data: serde_json::Value) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.totals.events_dropped += 1;
        }
        self.events.push_back(NewEvent {
            at_ms: clock::wall_ms(),
            kind: kind.to_owned(),
            user,
            actor: "agent".to_owned(),
            data,
        });
    }

    /// Commits what the kernel has, waiting for it: at the end.
    ///
    /// # Errors
    /// When the ledger cannot take it; the kernel still has it.
    pub async fn commit_last(&mut self) -> Result<(), String> {
        while self.commits.running() {
            let done = self.commits.done().await;
            self.committed(done);
        }
        self.flush();
        let done = self.commits.done().await;
        let result = done.as_ref().map(|_| ()).map_err(|(error, _)| error.to_string());
        self.committed(done);
        result
    }
}
