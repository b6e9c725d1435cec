//! The answers of the API: from the newest picture, from a reader of the ledger, or from the agent's
//! task where only it can know.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use boxmeter_web::{
    api::{
        change::{Deleted, ImportReport, ImportRequest, NewUser, UserAdded, UserChange, UserChanged},
        notify::{NotifyShow, NotifyTest, NotifyTested},
        order::Envelope,
        policies::{
            NewPackage, NewPolicy, PackageAdded, PackageList, PolicyChange, PolicyChanged, PolicyList,
            PolicyShow,
        },
        query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter, UserPage},
        sharing::{SharingChange, SharingShow, Subscription, UserCredentials},
        types::{
            AgentStatus, Audit, EventList, FlowList, InboundTraffic, LedgerStatus, Meter, Schema, Severity,
            SourceStatus, Stats, Status, Time, Traffic, Usage, User, UserList, UserShow,
        },
    },
    backend::{ApiError, Backend, LiveStream},
};
use futures_util::{StreamExt, stream};
use jiff::{Zoned, tz::TimeZone};
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::{
    answers,
    care::CareStatus,
    hands::Handle,
    metrics,
    shared::{Picture, PictureReceiver, Question},
};
use crate::{
    clock,
    ledger::{EventsWanted, Ledger, Matters, QueryError, Reader, UserRecord},
};

/// Changes that wait for their turn. More are answered with "busy".
const CHANGES_MAX: usize = 256;

/// A stream of everybody tells at most so often: each answer to a question makes a new picture, and telling
/// thousands of users about each would cost more than the answers.
const LIVE_PACE: Duration = Duration::from_millis(400);

/// Whose turn it is to change something: a change looks, decides and writes, and another one in between
/// would be undone by it.
pub struct Turns {
    turn: tokio::sync::Mutex<()>,
    places: Semaphore,
}

pub(super) struct Turn<'a> {
    _turn: MutexGuard<'a, ()>,
    _place: SemaphorePermit<'a>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { turn: tokio::sync::Mutex::new(()), places: Semaphore::new(CHANGES_MAX) }
    }
}

/// Everything an answer needs.
pub struct Answerer {
    pub questions: mpsc::Sender<Question>,
    pub pictures: PictureReceiver,
    pub ledger_path: PathBuf,
    pub ledger: Ledger,
    pub hands: Handle,
    /// The kernel's, whose counters the ledger is asked about.
    pub epoch: [u8; 16],
    /// `METER_*`: what quotas are measured on.
    pub billed: u32,
    pub default_policy: String,
    pub zone: TimeZone,
    pub meter: Meter,
    /// `[panel] public_url`, without a slash at its end; empty: nobody said it.
    pub public_url: String,
    pub started_ms: i64,
    pub ledger_id: Option<String>,
    pub node_id: Option<String>,
    /// One connection, opened when first needed; questions take turns.
    pub reader: Arc<Mutex<Option<Reader>>>,
    /// How scheduled backups stand.
    pub backups: watch::Receiver<Arc<CareStatus>>,
    /// What tells people, if anything is set up.
    pub notifier: Option<crate::notify::run::Handle>,
    pub notify: crate::config::Notify,
    /// `[metrics] users`.
    pub metrics_of_users: bool,
    pub turns: Turns,
    pub hashing: super::door::Hashing,
}

impl Answerer {
    pub(super) fn picture(&self) -> Arc<Picture> {
        self.pictures.borrow().clone()
    }

    pub(super) fn time(&self, ms: i64) -> Time {
        Time::from_ms(ms, &self.zone)
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, ApiError> {
        let (answer, receiver) = oneshot::channel();
        self.questions
            .try_send(question(answer))
            .map_err(|_| ApiError::unavailable("the agent is busy or ending; try again"))?;
        receiver.await.map_err(|_| ApiError::unavailable("the agent is ending"))
    }

    /// As [`Answerer::ask`], of what must not be lost: waits while the agent is busy.
    pub(super) async fn tell<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, ApiError> {
        let ending = || ApiError::unavailable("the agent is ending");
        let (answer, receiver) = oneshot::channel();
        self.questions.send(question(answer)).await.map_err(|_| ending())?;
        receiver.await.map_err(|_| ending())
    }

    /// The turn to change something, held until it is dropped.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, ApiError> {
        let place = self.turns.places.try_acquire();
        let place = place.map_err(|_| ApiError::unavailable("too many changes are waiting; try again"))?;
        Ok(Turn { _turn: self.turns.turn.lock().await, _place: place })
    }

