//! The thread that sends, with a runtime of its own: looks once a second for events to tell of and for reports that
//! are due, wakes the channels, and answers tests.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify as Wake, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use uuid::Uuid;

use super::{
    TEST_LIMIT, Verdict, Voice, Ways, admins,
    alerts::alerts,
    report::{self, Figures, Period, Span},
    sender::{Sender, States, place, tell, wait_ms},
};
use crate::{
    clock::{self, Even},
    config::notify::Notify,
    core::notice::Channel,
    fault,
    ledger::{Alerts, Delivery, Ledger, NewDelivery, NotifyWanted, Stage},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two at what is too old.
const EXPIRE_EVERY: u32 = 60;
/// Looks between two at whether a report is due.
const REPORTS_EVERY: u32 = 10;
/// How long messages that are under way may take when the agent ends.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Messages past the queue that wait; there is one per trouble of the ledger.
const URGENT_MAX: usize = 8;
/// Attempts at one of those: some hours.
const URGENT_ATTEMPTS_MAX: u32 = 12;
/// Tests that are under way: whoever asks again and again makes no more connections than one test does.
const TESTS_MAX: usize = 1;
/// Whoever has the figures of a report. Blocks; called on a thread where that is fine.
pub type Gather = Arc<dyn Fn(Span, &Period) -> Result<Figures, String> + Send + Sync>;

/// What came of one message of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    pub channel: Channel,
    pub recipient: String,
    pub verdict: Verdict,
    pub took_ms: u64,
}

struct Test {
    channel: Option<Channel>,
    answer: oneshot::Sender<Vec<Tested>>,
    /// Given back when the last message of it is sent.
    turn: OwnedSemaphorePermit,
}

/// The agent's end. The thread ends when it is told to, or with the last handle.
#[derive(Clone)]
pub struct Handle {
    pub states: watch::Receiver<Arc<States>>,
    tests: mpsc::Sender<Test>,
    turns: Arc<Semaphore>,
    urgent: mpsc::Sender<Value>,
    end: Arc<watch::Sender<bool>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What the thread works with.
pub struct Work {
    pub config: Notify,
    pub ledger: Ledger,
    /// What the queue is to be readied for, if the ledger could not yet.
    pub begin: Option<NotifyWanted>,
    /// Of billing.
    pub zone: TimeZone,
    pub gather: Gather,
}

/// Starts the thread.
///
/// # Errors
/// When there can be no more threads.
pub fn start(work: Work) -> io::Result<Handle> {
    let (states, seen) = watch::channel(Arc::new(States::default()));
    let (tests, asked) = mpsc::channel(TESTS_MAX);
    let (urgent, told) = mpsc::channel(URGENT_MAX);
    let (end, ending) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Names that nobody resolves, and reports.
        .max_blocking_threads(8)
        .build()?;
    let voice = Voice::new(work.config.language, work.zone.clone());
    let ways = Arc::new(Ways::new(work.config.clone(), voice));
    let wakes = || [(); 3].map(|()| Arc::new(Wake::new()));
    let main = Main { work: Arc::new(work), ways, states, ending, wakes: wakes(), works: wakes() };
    let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || {
        runtime.block_on(main.run(asked, told));
        // A name that is still being resolved is not waited for.
        runtime.shutdown_background();
    })?;
    let thread = Arc::new(Mutex::new(Some(thread)));
    let turns = Arc::new(Semaphore::new(TESTS_MAX));
    Ok(Handle { states: seen, tests, turns, urgent, end: Arc::new(end), thread })
}

impl Handle {
    /// Sends a test message to the admin at once. `None` while another test runs, or the agent ends.
    pub async fn test(&self, channel: Option<Channel>) -> Option<Vec<Tested>> {
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let (answer, receiver) = oneshot::channel();
        self.tests.try_send(Test { channel, answer, turn }).ok()?;
        receiver.await.ok()
    }

    /// Tells the admin of something past the queue, since it is the queue that does not work.
    pub fn urgent(&self, data: Value) {
        if self.urgent.try_send(data).is_err() {
            tracing::warn!("there is no room for one more urgent message");
        }
    }

    /// Lets what is under way come to its end, for a moment. Blocks.
    pub fn end(&self) {
        self.end.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that sends ended by a panic");
        }
    }
}

struct Main {
    work: Arc<Work>,
    ways: Arc<Ways>,
    states: watch::Sender<Arc<States>>,
    ending: watch::Receiver<bool>,
    wakes: [Arc<Wake>; 3],
    works: [Arc<Wake>; 3],
}

