//! `/users/{name}`: everything about one user: charts, live connections, limits, purchases, events.

use askama::Template;
use axum::extract::{Path, Query, State};
use jiff::{ToSpan, Zoned};
use serde::Deserialize;

use super::{
    Shared, Visit, charts,
    charts::Chart,
    events_list::{Entry, entry},
    frame::{Answer, Frame, render},
    user_flows::{self, Connections},
    view::{Moment, State as Word, Use, segment, shown, switched_off},
};
use crate::{
    api::{
        query::{By, EventQuery, Page as Cursor, UsageQuery},
        terms::Terms,
        types::{Meter, Package, PackageOrigin, ServiceShare, Traffic, Usage, User, UserState},
    },
    backend::{ApiError, ErrorKind},
    units::{Rate, Size},
    wording,
};

/// Events on the page; the rest is in the list of events.
const EVENTS: u32 = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// The width of the chart's bars.
    by: String,
}

#[derive(Template)]
#[template(path = "user_show.html")]
struct Page {
    f: Frame,
    id: String,
    name: String,
    raw: String,
    address: String,
    state: Word,
    reason: String,
    off: bool,
    usage: Use,
    total: Use,
    packages_left: String,
    period: String,
    ends: Option<Moment>,
    down: String,
    up: String,
    flows_count: u64,
    addresses: u64,
    facts: Vec<(String, String, bool)>,
    services: Vec<Part>,
    by: &'static str,
    spans: Vec<(String, String, bool)>,
    chart: Chart,
    live_chart: Chart,
    flows: Connections,
    packages: Vec<Bought>,
    events: Vec<Entry>,
    events_address: String,
}

/// What a user moved on one service, by the kernel or by the service's own counters.
struct Part {
    service: String,
    down: String,
    up: String,
    reported: bool,
}

/// A line of the wallet.
struct Bought {
    at: Moment,
    size: String,
    left: String,
    expires: Option<Moment>,
    who: String,
    note: String,
}

