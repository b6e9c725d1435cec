//! `boxmeter status`: is all well, and if not, what to do.

use boxmeter_web::{
    api::types::{EnforcementStatus, InboundStatus, KernelStatus, Network, ServiceStatus, Status},
    backend::Backend,
};
use jiff::Timestamp;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, age, exact, minute, safe, safe_cut},
    table::pairs,
};

/// Counters that mean that something was not counted as well as it could be.
const WORRYING: [&str; 7] = [
    "unparsable_packets",
    "socket_storage_failed",
    "udp_peers_full_packets",
    "closed_flows_full",
    "events_lost",
    "tcp_out_of_window_segments",
    "bad_owner_slots",
];

/// Inbounds that are listed; a server with more has them in `--json`.
const INBOUNDS_SHOWN_MAX: usize = 20;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let status = context.client()?.status().await?;
    if context.json {
        return context.print_json(&status);
    }
    context.print(&render(context, &status, Timestamp::now()))
}

pub fn render(context: &Context, status: &Status, now: Timestamp) -> String {
    let mut out = head(context, status);
    out.push('\n');
    out.push_str(&pairs(&parts(context, status, now)));
    if !status.inbounds.is_empty() {
        out.push_str(&inbounds(context, &status.inbounds));
    }
    out
}

fn head(context: &Context, status: &Status) -> String {
    let version = safe(&status.agent.version);
    if status.ok && status.degraded.is_empty() {
        let text = context.fill("status.well", &[("version", &version)]);
        return format!("{}\n", context.paint(Tone::Good, &text));
    }
    let text = context.fill("status.degraded", &[("version", &version)]);
    let mut out = format!("{}\n", context.paint(Tone::Warn, &text));
    for it in &status.degraded {
        let since = context.fill("status.since", &[("time", &minute(&it.since))]);
        let part = context.paint(Tone::Bold, &safe(&it.part));
        out.push_str(&format!("  {part}: {} ({since})\n", safe(&it.reason)));
        if let Some(advice) = &it.advice {
            out.push_str(&format!("    → {}\n", safe(advice)));
        }
    }
    if status.degraded.is_empty() || status.degraded.iter().any(|it| it.advice.is_none()) {
        out.push_str(&format!("  → {}\n", context.text("status.ask_doctor")));
    }
    out
}

fn parts<'a>(context: &'a Context, status: &Status, now: Timestamp) -> Vec<(&'a str, String)> {
    let singbox = match (&status.singbox.pid, &status.singbox.version) {
        (None, _) => context.text("status.singbox_absent").to_owned(),
        (Some(pid), version) => context.fill(
            "status.singbox",
            &[
                ("version", &safe(version.as_deref().unwrap_or("?"))),
                ("pid", &pid.to_string()),
                ("config", &safe(status.singbox.config.as_deref().unwrap_or("?"))),
            ],
        ),
    };
    let source = match status.source.kind {
        None => context.text("status.source_none").to_owned(),
        Some(kind) if status.source.connected => {
            context.fill("status.source_connected", &[("kind", kind.as_str())])
        }
        Some(kind) => context.fill("status.source_lost", &[("kind", kind.as_str())]),
    };
    let committed = match &status.ledger.committed_at {
        Some(at) => context.fill("status.committed", &[("age", &age(at, now))]),
        None => context.text("status.never_committed").to_owned(),
    };
    let agent = [
        ("version", &*safe(&status.agent.version)),
        ("pid", &status.agent.pid.to_string()),
        ("time", &minute(&status.agent.started_at)),
    ];
    let mut parts = vec![
        (context.text("part.agent"), context.fill("status.agent", &agent)),
        (context.text("part.singbox"), singbox),
        (context.text("part.source"), source),
        (context.text("part.kernel"), kernel(context, &status.kernel)),
        (
            context.text("part.ledger"),
            context.fill("status.ledger", &[("path", &safe(&status.ledger.path)), ("committed", &committed)]),
        ),
    ];
    if !status.needs_owners() {
        parts.remove(2);
    }
    // Beside sing-box, or in its place.
    let services = status.services.iter().map(|it| (context.text("part.service"), service(context, it)));
    parts.splice(if status.has_singbox() { 2..2 } else { 1..2 }, services);
    if let Some(it) = &status.enforcement {
        parts.push((context.text("part.enforcement"), enforcement(context, it)));
    }
    parts
}

