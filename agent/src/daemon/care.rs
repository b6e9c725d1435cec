//! Care of the ledger beside the agent's loop, on a thread of its own that gives way to everybody else: backups when
//! they are due, old events forgotten, and free pages given back to the disk.

use std::{
    io,
    mem::Discriminant,
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::agent::Agent;
use crate::{
    clock::{self, Even},
    fault,
    ledger::{BackupError, Backups, Committed, Ledger, Made},
};

/// How often is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The first look, when the agent is well under way.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// A backup that failed is tried again after this.
const RETRY_NS: u64 = 600_000_000_000;
/// Between two times that old events are looked for.
const FORGET_EVERY_NS: u64 = 3_600_000_000_000;
/// Steps in a row of it.
const FORGET_STEPS: usize = 20;
/// Between two steps of giving pages back, or of forgetting: a tick gets its turn.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(100);
/// Steps in a row; the rest comes with the next look.
const GIVE_BACK_STEPS: usize = 300;
/// News that wait for the agent; the thread waits for room.
const NEWS_MAX: usize = 8;
/// Of 0 (as everybody) to 19.
const NICENESS: libc::c_int = 10;

/// The part of a degradation.
const PART: &str = "backup";

/// What was done.
pub enum CareNews {
    Made {
        made: Made,
        took_ms: u64,
    },
    /// The backup, or the removal of old ones, did not work.
    Failed {
        reason: String,
        /// What kind of reason: names and sizes in it are others each time.
        kind: Option<Discriminant<BackupError>>,
    },
    /// Bytes that the ledger's file has less.
    GaveBack(i64),
}

/// How backups stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CareStatus {
    /// `None`: the agent makes none.
    pub directory: Option<PathBuf>,
    pub last_ms: Option<i64>,
    /// Of the last one that this agent made.
    pub last_bytes: Option<u64>,
    pub next_ms: Option<i64>,
}

/// How backups stand, as it changes.
pub type Statuses = watch::Receiver<Arc<CareStatus>>;

/// The agent's end. The thread ends with it.
pub struct Care {
    news: mpsc::Receiver<CareNews>,
    /// Since a backup failed: why.
    failed: Option<Option<Discriminant<BackupError>>>,
    _alive: std_mpsc::Sender<()>,
}

/// Starts the thread.
///
/// # Errors
/// When there can be no more threads.
pub fn start(
    ledger: Ledger,
    backups: Option<Backups>,
) -> io::Result<(Care, watch::Receiver<Arc<CareStatus>>)> {
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let (alive, ended) = std_mpsc::channel();
    let directory = backups.as_ref().map(|backups| backups.directory.clone());
    let (told, status) = watch::channel(Arc::new(CareStatus { directory, ..CareStatus::default() }));
    let worker = Worker {
        ledger,
        backups,
        news: sender,
        told,
        retry_ns: 0,
        even: Even::since(clock::now()),
        forgot_ns: 0,
    };
    std::thread::Builder::new().name("care".to_owned()).spawn(move || worker.run(&ended))?;
    Ok((Care { news, failed: None, _alive: alive }, status))
}

impl Care {
    pub async fn next(&mut self) -> CareNews {
        match self.news.recv().await {
            Some(news) => news,
            // The thread can only end by a fault in it; people see that no backups are made by their age.
            None => std::future::pending().await,
        }
    }
}

struct Worker {
    ledger: Ledger,
    backups: Option<Backups>,
    news: mpsc::Sender<CareNews>,
    told: watch::Sender<Arc<CareStatus>>,
    /// Not before this is a backup tried again.
    retry_ns: u64,
    even: Even,
    /// When events were looked at last.
    forgot_ns: u64,
}

type Ended = std_mpsc::Receiver<()>;

fn goes_on(ended: &Ended) -> bool {
    ended.try_recv() != Err(std_mpsc::TryRecvError::Disconnected)
}

