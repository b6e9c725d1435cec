//! The made-up figures themselves.

use std::sync::Arc;

use jiff::{ToSpan, Zoned};

use serde_json::json;

use crate::{
    api::{
        live::{LiveSnapshot, LiveTotals, LiveUser},
        types::*,
    },
    locale::Lang,
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// A made-up user; the number makes the figures.
pub fn user(now: &Zoned, number: u64, name: &str, state: UserState, quota: Option<u64>) -> User {
    let counted = traffic(number * GIB);
    let used = counted.total(Meter::Payload);
    let month = |offset: i64| {
        let first = now.first_of_month().ok()?.start_of_day().ok()?;
        Some(Time::from(&first.checked_add(offset.months()).ok()?))
    };
    let until = month(1);
    let cause = (state == UserState::Limited).then(|| Reason::PeriodQuota {
        at: Time::from(now),
        used_bytes: used,
        quota_bytes: quota.unwrap_or_default(),
        packages_bytes: 0,
        until,
    });
    let zone = now.time_zone().iana_name();
    let own = Overrides { quota_bytes: Some(quota), ..Overrides::default() };
    let live = match state {
        UserState::Active => {
            Live { flows: 3, addresses: 1, upload_rate: MIB, download_rate: number * 4 * MIB }
        }
        _ => Live::default(),
    };
    let terms = basic().with(&own);
    User {
        name: name.to_owned(),
        id: Some(format!("0198c0de-0000-7000-8000-{number:012}")),
        state,
        reason: cause.as_ref().map(|cause| cause.sentence(Lang::En, zone)),
        cause,
        policy: Some("basic".to_owned()),
        email: None,
        note: None,
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
        speed: Speed { up: terms.speed_up, down: terms.speed_down },
        max_flows: terms.max_flows.map(u64::from),
        max_addresses: terms.max_addresses.map(u64::from),
        live,
        last_seen_at: Some(Time::from(now)),
        inbounds: vec!["trojan-in".to_owned()],
        traffic: counted,
        enforcement: enforcement(state, &terms),
        overrides: own,
        terms: Some(terms),
        time_zone: zone.map(str::to_owned),
        services: Vec::new(),
        first_used_at: Some(Time::from(now)),
        rev: number,
    }
}

/// What a state means for the kernel and the configuration.
pub(super) fn enforcement(state: UserState, terms: &Terms) -> Enforcement {
    let cut = match state {
        UserState::Limited | UserState::Expired | UserState::Disabled | UserState::Suspended => true,
        UserState::Active | UserState::Throttled | UserState::Pending => false,
    };
    let speed = Speed { up: terms.speed_up, down: terms.speed_down };
    Enforcement { cut, taken_out: cut, reload_pending: cut, speed }
}

/// The policies that exist from the start.
pub(super) fn policies() -> Vec<Policy> {
    let plans = [
        ("basic", basic()),
        ("free", plan(10, 1, 2)),
        ("premium", plan(500, 10, 10)),
        (UNLIMITED, Terms::default()),
    ];
    let numbered = plans.into_iter().zip(1_u64..);
    let policy = |((name, terms), number): ((&str, Terms), u64)| Policy {
        name: name.to_owned(),
        id: format!("0198c0de-0000-7000-a000-{number:012}"),
        terms,
        users: 0,
        rev: number,
    };
    numbered.map(policy).collect()
}

/// The policy that stays without limits.
pub(super) const UNLIMITED: &str = "unlimited";

fn basic() -> Terms {
    plan(100, 5, 5)
}

fn plan(quota_gib: u64, rate_mib: u64, addresses: u32) -> Terms {
    Terms {
        quota_bytes: Some(quota_gib * GIB),
        speed_up: Some(rate_mib * MIB),
        speed_down: Some(rate_mib * MIB),
        max_addresses: Some(addresses),
        ..Terms::default()
    }
}

/// Counts with the usual relation of upload to download and of payload to wire.
pub(super) fn traffic(unit: u64) -> Traffic {
    Traffic {
        upload_payload_bytes: unit / 4,
        download_payload_bytes: unit * 2,
        upload_wire_bytes: unit / 4 + unit / 64,
        download_wire_bytes: unit * 2 + unit / 16,
    }
}

/// A V2Ray that the kernel meters, and an nginx that counts its users itself.
fn services() -> Vec<ServiceStatus> {
    let counts_itself = SourceStatus { connected: true, ..SourceStatus::default() };
    vec![
        ServiceStatus {
            name: "v2ray".to_owned(),
            kind: "v2ray".to_owned(),
            pid: Some(3),
            version: Some("4.34.0".to_owned()),
            config: Some("/etc/v2ray/config.json".to_owned()),
            source: SourceStatus { kind: Some(SourceKind::LogFile), ..counts_itself.clone() },
            reported: false,
        },
        ServiceStatus {
            name: "web".to_owned(),
            kind: "nginx".to_owned(),
            pid: Some(4),
            version: None,
            config: Some("http://127.0.0.1:8080/status/format/json".to_owned()),
            source: counts_itself,
            reported: true,
        },
    ]
}

/// What is said of somebody who is on all of them: a third of what the kernel counted was moved on V2Ray, and
/// nginx told of the rest.
pub(super) fn shares(all: &Traffic, [upload, download]: [u64; 2]) -> Vec<ServiceShare> {
    let v2ray = Traffic {
        upload_payload_bytes: all.upload_payload_bytes / 3,
        download_payload_bytes: all.download_payload_bytes / 3,
        upload_wire_bytes: all.upload_wire_bytes / 3,
        download_wire_bytes: all.download_wire_bytes / 3,
    };
    let singbox = Traffic {
        upload_payload_bytes: all.upload_payload_bytes - v2ray.upload_payload_bytes,
        download_payload_bytes: all.download_payload_bytes - v2ray.download_payload_bytes,
        upload_wire_bytes: all.upload_wire_bytes - v2ray.upload_wire_bytes,
        download_wire_bytes: all.download_wire_bytes - v2ray.download_wire_bytes,
    };
    let share = |service: &str, traffic| ServiceShare {
        service: service.to_owned(),
        traffic,
        ..ServiceShare::default()
    };
    let web = ServiceShare {
        reported_upload_bytes: Some(upload),
        reported_download_bytes: Some(download),
        ..share("web", Traffic::default())
    };
    let mut shares = vec![share("sing-box", singbox), share("v2ray", v2ray)];
    shares.extend((upload > 0 || download > 0).then_some(web));
    shares
}

pub(super) fn status(now: &Zoned, users: usize) -> Status {
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
            backups: Some(BackupStatus {
                directory: "/var/lib/boxmeter/backups".to_owned(),
                last_at: Some(Time::from(now)),
                last_bytes: Some(9 << 20),
                next_at: None,
            }),
            ..Default::default()
        },
        singbox: SingboxStatus {
            pid: Some(2),
            version: Some("1.14.4".to_owned()),
            config: Some("/etc/sing-box".to_owned()),
        },
        time_zone: now.time_zone().iana_name().map(str::to_owned),
        services: services(),
        inbounds: vec![InboundStatus {
            tag: "trojan-in".to_owned(),
            kind: "trojan".to_owned(),
            port: 443,
            networks: vec![Network::Tcp],
            users: users as u64,
            note: None,
        }],
        enforcement: Some(EnforcementStatus {
            cut_users: 1,
            taken_out_users: 1,
            edits: 1,
            last_edit_at: Some(Time::from(now)),
            pending: Some(PendingReload {
                since: Time::from(now),
                at_latest: Some(Time::from(&now.saturating_add(10.minutes()))),
                users: 1,
            }),
            ..EnforcementStatus::default()
        }),
    }
}

