//! `boxmeter users`: the accounts.

use boxmeter_web::{
    api::{
        query::UserFilter,
        types::{Traffic, User, UserState},
    },
    backend::Backend,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, age, bytes, minute, of_quota, rate, safe_cut},
    table::{Cell, Table, pairs},
};

#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    verb: UsersVerb,
}

#[derive(Debug, Subcommand)]
enum UsersVerb {
    /// All accounts, with what they used.
    List {
        /// Only accounts in this state.
        #[arg(long, value_parser = parse_state)]
        state: Option<UserState>,
        /// Only names that contain this.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// One account.
    Show {
        /// The user's name in sing-box's configuration.
        name: String,
    },
}

fn parse_state(text: &str) -> Result<UserState, String> {
    let words = UserState::ALL.map(UserState::as_str);
    let found = UserState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("the states are {}", words.join(", ")))
}

pub async fn run(context: &Context, args: UsersArgs) -> Result<(), Failure> {
    let client = context.client()?;
    match args.verb {
        UsersVerb::List { state, search } => {
            let filtered = state.is_some() || search.is_some();
            let list = client.users_all(UserFilter { state, search }).await?;
            if context.json {
                return context.print_json(&list);
            }
            context.print(&render_list(context, &list.users, filtered, Timestamp::now()))
        }
        UsersVerb::Show { name } => {
            let shown = client.user(&name).await?;
            if context.json {
                return context.print_json(&shown);
            }
            context.print(&render_one(context, &shown.user, Timestamp::now()))
        }
    }
}

pub fn tone(state: UserState) -> Tone {
    match state {
        UserState::Active => Tone::Good,
        UserState::Throttled | UserState::Pending => Tone::Warn,
        UserState::Limited | UserState::Expired | UserState::Suspended => Tone::Bad,
        UserState::Disabled => Tone::Dim,
    }
}

/// The state in the caller's language.
pub fn state_text(context: &Context, state: UserState) -> String {
    context.text(&format!("state.{}", state.as_str())).to_owned()
}

pub fn render_list(context: &Context, users: &[User], filtered: bool, now: Timestamp) -> String {
    if users.is_empty() {
        let key = if filtered { "users.none_match" } else { "users.none" };
        return context.text(key).to_owned();
    }
    let mut table = Table::default()
        .words(context.text("col.user"), 0)
        .words(context.text("col.state"), 0)
        .words(context.text("col.policy"), 3)
        .numbers(context.text("col.period"), 0)
        .numbers(context.text("col.total"), 1)
        .numbers(context.text("col.flows"), 2)
        .numbers(context.text("col.rate"), 4)
        .numbers(context.text("col.last_seen"), 1);
    for user in users {
        let live = user.live.upload_rate.saturating_add(user.live.download_rate);
        table.row(vec![
            Cell::name(&user.name),
            Cell::new(state_text(context, user.state)).tone(tone(user.state)),
            Cell::name(user.policy.as_deref().unwrap_or("–")),
            Cell::new(of_quota(user.period.used_bytes, user.period.quota_bytes)),
            Cell::new(bytes(user.total.used_bytes)),
            Cell::new(user.live.flows.to_string()).tone_if(user.live.flows == 0, Tone::Dim),
            Cell::new(rate(live)).tone_if(live == 0, Tone::Dim),
            Cell::new(seen(context, user, now)),
        ]);
    }
    table.render(context)
}

fn seen(context: &Context, user: &User, now: Timestamp) -> String {
    match &user.last_seen_at {
        Some(at) => age(at, now),
        None => context.text("never").to_owned(),
    }
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

pub fn render_one(context: &Context, user: &User, now: Timestamp) -> String {
    let none = || context.text("none").to_owned();
    let text = |value: &Option<String>| value.as_ref().map_or_else(none, |it| safe_cut(it, 60));
    let number = |value: Option<u64>| value.map_or_else(none, |it| it.to_string());
    let speed = |value: Option<u64>| value.map_or_else(none, rate);
    let state = context.paint(tone(user.state), &state_text(context, user.state));
    let state = match &user.reason {
        Some(reason) => format!("{state} ({})", safe_cut(reason, 200)),
        None => state,
    };
    let inbounds: Vec<String> = user.inbounds.iter().map(|tag| safe_cut(tag, 40)).collect();
    let lines = [
        ("user.state", state),
        ("user.policy", text(&user.policy)),
        ("user.email", text(&user.email)),
        ("user.inbounds", if inbounds.is_empty() { none() } else { inbounds.join(", ") }),
        ("user.created", minute(&user.created_at)),
        ("user.expires", user.expires_at.as_ref().map_or_else(none, minute)),
        ("user.last_seen", seen_at(context, user, now)),
        ("user.period", period(context, user)),
        ("user.used", of_quota(user.period.used_bytes, user.period.quota_bytes)),
        ("user.total", of_quota(user.total.used_bytes, user.total.quota_bytes)),
        ("user.traffic", traffic(context, &user.traffic)),
        ("user.packages", bytes(user.packages.remaining_bytes)),
        ("user.speed", format!("↑ {}  ↓ {}", speed(user.speed.up), speed(user.speed.down))),
        ("user.max_flows", number(user.max_flows)),
        ("user.max_addresses", number(user.max_addresses)),
        ("user.live", live(context, user)),
    ];
    let lines: Vec<(&str, String)> =
        lines.into_iter().map(|(key, value)| (context.text(key), value)).collect();
    let name = context.paint(Tone::Bold, &safe_cut(&user.name, 200));
    format!("{name}\n{}", pairs(&lines))
}

fn period(context: &Context, user: &User) -> String {
    match (&user.period.start, &user.period.end) {
        (Some(start), Some(end)) => format!("{} – {}", minute(start), minute(end)),
        (Some(start), None) => context.fill("status.since", &[("time", &minute(start))]),
        (None, _) => context.text("none").to_owned(),
    }
}

fn traffic(context: &Context, traffic: &Traffic) -> String {
    let values = [
        ("up", bytes(traffic.upload_payload_bytes)),
        ("down", bytes(traffic.download_payload_bytes)),
        ("wire_up", bytes(traffic.upload_wire_bytes)),
        ("wire_down", bytes(traffic.download_wire_bytes)),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    context.fill("user.traffic_value", &values)
}

fn live(context: &Context, user: &User) -> String {
    let values = [
        ("flows", user.live.flows.to_string()),
        ("addresses", user.live.addresses.to_string()),
        ("up", rate(user.live.upload_rate)),
        ("down", rate(user.live.download_rate)),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    context.fill("user.live_value", &values)
}
