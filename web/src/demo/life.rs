//! What goes on by itself on a lively server: rates that move, connections that come and go, bytes
//! that add up, limits that are reached.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan, Zoned};
use serde_json::json;
use uuid::Uuid;

use super::{
    changes::State,
    data::{GIB, MIB, policies, shares, snapshot, status},
    history::{DAYS, Hours, Random, habit, wire},
    people::{Fate, days_ago, everybody, fate, meet},
};
use crate::{
    api::{live::LiveSnapshot, query::UsageQuery, types::*},
    locale::Lang,
};

/// Users whose limits are looked at in one second; the others come later.
const SETTLED_A_TICK: usize = 4;
/// The fastest that a made-up user gets.
const RATE_MAX: u64 = 12 * MIB;

/// The number of the user who is on sing-box, V2Ray and nginx.
const ON_ALL: usize = 2;

/// A whole made-up server.
pub(super) struct World {
    pub state: State,
    pub life: Life,
    pub status: Status,
    pub unattributed: Traffic,
}

/// See the module.
pub(super) struct Life {
    random: Random,
    /// By the user's id.
    hours: BTreeMap<String, Hours>,
    /// What nginx counted itself, by the user's id.
    told: BTreeMap<String, Hours>,
    /// The rate that each user wanders around, by id; 0 is who is not there.
    aims: BTreeMap<String, u64>,
    pub flows: Vec<Flow>,
    /// What belongs to nobody.
    unattributed: Hours,
    settled: usize,
}

impl World {
    pub fn new(now: &Zoned, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut users = everybody(now, &mut random);
        let (mut hours, mut told) = (BTreeMap::new(), BTreeMap::new());
        for (number, user) in users.iter_mut().enumerate() {
            let made = history(now, &mut random, user, fate(number));
            // From numbers of their own, as nobody's are.
            let told_of = match number {
                ON_ALL => Hours::made_up(now, &mut Random::new(seed ^ GIB), GIB / 2, days_of(now, user)),
                _ => Hours::default(),
            };
            used(now, user, &made, &told_of);
            if number == ON_ALL {
                user.services = shares(&user.traffic, told_of.sum(Timestamp::UNIX_EPOCH, now.timestamp()));
                told.insert(id_of(user), told_of);
            }
            meet(now, user, fate(number));
            hours.insert(id_of(user), made);
        }
        // From numbers of its own, so that everybody else stays who they are.
        let unattributed = Hours::made_up(now, &mut Random::new(!seed), GIB / 25, DAYS);
        let nobodys = wire(unattributed.sum(Timestamp::UNIX_EPOCH, now.timestamp()));
        let mut state = State::new(users, policies(), Vec::new());
        state.inbounds = INBOUNDS.map(|(tag, kind, ..)| (tag.to_owned(), kind.to_owned())).into();
        for number in 0..state.users.len() {
            if fate(number) == Fate::Packages {
                buy(now, &mut state, number);
            }
            // The terms were made here, so that nothing can be refused.
            let _ = state.settle(now, number);
        }
        state.events = events(now, &mut random, &state.users);
        let mut life =
            Life { random, hours, told, aims: BTreeMap::new(), flows: Vec::new(), unattributed, settled: 0 };
        for user in &mut state.users {
            life.arrive(now, user);
        }
        for user in &mut state.users {
            life.wander(user);
        }
        World { status: world_status(now, state.users.len()), state, life, unattributed: nobodys }
    }
}

/// Tag, type, port and networks.
const INBOUNDS: [(&str, &str, u16, Network); 3] = [
    ("trojan-in", "trojan", 443, Network::Tcp),
    ("vless-in", "vless", 8443, Network::Tcp),
    ("hy2-in", "hysteria2", 443, Network::Udp),
];

fn id_of(user: &User) -> String {
    user.id.clone().unwrap_or_default()
}

fn days_of(now: &Zoned, user: &User) -> i64 {
    let days = (now.timestamp().as_second() - user.created_at.instant.as_second()) / 86_400;
    days.min(DAYS)
}

fn history(now: &Zoned, random: &mut Random, user: &User, fate: Fate) -> Hours {
    if fate == Fate::NotUsedYet {
        return Hours::default();
    }
    let per_day = habit(random);
    Hours::made_up(now, random, per_day, days_of(now, user))
}