    /// Commits what the kernel has. Where the ledger cannot take it the answer is as old as the last
    /// commit, and says so by its `as_of`.
    pub(super) async fn flush(&self) -> Result<(), ApiError> {
        if let Err(reason) = self.ask(Question::Flush).await? {
            tracing::warn!("answering from the last commit: {reason}");
        }
        Ok(())
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (path, reader) = (self.ledger_path.clone(), Arc::clone(&self.reader));
        let task = tokio::task::spawn_blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            if reader.is_none() {
                *reader = Some(Reader::open(&path).map_err(ApiError::unavailable)?);
            }
            let Some(open) = reader.as_ref() else { return Err(ApiError::internal("no reader")) };
            let answer = question(open);
            if matches!(answer, Err(QueryError::Read(_) | QueryError::Damaged(_))) {
                *reader = None;
            }
            answer.map_err(answers::query_error)
        });
        task.await.map_err(ApiError::internal)?
    }

    pub(super) fn rev(&self) -> u64 {
        answers::unsigned(self.picture().directory.rev)
    }

    /// A user with what it used up to now.
    pub(super) async fn user_of(&self, record: &UserRecord, picture: &Picture) -> Result<User, ApiError> {
        let totals = self.totals(Some(record.name.to_string())).await?;
        Ok(answers::user(record, picture, totals.get(&record.id), self.meter, &self.zone))
    }

    async fn totals(
        &self,
        user: Option<String>,
    ) -> Result<BTreeMap<crate::core::event::UserId, Traffic>, ApiError> {
        let query = answers::ledger_query(
            &UsageQuery { user, ..UsageQuery::default() },
            &self.zone,
            clock::wall_ms(),
        )?;
        self.read(move |reader| Ok(answers::totals(&answers::every_page(reader, query)?))).await
    }
}

