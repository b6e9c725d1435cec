//! The one thread that writes, and the handle by which the rest of the agent asks it.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use jiff::tz::TimeZone;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    bucket::Buckets,
    commit::{Committer, Stale, insert_event},
    error::{CommitError, LedgerError},
    gate,
    model::{Batch, Committed, FoundInbound, FoundUser, InboundRecord, LedgerInfo, NewEvent, UserRecord},
    open::{self, Check},
    people,
    retention::Retention,
    schema, space,
};

/// Commands that wait for the writer. The daemon sends one batch at a time; the rest are people's
/// doings. More are refused with [`CommitError::Busy`] and counted.
pub const COMMANDS_MAX: usize = 64;

/// How a ledger is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// `[billing] time_zone`: whose hours and days are kept.
    pub zone: TimeZone,
    /// The present wall time in UTC milliseconds.
    pub now_ms: i64,
    /// How long to wait for another program's lock before a command fails with `Locked`.
    pub busy: Duration,
    /// How long the check of an existing file may take; a big file is checked in part then.
    pub check_max: Duration,
    pub retention: Retention,
}

impl Options {
    pub fn new(zone: TimeZone, now_ms: i64) -> Self {
        Options {
            zone,
            now_ms,
            busy: Duration::from_secs(2),
            check_max: Duration::from_secs(10),
            retention: Retention::default(),
        }
    }
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// The writer thread's state.
pub(super) struct Writer {
    pub connection: Connection,
    pub committer: Committer,
}

/// A handle on the open ledger; clones share it. The last one to be dropped waits for the commands
/// that were accepted, and closes the file.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    check: Check,
    sender: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    refused: AtomicU64,
}

/// The answer to come: a future, or [`Reply::wait`].
#[must_use = "the command may have failed"]
pub struct Reply<T>(Result<oneshot::Receiver<Result<T, CommitError>>, Option<CommitError>>);

impl<T> Reply<T> {
    /// Blocks until the answer is there. Not from within an async task.
    pub fn wait(self) -> Result<T, CommitError> {
        match self.0 {
            Ok(receiver) => receiver.blocking_recv().unwrap_or(Err(CommitError::Closed)),
            Err(error) => Err(error.unwrap_or(CommitError::Closed)),
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(CommitError::Closed)))
            }
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(CommitError::Closed))),
        }
    }
}

impl Ledger {
    /// Opens the ledger, makes it if there is none, and brings its schema up to date. Blocks.
    ///
    /// # Errors
    /// See [`LedgerError`]; a damaged, foreign or newer file is left as it is.
    pub fn open(path: &Path, options: Options) -> Result<Ledger, LedgerError> {
        let mut claimed = open::claim(path, options.busy, options.check_max)?;
        schema::migrate(&mut claimed.connection, path)?;
        schema::ensure_meta(&claimed.connection, &options.zone, options.now_ms)
            .map_err(|error| LedgerError::from_sqlite(path, &error))?;
        space::prepare(&claimed.connection);
        let zone = schema::zone_of(schema::zone_name(&options.zone));
        let (sender, receiver) = sync_channel(COMMANDS_MAX);
        let check = claimed.check;
        let mut writer = Writer {
            connection: claimed.connection,
            committer: Committer::new(Buckets::new(zone), options.retention),
        };
        let lock = claimed.lock;
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                run(&mut writer, &receiver);
                drop(writer);
                // Only now may another agent open the file.
                drop(lock);
            })
            .map_err(|error| LedgerError::from_io(path, &error))?;
        Ok(Ledger {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                check,
                sender: Mutex::new(Some(sender)),
                thread: Mutex::new(Some(thread)),
                refused: AtomicU64::new(0),
            }),
        })
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// How much of the file was checked at the start.
    pub fn check(&self) -> Check {
        self.shared.check
    }

    /// Commands refused because the queue was full, since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Commits a tick as a whole. On any error nothing of it is in the ledger; the next batch has
    /// newer absolute counts, so that there is nothing to repeat.
    pub fn commit(&self, batch: Batch) -> Reply<Committed> {
        self.send(move |writer| writer.committer.commit(&mut writer.connection, &batch))
    }

    /// Makes the ledger's users those of a configuration that was read completely: adopts new
    /// names with `policy` (a policy's name), gives those that vanished a tombstone, and compares what
    /// was parked, added and deleted with what is there. Returns all users, tombstones included. A
    /// configuration that could not be read must never come here.
    ///
    /// `elsewhere` are inbounds whose users are in no file, but with a service: of a deleted user who was
    /// on one of them, `found` cannot say that the entry is gone ([`Ledger::removed`] does).
    pub fn sync_users(
        &self,
        found: Vec<FoundUser>,
        elsewhere: Vec<Arc<str>>,
        policy: String,
        now_ms: i64,
    ) -> Reply<Vec<UserRecord>> {
        self.send(move |writer| {
            writer.committer.changes(Stale::People);
            let users = people::sync_users(&mut writer.connection, &found, &elsewhere, &policy, now_ms)?;
            gate::purge_waiting(writer, now_ms)?;
            Ok(users)
        })
    }

    /// As `sync_users`, for inbounds; a tag that comes back is the same inbound.
    pub fn sync_inbounds(&self, found: Vec<FoundInbound>, now_ms: i64) -> Reply<Vec<InboundRecord>> {
        self.send(move |writer| {
            writer.committer.changes(Stale::People);
            people::sync_inbounds(&mut writer.connection, &found, now_ms)
        })
    }

    /// All users, tombstones included, by id.
    pub fn users(&self) -> Reply<Vec<UserRecord>> {
        self.send(|writer| Ok(people::users(&writer.connection)?))
    }

    /// All inbounds, tombstones included, by number.
    pub fn inbounds(&self) -> Reply<Vec<InboundRecord>> {
        self.send(|writer| Ok(people::inbounds(&writer.connection)?))
    }

    /// Records events outside a tick; all of them or none.
    pub fn record_events(&self, events: Vec<NewEvent>) -> Reply<()> {
        self.send(move |writer| {
            writer.committer.changes(Stale::Revision);
            people::change(&mut writer.connection, |transaction, rev| {
                Ok(events.iter().try_for_each(|event| insert_event(transaction, event, rev))?)
            })
        })
    }

    pub fn info(&self) -> Reply<LedgerInfo> {
        self.send(|writer| Ok(super::query::info(&writer.connection)?))
    }

    pub(super) fn send<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, CommitError> + Send + 'static,
    ) -> Reply<T> {
        let (answer, receiver) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // Whoever asked may be gone; what was asked for is done all the same.
            let _ = answer.send(job(writer));
        });
        let sender = self.shared.sender.lock().unwrap_or_else(PoisonError::into_inner);
        match sender.as_ref().map(|sender| sender.try_send(job)) {
            Some(Ok(())) => Reply(Ok(receiver)),
            Some(Err(TrySendError::Full(_))) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                Reply(Err(Some(CommitError::Busy(COMMANDS_MAX))))
            }
            Some(Err(TrySendError::Disconnected(_))) | None => Reply(Err(Some(CommitError::Closed))),
        }
    }

    /// Carries out what was accepted and closes the file; later commands get `Closed`.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the ledger's writer ended by a panic");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(writer: &mut Writer, receiver: &Receiver<Job>) {
    while let Ok(job) = receiver.recv() {
        job(writer);
    }
}