impl Main {
    async fn run(mut self, mut tests: mpsc::Receiver<Test>, mut urgent: mpsc::Receiver<Value>) {
        let mut senders = self.senders();
        // Beside the loop: a ledger that hangs holds up neither what goes past it nor a test.
        let looks = tokio::spawn(Looks::new(&self).run());
        loop {
            tokio::select! {
                Some(test) = tests.recv() => self.test(test),
                Some(data) = urgent.recv() => self.urgent(&data),
                changed = self.ending.changed() => {
                    if changed.is_err() || *self.ending.borrow() {
                        break;
                    }
                }
            }
        }
        looks.abort();
        let _ = tokio::time::timeout(END_LIMIT, async { while senders.join_next().await.is_some() {} }).await;
    }

    fn senders(&self) -> JoinSet<()> {
        let mut senders = JoinSet::new();
        for channel in Channel::ALL.into_iter().filter(|channel| self.ways.wanted(*channel)) {
            let sender = Sender {
                channel,
                ways: Arc::clone(&self.ways),
                ledger: self.work.ledger.clone(),
                states: self.states.clone(),
                wake: Arc::clone(&self.wakes[place(channel)]),
                works: Arc::clone(&self.works[place(channel)]),
                ending: self.ending.clone(),
            };
            senders.spawn(sender.run());
        }
        senders
    }

    /// What goes past the queue.
    fn direct(&self, channel: Channel, recipient: String, data: Value) -> Delivery {
        let now_ms = clock::wall_ms();
        Delivery {
            no: 0,
            id: Uuid::now_v7(),
            channel,
            recipient,
            kind: data["kind"].as_str().unwrap_or("test").to_owned(),
            user: None,
            data,
            created_ms: now_ms,
            stage: Stage::Sending,
            attempts: 1,
            next_ms: now_ms,
            done_ms: None,
            error: None,
        }
    }

    /// To every admin by every channel, beside the loop.
    fn to_admins(&self, channel: Option<Channel>, data: &Value) -> Vec<Delivery> {
        let wanted = Channel::ALL.into_iter().filter(|it| channel.is_none_or(|channel| channel == *it));
        let all = wanted.flat_map(|it| admins(&self.work.config, it).into_iter().map(move |to| (it, to)));
        all.map(|(it, to)| self.direct(it, to, data.clone())).collect()
    }

    fn test(&self, test: Test) {
        let data = json!({ "event": "test", "kind": "test", "at_ms": clock::wall_ms() });
        let mut sending = JoinSet::new();
        for message in self.to_admins(test.channel, &data) {
            let (ways, states) = (Arc::clone(&self.ways), self.states.clone());
            let works = Arc::clone(&self.works[place(message.channel)]);
            let ledger = self.work.ledger.clone();
            sending.spawn(async move {
                let began_ns = clock::mono_ns();
                let verdict = ways.send_within(TEST_LIMIT, &message).await;
                let took_ms = clock::mono_ns().saturating_sub(began_ns) / 1_000_000;
                // What a test finds out is known of the channel; what waits there need wait no longer.
                tell(&states, &message, &verdict, clock::wall_ms());
                if verdict == Verdict::Done {
                    let now_ms = clock::wall_ms();
                    tokio::spawn(async move {
                        if let Err(error) = ledger.hasten_deliveries(message.channel, now_ms).await {
                            tracing::debug!("messages that wait: {error}");
                        }
                        works.notify_waiters();
                    });
                }
                Tested { channel: message.channel, recipient: message.recipient, verdict, took_ms }
            });
        }
        let Test { answer, turn, .. } = test;
        // The loop goes on: a server that hangs holds up no look.
        tokio::spawn(async move {
            let mut results = Vec::new();
            while let Some(done) = sending.join_next().await {
                results.extend(done.ok());
            }
            results.sort_by(|a, b| (a.channel, &a.recipient).cmp(&(b.channel, &b.recipient)));
            // Whoever asked may be gone.
            let _ = answer.send(results);
            drop(turn);
        });
    }

    fn urgent(&self, data: &Value) {
        for mut message in self.to_admins(None, data) {
            let ways = Arc::clone(&self.ways);
            tokio::spawn(async move {
                while let Verdict::Later { .. } = ways.send(&message).await {
                    if message.attempts >= URGENT_ATTEMPTS_MAX {
                        return;
                    }
                    let hurry = i64::try_from(fault::hurry()).unwrap_or(1);
                    let wait = wait_ms(message.attempts, rand::random()) / hurry;
                    tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())).await;
                    message.attempts += 1;
                }
            });
        }
    }
}