#[async_trait]
impl Backend for Answerer {
    fn now(&self) -> Zoned {
        answers::zoned(clock::wall_ms(), &self.zone)
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let kernel = self.ask(Question::Kernel).await?;
        let picture = self.picture();
        let degraded: Vec<_> =
            picture.snapshot.degraded.iter().map(|part| answers::degradation(part, &self.zone)).collect();
        let counters =
            picture.snapshot.counters.iter().map(|(&name, &value)| (name.to_owned(), value)).collect();
        Ok(Status {
            schema: Schema,
            ok: degraded.is_empty(),
            degraded,
            agent: AgentStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: self.time(self.started_ms),
            },
            kernel,
            source: SourceStatus {
                kind: picture.directory.source,
                connected: picture.directory.source_connected,
                counters,
            },
            ledger: LedgerStatus {
                path: self.ledger_path.display().to_string(),
                committed_at: picture.directory.committed_ms.map(|ms| self.time(ms)),
                rev: answers::unsigned(picture.directory.rev),
                ledger_id: self.ledger_id.clone(),
                node_id: self.node_id.clone(),
                backups: answers::backups(&self.backups.borrow(), &self.zone),
            },
            singbox: picture.directory.singbox.clone(),
            services: picture.directory.services.to_vec(),
            time_zone: self.zone.iana_name().map(str::to_owned),
            inbounds: picture.directory.listeners.to_vec(),
            enforcement: Some(answers::enforcement(&picture.directory, &self.zone)),
        })
    }

    async fn users(&self, filter: UserFilter, page: Page) -> Result<UserList, ApiError> {
        self.flush().await?;
        let picture = self.picture();
        // With the flush the picture is as new as the ledger, and has no hundred thousand rows to be added up.
        let totals = match picture.totals.is_empty() {
            false => picture.totals.iter().map(|(id, sum)| (*id, answers::traffic(*sum))).collect(),
            true => self.totals(None).await?,
        };
        let users = picture
            .directory
            .users
            .values()
            .filter(|user| user.tombstoned_ms.is_none())
            .map(|user| (answers::facts(user, &picture, totals.get(&user.id), self.meter), user));
        let UserPage { users, next, matching } = filter.page(users, &page, |user| {
            answers::user(user, &picture, totals.get(&user.id), self.meter, &self.zone)
        });
        let rev = answers::unsigned(picture.directory.rev);
        Ok(UserList { schema: Schema, users, rev, next, matching: Some(matching) })
    }

    async fn user(&self, name: &str) -> Result<UserShow, ApiError> {
        self.flush().await?;
        let picture = self.picture();
        let user = picture
            .directory
            .users
            .values()
            .rfind(|user| *user.name == *name && user.tombstoned_ms.is_none())
            .ok_or_else(|| ApiError::no_such_user(name))?;
        Ok(UserShow { schema: Schema, user: self.user_with_shares(user, &picture).await? })
    }

    async fn usage(&self, query: UsageQuery) -> Result<Usage, ApiError> {
        self.flush().await?;
        let now_ms = clock::wall_ms();
        let ledger_query = answers::ledger_query(&query, &self.zone, now_ms)?;
        let answer = self.read(move |reader| reader.usage(&ledger_query)).await?;
        let picture = self.picture();
        let by_inbound = if query.from.is_none() && query.to.is_none() && query.user.is_none() {
            let tags = &picture.directory.tags;
            let rows = picture.snapshot.unattributed.iter().filter_map(|(index, counters)| {
                Some(InboundTraffic {
                    inbound: tags.get(index)?.to_string(),
                    traffic: answers::traffic(*counters),
                })
            });
            rows.filter(|row| row.traffic != Traffic::default()).collect()
        } else {
            Vec::new()
        };
        let mut usage = answers::usage(answer, self.meter, &self.zone, now_ms);
        usage.unattributed_by_inbound = by_inbound;
        usage.rev = answers::unsigned(picture.directory.rev);
        usage.from = query.from.map(|at| Time::new(at, &self.zone));
        usage.to = query.to.map(|at| Time::new(at, &self.zone));
        Ok(usage)
    }

    async fn flows(&self, filter: FlowFilter) -> Result<FlowList, ApiError> {
        let picture = self.picture();
        if let Some(name) = &filter.user
            && !picture.directory.users.values().any(|user| *user.name == **name)
        {
            return Err(ApiError::no_such_user(name));
        }
        let flows = self.ask(Question::Flows).await?.map_err(ApiError::unavailable)?;
        let now = clock::now();
        let flows = flows.iter().map(|listed| answers::flow(listed, &picture, now, &self.zone));
        let flows = flows.filter(|flow| filter.user.is_none() || flow.user == filter.user);
        let flows = flows.filter(|flow| filter.inbound.as_ref().is_none_or(|tag| *tag == flow.inbound));
        answers::page_of_flows(flows, &filter.page)
    }

    async fn events(&self, query: EventQuery) -> Result<EventList, ApiError> {
        let limit = query.page.limit as usize;
        let after = query.page.after.as_deref().map(answers::cursor).transpose()?;
        let since_ms = query.since.map(|at| at.as_millisecond());
        let records = self
            .read(move |reader| {
                let user = query.user.as_deref().map(|name| reader.user_by_name(name)).transpose()?;
                let wanted = EventsWanted {
                    user: user.map(|user| user.id),
                    since_ms,
                    least: match query.severity {
                        None | Some(Severity::Info) => Matters::Any,
                        Some(Severity::Warning) => Matters::Warning,
                        Some(Severity::Error) => Matters::Error,
                    },
                    by_people: query.by_people,
                    newest: query.newest,
                };
                reader.events_wanted(&wanted, after, limit)
            })
            .await?;
        let next = (records.len() == limit).then(|| records.last().map(|last| last.no.to_string())).flatten();
        let events = records.iter().map(|record| answers::event(record, &self.zone)).collect();
        Ok(EventList { schema: Schema, events, rev: answers::unsigned(self.picture().directory.rev), next })
    }

    async fn audit(&self, query: AuditQuery) -> Result<Audit, ApiError> {
        if query.from.is_some() || query.to.is_some() {
            return Err(ApiError::bad_request(
                "an audit compares the kernel's counters since they began; leave out `from` and `to`",
            ));
        }
        let reading = self.ask(Question::Audit).await?.map_err(ApiError::unavailable)?;
        Ok(answers::audit(&reading, self.time(clock::wall_ms())))
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        self.flush().await?;
        Ok(answers::stats(&self.picture(), self.meter, &self.zone))
    }

    async fn metrics(&self) -> Result<String, ApiError> {
        let (kernel, watched) = self.ask(Question::Watched).await?;
        let beside = metrics::Beside {
            kernel,
            watched,
            started_ms: self.started_ms,
            now_ms: clock::wall_ms(),
            backups: (**self.backups.borrow()).clone(),
            ledger_bytes: std::fs::metadata(&self.ledger_path).ok().map(|meta| meta.len()),
            meter: self.meter,
            each_user: self.metrics_of_users,
        };
        Ok(metrics::text(&self.picture(), &beside))
    }

    async fn subscribe(&self) -> Result<LiveStream, ApiError> {
        let (zone, meter) = (self.zone.clone(), self.meter);
        let start = (self.pictures.clone(), true);
        let stream = stream::unfold(start, move |(mut pictures, first)| {
            let zone = zone.clone();
            async move {
                if !first {
                    tokio::time::sleep(LIVE_PACE).await;
                    pictures.changed().await.ok()?;
                }
                let picture = pictures.borrow_and_update().clone();
                let live: Result<_, ApiError> = Ok(Arc::new(answers::live(&picture, meter, &zone)));
                Some((live, (pictures, false)))
            }
        });
        Ok(stream.boxed())
    }

    async fn add_user(&self, envelope: Envelope, new: NewUser) -> Result<UserAdded, ApiError> {
        let _turn = self.turn().await?;
        self.make_user(envelope, new).await
    }

    async fn change_user(
        &self,
        envelope: Envelope,
        name: &str,
        change: UserChange,
    ) -> Result<UserChanged, ApiError> {
        let _turn = self.turn().await?;
        self.alter_user(envelope, name, change).await
    }

    async fn delete_user(&self, envelope: Envelope, name: &str, purge: bool) -> Result<Deleted, ApiError> {
        let _turn = self.turn().await?;
        self.remove_user(envelope, name, purge).await
    }

    async fn reset_user(&self, envelope: Envelope, name: &str) -> Result<UserChanged, ApiError> {
        let _turn = self.turn().await?;
        self.restart_period(envelope, name).await
    }

    async fn set_enabled(
        &self,
        envelope: Envelope,
        name: &str,
        enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        let _turn = self.turn().await?;
        self.switch_user(envelope, name, enabled).await
    }

    async fn packages(&self, name: &str, page: Page) -> Result<PackageList, ApiError> {
        self.list_packages(name, page).await
    }

    async fn add_package(
        &self,
        envelope: Envelope,
        name: &str,
        new: NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        let _turn = self.turn().await?;
        self.buy_package(envelope, name, new).await
    }

    async fn policies(&self, page: Page) -> Result<PolicyList, ApiError> {
        self.list_policies(page).await
    }

    async fn policy(&self, name: &str) -> Result<PolicyShow, ApiError> {
        self.show_policy(name).await
    }

    async fn add_policy(&self, envelope: Envelope, new: NewPolicy) -> Result<PolicyChanged, ApiError> {
        let _turn = self.turn().await?;
        self.make_policy(envelope, new).await
    }

    async fn change_policy(
        &self,
        envelope: Envelope,
        name: &str,
        change: PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        let _turn = self.turn().await?;
        self.alter_policy(envelope, name, change).await
    }

    async fn delete_policy(&self, envelope: Envelope, name: &str) -> Result<Deleted, ApiError> {
        let _turn = self.turn().await?;
        self.remove_policy(envelope, name).await
    }

    async fn import(&self, envelope: Envelope, request: ImportRequest) -> Result<ImportReport, ApiError> {
        // Each user of it has a turn of its own.
        self.take_in(envelope, request).await
    }

    async fn credentials(&self, name: &str) -> Result<UserCredentials, ApiError> {
        self.ways_in(name).await
    }

    async fn rotate_subscription(&self, envelope: Envelope, name: &str) -> Result<UserCredentials, ApiError> {
        let _turn = self.turn().await?;
        self.new_secret(envelope, name).await
    }

    async fn subscription(&self, token: &str) -> Result<Subscription, ApiError> {
        self.subscription_of(token).await
    }

    async fn notify(&self) -> Result<NotifyShow, ApiError> {
        self.show_notify().await
    }

    async fn test_notify(&self, _envelope: Envelope, test: NotifyTest) -> Result<NotifyTested, ApiError> {
        self.run_notify_test(test).await
    }

    async fn sharing(&self) -> Result<SharingShow, ApiError> {
        self.show_sharing().await
    }

    async fn change_sharing(
        &self,
        envelope: Envelope,
        change: SharingChange,
    ) -> Result<SharingShow, ApiError> {
        let _turn = self.turn().await?;
        self.alter_sharing(envelope, change).await
    }
}
