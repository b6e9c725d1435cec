//! `boxmeter users set`: an account's limits and properties.

use boxmeter_web::{
    api::types::{UserChange, UserChanged},
    backend::{ApiError, Backend},
};
use clap::Args;
use jiff::Timestamp;

use super::{UserOptions, checked, expiry, quoted, show, text_or_none};
use crate::cli::{context::Context, failure::Failure, format::Tone};

#[derive(Debug, Args)]
pub struct SetArgs {
    /// The user's name.
    name: String,
    #[command(flatten)]
    options: UserOptions,
    /// Only if the account is still at this revision, as `users show --json` has it.
    #[arg(long, value_name = "REV")]
    if_rev: Option<u64>,
}

pub async fn run(context: &Context, args: SetArgs) -> Result<(), Failure> {
    let SetArgs { name, options, if_rev } = args;
    let (terms, inherit) = options.terms.read();
    let mut change = UserChange {
        policy: options.policy,
        terms,
        inherit,
        email: options.email.map(text_or_none),
        note: options.note.map(text_or_none),
        expires_at: None,
        inbounds: options.inbounds,
    };
    if change.is_empty() && options.expires.is_none() {
        return Err(ApiError::bad_request(context.text("users.nothing_to_set")).into());
    }
    if !change.is_empty() {
        checked(change.check(Timestamp::now()))?;
    }
    let client = context.client()?;
    if let Some(text) = &options.expires {
        change.expires_at = Some(expiry(context, &client, text).await?);
    }
    let changed = client.change_user(context.envelope(if_rev), &name, change).await?;
    if context.json {
        return context.print_json(&changed);
    }
    context.print(&render(context, &changed))
}

fn render(context: &Context, changed: &UserChanged) -> String {
    let name = quoted(&changed.user.name);
    let done = match changed.changed {
        true => context.paint(Tone::Good, &context.fill("users.changed", &[("name", &name)])),
        false => context.fill("users.unchanged", &[("name", &name)]),
    };
    format!("{done}\n\n{}", show::render(context, &changed.user, Timestamp::now()))
}