pub(super) fn flows(now: &Zoned, users: &[User]) -> Vec<Flow> {
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

pub(super) fn events(now: &Zoned) -> Vec<Event> {
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
    let used = traffic(3 * GIB).total(Meter::Payload);
    let cause = Reason::PeriodQuota {
        at: Time::from(now),
        used_bytes: used,
        quota_bytes: 6 * GIB,
        packages_bytes: 0,
        until: user(now, 3, "", UserState::Limited, None).period.end,
    };
    let zone = now.time_zone().iana_name();
    let limited = Event {
        data: Some(json!({"cause": cause, "time_zone": zone})),
        ..event(3, Severity::Warning, Some("演示-小明"), "user.limited", &cause.sentence(Lang::En, zone))
    };
    vec![
        event(1, Severity::Info, Some("demo-alice"), "user.adopted", found),
        event(2, Severity::Warning, None, "source.disconnected", "the API service went away"),
        limited,
    ]
}

pub(super) fn snapshot(now: &Zoned, users: &[User]) -> LiveSnapshot {
    let users: Vec<Arc<LiveUser>> = users
        .iter()
        .map(|user| {
            Arc::new(LiveUser {
                id: user.id.clone().unwrap_or_default(),
                name: user.name.clone(),
                state: user.state,
                live: user.live,
                period_bytes: user.period.used_bytes,
                quota_bytes: user.period.quota_bytes,
                total_bytes: user.total.used_bytes,
                last_seen_at: user.last_seen_at,
            })
        })
        .collect();
    let sum = |of: fn(&LiveUser) -> u64| users.iter().map(|it| of(it)).sum::<u64>();
    let unattributed_bytes = traffic(3 * MIB).total(Meter::Payload);
    let mut totals = LiveTotals {
        today_bytes: (sum(|user| user.period_bytes) + unattributed_bytes) / 10,
        month_bytes: sum(|user| user.period_bytes) + unattributed_bytes,
        total_bytes: sum(|user| user.total_bytes) + unattributed_bytes,
        unattributed_bytes,
        ..LiveTotals::default()
    };
    totals.count(users.iter().map(|it| (it.state, it.live)));
    LiveSnapshot {
        schema: Schema,
        at: Time::from(now),
        ok: true,
        degraded: Vec::new(),
        meter: Meter::Payload,
        totals,
        users,
    }
}