pub async fn show(
    State(pages): State<Shared>,
    visit: Visit,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer {
    let user = visit.backend().user(&name).await?.user;
    let span = Span::of(&asked.by);
    let now = visit.backend().now();
    let (f, usage, flows, packages, events, view) = tokio::join!(
        Frame::load(&pages, &visit, "users", shown(&name)),
        visit.backend().usage(span.query(&name, &now)),
        user_flows::connections(&visit, &name),
        packages(&visit, &name),
        visit.backend().events(recent(&name)),
        pages.hub.view(),
    );
    let id = user.id.clone().unwrap_or_default();
    let f = f.with_stream(format!("/live?page=user&ids={id}"));
    let zone = zone_of(&now);
    let live =
        view.map(|it| it.snapshot.at.instant.as_second()).unwrap_or_else(|| now.timestamp().as_second());
    let point = [live, clipped(user.live.download_rate), clipped(user.live.upload_rate)];
    let usage = usage?;
    let page = Page {
        chart: chart(&f, &zone, span, &usage),
        services: services(&user.services, usage.meter),
        live_chart: charts::rates(&f, &zone, std::iter::once(point)),
        flows: flows?,
        packages: packages?.iter().map(|it| bought(&f, it)).collect(),
        events: events?.events.iter().map(|it| entry(&f, it)).collect(),
        events_address: format!("/events?user={}", segment(&name)),
        spans: spans(&f, &name, span),
        by: span.word(),
        ..base(f, &user, id, &now)
    };
    render(&page)
}

/// The page without what is asked for beside the user.
fn base(f: Frame, user: &User, id: String, now: &Zoned) -> Page {
    let reason = user.cause.as_ref().map(|it| it.sentence(f.lang, user.time_zone.as_deref()));
    let period = match (&user.period.start, &user.period.end) {
        (Some(start), Some(end)) => format!("{} – {}", wording::minute(start), wording::minute(end)),
        (Some(start), None) => f.t1("status.since", "time", wording::minute(start)),
        (None, _) => f.t("none").to_owned(),
    };
    Page {
        id,
        name: shown(&user.name),
        raw: user.name.clone(),
        address: format!("{}/users/{}", f.base, segment(&user.name)),
        state: Word::of(f.lang, user.state),
        reason: shown(&reason.or_else(|| user.reason.clone()).unwrap_or_default()),
        off: switched_off(user),
        usage: Use::of(user.period.used_bytes, user.period.quota_bytes, user.state),
        total: Use::of(user.total.used_bytes, user.total.quota_bytes, user.state),
        packages_left: Size(user.packages.remaining_bytes).to_string(),
        period,
        ends: user.period.end.as_ref().map(|it| Moment::near(f.lang, it, now.timestamp())),
        down: Rate(user.live.download_rate).to_string(),
        up: Rate(user.live.upload_rate).to_string(),
        flows_count: user.live.flows,
        addresses: user.live.addresses,
        facts: facts(&f, user, now),
        services: Vec::new(),
        by: "day",
        spans: Vec::new(),
        chart: Chart { json: String::new(), rows: Vec::new() },
        live_chart: Chart { json: String::new(), rows: Vec::new() },
        flows: Connections::default(),
        packages: Vec::new(),
        events: Vec::new(),
        events_address: String::new(),
        f,
    }
}

fn zone_of(now: &Zoned) -> String {
    now.time_zone().iana_name().unwrap_or("UTC").to_owned()
}

fn clipped(rate: u64) -> i64 {
    i64::try_from(rate).unwrap_or(i64::MAX)
}

fn recent(name: &str) -> EventQuery {
    EventQuery {
        user: Some(name.to_owned()),
        newest: true,
        page: Cursor { after: None, limit: EVENTS },
        ..EventQuery::default()
    }
}

/// The purchase history; whoever only meters has none.
async fn packages(visit: &Visit, name: &str) -> Result<Vec<Package>, ApiError> {
    match visit.backend().packages(name, Cursor::default()).await {
        Ok(list) => Ok(list.packages.into_iter().rev().collect()),
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn bought(f: &Frame, it: &Package) -> Bought {
    let note = it.note.as_deref().map(shown).unwrap_or_default();
    let rollover = it.origin == PackageOrigin::Rollover;
    Bought {
        at: Moment::at(&it.bought_at),
        size: Size(it.bytes).to_string(),
        left: Size(it.remaining_bytes).to_string(),
        expires: it.expires_at.as_ref().map(Moment::at),
        who: shown(&it.who),
        note: if rollover { f.t("packages.rollover").to_owned() } else { note },
    }
}

/// The width of a bar and how far back the chart goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Span {
    Hour,
    Day,
    Period,
}

impl Span {
    const ALL: [Span; 3] = [Span::Hour, Span::Day, Span::Period];

    fn of(word: &str) -> Span {
        Self::ALL.into_iter().find(|it| it.word() == word).unwrap_or(Span::Day)
    }

    fn word(self) -> &'static str {
        match self {
            Span::Hour => "hour",
            Span::Day => "day",
            Span::Period => "period",
        }
    }

    fn query(self, name: &str, now: &Zoned) -> UsageQuery {
        let (by, from) = match self {
            Span::Hour => (By::Hour, now.checked_sub(48.hours()).ok()),
            Span::Day => (By::Day, now.start_of_day().ok().and_then(|it| it.checked_sub(34.days()).ok())),
            Span::Period => (By::Period, None),
        };
        let from = from.map(|it| it.timestamp());
        UsageQuery { user: Some(name.to_owned()), from, to: None, by: Some(by), page: Cursor::default() }
    }
}

fn spans(f: &Frame, name: &str, chosen: Span) -> Vec<(String, String, bool)> {
    let one = |it: Span| {
        let address = format!("{}/users/{}?by={}", f.base, segment(name), it.word());
        (address, f.t(format!("panel.chart.{}", it.word())).to_owned(), it == chosen)
    };
    Span::ALL.into_iter().map(one).collect()
}

fn chart(f: &Frame, zone: &str, span: Span, usage: &Usage) -> Chart {
    charts::usage(f, zone, span.word(), usage.meter, &usage.rows)
}

/// Label, value, and whether the value is the user's own instead of the policy's.
fn facts(f: &Frame, user: &User, now: &Zoned) -> Vec<(String, String, bool)> {
    let none = || f.t("none").to_owned();
    let mut lines: Vec<(&str, String, bool)> = vec![
        ("user.policy", user.policy.as_deref().map_or_else(none, shown), false),
        (
            "user.expires",
            user.expires_at.as_ref().map_or_else(|| f.t("panel.time.no_end").to_owned(), wording::minute),
            false,
        ),
    ];
    if let Some(terms) = &user.terms {
        lines.extend(limits(f, user, terms));
    }
    if user.state == UserState::Throttled {
        let rate = |value: Option<u64>| {
            value.map_or_else(|| f.t("panel.form.no_limit").to_owned(), |it| Rate(it).to_string())
        };
        let now = user.enforcement.speed;
        lines.push(("panel.user.speed_now", format!("↓ {}  ↑ {}", rate(now.down), rate(now.up)), false));
    }
    let inbounds: Vec<String> = user.inbounds.iter().map(|it| shown(it)).collect();
    let seen = user
        .last_seen_at
        .as_ref()
        .map(|at| format!("{} ({})", wording::minute(at), wording::distance(f.lang, at, now.timestamp())));
    let join = if inbounds.is_empty() { none() } else { inbounds.join(", ") };
    lines.extend([
        ("user.inbounds", join, false),
        ("user.email", user.email.as_deref().map_or_else(none, shown), false),
        ("user.created", wording::minute(&user.created_at), false),
        ("user.last_seen", seen.unwrap_or_else(|| f.t("never").to_owned()), false),
    ]);
    if let Some(note) = &user.note {
        lines.push(("user.note", crate::api::names::escape(note, |c| c == '\n'), false));
    }
    lines.into_iter().map(|(key, value, own)| (f.t(key).to_owned(), value, own)).collect()
}

/// One line of each service, and one of what it reported itself, where there is something to tell apart.
fn services(shares: &[ServiceShare], meter: Meter) -> Vec<Part> {
    let part = |share: &ServiceShare, reported: bool, (up, down): (u64, u64)| Part {
        service: shown(&share.service),
        down: Size(down).to_string(),
        up: Size(up).to_string(),
        reported,
    };
    let told = |share: &ServiceShare| {
        let [up, down] = [share.reported_upload_bytes, share.reported_download_bytes];
        (up.unwrap_or_default(), down.unwrap_or_default())
    };
    if shares.len() < 2 && shares.iter().all(|share| told(share) == (0, 0)) {
        return Vec::new();
    }
    let mut parts = Vec::new();
    for share in shares {
        let told = told(share);
        if share.traffic != Traffic::default() || told == (0, 0) {
            parts.push(part(share, false, share.traffic.by(meter)));
        }
        if told != (0, 0) {
            parts.push(part(share, true, told));
        }
    }
    parts
}

fn limits(f: &Frame, user: &User, terms: &Terms) -> Vec<(&'static str, String, bool)> {
    let none = || f.t("panel.form.no_limit").to_owned();
    let own = |names: &[&str]| names.iter().any(|name| user.overrides.has(name));
    let rate = |value: Option<u64>| value.map_or_else(none, |it| Rate(it).to_string());
    let count = |value: Option<u32>| value.map_or_else(none, |it| it.to_string());
    let mut lines = vec![
        ("terms.period", wording::period(f.lang, terms), own(&["period", "reset_day", "time_zone"])),
        ("terms.over_quota", wording::ladder(f.lang, &terms.over_quota), own(&["over_quota"])),
        (
            "terms.speed",
            format!("↓ {}  ↑ {}", rate(terms.speed_down), rate(terms.speed_up)),
            own(&["speed_up", "speed_down"]),
        ),
        ("terms.max_flows", count(terms.max_flows), own(&["max_flows"])),
        ("terms.max_addresses", count(terms.max_addresses), own(&["max_addresses"])),
    ];
    if let Some(days) = terms.valid_days {
        lines.push(("terms.valid_days", days.to_string(), own(&["valid_days"])));
    }
    lines
}
