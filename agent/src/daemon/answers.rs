//! Turns what the agent knows into the words of the contract. Pure: no IO, no clock.

use std::{collections::BTreeMap, sync::Arc};

use boxmeter_common::{DOWNLOAD, UPLOAD};
use boxmeter_web::{
    api::{
        live::{LiveSnapshot, LiveTotals, LiveUser},
        query::{self, Facts, Page},
        told,
        types::{
            Audit, BackupStatus, Degradation, Enforcement, EnforcementError, EnforcementStatus, Event,
            Flow as ApiFlow, FlowList, Live, Meter, Network as ApiNetwork, OwnerBy as ApiOwnerBy, Packages,
            PendingReload, Period, Schema, Severity, Speed, Stats, Time, Total, Traffic, Usage, UsageRow,
            User, UserState,
        },
    },
    backend::ApiError,
    locale::Lang,
};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::{
    care::CareStatus,
    changes::{terms_to_api, to_api},
    gate::GateRow,
    meter::ListedFlow,
    shared::{Directory, Picture},
};
use crate::{
    core::{
        event::{Counters, Network, Now, OwnerBy, UserId},
        policy::{State, Used},
        snapshot::{Degraded, UserLive},
    },
    kernel::Audit as AuditReading,
    ledger::{By, EventRecord, InboundNo, QueryError, Reader, UsageAnswer, UsageQuery, UserRecord},
};

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

pub fn zoned(ms: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(zone.clone())
}

/// Revisions count up from 0.
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub fn cursor(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("`after` is the `next` of the page before"))
}

pub fn traffic(counters: Counters) -> Traffic {
    Traffic {
        upload_payload_bytes: counters.payload[UPLOAD],
        download_payload_bytes: counters.payload[DOWNLOAD],
        upload_wire_bytes: counters.wire[UPLOAD],
        download_wire_bytes: counters.wire[DOWNLOAD],
    }
}

pub fn query_error(error: QueryError) -> ApiError {
    match error {
        QueryError::NoSuchUser(name) => ApiError::no_such_user(&name),
        QueryError::TooLong(_) | QueryError::EmptyRange | QueryError::Calendar(_) => {
            ApiError::bad_request(error)
        }
        QueryError::Damaged(_) | QueryError::Read(_) => ApiError::unavailable(error),
    }
}

pub fn degradation(part: &Degraded, zone: &TimeZone) -> Degradation {
    Degradation {
        part: part.part.to_owned(),
        reason: part.reason.clone(),
        since: Time::from_ms(part.since_ms, zone),
        advice: None,
    }
}

pub fn ledger_query(query: &query::UsageQuery, zone: &TimeZone, now_ms: i64) -> Result<UsageQuery, ApiError> {
    let after = match &query.page.after {
        None => None,
        Some(text) => Some(UserId(
            text.parse().map_err(|_| ApiError::bad_request("`after` is the `next` of the page before"))?,
        )),
    };
    Ok(UsageQuery {
        user: query.user.clone(),
        from_ms: query.from.map(Timestamp::as_millisecond),
        to_ms: query.to.map(Timestamp::as_millisecond),
        by: match query.by {
            None => By::Range,
            Some(query::By::Minute) => By::Minute,
            Some(query::By::Hour) => By::Hour,
            Some(query::By::Day) => By::Day,
            Some(query::By::Month) => By::Month,
            Some(query::By::Period) => By::Period,
        },
        zone: zone.clone(),
        now_ms,
        after,
        users_max: query.page.limit as usize,
    })
}

/// All pages of an answer in one.
pub fn every_page(reader: &Reader, mut query: UsageQuery) -> Result<UsageAnswer, QueryError> {
    let mut all = reader.usage(&query)?;
    while let Some(next) = all.next.take() {
        query.after = Some(next);
        let page = reader.usage(&query)?;
        all.rows.extend(page.rows);
        all.next = page.next;
    }
    Ok(all)
}

