//! Made-up data behind the real contract: for trying the faces without a server, and for their
//! tests. Nothing here is measured, and the names say so.

mod changes;
mod data;
mod door;
mod history;
mod life;
mod notify;
mod people;
mod sharing;
mod standing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use jiff::{Timestamp, ToSpan, Zoned};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::{
    api::{
        live::LiveSnapshot,
        metrics::{Exposition, Kind},
        notify::{NotifyShow, NotifyTest, NotifyTested},
        order::Envelope,
        query::{AuditQuery, EventQuery, Facts, FlowFilter, Page, UsageQuery, UserFilter, UserPage},
        sharing::{SharingChange, SharingShow, Subscription, UserCredentials},
        types::*,
    },
    backend::{ApiError, Backend, LiveStream},
};
use changes::State;
pub use data::user;
use data::{GIB, MIB, events, flows, policies, snapshot, status, traffic};
pub use door::PASSWORD;
use life::Life;

/// What the made-up server takes for the time.
pub type Clock = Box<dyn Fn() -> Zoned + Send + Sync>;

/// A server that stands still at one moment, but for what is changed; tests set the fields.
/// [`Demo::lively`] is one that goes on.
pub struct Demo {
    clock: Clock,
    pub status: Status,
    pub flows: Vec<Flow>,
    pub unattributed: Traffic,
    state: Mutex<State>,
    doors: door::Doors,
    /// What goes on by itself.
    life: Option<Mutex<Life>>,
    /// What the stream tells; see [`Demo::publish`].
    live: watch::Sender<Arc<LiveSnapshot>>,
}

impl Demo {
    /// Some users of a server in `now`'s zone.
    pub fn new(now: Zoned) -> Self {
        let users = vec![
            user(&now, 1, "demo-alice", UserState::Active, Some(100 * GIB)),
            user(&now, 2, "demo-bob", UserState::Throttled, Some(8 * GIB)),
            user(&now, 3, "演示-小明", UserState::Limited, Some(6 * GIB)),
            user(&now, 4, "demo-carol", UserState::Active, None),
        ];
        let (live, _) = watch::channel(Arc::new(snapshot(&now, &users)));
        Demo {
            status: status(&now, users.len()),
            flows: flows(&now, &users),
            unattributed: traffic(3 * MIB),
            state: Mutex::new(State::new(users, policies(), events(&now))),
            doors: door::Doors::default(),
            life: None,
            clock: Box::new(move || now.clone()),
            live,
        }
    }

    /// A server on which people live: made from the seed, with 60 days behind it. It goes on while
    /// somebody calls [`Demo::tick`]; see [`Demo::spawn`].
    pub fn lively(clock: Clock, seed: u64) -> Arc<Self> {
        let now = clock();
        let world = life::World::new(&now, seed);
        let snapshot = world.life.snapshot(&now, &world.state.users);
        let (live, _) = watch::channel(Arc::new(snapshot));
        Arc::new(Demo {
            status: world.status,
            flows: Vec::new(),
            unattributed: world.unattributed,
            state: Mutex::new(world.state),
            life: Some(Mutex::new(world.life)),
            clock,
            live,
            doors: door::Doors::default(),
        })
    }

