//! `GET /metrics`: the newest picture in Prometheus' text format. Counters of the kernel's epoch begin at 0 with the
//! machine's boot, those of the agent's life with its start, as Prometheus expects of counters.

use std::collections::BTreeMap;

use boxmeter_common::{DOWNLOAD, UPLOAD};
use boxmeter_web::api::{
    metrics::{
        Exposition,
        Kind::{Counter, Gauge},
    },
    types::{KernelStatus, Meter, SourceKind, UserState},
};

use super::{answers, care::CareStatus, shared::Picture};
use crate::{
    core::event::{Counters, InboundIndex},
    ledger::UserRecord,
};

/// Of the agent's counters those that also fall.
const FALLING: [&str; 2] = ["sightings_waiting", "flows_known"];

/// How names of the classes of `daemon::delays` begin.
const TOLD: &str = "owners_told_";

/// What a picture does not have.
pub struct Beside {
    pub kernel: KernelStatus,
    /// Everything seen of each inbound.
    pub watched: Vec<(InboundIndex, Counters)>,
    pub started_ms: i64,
    pub now_ms: i64,
    pub backups: CareStatus,
    pub ledger_bytes: Option<u64>,
    pub meter: Meter,
    /// `[metrics] users`.
    pub each_user: bool,
}

pub fn text(picture: &Picture, beside: &Beside) -> String {
    let mut out = Exposition::default();
    agent(&mut out, picture, beside);
    ledger(&mut out, picture, beside);
    enforcement(&mut out, picture);
    inbounds(&mut out, picture, &beside.watched);
    kernel(&mut out, &beside.kernel);
    counters(&mut out, picture);
    users(&mut out, picture);
    if beside.each_user {
        each_user(&mut out, picture, beside.meter);
    }
    out.finish()
}

fn flag(value: bool) -> u64 {
    u64::from(value)
}

fn agent(out: &mut Exposition, picture: &Picture, beside: &Beside) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.family("boxmeter_build_info", Gauge, "The agent's version.").sample(&version, 1);
    out.family("boxmeter_start_time_seconds", Gauge, "When the agent started, Unix time.")
        .millis(&[], beside.started_ms);
    let degraded = &picture.snapshot.degraded;
    out.family(
        "boxmeter_degradations",
        Gauge,
        "Parts that do less than they should; `boxmeter status` says why.",
    )
    .sample(&[], degraded.len() as u64);
    out.family("boxmeter_degraded", Gauge, "1 for each part that does less than it should.");
    for part in degraded.iter() {
        out.sample(&[("part", part.part)], 1);
    }
    let directory = &picture.directory;
    out.family("boxmeter_singbox_up", Gauge, "Whether the metered sing-box runs.")
        .sample(&[], flag(directory.singbox.pid.is_some()));
    let kind = directory.source.map_or("none", SourceKind::as_str);
    out.family("boxmeter_source_connected", Gauge, "Whether sing-box tells who owns connections.")
        .sample(&[("kind", kind)], flag(directory.source_connected));
}

fn ledger(out: &mut Exposition, picture: &Picture, beside: &Beside) {
    if let Some(at_ms) = picture.directory.committed_ms {
        out.family("boxmeter_ledger_committed_timestamp_seconds", Gauge, "The last commit, Unix time.")
            .millis(&[], at_ms);
        out.family("boxmeter_ledger_lag_seconds", Gauge, "How old the last commit is.")
            .millis(&[], beside.now_ms.saturating_sub(at_ms));
    }
    if let Some(bytes) = beside.ledger_bytes {
        out.family("boxmeter_ledger_size_bytes", Gauge, "The size of the ledger's file.").sample(&[], bytes);
    }
    if let Some(at_ms) = beside.backups.last_ms {
        let help = "The newest backup that the agent made by itself, Unix time.";
        out.family("boxmeter_backup_last_timestamp_seconds", Gauge, help).millis(&[], at_ms);
    }
    if let Some(at_ms) = beside.backups.next_ms {
        let help = "When the next backup is to be made, Unix time; past if it could not be made.";
        out.family("boxmeter_backup_due_timestamp_seconds", Gauge, help).millis(&[], at_ms);
    }
    if let Some(bytes) = beside.backups.last_bytes {
        out.family("boxmeter_backup_last_size_bytes", Gauge, "The size of the newest backup.")
            .sample(&[], bytes);
    }
}

fn enforcement(out: &mut Exposition, picture: &Picture) {
    let hands = &picture.directory.enforcement;
    let rows = picture.directory.gate.values();
    let cut = rows.clone().filter(|row| row.cut).count() as u64;
    out.family("boxmeter_users_cut", Gauge, "Users whose packets the kernel drops.").sample(&[], cut);
    let taken_out = rows.filter(|row| row.taken_out).count() as u64;
    out.family("boxmeter_users_taken_out", Gauge, "Users who are out of sing-box's configuration.")
        .sample(&[], taken_out);
    out.family(
        "boxmeter_config_edits_total",
        Counter,
        "Edits of sing-box's configuration since the agent's start.",
    )
    .sample(&[], hands.edits);
    let help = "Reloads of sing-box by boxmeter since the agent's start; each drops open connections.";
    out.family("boxmeter_reloads_total", Counter, help).sample(&[], hands.reloads);
    out.family("boxmeter_reload_pending", Gauge, "Whether edits wait for a reload.")
        .sample(&[], flag(hands.pending.is_some()));
    out.family("boxmeter_enforcement_failed", Gauge, "Whether the newest edit or reload did not work.")
        .sample(&[], flag(hands.last_error.is_some()));
}

