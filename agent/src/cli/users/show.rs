//! `boxmeter users show`: one account, its limits, what it used, and why it is in its state.

use boxmeter_web::{
    api::{
        query::Page,
        types::{Package, Traffic, User},
    },
    backend::{Backend, ErrorKind},
};
use clap::Args;
use jiff::Timestamp;

use super::{enforcement, reason, state_text, tone, until};
use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, age, bar, bytes, minute, of_quota, rate, safe, safe_cut},
    packages,
    table::pairs,
    terms,
};

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The user's name in sing-box's configuration.
    name: String,
}

pub async fn run(context: &Context, args: ShowArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let shown = client.user(&args.name).await?;
    if context.json {
        return context.print_json(&shown);
    }
    let mut text = render(context, &shown.user, Timestamp::now());
    text.push_str(&packages_of(context, &client, &args.name).await?);
    context.print(&text)
}

/// The purchase history, where there is one. Whoever only meters knows of no packages.
async fn packages_of(context: &Context, client: &impl Backend, name: &str) -> Result<String, Failure> {
    let packages: Vec<Package> = match client.packages(name, Page::default()).await {
        Ok(list) => list.packages,
        Err(error) if error.kind == ErrorKind::Unsupported => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if packages.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("\n{}", packages::table(context, &packages)))
}

pub fn render(context: &Context, user: &User, now: Timestamp) -> String {
    let name = context.paint(Tone::Bold, &safe_cut(&user.name, 200));
    let mut lines = standing(context, user);
    lines.extend(usage(context, user));
    match &user.terms {
        Some(in_force) => lines.extend(terms::lines(context, in_force, &user.overrides)),
        None => lines.extend(limits(context, user)),
    }
    lines.extend(about(context, user, now));
    let lines: Vec<(&str, String)> =
        lines.into_iter().map(|(key, value)| (context.text(key), value)).collect();
    format!("{name}\n{}", pairs(&lines))
}

type Lines = Vec<(&'static str, String)>;

fn standing(context: &Context, user: &User) -> Lines {
    let mut lines = vec![("user.state", context.paint(tone(user.state), &state_text(context, user.state)))];
    lines.extend(reason(context, user).map(|reason| ("user.reason", safe_cut(&reason, 300))));
    let policy =
        user.policy.as_deref().map_or_else(|| context.text("none").to_owned(), |it| safe_cut(it, 60));
    lines.extend([
        ("user.enforcement", enforcement(context, user)),
        ("user.policy", policy),
        ("user.expires", until(context, user.expires_at.as_ref())),
    ]);
    lines
}

fn usage(context: &Context, user: &User) -> Lines {
    let period = match (&user.period.start, &user.period.end) {
        (Some(start), Some(end)) => format!("{} – {}", minute(start), minute(end)),
        (Some(start), None) => context.fill("status.since", &[("time", &minute(start))]),
        (None, _) => context.text("none").to_owned(),
    };
    let of = |used: u64, quota: Option<u64>| match quota {
        Some(whole) => format!("{}  {}", of_quota(used, quota), bar(context.colour, used, whole)),
        None => bytes(used),
    };
    let mut lines = vec![
        ("user.period", period),
        ("user.used", of(user.period.used_bytes, user.period.quota_bytes)),
        ("user.total", of(user.total.used_bytes, user.total.quota_bytes)),
        ("user.packages", bytes(user.packages.remaining_bytes)),
        ("user.traffic", traffic(context, &user.traffic)),
    ];
    lines.extend(user.services.iter().map(|share| {
        ("user.share", format!("{}: {}", safe_cut(&share.service, 40), traffic(context, &share.traffic)))
    }));
    lines
}

/// Of an agent that only meters.
fn limits(context: &Context, user: &User) -> Lines {
    let none = || context.text("none").to_owned();
    let number = |value: Option<u64>| value.map_or_else(none, |it| it.to_string());
    let speed = |value: Option<u64>| value.map_or_else(none, rate);
    vec![
        ("terms.speed", format!("↑ {}  ↓ {}", speed(user.speed.up), speed(user.speed.down))),
        ("terms.max_flows", number(user.max_flows)),
        ("terms.max_addresses", number(user.max_addresses)),
    ]
}

fn about(context: &Context, user: &User, now: Timestamp) -> Lines {
    let none = || context.text("none").to_owned();
    let inbounds: Vec<String> = user.inbounds.iter().map(|tag| safe_cut(tag, 40)).collect();
    let mut lines = vec![
        ("user.inbounds", if inbounds.is_empty() { none() } else { inbounds.join(", ") }),
        ("user.email", user.email.as_ref().map_or_else(none, |it| safe_cut(it, 60))),
        ("user.created", minute(&user.created_at)),
        ("user.last_seen", seen_at(context, user, now)),
        ("user.live", live(context, user)),
    ];
    if let Some(note) = &user.note {
        lines.push(("user.note", safe(note)));
    }
    lines
}

/// The moment and how long ago it was.
fn seen_at(context: &Context, user: &User, now: Timestamp) -> String {
    match &user.last_seen_at {
        Some(at) => {
            let ago = context.fill("ago", &[("age", &age(at, now))]);
            format!("{}, {ago}", minute(at))
        }
        None => context.text("never").to_owned(),
    }
}

fn traffic(context: &Context, traffic: &Traffic) -> String {
    let values = [
        ("up", &*bytes(traffic.upload_payload_bytes)),
        ("down", &bytes(traffic.download_payload_bytes)),
        ("wire_up", &bytes(traffic.upload_wire_bytes)),
        ("wire_down", &bytes(traffic.download_wire_bytes)),
    ];
    context.fill("user.traffic_value", &values)
}

fn live(context: &Context, user: &User) -> String {
    let values = [
        ("flows", &*user.live.flows.to_string()),
        ("addresses", &user.live.addresses.to_string()),
        ("up", &rate(user.live.upload_rate)),
        ("down", &rate(user.live.download_rate)),
    ];
    context.fill("user.live_value", &values)
}