/// Puts what the hours say into the user's figures.
fn used(now: &Zoned, user: &mut User, hours: &Hours, told: &Hours) {
    let start = user.period.start.map_or(Timestamp::UNIX_EPOCH, |it| it.instant);
    let since = |from| {
        let both = [hours, told].map(|it| it.sum(from, now.timestamp()));
        both.as_flattened().iter().sum::<u64>()
    };
    user.traffic = wire(hours.sum(Timestamp::UNIX_EPOCH, now.timestamp()));
    user.total.used_bytes = since(Timestamp::UNIX_EPOCH);
    user.period.used_bytes = since(start);
    if user.total.used_bytes > 0 {
        user.first_used_at = Some(user.created_at);
        user.last_seen_at = Some(days_ago(now, 0));
    }
}

fn buy(now: &Zoned, state: &mut State, number: usize) {
    let name = state.users[number].name.clone();
    for (days, gib, note) in [(40, 20, None), (9, 50, Some("winter offer"))] {
        let package = Package {
            id: Uuid::now_v7().to_string(),
            bought_at: days_ago(now, days),
            bytes: gib * GIB,
            remaining_bytes: if days > 30 { 0 } else { gib * GIB },
            expires_at: (days < 30).then(|| days_ago(now, -60)),
            origin: PackageOrigin::Bought,
            who: "panel:admin".to_owned(),
            note: note.map(str::to_owned),
        };
        state.bought(&name, package);
    }
}

fn world_status(now: &Zoned, users: usize) -> Status {
    let mut status = status(now, users);
    status.agent.started_at = days_ago(now, 12);
    status.inbounds = INBOUNDS
        .map(|(tag, kind, port, network)| InboundStatus {
            tag: tag.to_owned(),
            kind: kind.to_owned(),
            port,
            networks: vec![network],
            users: users as u64,
            note: None,
        })
        .into();
    if let Some(enforcement) = &mut status.enforcement {
        enforcement.cut_users = 9;
        enforcement.taken_out_users = 9;
        enforcement.edits = 31;
        enforcement.reloads = 6;
        enforcement.pending = None;
    }
    status
}

impl Life {
    /// Decides whether a user is there, and how fast.
    fn arrive(&mut self, now: &Zoned, user: &mut User) {
        let may = matches!(user.state, UserState::Active | UserState::Throttled);
        let aim = match self.random.below(10) {
            0..5 => 0,
            5..8 => 20_000 + self.random.below(MIB),
            _ => MIB / 2 + self.random.below(6 * MIB),
        };
        let aim = if may { aim } else { 0 };
        self.aims.insert(id_of(user), aim);
        self.flows.retain(|flow| flow.user.as_ref() != Some(&user.name));
        let count = if aim == 0 { 0 } else { 1 + self.random.below(6) };
        for _ in 0..count {
            let flow = self.flow(now, user);
            self.flows.push(flow);
        }
        user.live.flows = count;
        user.live.addresses = count.min(1 + self.random.below(2));
        if count == 0 {
            let minutes = i64::try_from(self.random.below(60 * 24 * 3)).unwrap_or_default() + 2;
            if user.last_seen_at.is_some() {
                user.last_seen_at = Some(Time::from(&now.saturating_sub(minutes.minutes())));
            }
        }
    }

    fn flow(&mut self, now: &Zoned, user: &User) -> Flow {
        let at = usize::try_from(self.random.below(8)).unwrap_or_default();
        let inbound = user.inbounds.get(at % user.inbounds.len().max(1)).cloned().unwrap_or_default();
        let network = if inbound == "hy2-in" { Network::Udp } else { Network::Tcp };
        let port = 20_000 + self.random.below(40_000);
        let host = self.random.below(250) + 1;
        let peer = match self.random.below(3) {
            0 => format!("203.0.113.{host}:{port}"),
            1 => format!("198.51.100.{host}:{port}"),
            _ => format!("[2001:db8:{:x}::{host:x}]:{port}", self.random.below(0xffff)),
        };
        let minutes = i64::try_from(self.random.below(180)).unwrap_or_default();
        let bytes = self.random.below(300 * MIB);
        Flow {
            user: Some(user.name.clone()),
            owner_by: Some(if self.random.chance(90) { OwnerBy::Api } else { OwnerBy::ByPort }),
            inbound,
            network,
            peer,
            opened_at: Time::from(&now.saturating_sub(minutes.minutes())),
            upload_payload_bytes: bytes / 9,
            download_payload_bytes: bytes,
            upload_rate: 0,
            download_rate: 0,
            before_metering: false,
            id: Some(format!("{:016x}", self.random.next())),
        }
    }