pub fn totals(answer: &UsageAnswer) -> BTreeMap<UserId, Traffic> {
    let mut totals: BTreeMap<UserId, Traffic> = BTreeMap::new();
    for row in &answer.rows {
        let sum = totals.entry(row.user).or_default();
        *sum = sum.plus(&traffic(row.usage));
    }
    totals
}

/// Most users have no such bytes at all.
fn shown(reported: u64) -> Option<u64> {
    (reported > 0).then_some(reported)
}

pub fn usage(answer: UsageAnswer, meter: Meter, zone: &TimeZone, now_ms: i64) -> Usage {
    let rows = answer.rows.iter().map(|row| UsageRow {
        user: row.name.to_string(),
        start: Time::from_ms(row.start_ms, zone),
        end: Time::from_ms(row.end_ms, zone),
        traffic: traffic(row.usage),
        reported_upload_bytes: shown(row.reported[UPLOAD]),
        reported_download_bytes: shown(row.reported[DOWNLOAD]),
    });
    Usage {
        schema: Schema,
        meter,
        rows: rows.collect(),
        unattributed: traffic(answer.unattributed),
        unattributed_by_inbound: Vec::new(),
        from: None,
        to: None,
        as_of: Some(Time::from_ms(answer.as_of_ms.unwrap_or(now_ms), zone)),
        rev: 0,
        next: answer.next.map(|user| user.to_string()),
    }
}

/// What a list of users is filtered and sorted by, as [`user`] says it.
pub fn facts<'a>(
    record: &'a UserRecord,
    picture: &'a Picture,
    total: Option<&Traffic>,
    meter: Meter,
) -> Facts<'a> {
    let live = picture.snapshot.user(record.id);
    let row = picture.directory.gate.get(&record.id);
    let used = used(row, &live, total.map_or(0, |total| total.total(meter)), meter);
    Facts {
        name: &record.name,
        note: record.settings.note.as_deref(),
        email: record.settings.email.as_deref(),
        policy: row.and_then(|row| row.policy.as_deref()).or(Some(&record.policy)),
        state: row.map_or(UserState::Active, |row| state(row.state)),
        online: live.live.flows > 0,
        used_bytes: used.period,
        total_bytes: used.total,
        rate: live.activity.upload_rate.saturating_add(live.activity.download_rate),
        last_seen_ms: live.activity.last_seen_ms,
        expires_ms: record.settings.expires_ms,
    }
}

pub fn user(
    record: &UserRecord,
    picture: &Picture,
    total: Option<&Traffic>,
    meter: Meter,
    zone: &TimeZone,
) -> User {
    let live = picture.snapshot.user(record.id);
    let traffic = total.copied().unwrap_or_default();
    let row = picture.directory.gate.get(&record.id);
    let zone = row.map_or(zone, |row| &row.zone);
    let terms = row.map(|row| terms_to_api(&row.terms)).unwrap_or_default();
    let used = used(row, &live, traffic.total(meter), meter);
    let packages_left = row.map_or(0, |row| row.packages_left);
    let zone_name = zone.iana_name();
    User {
        name: record.name.to_string(),
        id: Some(record.id.to_string()),
        state: row.map_or(UserState::Active, |row| state(row.state)),
        reason: row.and_then(|row| Some(row.reason.as_ref()?.sentence(Lang::En, zone_name))),
        cause: row.and_then(|row| row.reason.clone()),
        policy: row.and_then(|row| row.policy.clone()).or_else(|| Some(record.policy.clone())),
        email: record.settings.email.clone(),
        note: record.settings.note.clone(),
        created_at: Time::from_ms(record.created_ms, zone),
        expires_at: record.settings.expires_ms.map(|ms| Time::from_ms(ms, zone)),
        period: Period {
            start: Some(Time::from_ms(record.account.start_ms, zone)),
            end: row.and_then(|row| row.period_end_ms).map(|ms| Time::from_ms(ms, zone)),
            quota_bytes: terms.quota_bytes,
            used_bytes: used.period,
            remaining_bytes: terms
                .quota_bytes
                .map(|quota| quota.saturating_sub(used.period).saturating_add(packages_left)),
        },
        total: Total { quota_bytes: terms.total_quota_bytes, used_bytes: used.total },
        packages: Packages { remaining_bytes: packages_left },
        speed: Speed { up: terms.speed_up, down: terms.speed_down },
        max_flows: terms.max_flows.map(u64::from),
        max_addresses: terms.max_addresses.map(u64::from),
        live: line(&live),
        last_seen_at: live.activity.last_seen_ms.map(|ms| Time::from_ms(ms, zone)),
        inbounds: tags(record, picture),
        traffic,
        overrides: row.map(|row| to_api(&row.overrides)).unwrap_or_default(),
        terms: row.map(|_| terms),
        time_zone: zone_name.map(str::to_owned),
        services: Vec::new(),
        first_used_at: record.first_use_ms.map(|ms| Time::from_ms(ms, zone)),
        enforcement: row.map(|row| enforced(record, row, &picture.directory)).unwrap_or_default(),
        rev: unsigned(record.settings_rev),
    }
}