fn service(context: &Context, it: &ServiceStatus) -> String {
    let text = |text: &Option<String>| safe(text.as_deref().unwrap_or("?"));
    let source = match it.source.kind {
        _ if it.reported && it.source.connected => context.text("status.source_reported").to_owned(),
        _ if it.reported => context.text("status.source_silent").to_owned(),
        None => context.text("status.source_none").to_owned(),
        Some(kind) if it.source.connected => {
            context.fill("status.source_connected", &[("kind", kind.as_str())])
        }
        Some(kind) => context.fill("status.source_lost", &[("kind", kind.as_str())]),
    };
    let key = match (&it.pid, &it.version) {
        _ if it.is_absent() => "status.service_absent",
        (Some(_), Some(_)) => "status.service",
        (Some(_), None) => "status.service_running",
        (None, _) => "status.service_told",
    };
    let pid = it.pid.map(|pid| pid.to_string()).unwrap_or_default();
    let values = [
        ("name", &*safe(&it.name)),
        ("kind", &*safe(&it.kind)),
        ("version", &*text(&it.version)),
        ("pid", &*pid),
        ("source", &*source),
        ("config", &*text(&it.config)),
    ];
    context.fill(key, &values)
}

fn enforcement(context: &Context, it: &EnforcementStatus) -> String {
    let values = [
        ("cut", &*it.cut_users.to_string()),
        ("out", &it.taken_out_users.to_string()),
        ("edits", &it.edits.to_string()),
        ("reloads", &it.reloads.to_string()),
    ];
    let mut text = context.fill("status.enforcement", &values);
    if let Some(pending) = &it.pending {
        let users = pending.users.to_string();
        text.push_str(&match &pending.at_latest {
            Some(at) => context.fill("status.reload_until", &[("users", &users), ("time", &minute(at))]),
            None => context.fill("status.reload_by_hand", &[("users", &users)]),
        });
    }
    if let Some(error) = &it.last_error {
        let values = [("time", &*minute(&error.at)), ("message", &safe(&error.message))];
        text.push_str(&context.paint(Tone::Bad, &context.fill("status.enforcement_error", &values)));
    }
    text
}

fn kernel(context: &Context, kernel: &KernelStatus) -> String {
    let attached = if kernel.attached { "status.attached" } else { "status.not_attached" };
    let mut text = context.text(attached).to_owned();
    if let (Some(up), Some(down)) = (kernel.ns_per_packet.ingress, kernel.ns_per_packet.egress) {
        let values = [("up", &*up.to_string()), ("down", &down.to_string())];
        text.push_str(&context.fill("status.cost", &values));
    }
    for name in WORRYING {
        if let Some(count) = kernel.counters.get(name).filter(|count| **count > 0) {
            text.push_str(&format!(", {name} {}", exact(*count)));
        }
    }
    text
}

fn inbounds(context: &Context, inbounds: &[InboundStatus]) -> String {
    let mut out = format!("\n{}\n", context.text("status.inbounds"));
    for it in inbounds.iter().take(INBOUNDS_SHOWN_MAX) {
        let networks: Vec<&str> = it.networks.iter().map(|network| word(*network)).collect();
        let values = [
            ("tag", &*safe_cut(&it.tag, 40)),
            ("type", &safe_cut(&it.kind, 20)),
            ("networks", &networks.join("+")),
            ("port", &it.port.to_string()),
            ("users", &it.users.to_string()),
        ];
        out.push_str(&format!("  {}\n", context.fill("status.inbound", &values)));
        if let Some(note) = &it.note {
            out.push_str(&format!("    → {}\n", safe(note)));
        }
    }
    if let Some(more) = inbounds.len().checked_sub(INBOUNDS_SHOWN_MAX).filter(|more| *more > 0) {
        out.push_str(&format!("  {}\n", context.fill("more", &[("count", &more.to_string())])));
    }
    out
}

/// The word of the contract.
pub fn word(network: Network) -> &'static str {
    match network {
        Network::Tcp => "tcp",
        Network::Udp => "udp",
    }
}
