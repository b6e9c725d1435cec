//! Made-up data behind the real contract: for trying the faces without a server, and for their
//! tests. Nothing here is measured, and the names say so.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use jiff::{Timestamp, ToSpan, Zoned};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::{
    api::{
        live::{LiveSnapshot, LiveTotals, LiveUser},
        query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
        types::*,
    },
    backend::{ApiError, Backend, LiveStream},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A server that stands still at one moment; tests set the fields.
pub struct Demo {
    pub now: Zoned,
    pub status: Status,
    pub users: Vec<User>,
    pub flows: Vec<Flow>,
    pub events: Vec<Event>,
    pub unattributed: Traffic,
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
            events: events(&now),
            unattributed: traffic(3 * MIB),
            users,
            now,
            live,
        }
    }

    /// Other users, also in the stream.
    #[must_use]
    pub fn with_users(mut self, users: Vec<User>) -> Self {
        self.live.send_replace(Arc::new(snapshot(&self.now, &users)));
        self.users = users;
        self
    }

    /// Sends a snapshot to everyone who listens.
    pub fn publish(&self, snapshot: LiveSnapshot) {
        self.live.send_replace(Arc::new(snapshot));
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> LiveSnapshot {
        (**self.live.borrow()).clone()
    }

    fn time(&self, instant: Timestamp) -> Time {
        Time::new(instant, self.now.time_zone())
    }

    fn known(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !self.users.iter().any(|user| user.name == name) => {
                Err(ApiError::no_such_user(name))
            }
            _ => Ok(()),
        }
    }
}

/// A made-up user; the number makes the figures.
pub fn user(now: &Zoned, number: u64, name: &str, state: UserState, quota: Option<u64>) -> User {
    let counted = traffic(number * GIB);
    let used = counted.total(Meter::Payload);
    let month = |offset: i64| {
        let first = now.first_of_month().ok()?.start_of_day().ok()?;
        Some(Time::from(&first.checked_add(offset.months()).ok()?))
    };
    let reason = (state == UserState::Limited).then(|| "period quota used up".to_owned());
    let live = match state {
        UserState::Active => {
            Live { flows: 3, addresses: 1, upload_rate: MIB, download_rate: number * 4 * MIB }
        }
        _ => Live::default(),
    };
    User {
        name: name.to_owned(),
        id: Some(format!("0198c0de-0000-7000-8000-{number:012}")),
        state,
        reason,
        policy: Some("basic".to_owned()),
        email: None,
        created_at: Time::from(now),
        expires_at: None,
        period: Period {
            start: month(0),
            end: month(1),
            quota_bytes: quota,
            used_bytes: used,
            remaining_bytes: quota.map(|quota| quota.saturating_sub(used)),
        },
        total: Total { quota_bytes: None, used_bytes: used },
        packages: Packages::default(),
        speed: Speed::default(),
        max_flows: None,
        max_addresses: Some(3),
        live,
        last_seen_at: Some(Time::from(now)),
        inbounds: vec!["trojan-in".to_owned()],
        traffic: counted,
        rev: number,
    }
}

/// Counts with the usual relation of upload to download and of payload to wire.
fn traffic(unit: u64) -> Traffic {
    Traffic {
        upload_payload_bytes: unit / 4,
        download_payload_bytes: unit * 2,
        upload_wire_bytes: unit / 4 + unit / 64,
        download_wire_bytes: unit * 2 + unit / 16,
    }
}

fn status(now: &Zoned, users: usize) -> Status {
    Status {
        schema: Schema,
        ok: true,
        degraded: Vec::new(),
        agent: AgentStatus { version: "demo".to_owned(), pid: 1, started_at: Time::from(now) },
        kernel: KernelStatus {
            attached: true,
            epoch: "0".repeat(32),
            ns_per_packet: NsPerPacket { ingress: Some(120), egress: Some(130) },
            counters: [("tcp_flows_opened".to_owned(), 7)].into(),
        },
        source: SourceStatus { kind: Some(SourceKind::Api), connected: true, ..Default::default() },
        ledger: LedgerStatus {
            path: "/var/lib/boxmeter/ledger.db".to_owned(),
            committed_at: Some(Time::from(now)),
            rev: 1,
            ..Default::default()
        },
        singbox: SingboxStatus {
            pid: Some(2),
            version: Some("1.14.4".to_owned()),
            config: Some("/etc/sing-box".to_owned()),
        },
        time_zone: now.time_zone().iana_name().map(str::to_owned),
        inbounds: vec![InboundStatus {
            tag: "trojan-in".to_owned(),
            kind: "trojan".to_owned(),
            port: 443,
            networks: vec![Network::Tcp],
            users: users as u64,
            note: None,
        }],
    }
}

fn flows(now: &Zoned, users: &[User]) -> Vec<Flow> {
    let flow = |user: Option<&User>, owner_by, peer: &str| Flow {
        user: user.map(|user| user.name.clone()),
        owner_by,
        inbound: "trojan-in".to_owned(),
        network: Network::Tcp,
        peer: peer.to_owned(),
        opened_at: Time::from(now),
        upload_payload_bytes: MIB,
        download_payload_bytes: 20 * MIB,
        upload_rate: 0,
        download_rate: MIB,
        before_metering: false,
        id: None,
    };
    vec![
        flow(users.first(), Some(OwnerBy::Api), "203.0.113.7:51234"),
        flow(users.get(2), Some(OwnerBy::ByPort), "[2001:db8::7]:443"),
        flow(None, None, "198.51.100.9:40000"),
    ]
}