impl Worker {
    fn run(mut self, ended: &Ended) {
        // SAFETY: a plain system call about the calling thread, which is what 0 means.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        let mut wait = FIRST_LOOK;
        let hurry = u32::try_from(fault::hurry()).unwrap_or(1);
        while ended.recv_timeout(wait / hurry) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            wait = LOOK_EVERY;
            self.look(ended);
        }
    }

    fn look(&mut self, ended: &Ended) {
        if let Some(backups) = self.backups.clone() {
            self.back_up(&backups, ended);
        }
        self.forget(ended);
        if let Some(bytes) = self.give_back(ended) {
            self.tell(CareNews::GaveBack(bytes));
        }
    }

    fn tell(&self, news: CareNews) {
        // Nobody listens any more when the agent is ending.
        let _ = self.news.blocking_send(news);
    }

    fn back_up(&mut self, backups: &Backups, ended: &Ended) {
        let now = clock::now();
        let due = backups.due_ms(now.wall_ms);
        if let Ok(due_ms) = due {
            self.told.send_if_modified(|status| {
                let every = i64::try_from(backups.every.as_millis()).unwrap_or(i64::MAX);
                let last = backups.newest(now.wall_ms).ok().flatten();
                let next = last.map_or(due_ms, |last| last.saturating_add(every));
                let new = CareStatus { last_ms: last, next_ms: Some(next), ..(**status).clone() };
                let changed = **status != new;
                *status = Arc::new(new);
                changed
            });
        }
        if now.mono_ns < self.retry_ns || due.as_ref().is_ok_and(|due_ms| *due_ms > now.wall_ms) {
            return;
        }
        let done = match due {
            Ok(_) => backups.make(self.ledger.path(), now.wall_ms, &|| goes_on(ended)),
            Err(error) => Err(BackupError::Other {
                path: backups.directory.clone(),
                detail: format!("its directory cannot be read: {error}"),
            }),
        };
        match done {
            Ok((made, pruned)) => {
                let took_ms = clock::mono_ns().saturating_sub(now.mono_ns) / 1_000_000;
                self.made(backups, &made, now.wall_ms);
                self.tell(CareNews::Made { made, took_ms });
                if let Err(error) = pruned {
                    let directory = backups.directory.display();
                    let reason = format!("old backups in {directory} stay: {error}");
                    self.tell(CareNews::Failed { reason, kind: None });
                }
            }
            Err(BackupError::Ending { .. }) => {}
            Err(error) => {
                self.retry_ns = clock::mono_ns().saturating_add(RETRY_NS / fault::hurry());
                let kind = Some(std::mem::discriminant(&error));
                self.tell(CareNews::Failed { reason: format!("no backup: {error}"), kind });
            }
        }
    }

    fn made(&self, backups: &Backups, made: &Made, now_ms: i64) {
        self.told.send_modify(|status| {
            let every = i64::try_from(backups.every.as_millis()).unwrap_or(i64::MAX);
            *status = Arc::new(CareStatus {
                directory: Some(backups.directory.clone()),
                last_ms: Some(now_ms),
                last_bytes: Some(made.backup.bytes),
                next_ms: Some(now_ms.saturating_add(every)),
            });
        });
    }

    fn forget(&mut self, ended: &Ended) {
        let now = clock::now();
        if !self.even.is(now) || now.mono_ns.saturating_sub(self.forgot_ns) < FORGET_EVERY_NS {
            return;
        }
        self.forgot_ns = now.mono_ns;
        for _ in 0..FORGET_STEPS {
            match self.ledger.forget_events(now.wall_ms).wait() {
                Ok(1..) if goes_on(ended) => std::thread::sleep(GIVE_BACK_PAUSE),
                // A ledger that does not work is told of where it counts.
                _ => return,
            }
        }
    }

    /// Gives free pages back where there are many; how many bytes it were.
    fn give_back(&self, ended: &Ended) -> Option<i64> {
        let before = self.ledger.space().wait().ok().filter(|space| space.is_wasted())?;
        let mut now = before;
        for _ in 0..GIVE_BACK_STEPS {
            now = self.ledger.give_back().wait().ok()?;
            if now.free == 0 || !goes_on(ended) {
                break;
            }
            std::thread::sleep(GIVE_BACK_PAUSE);
        }
        let bytes = before.pages.saturating_sub(now.pages).saturating_mul(before.page_bytes);
        (bytes > 0).then_some(bytes)
    }
}

impl Agent {
    pub(super) fn care_news(&mut self, news: CareNews) {
        match news {
            CareNews::Made { made, took_ms } => {
                self.care.failed = None;
                self.meter.publisher.restore(PART);
                let text = format!("backup {} made and checked", made.path.display());
                let data = json!({
                    "message": text,
                    "file": made.path.display().to_string(),
                    "bytes": made.backup.bytes,
                    "took_ms": took_ms,
                    "old_ones_removed": made.removed,
                });
                self.event("backup_made", None, data);
            }
            CareNews::Failed { reason, kind } => {
                tracing::warn!("{reason}");
                self.meter.publisher.degrade(PART, reason.clone(), clock::now());
                // Tried again and again, it is one event.
                if self.care.failed != Some(kind) {
                    let data = json!({"severity": "warning", "message": reason});
                    self.event("backup_failed", None, data);
                    self.care.failed = Some(kind);
                }
            }
            CareNews::GaveBack(bytes) => {
                let text = format!("{bytes} bytes that the ledger did not need are given back to the disk");
                self.event("ledger_shrunk", None, json!({"message": text, "bytes": bytes}));
            }
        }
    }

    /// The first commit after a backup was restored has what the kernel counted since.
    pub(super) fn caught_up(&mut self, committed: &Committed) {
        if !std::mem::take(&mut self.restored) {
            return;
        }
        let payload = committed.added.payload;
        let bytes = payload[0].saturating_add(payload[1]);
        let text = format!(
            "{bytes} bytes of payload that the kernel counted after the restored backup are in the ledger now"
        );
        self.event("restore_caught_up", None, json!({"message": text, "payload": payload}));
    }
}