    /// Goes on once a second until the server is dropped.
    pub fn spawn(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
            loop {
                second.tick().await;
                match weak.upgrade() {
                    Some(demo) => demo.tick(),
                    None => return,
                }
            }
        });
    }

    /// One second of a lively server.
    pub fn tick(&self) {
        let Some(mut life) = self.life() else { return };
        let (now, mut state) = (self.now(), self.state());
        life.tick(&now, &mut state);
        self.live.send_replace(Arc::new(life.snapshot(&now, &state.users)));
    }

    fn life(&self) -> Option<MutexGuard<'_, Life>> {
        self.life.as_ref().map(|it| it.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other users, also in the stream.
    #[must_use]
    pub fn with_users(self, users: Vec<User>) -> Self {
        self.live.send_replace(Arc::new(snapshot(&self.now(), &users)));
        self.state().users = users;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a snapshot to everyone who listens.
    pub fn publish(&self, snapshot: LiveSnapshot) {
        self.live.send_replace(Arc::new(snapshot));
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> LiveSnapshot {
        (**self.live.borrow()).clone()
    }

    /// Does a change once per key, and tells the stream.
    fn once<T: Serialize + DeserializeOwned>(
        &self,
        envelope: &Envelope,
        change: impl FnOnce(&mut State) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        // Both in the order in which `tick` takes them.
        let life = self.life();
        let mut state = self.state();
        if let Some(answer) = state.answered(envelope)? {
            return serde_json::from_value(answer).map_err(ApiError::internal);
        }
        let answer = change(&mut state)?;
        state.remember(envelope, &answer)?;
        let now = self.now();
        let told = match life {
            Some(life) => life.snapshot(&now, &state.users),
            None => snapshot(&now, &state.users),
        };
        self.live.send_replace(Arc::new(told));
        Ok(answer)
    }

    fn time(&self, instant: Timestamp) -> Time {
        Time::new(instant, self.now().time_zone())
    }

    fn known(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !self.state().users.iter().any(|user| user.name == name) => {
                Err(ApiError::no_such_user(name))
            }
            _ => Ok(()),
        }
    }
}

/// The entries after the cursor, which is the key of the last one, and the next cursor.
fn paged<T>(entries: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let start = match &page.after {
        Some(after) => entries.iter().position(|it| key(it) == *after).map_or(0, |at| at + 1),
        None => 0,
    };
    let limit = page.limit as usize;
    let more = entries.len().saturating_sub(start) > limit;
    let entries: Vec<T> = entries.into_iter().skip(start).take(limit).collect();
    let next = entries.last().filter(|_| more).map(key);
    (entries, next)
}

#[async_trait]
impl Backend for Demo {
    fn now(&self) -> Zoned {
        (self.clock)()
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let mut status = self.status.clone();
        if self.life.is_some() {
            status.ledger.committed_at = Some(Time::from(&self.now()));
        }
        Ok(status)
    }

    async fn users(&self, filter: UserFilter, page: Page) -> Result<UserList, ApiError> {
        let state = self.state();
        let UserPage { users, next, matching } =
            filter.page(state.users.iter().map(|user| (Facts::from(user), user)), &page, User::clone);
        Ok(UserList { schema: Schema, users, rev: state.rev, next, matching: Some(matching) })
    }

    async fn user(&self, name: &str) -> Result<UserShow, ApiError> {
        Ok(UserShow { schema: Schema, user: self.state().user(name)?.clone() })
    }

    async fn usage(&self, query: UsageQuery) -> Result<Usage, ApiError> {
        self.known(query.user.as_deref())?;
        if let Some(life) = self.life() {
            return Ok(life.usage(&self.now(), &self.state().users, &query));
        }
        let start = query.from.unwrap_or_else(|| self.now().timestamp() - 24.hours());
        let to = query.to.unwrap_or(self.now().timestamp());
        let wanted = |user: &&User| query.user.as_ref().is_none_or(|name| user.name == *name);
        let state = self.state();
        let rows = state.users.iter().filter(wanted).map(|user| UsageRow {
            user: user.name.clone(),
            start: self.time(start),
            end: self.time(to),
            traffic: user.traffic,
            reported_upload_bytes: None,
            reported_download_bytes: None,
        });
        let (rows, next) = paged(rows.collect(), &query.page, |row| row.user.clone());
        Ok(Usage {
            schema: Schema,
            meter: Meter::Payload,
            rows,
            unattributed: self.unattributed,
            unattributed_by_inbound: Vec::new(),
            from: query.from.map(|from| self.time(from)),
            to: Some(self.time(to)),
            as_of: Some(Time::from(&self.now())),
            rev: 1,
            next,
        })
    }

    async fn flows(&self, filter: FlowFilter) -> Result<FlowList, ApiError> {
        self.known(filter.user.as_deref())?;
        let wanted = |flow: &&Flow| {
            filter.user.as_ref().is_none_or(|name| flow.user.as_ref() == Some(name))
                && filter.inbound.as_ref().is_none_or(|tag| flow.inbound == *tag)
        };
        let life = self.life();
        let all = life.as_ref().map_or(&self.flows, |it| &it.flows);
        let flows = all.iter().filter(wanted).cloned().collect();
        let (flows, next) = paged(flows, &filter.page, |flow: &Flow| flow.peer.clone());
        Ok(FlowList { schema: Schema, flows, next })
    }

    async fn events(&self, query: EventQuery) -> Result<EventList, ApiError> {
        let wanted = |event: &&Event| {
            query.user.as_ref().is_none_or(|name| event.user.as_ref() == Some(name))
                && query.since.is_none_or(|since| event.at.instant >= since)
                && query.severity.is_none_or(|least| event.severity >= least)
                && !(query.by_people && event.who.as_deref().is_none_or(|who| who == "agent"))
        };
        let state = self.state();
        let mut events: Vec<Event> = state.events.iter().filter(wanted).cloned().collect();
        if query.newest {
            events.reverse();
        }
        let (events, next) = paged(events, &query.page, |event: &Event| event.id.clone());
        Ok(EventList { schema: Schema, events, rev: state.rev, next })
    }

    async fn audit(&self, query: AuditQuery) -> Result<Audit, ApiError> {
        let users = self.state().users.iter().fold(Traffic::default(), |sum, user| sum.plus(&user.traffic));
        Ok(Audit {
            schema: Schema,
            watched: users.plus(&self.unattributed),
            users,
            unattributed: self.unattributed,
            difference_bytes: 0,
            width_bytes: 0,
            width_us: 0,
            from: query.from.map(|from| self.time(from)),
            to: Some(self.time(query.to.unwrap_or(self.now().timestamp()))),
            as_of: Some(Time::from(&self.now())),
            dropped_bytes: None,
        })
    }

    async fn metrics(&self) -> Result<String, ApiError> {
        let mut out = Exposition::default();
        out.family("boxmeter_user_payload_bytes_total", Kind::Counter, "Payload, over all time.");
        for user in &self.state().users {
            for (direction, bytes) in [
                ("upload", user.traffic.upload_payload_bytes),
                ("download", user.traffic.download_payload_bytes),
            ] {
                out.sample(&[("user", &user.name), ("direction", direction)], bytes);
            }
        }
        Ok(out.finish())
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        Ok(Stats::from(&self.snapshot()))
    }

    async fn subscribe(&self) -> Result<LiveStream, ApiError> {
        let snapshots = WatchStream::new(self.live.subscribe()).map(Ok);
        // A demonstration never ends its stream, also when the last sender is gone.
        Ok(Box::pin(snapshots.chain(stream::pending())))
    }

    async fn add_user(&self, envelope: Envelope, new: NewUser) -> Result<UserAdded, ApiError> {
        self.once(&envelope, |state| state.add_user(&self.now(), &envelope, &new))
    }

    async fn change_user(
        &self,
        envelope: Envelope,
        name: &str,
        change: UserChange,
    ) -> Result<UserChanged, ApiError> {
        self.once(&envelope, |state| state.change_user(&self.now(), &envelope, name, &change))
    }

    async fn delete_user(&self, envelope: Envelope, name: &str, purge: bool) -> Result<Deleted, ApiError> {
        self.once(&envelope, |state| state.delete_user(&self.now(), &envelope, name, purge))
    }

    async fn reset_user(&self, envelope: Envelope, name: &str) -> Result<UserChanged, ApiError> {
        self.once(&envelope, |state| state.reset_user(&self.now(), &envelope, name))
    }

    async fn set_enabled(
        &self,
        envelope: Envelope,
        name: &str,
        enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        self.once(&envelope, |state| state.set_enabled(&self.now(), &envelope, name, enabled))
    }

    async fn packages(&self, name: &str, page: Page) -> Result<PackageList, ApiError> {
        let state = self.state();
        let (packages, remaining_bytes) = state.packages(name, self.now().timestamp())?;
        let (packages, next) = paged(packages, &page, |it| it.id.clone());
        let user = name.to_owned();
        Ok(PackageList { schema: Schema, user, packages, remaining_bytes, rev: state.rev, next })
    }

    async fn add_package(
        &self,
        envelope: Envelope,
        name: &str,
        new: NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        self.once(&envelope, |state| state.add_package(&self.now(), &envelope, name, &new))
    }

    async fn policies(&self, page: Page) -> Result<PolicyList, ApiError> {
        let state = self.state();
        let policies = state.policies.iter().map(|it| state.with_users(it)).collect();
        let (policies, next) = paged(policies, &page, |it: &Policy| it.name.clone());
        Ok(PolicyList { schema: Schema, policies, rev: state.rev, next })
    }

    async fn policy(&self, name: &str) -> Result<PolicyShow, ApiError> {
        let state = self.state();
        Ok(PolicyShow { schema: Schema, policy: state.with_users(state.policy(name)?) })
    }

    async fn add_policy(&self, envelope: Envelope, new: NewPolicy) -> Result<PolicyChanged, ApiError> {
        self.once(&envelope, |state| state.add_policy(&new))
    }

    async fn change_policy(
        &self,
        envelope: Envelope,
        name: &str,
        change: PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        self.once(&envelope, |state| state.change_policy(&self.now(), &envelope, name, &change))
    }

    async fn delete_policy(&self, envelope: Envelope, name: &str) -> Result<Deleted, ApiError> {
        self.once(&envelope, |state| state.delete_policy(&envelope, name))
    }

    async fn import(&self, envelope: Envelope, request: ImportRequest) -> Result<ImportReport, ApiError> {
        self.once(&envelope, |state| Ok(state.import(&self.now(), &envelope, &request)))
    }

    async fn credentials(&self, name: &str) -> Result<UserCredentials, ApiError> {
        let state = self.state();
        Ok(state.shared.credentials(state.user(name)?, &state.inbounds, state.rev))
    }

    async fn rotate_subscription(&self, envelope: Envelope, name: &str) -> Result<UserCredentials, ApiError> {
        self.once(&envelope, |state| {
            let user = state.user(name)?.clone();
            envelope.check_rev(user.rev, &user)?;
            state.shared.rotate(&user);
            state.rev += 1;
            Ok(state.shared.credentials(&user, &state.inbounds, state.rev))
        })
    }

    async fn subscription(&self, token: &str) -> Result<Subscription, ApiError> {
        let state = self.state();
        state.shared.subscription(&self.now(), &state.users, &state.inbounds, token)
    }

    async fn notify(&self) -> Result<NotifyShow, ApiError> {
        Ok(notify::show(&self.now(), &self.state().users))
    }

    async fn test_notify(&self, _envelope: Envelope, test: NotifyTest) -> Result<NotifyTested, ApiError> {
        notify::test(test)
    }

    async fn sharing(&self) -> Result<SharingShow, ApiError> {
        let state = self.state();
        Ok(state.shared.show(state.sharing_rev))
    }

    async fn change_sharing(
        &self,
        envelope: Envelope,
        change: SharingChange,
    ) -> Result<SharingShow, ApiError> {
        self.once(&envelope, |state| {
            envelope.check_rev(state.sharing_rev, &state.shared.sharing)?;
            state.shared.change(&change)?;
            state.rev += 1;
            state.sharing_rev = state.rev;
            Ok(state.shared.show(state.sharing_rev))
        })
    }
}
