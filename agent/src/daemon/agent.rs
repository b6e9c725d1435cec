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

use anyhow::Context as _;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    care::Care,
    commits::Commits,
    delays::Delays,
    gate::Gate,
    hands::Hands,
    meter::{Meter, Tick},
    people,
    proxies::{News, Proxies, Synced},
    proxy::Changes,
    shared::{Directory, PictureSender, Question, UserRecords},
    totals::Totals,
    watchdog::Watchdog,
};
use crate::{
    clock,
    core::event::{SourceEvent, UserId},
    enforcer::editor::Editor,
    fault,
    kernel::{Events, KernelError},
    ledger::{AnomalyKind, CommitError, Committed, NewEvent, Reader, UserRecord},
    source,
};

/// Sightings taken in one turn, so that the kernel's news and the tick get their turn under load.
const SIGHTINGS_PER_TURN: usize = 512;

/// Events that wait for a ledger that cannot write; the oldest go first, and are counted.
const EVENTS_MAX: usize = 4_096;

/// A commit that takes longer is a disk that does not answer.
const HANGS_NS: u64 = 30_000_000_000;

/// Whoever waits for "everything up to now is committed".
type Flushed = oneshot::Sender<Result<(), String>>;

pub struct Agent {
    pub meter: Meter,
    pub gate: Gate,
    pub hands: Hands,
    pub care: Care,
    /// A backup was restored, and nothing was committed since.
    pub restored: bool,
    /// How the proxies' files are edited.
    pub ways: Vec<Editor>,
    pub news: AsyncFd<Events>,
    pub commits: Commits,
    pub proxies: Proxies,
    pub pictures: PictureSender,
    pub directory: Directory,
    pub totals: Totals,
    pub tick: Duration,
    pub flush_waiting: Vec<Flushed>,
    pub flush_running: Vec<Flushed>,
    pub events: VecDeque<NewEvent>,
    /// Ticks in a row in which the kernel refused something.
    pub refusals: u32,
    pub delays: Delays,
    /// By proxy: since when nobody tells owners (ns, monotonic).
    pub source_down_ns: BTreeMap<usize, u64>,
    pub guard: super::guard::Guard,
    pub troubles: super::troubles::Troubles,
    pub watchdog: Watchdog,
}

/// A kernel that refuses for so many ticks will go on to: the agent ends, and whoever starts it again
/// begins with maps opened anew. A lack of memory or of descriptors passes before that.
const REFUSALS_MAX: u32 = 60;