pub fn of_meter(meter: Meter, counters: Counters) -> u64 {
    traffic(counters).total(meter)
}

pub fn state(state: State) -> UserState {
    match state {
        State::Active => UserState::Active,
        State::Limited => UserState::Limited,
        State::Throttled => UserState::Throttled,
        State::Expired => UserState::Expired,
        State::Disabled => UserState::Disabled,
        State::Suspended => UserState::Suspended,
        State::Pending => UserState::Pending,
    }
}

fn line(live: &UserLive) -> Live {
    Live {
        flows: u64::from(live.live.flows),
        addresses: u64::from(live.live.addresses),
        upload_rate: live.activity.upload_rate,
        download_rate: live.activity.download_rate,
    }
}

fn tags(record: &UserRecord, picture: &Picture) -> Vec<String> {
    let known = &picture.directory.inbounds;
    let tag = |no: &InboundNo| {
        known.iter().find(|inbound| inbound.no == *no).map(|inbound| inbound.tag.to_string())
    };
    record.inbounds.iter().filter_map(tag).collect()
}

fn enforced(record: &UserRecord, row: &GateRow, directory: &Directory) -> Enforcement {
    let [up, down] = row.rates.map(|rate| (rate > 0).then_some(rate));
    Enforcement {
        cut: row.cut,
        taken_out: row.taken_out,
        reload_pending: directory.enforcement.waiting.contains(&*record.name),
        speed: Speed { up, down },
    }
}

pub fn enforcement(directory: &Directory, zone: &TimeZone) -> EnforcementStatus {
    let hands = &directory.enforcement;
    let time = |ms: i64| Time::from_ms(ms, zone);
    let users = directory.gate.values();
    EnforcementStatus {
        cut_users: users.clone().filter(|row| row.cut).count() as u64,
        taken_out_users: users.filter(|row| row.taken_out).count() as u64,
        edits: hands.edits,
        reloads: hands.reloads,
        last_edit_at: hands.last_edit_ms.map(time),
        last_reload_at: hands.last_reload_ms.map(time),
        pending: hands.pending.map(|(since, at)| PendingReload {
            since: time(since),
            at_latest: at.map(time),
            users: hands.waiting.len() as u64,
        }),
        last_error: hands
            .last_error
            .as_ref()
            .map(|(at, message)| EnforcementError { at: time(*at), message: message.clone() }),
    }
}

pub fn backups(care: &CareStatus, zone: &TimeZone) -> Option<BackupStatus> {
    let time = |ms: i64| Time::from_ms(ms, zone);
    Some(BackupStatus {
        directory: care.directory.as_ref()?.display().to_string(),
        last_at: care.last_ms.map(time),
        last_bytes: care.last_bytes,
        next_at: care.next_ms.map(time),
    })
}

