//! `boxmeter users list`.

use boxmeter_web::api::{
    query::UserFilter,
    types::{User, UserState},
};
use clap::Args;
use jiff::Timestamp;

use super::{state_text, tone};
use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, age, bytes, of_quota, rate},
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only accounts in this state.
    #[arg(long, value_parser = parse_state)]
    state: Option<UserState>,
    /// Only accounts whose name, note or e-mail address contains this.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

fn parse_state(text: &str) -> Result<UserState, String> {
    let words = UserState::ALL.map(UserState::as_str);
    let found = UserState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("the states are {}", words.join(", ")))
}

pub async fn run(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let filtered = args.state.is_some() || args.search.is_some();
    let filter = UserFilter { state: args.state, search: args.search, ..UserFilter::default() };
    let list = context.client()?.users_all(filter).await?;
    if context.json {
        return context.print_json(&list);
    }
    context.print(&render(context, &list.users, filtered, Timestamp::now()))
}

pub fn render(context: &Context, users: &[User], filtered: bool, now: Timestamp) -> String {
    if users.is_empty() {
        let key = if filtered { "users.none_match" } else { "users.none" };
        return context.text(key).to_owned();
    }
    let mut table = Table::new(context)
        .words("col.user", 0)
        .words("col.state", 0)
        .words("col.policy", 3)
        .numbers("col.period", 0)
        .numbers("col.total", 1)
        .numbers("col.flows", 2)
        .numbers("col.rate", 4)
        .numbers("col.last_seen", 1);
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
    table.render()
}

fn seen(context: &Context, user: &User, now: Timestamp) -> String {
    match &user.last_seen_at {
        Some(at) => age(at, now),
        None => context.text("never").to_owned(),
    }
}