impl Agent {
    /// Takes over what lives in the kernel, reads sing-box's configuration and starts the source.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.take_over().await;
        let changes = self.proxies.first_look().await;
        self.changed(changes);
        if let Some(synced) = self.proxies.first_synced().await {
            self.applied(synced);
        }
        // Before anything else happens everybody is held to what the ledger says.
        self.gate.ask_everybody();
        let news = self.gate.next().await;
        if let Err(error) = self.gate_news(news) {
            // A user for whom there is no room keeps nobody else from being held.
            self.refused(error)?;
        }
        self.on_tick()?;
        Ok(())
    }

    /// What ledger and kernel know already: enough to count on while sing-box's configuration cannot be
    /// read.
    async fn take_over(&mut self) {
        let (inbounds, users) = (self.commits.ledger.inbounds().await, self.commits.ledger.users().await);
        let (inbounds, users) = match (inbounds, users) {
            (Ok(inbounds), Ok(users)) => (inbounds, users),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("what the ledger knows cannot be read yet: {error}");
                return;
            }
        };
        let tags = people::tags(&self.meter.kernel.inbounds(), &BTreeMap::new(), &inbounds);
        self.commits.set_inbounds(&inbounds, &tags);
        self.directory.users = by_id(users);
        self.directory.inbounds = Arc::new(inbounds);
        self.directory.tags = Arc::new(tags);
        match self.commits.ledger.reported_connections().await {
            Ok(connections) => self.meter.attributor.reported_before(connections),
            Err(error) => tracing::warn!("how far reported connections were: {error}"),
        }
        let path = self.commits.ledger.path().to_owned();
        let read = move || Reader::open(&path).map(|reader| reader.last_traffic());
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(Ok(seen))) => self.meter.set_last_seen(seen),
            Ok(Ok(Err(error))) => tracing::warn!("when users were last seen: {error}"),
            Ok(Err(error)) => tracing::warn!("when users were last seen: {error}"),
            Err(error) => tracing::warn!("when users were last seen: {error}"),
        }
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
            // In turn, by chance: a flood of one kind must not keep the others waiting.
            let done = tokio::select! {
                ready = self.news.readable_mut() => {
                    ready?.clear_ready();
                    self.kernel_news()
                }
                news = self.proxies.next() => self.proxy_news(news),
                news = self.gate.next() => self.gate_news(news),
                news = self.hands.next() => {
                    // Nobody would be taken out of sing-box's users any more, and nobody put back.
                    let news = news.context("the task that edits sing-box's users ended unexpectedly")?;
                    self.hands_news(news);
                    Ok(())
                }
                news = self.care.next() => {
                    self.care_news(news);
                    Ok(())
                }
                done = self.commits.done() => {
                    self.committed(done);
                    Ok(())
                }
                Some(question) = questions.recv() => self.question(question),
                _ = ticks.tick() => self.on_tick(),
                _ = looks.tick() => {
                    let changes = self.proxies.look();
                    self.changed(changes);
                    // From here and from no other thread: a loop that is stuck must be missed.
                    self.watchdog.alive();
                    Ok(())
                }
                () = &mut end => return Ok(()),
            };
            if let Err(error) = done.and_then(|()| self.steer()) {
                self.refused(error)?;
            }
        }
    }

    /// The kernel refused something: what it holds is not lost, and later turns try again.
    fn refused(&mut self, error: KernelError) -> Result<(), KernelError> {
        if self.refusals > REFUSALS_MAX {
            return Err(error);
        }
        self.meter.trouble(error.to_string(), clock::now());
        Ok(())
    }

    fn proxy_news(&mut self, news: News) -> Result<(), KernelError> {
        match news {
            News::Source(at, event) => self.sightings(at, event)?,
            News::Changes(changes) => self.changed(changes),
            News::Synced(synced) => self.applied(synced),
        }
        Ok(())
    }

    fn sightings(&mut self, at: usize, first: SourceEvent) -> Result<(), KernelError> {
        // Whatever came of that, sightings come only once.
        let news = self.kernel_news();
        self.sighting(at, first);
        for _ in 1..SIGHTINGS_PER_TURN {
            match self.proxies.try_event() {
                Some((at, event)) => self.sighting(at, event),
                None => break,
            }
        }
        let done = news.and(self.meter.carry_out());
        self.delays.told(clock::wall_ms());
        done
    }

    fn sighting(&mut self, at: usize, event: SourceEvent) {
        let heard = self.proxies.heard(at, &event);
        self.told(heard.parts, heard.events);
        match &event {
            SourceEvent::Connected { .. } | SourceEvent::Disconnected { .. } => self.listen(),
            SourceEvent::Lost { counter, .. } if !source::is_of_one_connection(counter) => {
                self.guard.source_lost(at, clock::mono_ns());
            }
            SourceEvent::Lost { .. } | SourceEvent::Sighting(_) | SourceEvent::Ended { .. } => {}
        }
        self.delays.heard(&event);
        self.meter.source_event(event);
    }

    /// Who can be heard has changed.
    fn listen(&mut self) {
        self.directory.source_connected = self.proxies.connected();
        for (at, proxy) in self.proxies.all.iter().enumerate() {
            match proxy.connected {
                true => self.guard.source_connected(at, clock::mono_ns()),
                false => self.guard.source_away(at),
            }
        }
    }

    /// Parts that work or do not, and what happened.
    fn told(
        &mut self,
        parts: Vec<(&'static str, Option<String>)>,
        events: Vec<(&'static str, serde_json::Value)>,
    ) {
        for (part, degraded) in parts {
            match degraded {
                Some(reason) => self.meter.publisher.degrade(part, reason, clock::now()),
                None => self.meter.publisher.restore(part),
            }
        }
        for (kind, data) in events {
            self.event(kind, None, data);
        }
    }

    fn on_tick(&mut self) -> Result<(), KernelError> {
        self.refusals += 1;
        // News beyond what one turn takes do not wake the agent again.
        self.kernel_news()?;
        let tick = self.meter.tick()?;
        self.refusals = 0;
        self.take(tick);
        self.start_commit();
        self.tell_hands();
        self.publish();
        Ok(())
    }

    /// Begins a commit of everything up to now, unless one is under way: then the next one does it.
    pub(super) fn flush(&mut self) {
        if self.commits.running() {
            return;
        }
        match self.meter.read_now() {
            Ok(tick) => self.take(tick),
            Err(error) => tracing::warn!("reading the counters: {error}"),
        }
        self.start_commit();
    }

    /// A reading, whoever asked for it: each byte is in one only.
    fn take(&mut self, tick: Tick) {
        self.gate.seen(&tick.rows, clock::billing());
        self.gate.reported(&tick.reported);
        self.commits.take(tick);
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
                self.caught_up(&committed);
                let refused = committed.anomalies.iter().filter(|it| it.kind != AnomalyKind::UnknownUser);
                let refused = refused.count();
                if refused > 0 {
                    let reason = format!("{refused} readings were refused; see `boxmeter events`");
                    self.meter.publisher.degrade("ledger", reason, now);
                }
                if self.commits.is_current() {
                    self.gate.committed();
                    self.totals.committed(&self.commits.ledger, &self.meter.accounts, now);
                }
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

    pub(super) fn publish(&mut self) {
        let now = clock::now();
        if self.commits.running_ns(now) > HANGS_NS / fault::hurry() {
            let text =
                "the disk has been taking one commit for more than half a minute; the kernel counts on";
            self.meter.publisher.degrade("ledger", text.to_owned(), now);
        }
        for (name, value) in self.proxies.counters() {
            self.meter.publisher.set_counter(name, value);
        }
        for (name, value) in self.delays.counters() {
            self.meter.publisher.set_counter(name, value);
        }
        self.meter.publisher.set_counter("events_dropped", self.totals.events_dropped);
        self.channels_as_parts();
        let snapshot = self.meter.publisher.publish(&mut self.meter.attributor, &self.meter.accounts, now);
        for (name, value) in self.gate.limits.counters().named() {
            self.meter.publisher.set_counter(name, value);
        }
        self.directory.source = self.proxies.kind();
        self.directory.services = Arc::new(self.proxies.service_statuses());
        self.directory.gate = self.gate.rows();
        self.directory.enforcement = self.hands.status();
        self.tell_troubles(&snapshot.degraded);
        let picture = self.totals.picture(snapshot, &self.directory, &self.meter.accounts);
        self.pictures.send_replace(Arc::new(picture));
    }

    /// A proxy's configuration, process or source changed.
    fn changed(&mut self, changes: Changes) {
        self.told(changes.parts, changes.events);
        self.directory.singbox = self.proxies.singbox_status();
        if changes.gone {
            self.look_at_hands();
        }
        if changes.config {
            self.apply_config();
        }
        if changes.source {
            self.listen();
        }
    }

    /// Makes kernel, core and ledger follow the configuration that was read last.
    pub fn apply_config(&mut self) {
        let now = clock::now();
        let (ledger, directory) = (&self.commits.ledger, &self.directory);
        if let Err(error) = self.proxies.apply(&mut self.meter, ledger, directory, now.wall_ms) {
            self.not_applied(&error);
        }
    }

    fn not_applied(&mut self, error: &anyhow::Error) {
        // The next look tries again.
        self.proxies.apply_again();
        self.meter.publisher.degrade("configuration", format!("{error:#}"), clock::now());
    }

    fn applied(&mut self, synced: Synced) {
        match self.proxies.applied(&mut self.meter, synced) {
            Ok(applied) => {
                self.commits.set_inbounds(&applied.inbounds, &applied.tags);
                self.directory.users = newest(&self.directory.users, applied.users);
                self.directory.inbounds = Arc::new(applied.inbounds);
                self.directory.tags = Arc::new(applied.tags);
                self.directory.listeners = Arc::new(applied.listeners);
                self.meter.publisher.restore("configuration");
                self.look_at_hands();
                self.gate.ask_everybody();
            }
            Err(error) => self.not_applied(&error),
        }
    }

    /// The machine went down under the agent before this one, after its last commit: what of the usage nobody knows.
    pub fn lost(&mut self, committed_ms: Option<i64>) {
        let Some(committed_ms) = committed_ms else { return };
        let at = jiff::Timestamp::from_millisecond(committed_ms).unwrap_or_default().strftime("%F %T UTC");
        let every = self.tick.as_millis();
        let message = format!(
            "the machine went down while the agent ran: what was counted after the last commit ({at}) is lost. There is \
             one every {every} ms"
        );
        let data =
            serde_json::json!({"severity": "warning", "message": message, "committed_ms": committed_ms});
        self.event("counts_lost", None, data);
    }

    pub fn event(&mut self, kind: &str, user: Option<UserId>, data: serde_json::Value) {
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

/// What was read, but for whom a change has told of since.
fn newest(known: &UserRecords, read: Vec<UserRecord>) -> Arc<UserRecords> {
    let mut users = known.clone();
    for user in read {
        if users.get(&user.id).is_none_or(|known| known.rev <= user.rev) {
            users.insert(user.id, Arc::new(user));
        }
    }
    Arc::new(users)
}

fn by_id(users: Vec<UserRecord>) -> Arc<UserRecords> {
    Arc::new(users.into_iter().map(|user| (user.id, Arc::new(user))).collect())
}