fn owner_by(by: OwnerBy) -> ApiOwnerBy {
    match by {
        OwnerBy::Api => ApiOwnerBy::Api,
        OwnerBy::ClashLogs => ApiOwnerBy::ClashLogs,
        OwnerBy::LogFile => ApiOwnerBy::LogFile,
        OwnerBy::ByPort => ApiOwnerBy::ByPort,
        OwnerBy::Shared => ApiOwnerBy::Shared,
        OwnerBy::Reported => ApiOwnerBy::Reported,
    }
}

pub fn flow(listed: &ListedFlow, picture: &Picture, now: Now, zone: &TimeZone) -> ApiFlow {
    let ListedFlow { view, flow, rates } = listed;
    let user = view.user.and_then(|id| picture.directory.users.get(&id));
    let age_ms = i64::try_from(now.mono_ns.saturating_sub(flow.opened_ns) / MS).unwrap_or(0);
    ApiFlow {
        user: user.map(|user| user.name.to_string()),
        owner_by: view.by.map(owner_by),
        inbound: picture.directory.tags.get(&view.inbound).map(ToString::to_string).unwrap_or_default(),
        network: match view.network {
            Network::Tcp => ApiNetwork::Tcp,
            Network::Udp => ApiNetwork::Udp,
        },
        peer: view.peer.to_string(),
        opened_at: Time::from_ms(now.wall_ms - age_ms, zone),
        upload_payload_bytes: flow.payload[UPLOAD],
        download_payload_bytes: flow.payload[DOWNLOAD],
        upload_rate: rates[UPLOAD],
        download_rate: rates[DOWNLOAD],
        before_metering: view.opened_ns == 0,
        id: Some(view.id.0.to_string()),
    }
}

/// Flows by their ids, so that a cursor stays good while others open and end.
pub fn page_of_flows(flows: impl Iterator<Item = ApiFlow>, page: &Page) -> Result<FlowList, ApiError> {
    let number = |flow: &ApiFlow| flow.id.as_ref().and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
    let after = match &page.after {
        None => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| ApiError::bad_request("`after` is the `next` of the page before"))?,
        ),
    };
    let mut flows: Vec<ApiFlow> =
        flows.filter(|flow| after.is_none_or(|after| number(flow) > after)).collect();
    flows.sort_by_key(number);
    let limit = page.limit as usize;
    let more = flows.len() > limit;
    flows.truncate(limit);
    let next = if more { flows.last().and_then(|flow| flow.id.clone()) } else { None };
    Ok(FlowList { schema: Schema, flows, next })
}

pub fn event(record: &EventRecord, zone: &TimeZone) -> Event {
    let text = |key: &str| record.data.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    Event {
        id: record.id.to_string(),
        at: Time::from_ms(record.at_ms, zone),
        kind: record.kind.clone(),
        severity: match text("severity").as_deref() {
            Some("error") => Severity::Error,
            Some("warning") => Severity::Warning,
            _ => Severity::Info,
        },
        user: record.user_name.clone(),
        message: told::sentence(&record.kind, &record.data, zone, Lang::En)
            .or_else(|| text("message"))
            .unwrap_or_else(|| record.kind.replace(['_', '.'], " ")),
        who: Some(record.actor.clone()),
        data: Some(record.data.clone()),
        rev: 0,
    }
}