type ByTag<'a> = BTreeMap<&'a str, Counters>;

/// One tag may have had several places.
fn by_tag<'a>(picture: &'a Picture, of: impl Iterator<Item = (InboundIndex, Counters)>) -> ByTag<'a> {
    let mut sums = ByTag::new();
    for (index, counters) in of {
        if let Some(tag) = picture.directory.tags.get(&index) {
            let sum = sums.entry(tag).or_default();
            for direction in [UPLOAD, DOWNLOAD] {
                sum.payload[direction] = sum.payload[direction].saturating_add(counters.payload[direction]);
                sum.wire[direction] = sum.wire[direction].saturating_add(counters.wire[direction]);
            }
        }
    }
    sums
}

/// Both directions of one sum.
fn both(out: &mut Exposition, labels: &[(&str, &str)], bytes: [u64; 2]) {
    for (direction, name) in [(UPLOAD, "upload"), (DOWNLOAD, "download")] {
        let labels: Vec<_> = labels.iter().copied().chain([("direction", name)]).collect();
        out.sample(&labels, bytes[direction]);
    }
}

fn inbounds(out: &mut Exposition, picture: &Picture, watched: &[(InboundIndex, Counters)]) {
    let all = by_tag(picture, watched.iter().copied());
    let nobodys = by_tag(picture, picture.snapshot.unattributed.iter().map(|(index, sum)| (*index, *sum)));
    let sets = [
        ("boxmeter_inbound", "everything that crossed the inbound, since the machine's boot", &all),
        ("boxmeter_inbound_unattributed", "bytes that no user owns, since the machine's boot", &nobodys),
    ];
    for (name, help, sums) in sets {
        out.family(&format!("{name}_payload_bytes_total"), Counter, &format!("Payload: {help}."));
        for (tag, sum) in sums {
            both(out, &[("inbound", tag)], sum.payload);
        }
        out.family(&format!("{name}_wire_bytes_total"), Counter, &format!("IP packets: {help}."));
        for (tag, sum) in sums {
            both(out, &[("inbound", tag)], sum.wire);
        }
    }
    out.family("boxmeter_inbound_users", Gauge, "Users that sing-box's configuration has on the inbound.");
    for listener in picture.directory.listeners.iter() {
        out.sample(&[("inbound", &listener.tag)], listener.users);
    }
}

fn kernel(out: &mut Exposition, kernel: &KernelStatus) {
    out.family("boxmeter_kernel_attached", Gauge, "Whether the kernel programs count.")
        .sample(&[], flag(kernel.attached));
    let help = "The kernel programs' cost per packet; there only while the kernel times programs.";
    out.family("boxmeter_kernel_packet_cost_seconds", Gauge, help);
    let cost = [("ingress", kernel.ns_per_packet.ingress), ("egress", kernel.ns_per_packet.egress)];
    for (hook, ns) in cost.into_iter().filter_map(|(hook, ns)| Some((hook, ns?))) {
        out.nanos(&[("hook", hook)], ns);
    }
    for (name, value) in &kernel.counters {
        let help = format!("The kernel programs' counter {name}, since the machine's boot.");
        out.family(&format!("boxmeter_kernel_{name}_total"), Counter, &help).sample(&[], *value);
    }
}

/// Everything of the agent's that can overflow or surprise, gaps of the source among it.
fn counters(out: &mut Exposition, picture: &Picture) {
    let all = || picture.snapshot.counters.iter();
    let help =
        "Connections by how soon after sing-box made them the kernel knew their owner; each is in one class.";
    out.family("boxmeter_owners_told_total", Counter, help);
    for (name, value) in all() {
        if let Some(class) = name.strip_prefix(TOLD) {
            out.sample(&[("within_seconds", &seconds(class))], *value);
        }
    }
    for (name, value) in all().filter(|(name, _)| !name.starts_with(TOLD)) {
        match FALLING.contains(name) {
            true => {
                out.family(&format!("boxmeter_agent_{name}"), Gauge, &format!("The agent's {name} now."));
            }
            false => {
                let help = format!("The agent's counter {name}, since its start.");
                out.family(&format!("boxmeter_agent_{name}_total"), Counter, &help);
            }
        }
        out.sample(&[], *value);
    }
}

/// Of `within_5_ms`: 0.005; of what is later than any class: everything.
fn seconds(class: &str) -> String {
    let ms = class.strip_prefix("within_").and_then(|rest| rest.strip_suffix("_ms")?.parse::<u64>().ok());
    ms.map_or_else(|| "+Inf".to_owned(), |ms| format!("{}.{:03}", ms / 1000, ms % 1000))
}