fn events(now: &Zoned) -> Vec<Event> {
    let event = |number: u64, severity, user: Option<&str>, kind: &str, message: &str| Event {
        id: format!("0198c0de-0000-7000-9000-{number:012}"),
        at: Time::from(now),
        kind: kind.to_owned(),
        severity,
        user: user.map(str::to_owned),
        message: message.to_owned(),
        who: Some("agent".to_owned()),
        data: None,
        rev: number,
    };
    let found = "found in sing-box's configuration";
    vec![
        event(1, Severity::Info, Some("demo-alice"), "user.adopted", found),
        event(2, Severity::Warning, None, "source.disconnected", "the API service went away"),
    ]
}

fn snapshot(now: &Zoned, users: &[User]) -> LiveSnapshot {
    let users: Vec<LiveUser> = users
        .iter()
        .map(|user| LiveUser {
            id: user.id.clone().unwrap_or_default(),
            name: user.name.clone(),
            state: user.state,
            live: user.live,
            period_bytes: user.period.used_bytes,
            quota_bytes: user.period.quota_bytes,
            total_bytes: user.total.used_bytes,
        })
        .collect();
    let sum = |of: fn(&LiveUser) -> u64| users.iter().map(of).sum::<u64>();
    let unattributed = traffic(3 * MIB).total(Meter::Payload);
    LiveSnapshot {
        schema: Schema,
        at: Time::from(now),
        ok: true,
        degraded: Vec::new(),
        meter: Meter::Payload,
        totals: LiveTotals {
            upload_rate: sum(|user| user.live.upload_rate),
            download_rate: sum(|user| user.live.download_rate),
            flows: sum(|user| user.live.flows),
            today_bytes: sum(|user| user.period_bytes) / 10,
            total_bytes: sum(|user| user.total_bytes) + unattributed,
            unattributed_bytes: unattributed,
        },
        users,
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
        self.now.clone()
    }

    async fn status(&self) -> Result<Status, ApiError> {
        Ok(self.status.clone())
    }

    async fn users(&self, filter: UserFilter, page: Page) -> Result<UserList, ApiError> {
        let search = filter.search.unwrap_or_default().to_lowercase();
        let mut users: Vec<User> = self
            .users
            .iter()
            .filter(|user| filter.state.is_none_or(|state| user.state == state))
            .filter(|user| user.name.to_lowercase().contains(&search))
            .cloned()
            .collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        let (users, next) = paged(users, &page, |user| user.name.clone());
        Ok(UserList { schema: Schema, users, rev: 1, next })
    }

    async fn user(&self, name: &str) -> Result<UserShow, ApiError> {
        let found = self.users.iter().find(|user| user.name == name);
        let user = found.cloned().ok_or_else(|| ApiError::no_such_user(name))?;
        Ok(UserShow { schema: Schema, user })
    }

    async fn usage(&self, query: UsageQuery) -> Result<Usage, ApiError> {
        self.known(query.user.as_deref())?;
        let start = query.from.unwrap_or_else(|| self.now.timestamp() - 24.hours());
        let to = query.to.unwrap_or(self.now.timestamp());
        let wanted = |user: &&User| query.user.as_ref().is_none_or(|name| user.name == *name);
        let rows = self.users.iter().filter(wanted).map(|user| UsageRow {
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
            as_of: Some(Time::from(&self.now)),
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
        let flows = self.flows.iter().filter(wanted).cloned().collect();
        let (flows, next) = paged(flows, &filter.page, |flow: &Flow| flow.peer.clone());
        Ok(FlowList { schema: Schema, flows, next })
    }

    async fn events(&self, query: EventQuery) -> Result<EventList, ApiError> {
        let wanted = |event: &&Event| {
            query.user.as_ref().is_none_or(|name| event.user.as_ref() == Some(name))
                && query.since.is_none_or(|since| event.at.instant >= since)
        };
        let events = self.events.iter().filter(wanted).cloned().collect();
        let (events, next) = paged(events, &query.page, |event: &Event| event.id.clone());
        Ok(EventList { schema: Schema, events, rev: 1, next })
    }

    async fn audit(&self, query: AuditQuery) -> Result<Audit, ApiError> {
        let users = self.users.iter().fold(Traffic::default(), |sum, user| sum.plus(&user.traffic));
        Ok(Audit {
            schema: Schema,
            watched: users.plus(&self.unattributed),
            users,
            unattributed: self.unattributed,
            difference_bytes: 0,
            width_bytes: 0,
            width_us: 0,
            from: query.from.map(|from| self.time(from)),
            to: Some(self.time(query.to.unwrap_or(self.now.timestamp()))),
            as_of: Some(Time::from(&self.now)),
            dropped_bytes: None,
        })
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        let live = self.snapshot();
        let count = |wanted: fn(&User) -> bool| self.users.iter().filter(|it| wanted(it)).count();
        Ok(Stats {
            schema: Schema,
            total_users: self.users.len() as u64,
            active_users: count(|user| user.state == UserState::Active) as u64,
            total_traffic_bytes: live.totals.total_bytes,
            meter: Meter::Payload,
            online_users: count(|user| user.live.flows > 0) as u64,
            limited_users: count(|user| user.state == UserState::Limited) as u64,
            today_bytes: live.totals.today_bytes,
            month_bytes: live.totals.total_bytes,
            unattributed_bytes: live.totals.unattributed_bytes,
            as_of: Some(Time::from(&self.now)),
        })
    }

    async fn subscribe(&self) -> Result<LiveStream, ApiError> {
        let snapshots = WatchStream::new(self.live.subscribe()).map(Ok);
        // A demonstration never ends its stream, also when the last sender is gone.
        Ok(Box::pin(snapshots.chain(stream::pending())))
    }
}
