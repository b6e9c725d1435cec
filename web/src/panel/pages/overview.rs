//! `/`: how many, how much, how fast, who, and whether all is well.

use askama::Template;
use axum::extract::State;

use super::{
    Shared, Visit, charts,
    charts::Chart,
    frame::{Answer, Frame, render},
    live::TOP_ROWS,
    view::{Moment, segment, share, short},
};
use crate::{
    api::types::{ServiceStatus, Stats, Status},
    units::{Rate, Size},
};

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    f: Frame,
    stats: Stats,
    today: String,
    month: String,
    total: String,
    unattributed: String,
    flows: u64,
    down: String,
    up: String,
    chart: Chart,
    top: Vec<Row>,
    health: Vec<Part>,
    well: bool,
}

struct Row {
    address: String,
    name: String,
    down: String,
    up: String,
    used: String,
}

/// A part of boxmeter in the card of health.
struct Part {
    name: String,
    text: String,
    good: bool,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let title = visit.lang.text("panel.nav.overview").to_owned();
    let (status, view) = tokio::join!(visit.backend().status(), pages.hub.view());
    // What the stream says next, so that nobody is asked twice, and nothing jumps.
    let stats = match &view {
        Some(view) => Stats::from(&*view.snapshot),
        None => visit.backend().stats().await?,
    };
    let f = Frame::beside(&pages, &visit, "overview", title, &status);
    let status = status?;
    let f = f.with_stream("/live?page=overview".to_owned());
    let zone = status.time_zone.clone().unwrap_or_else(|| "UTC".to_owned());
    let empty = Default::default();
    let history = view.as_ref().map_or(&empty, |it| &*it.history);
    let chart = charts::rates(&f, &zone, history.iter().copied());
    let totals = view.as_ref().map(|it| it.snapshot.totals).unwrap_or_default();
    let mut top: Vec<Row> = view
        .iter()
        .flat_map(|it| it.busiest())
        .map(|user| Row {
            address: format!("{}/users/{}", f.base, segment(&user.name)),
            name: short(&user.name),
            down: Rate(user.live.download_rate).to_string(),
            up: Rate(user.live.upload_rate).to_string(),
            used: Size(user.period_bytes).to_string(),
        })
        .collect();
    top.truncate(TOP_ROWS);
    // Today and this month have what is nobody's in them, and so has the total.
    let all = stats.total_traffic_bytes.saturating_add(stats.unattributed_bytes);
    let page = Page {
        today: Size(stats.today_bytes).to_string(),
        month: Size(stats.month_bytes).to_string(),
        total: Size(all).to_string(),
        unattributed: share(stats.unattributed_bytes, all),
        flows: totals.flows,
        down: Rate(totals.download_rate).to_string(),
        up: Rate(totals.upload_rate).to_string(),
        chart,
        top,
        health: health(&f, &status),
        well: status.ok && status.degraded.is_empty(),
        stats,
        f,
    };
    render(&page)
}

fn health(f: &Frame, status: &Status) -> Vec<Part> {
    let part = |key: &str, good: bool, text: String| Part { name: f.t(key).to_owned(), text, good };
    let singbox = match &status.singbox.version {
        Some(version) => f.t1("panel.health.version", "version", version),
        None => f.t("status.singbox_absent").to_owned(),
    };
    let source = match (status.source.kind, status.source.connected) {
        (None, _) => f.t("panel.health.source_none").to_owned(),
        (Some(kind), true) => f.t1("status.source_connected", "kind", kind.as_str()),
        (Some(kind), false) => f.t1("status.source_lost", "kind", kind.as_str()),
    };
    let kernel = f.t(if status.kernel.attached { "status.attached" } else { "status.not_attached" });
    let committed = match &status.ledger.committed_at {
        Some(at) => f.t1("panel.health.committed", "time", Moment::exact(at).text),
        None => f.t("status.never_committed").to_owned(),
    };
    let mut parts = Vec::new();
    if status.has_singbox() {
        parts.push(part("part.singbox", status.singbox.pid.is_some(), singbox));
    }
    parts.extend(status.services.iter().map(|it| service(f, it)));
    if status.needs_owners() {
        parts.push(part("part.source", status.source.connected, source));
    }
    parts.extend([
        part("part.kernel", status.kernel.attached, kernel.to_owned()),
        part("part.ledger", status.ledger.committed_at.is_some(), committed),
    ]);
    if let Some(it) = &status.enforcement {
        let values = [("cut", &*it.cut_users.to_string()), ("out", &it.taken_out_users.to_string())];
        let mut text = f.lang.fill("panel.health.enforcement", &values);
        if let Some(pending) = &it.pending {
            text.push_str(&f.t1("panel.health.pending", "users", pending.users));
        }
        parts.push(part("part.enforcement", it.last_error.is_none(), text));
    }
    parts
}

fn service(f: &Frame, it: &ServiceStatus) -> Part {
    let text = match &it.version {
        _ if it.is_absent() => f.t("status.singbox_absent").to_owned(),
        _ if it.reported && !it.source.connected => f.t("status.source_silent").to_owned(),
        Some(version) if it.pid.is_some() => f.t1("panel.health.version", "version", version),
        _ if it.reported => f.t("status.source_reported").to_owned(),
        _ => f.t("panel.health.running").to_owned(),
    };
    let name = f.lang.fill("panel.health.service", &[("name", &*it.name), ("kind", &*it.kind)]);
    Part { name, text, good: !it.is_absent() && it.source.connected }
}