/// Looks once a second for what is to be told.
struct Looks {
    work: Arc<Work>,
    wakes: [Arc<Wake>; 3],
    begin: Option<NotifyWanted>,
    even: Even,
}

impl Looks {
    fn new(main: &Main) -> Self {
        Looks {
            work: Arc::clone(&main.work),
            wakes: main.wakes.clone(),
            begin: main.work.begin.clone(),
            even: Even::since(clock::now()),
        }
    }

    async fn run(mut self) {
        let alerts = alerts(self.work.config.clone(), self.work.zone.clone());
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            looks.tick().await;
            self.look(&alerts, count).await;
            count = count.wrapping_add(1);
        }
    }

    async fn look(&mut self, alerts: &Alerts, count: u32) {
        let now = clock::now();
        let now_ms = now.wall_ms;
        let ledger = &self.work.ledger;
        if let Some(wanted) = self.begin.clone() {
            match ledger.begin_notify(wanted, now_ms).await {
                Ok(_) => self.begin = None,
                // Until the queue is ready nothing is looked at, and nothing is lost.
                Err(_) => return,
            }
        }
        if self.even.is(now)
            && count.is_multiple_of(EXPIRE_EVERY)
            && let Err(error) = ledger.expire_deliveries(now_ms).await
        {
            tracing::warn!("messages that are too old: {error}");
        }
        // Not the first look: an agent that has just started knows nobody yet.
        if count % REPORTS_EVERY == REPORTS_EVERY - 1 {
            self.reports(now_ms).await;
        }
        match ledger.derive_alerts(Arc::clone(alerts), now_ms).await {
            Ok(due) => due.into_iter().for_each(|channel| self.wakes[place(channel)].notify_one()),
            // It is looked again in a second, from where it was.
            Err(error) => tracing::debug!("what is to be told: {error}"),
        }
    }

    async fn reports(&self, now_ms: i64) {
        for span in Span::ALL {
            if let Err(why) = self.report(span, now_ms).await {
                tracing::warn!("the {} report: {why}", span.name());
            }
        }
    }

    /// Queues a report if one is due that was not made.
    async fn report(&self, span: Span, now_ms: i64) -> Result<(), String> {
        let reports = &self.work.config.reports;
        let at = match span {
            Span::Daily => reports.daily.0,
            Span::Monthly => reports.monthly.0,
        };
        let Some(at) = at else { return Ok(()) };
        let zone = match reports.time_zone.as_str() {
            "billing" => self.work.zone.clone(),
            name => TimeZone::get(name).map_err(|error| error.to_string())?,
        };
        let now = Timestamp::from_millisecond(now_ms).map_err(|error| error.to_string())?.to_zoned(zone);
        let Some(period) = report::last_due(span, at, &now) else { return Ok(()) };
        let ledger = &self.work.ledger;
        let made = ledger.reports_made(span.name()).await.map_err(|error| error.to_string())?;
        if made.contains(&period.key) {
            return Ok(());
        }
        // Whoever has just asked for reports gets the next one.
        let messages =
            if made.is_empty() { Vec::new() } else { self.messages(span, &period, now_ms).await? };
        let queued = ledger.queue_report(span.name(), period.key, messages, now_ms).await;
        queued.map(drop).map_err(|error| error.to_string())
    }

    async fn messages(&self, span: Span, period: &Period, now_ms: i64) -> Result<Vec<NewDelivery>, String> {
        let (gather, of) = (Arc::clone(&self.work.gather), period.clone());
        let figures = tokio::task::spawn_blocking(move || gather(span, &of)).await;
        let figures = figures.map_err(|error| error.to_string())??;
        let figures = serde_json::to_value(&figures).map_err(|error| error.to_string())?;
        let data = json!({ "event": span.kind(), "at_ms": now_ms, "report": figures });
        let config = &self.work.config;
        let to =
            config.reports.by.iter().flat_map(|&by| admins(config, by).into_iter().map(move |to| (by, to)));
        let messages = to.map(|(channel, recipient)| NewDelivery {
            channel,
            recipient,
            kind: span.kind().to_owned(),
            topic: format!("{}:{}", span.kind(), period.key),
            user: None,
            data: data.clone(),
        });
        Ok(messages.collect())
    }
}