    /// A step of the user's rates towards its aim.
    fn wander(&mut self, user: &mut User) {
        let aim = self.aims.get(&id_of(user)).copied().unwrap_or_default();
        let limit = user.enforcement.speed.down.unwrap_or(RATE_MAX).min(RATE_MAX);
        let noise = 50 + self.random.below(100);
        let wanted = (aim * noise / 100).min(limit);
        let before = user.live.download_rate;
        let rate = if aim == 0 || before == 0 { wanted } else { (before * 2 + wanted) / 3 };
        user.live.download_rate = rate;
        user.live.upload_rate = rate * (6 + self.random.below(8)) / 100;
        let count = user.live.flows.max(1);
        for flow in self.flows.iter_mut().filter(|it| it.user.as_ref() == Some(&user.name)) {
            flow.download_rate = rate / count;
            flow.upload_rate = user.live.upload_rate / count;
        }
    }

    /// One second.
    pub fn tick(&mut self, now: &Zoned, state: &mut State) {
        for at in 0..state.users.len() {
            let user = &mut state.users[at];
            let may = matches!(user.state, UserState::Active | UserState::Throttled);
            let there = self.aims.get(&id_of(user)).is_some_and(|aim| *aim > 0);
            // People come and go about every two minutes; who may no longer goes at once.
            if (there && !may) || self.random.below(120) == 0 {
                self.arrive(now, user);
            }
            self.wander(user);
            let live = user.live;
            if live.flows > 0 {
                self.count(now, user);
            }
        }
        // Somebody always knocks without having a key.
        self.unattributed.add(now.timestamp(), 180, 240);
        for flow in &mut self.flows {
            flow.upload_payload_bytes += flow.upload_rate;
            flow.download_payload_bytes += flow.download_rate;
        }
        for _ in 0..SETTLED_A_TICK.min(state.users.len()) {
            self.settled = (self.settled + 1) % state.users.len();
            settle(now, state, self.settled);
        }
    }

    fn count(&mut self, now: &Zoned, user: &mut User) {
        let live = user.live;
        let hours = self.hours.entry(id_of(user)).or_default();
        hours.add(now.timestamp(), live.upload_rate, live.download_rate);
        let sum = live.upload_rate + live.download_rate;
        user.period.used_bytes += sum;
        user.total.used_bytes += sum;
        let counted = wire([live.upload_rate, live.download_rate]);
        user.traffic = user.traffic.plus(&counted);
        if let Some(singbox) = user.services.first_mut() {
            singbox.traffic = singbox.traffic.plus(&counted);
        }
        user.last_seen_at = Some(Time::from(now));
    }

    pub fn snapshot(&self, now: &Zoned, users: &[User]) -> LiveSnapshot {
        let mut told = snapshot(now, users);
        let begin = |of: Result<Zoned, jiff::Error>| of.map_or(Timestamp::UNIX_EPOCH, |it| it.timestamp());
        let month = now.first_of_month().and_then(|it| it.start_of_day());
        told.totals.today_bytes = self.sum(begin(now.start_of_day()), now.timestamp());
        told.totals.month_bytes = self.sum(begin(month), now.timestamp());
        told.totals.unattributed_bytes = self.nobodys().total(Meter::Payload);
        let of_users = users.iter().map(|it| it.total.used_bytes).sum::<u64>();
        told.totals.total_bytes = of_users + told.totals.unattributed_bytes;
        told
    }

    fn nobodys(&self) -> Traffic {
        wire(self.unattributed.sum(Timestamp::UNIX_EPOCH, Timestamp::MAX))
    }

    /// Everybody's bytes and nobody's.
    fn sum(&self, from: Timestamp, to: Timestamp) -> u64 {
        let all = self.hours.values().chain(self.told.values()).chain([&self.unattributed]);
        let sums = all.map(|it| it.sum(from, to));
        sums.map(|[up, down]| up + down).sum()
    }

    pub fn usage(&self, now: &Zoned, users: &[User], query: &UsageQuery) -> Usage {
        let zone = now.time_zone();
        let from = query.from.unwrap_or(Timestamp::UNIX_EPOCH);
        let to = query.to.unwrap_or(now.timestamp()).min(now.timestamp());
        let mut rows = Vec::new();
        for user in users.iter().filter(|it| query.user.as_ref().is_none_or(|name| it.name == *name)) {
            let Some(hours) = self.hours.get(&id_of(user)) else { continue };
            let told = self.told.get(&id_of(user));
            let spans = match query.by {
                None => vec![(from.max(user.created_at.instant), hours.sum(from, to))],
                Some(by) => hours.by(by, from, to, zone),
            };
            let ends: Vec<Timestamp> = spans.iter().skip(1).map(|(at, _)| *at).chain([to]).collect();
            rows.extend(spans.into_iter().zip(ends).map(|((start, bytes), end)| {
                let told = told.map(|it| it.sum(start.max(from), end));
                UsageRow {
                    user: user.name.clone(),
                    start: Time::new(start, zone),
                    end: Time::new(end, zone),
                    traffic: wire(bytes),
                    reported_upload_bytes: told.map(|it| it[0]),
                    reported_download_bytes: told.map(|it| it[1]),
                }
            }));
        }
        let key = |row: &UsageRow| format!("{} {}", row.start.instant.as_second(), row.user);
        let (rows, next) = super::paged(rows, &query.page, key);
        Usage {
            schema: Schema,
            meter: Meter::Payload,
            rows,
            unattributed: self.nobodys(),
            unattributed_by_inbound: Vec::new(),
            from: query.from.map(|it| Time::new(it, zone)),
            to: Some(Time::new(to, zone)),
            as_of: Some(Time::from(now)),
            rev: 1,
            next,
        }
    }
}