/// `unattributed` includes flows whose owner is not known yet. `watched` is shown as of the moment of
/// the sums, which lies between its two readings.
pub fn audit(reading: &AuditReading, as_of: Time) -> Audit {
    let users = traffic(reading.users);
    let unattributed = traffic(reading.unattributed).plus(&traffic(reading.pending));
    let (before, after) = (traffic(reading.watched_before), traffic(reading.watched_after));
    let sums = users.plus(&unattributed);
    let between =
        |field: fn(&Traffic) -> u64| field(&sums).clamp(field(&before), field(&after).max(field(&before)));
    let width = |field: fn(&Traffic) -> u64| field(&after).saturating_sub(field(&before));
    let fields: [fn(&Traffic) -> u64; 4] = [
        |t| t.upload_payload_bytes,
        |t| t.download_payload_bytes,
        |t| t.upload_wire_bytes,
        |t| t.download_wire_bytes,
    ];
    Audit {
        schema: Schema,
        watched: Traffic {
            upload_payload_bytes: between(fields[0]),
            download_payload_bytes: between(fields[1]),
            upload_wire_bytes: between(fields[2]),
            download_wire_bytes: between(fields[3]),
        },
        users,
        unattributed,
        difference_bytes: reading.difference_bytes(),
        width_bytes: fields.into_iter().map(width).max().unwrap_or(0),
        width_us: reading.after_ns.saturating_sub(reading.before_ns) / 1_000,
        from: None,
        to: None,
        as_of: Some(as_of),
        dropped_bytes: None,
    }
}

fn sum(picture: &Picture) -> Traffic {
    let users = picture.totals.values().fold(Traffic::default(), |sum, one| sum.plus(&traffic(*one)));
    users.plus(&traffic(picture.unattributed))
}

/// What [`live`] says, without the users.
pub fn stats(picture: &Picture, meter: Meter, zone: &TimeZone) -> Stats {
    Stats::from(&head(picture, meter, zone))
}

/// What a user has used: what the ledger and the gate know, also of what was imported or reported; what the
/// kernel counted where they do not know the user yet.
fn used(row: Option<&Arc<GateRow>>, live: &UserLive, counted: u64, meter: Meter) -> Used {
    row.map_or(Used { period: counted, total: counted }, |row| {
        row.bases.used(of_meter(meter, live.activity.totals))
    })
}

pub fn live(picture: &Picture, meter: Meter, zone: &TimeZone) -> LiveSnapshot {
    let of = |record: &Arc<UserRecord>| {
        let live = picture.snapshot.user(record.id);
        let row = picture.directory.gate.get(&record.id);
        let counted = picture.totals.get(&record.id).map_or(0, |total| traffic(*total).total(meter));
        let used = used(row, &live, counted, meter);
        Arc::new(LiveUser {
            id: record.id.to_string(),
            name: record.name.to_string(),
            state: row.map_or(UserState::Active, |row| state(row.state)),
            live: line(&live),
            period_bytes: used.period,
            quota_bytes: row.and_then(|row| row.terms.quota_bytes),
            total_bytes: used.total,
            last_seen_at: live.activity.last_seen_ms.map(|ms| Time::from_ms(ms, zone)),
        })
    };
    let users = living(picture).map(of).collect();
    LiveSnapshot { users, ..head(picture, meter, zone) }
}

fn living(picture: &Picture) -> impl Iterator<Item = &Arc<UserRecord>> {
    picture.directory.users.values().filter(|user| user.tombstoned_ms.is_none())
}

/// Everything about all users together.
fn head(picture: &Picture, meter: Meter, zone: &TimeZone) -> LiveSnapshot {
    let total_bytes = sum(picture).total(meter);
    let since = |before: Counters| total_bytes.saturating_sub(traffic(before).total(meter));
    let mut totals = LiveTotals {
        total_bytes,
        today_bytes: since(picture.before_today),
        month_bytes: since(picture.before_month),
        unattributed_bytes: traffic(picture.unattributed).total(meter),
        ..LiveTotals::default()
    };
    totals.count(living(picture).map(|record| {
        let row = picture.directory.gate.get(&record.id);
        (row.map_or(UserState::Active, |row| state(row.state)), line(&picture.snapshot.user(record.id)))
    }));
    LiveSnapshot {
        schema: Schema,
        at: Time::from_ms(picture.snapshot.as_of_ms, zone),
        ok: picture.snapshot.degraded.is_empty(),
        degraded: picture.snapshot.degraded.iter().map(|part| degradation(part, zone)).collect(),
        meter,
        totals,
        users: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