fn living(picture: &Picture) -> impl Iterator<Item = &UserRecord> + Clone {
    picture.directory.users.values().map(|user| &**user).filter(|user| user.tombstoned_ms.is_none())
}

/// The counts that are there however many users are shown.
fn users(out: &mut Exposition, picture: &Picture) {
    let mut states: BTreeMap<UserState, u64> = UserState::ALL.into_iter().map(|state| (state, 0)).collect();
    let (mut flows, mut rates, mut online) = (0_u64, [0_u64; 2], 0);
    for user in living(picture) {
        let row = picture.directory.gate.get(&user.id);
        *states.entry(row.map_or(UserState::Active, |row| answers::state(row.state))).or_default() += 1;
        let live = picture.snapshot.user(user.id);
        flows += u64::from(live.live.flows);
        online += flag(live.live.flows > 0);
        rates[UPLOAD] = rates[UPLOAD].saturating_add(live.activity.upload_rate);
        rates[DOWNLOAD] = rates[DOWNLOAD].saturating_add(live.activity.download_rate);
    }
    out.family("boxmeter_users", Gauge, "Users by state.");
    for (state, count) in states {
        out.sample(&[("state", state.as_str())], count);
    }
    out.family("boxmeter_users_online", Gauge, "Users with open connections.").sample(&[], online);
    out.family("boxmeter_flows", Gauge, "Open connections that have an owner.").sample(&[], flows);
    out.family("boxmeter_rate_bytes_per_second", Gauge, "Payload of all users over the last seconds.");
    both(out, &[], rates);
    // Until the ledger was read the sums would begin anew, and look like traffic.
    if picture.totals.is_empty() {
        return;
    }
    let mut sum = Counters::default();
    for total in picture.totals.values() {
        for direction in [UPLOAD, DOWNLOAD] {
            sum.payload[direction] = sum.payload[direction].saturating_add(total.payload[direction]);
            sum.wire[direction] = sum.wire[direction].saturating_add(total.wire[direction]);
        }
    }
    out.family("boxmeter_users_payload_bytes_total", Counter, "Payload of all users, over all time.");
    both(out, &[], sum.payload);
    out.family("boxmeter_users_wire_bytes_total", Counter, "IP packets of all users, over all time.");
    both(out, &[], sum.wire);
}

fn each_user(out: &mut Exposition, picture: &Picture, meter: Meter) {
    let users = living(picture);
    if !picture.totals.is_empty() {
        let total = |user: &UserRecord| picture.totals.get(&user.id).copied().unwrap_or_default();
        out.family("boxmeter_user_payload_bytes_total", Counter, "Payload, over all time.");
        for user in users.clone() {
            both(out, &[("user", &user.name)], total(user).payload);
        }
        out.family("boxmeter_user_wire_bytes_total", Counter, "IP packets, over all time.");
        for user in users.clone() {
            both(out, &[("user", &user.name)], total(user).wire);
        }
    }
    out.family("boxmeter_user_rate_bytes_per_second", Gauge, "Payload over the last seconds.");
    for user in users.clone() {
        let live = picture.snapshot.user(user.id).activity;
        both(out, &[("user", &user.name)], [live.upload_rate, live.download_rate]);
    }
    out.family("boxmeter_user_flows", Gauge, "Open connections.");
    for user in users.clone() {
        out.sample(&[("user", &user.name)], u64::from(picture.snapshot.user(user.id).live.flows));
    }
    out.family("boxmeter_user_addresses", Gauge, "Client addresses of open connections.");
    for user in users.clone() {
        out.sample(&[("user", &user.name)], u64::from(picture.snapshot.user(user.id).live.addresses));
    }
    decided(out, (picture, meter), users);
}

/// What the gate decided, for users whom it knows.
fn decided<'a>(
    out: &mut Exposition,
    (picture, meter): (&'a Picture, Meter),
    users: impl Iterator<Item = &'a UserRecord> + Clone,
) {
    let rows = users.filter_map(|user| Some((user, picture.directory.gate.get(&user.id)?)));
    out.family("boxmeter_user_state", Gauge, "1 for the state that the user is in.");
    for (user, row) in rows.clone() {
        out.sample(&[("user", &user.name), ("state", answers::state(row.state).as_str())], 1);
    }
    out.family(
        "boxmeter_user_period_used_bytes",
        Gauge,
        "Billed in this period, of what quotas are measured on.",
    );
    for (user, row) in rows.clone() {
        let billed = picture.snapshot.user(user.id).activity.totals;
        out.sample(&[("user", &user.name)], row.bases.used(answers::of_meter(meter, billed)).period);
    }
    out.family("boxmeter_user_period_quota_bytes", Gauge, "The period's quota; absent without one.");
    for (user, row) in rows {
        if let Some(quota) = row.terms.quota_bytes {
            out.sample(&[("user", &user.name)], quota);
        }
    }
}