/// Limits that are reached, told as the agent tells them.
fn settle(now: &Zoned, state: &mut State, at: usize) {
    let before = state.users[at].state;
    let (rev, revs) = (state.rev, state.users[at].rev);
    let Ok(user) = state.settle(now, at) else { return };
    if user.state == before {
        // Nothing that a form was made from has changed.
        state.rev = rev;
        state.users[at].rev = revs;
        return;
    }
    let kind = format!("user_{}", user.state.as_str());
    let message = user.reason.clone().unwrap_or_else(|| "within its limits again".to_owned());
    let data = user.cause.as_ref().map(|it| json!({"cause": it, "time_zone": user.time_zone}));
    let severity = if user.cause.is_some() { Severity::Warning } else { Severity::Info };
    state.events.push(event(Time::from(now), severity, &kind, Some(&user.name), message, "agent", data));
}

fn event(
    at: Time,
    severity: Severity,
    kind: &str,
    user: Option<&str>,
    message: impl Into<String>,
    who: &str,
    data: Option<serde_json::Value>,
) -> Event {
    Event {
        id: Uuid::now_v7().to_string(),
        at,
        kind: kind.to_owned(),
        severity,
        user: user.map(str::to_owned),
        message: message.into(),
        who: Some(who.to_owned()),
        data,
        rev: 1,
    }
}

/// Two months of events, oldest first.
fn events(now: &Zoned, random: &mut Random, users: &[User]) -> Vec<Event> {
    use Severity::{Info, Warning};
    let at = |days: i64| days_ago(now, days);
    let mut events = vec![
        event(at(60), Info, "agent_started", None, "boxmeter 0.1.0 began to meter", "agent", None),
        event(
            at(60),
            Info,
            "source_connected",
            None,
            "sing-box's API tells whose connections are whose",
            "agent",
            None,
        ),
        event(at(17), Warning, "source_disconnected", None, "the API service went away", "agent", None),
        event(at(17), Info, "source_connected", None, "the API service is back", "agent", None),
        event(at(12), Info, "agent_started", None, "boxmeter 0.1.0 goes on where it stopped", "agent", None),
    ];
    for (number, user) in users.iter().enumerate() {
        let name = Some(user.name.as_str());
        let who = if random.chance(60) { "panel:admin" } else { "uid:0" };
        events.push(event(user.created_at, Info, "user_created", name, "added", who, None));
        let data = user.cause.as_ref().map(|it| json!({"cause": it, "time_zone": user.time_zone}));
        let when = user.cause.as_ref().and_then(Reason::at).unwrap_or_else(|| at(2));
        let why = user.cause.as_ref().map(|it| it.sentence(Lang::En, user.time_zone.as_deref()));
        let why = why.unwrap_or_default();
        match fate(number) {
            Fate::Limited => events.push(event(when, Warning, "user_limited", name, why, "agent", data)),
            Fate::Throttled => events.push(event(when, Warning, "user_throttled", name, why, "agent", data)),
            Fate::Expired => events.push(event(at(3), Info, "user_expired", name, why, "agent", data)),
            Fate::Disabled => events.push(event(when, Info, "user_disabled", name, why, "panel:admin", data)),
            Fate::Suspended => events.push(event(when, Warning, "user_suspended", name, why, "agent", data)),
            Fate::Near => {
                let text = "80 % of the period's quota is used";
                events.push(event(at(1), Warning, "quota_warning", name, text, "agent", None));
            }
            Fate::Packages => {
                let text = "50 GiB more, with \"winter offer\"";
                events.push(event(at(9), Info, "package_added", name, text, "panel:admin", None));
            }
            Fate::Usual | Fate::ExpiresSoon | Fate::NotUsedYet => {}
        }
    }
    events.sort_by_key(|it| it.at.instant);
    events
}

#[cfg(test)]
mod tests;
