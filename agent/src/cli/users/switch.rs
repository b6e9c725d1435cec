//! `boxmeter users enable`, `disable` and `reset`: what takes a name and nothing else.

use boxmeter_web::{api::types::UserChanged, backend::Backend};
use clap::Args;

use super::{enforcement, quoted, reason, state_text, tone};
use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, of_quota, safe},
};

#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The user's name.
    name: String,
    /// Only if the account is still at this revision, as `users show --json` has it.
    #[arg(long, value_name = "REV")]
    if_rev: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Enable,
    Disable,
    Reset,
}

pub async fn run(context: &Context, switch: Switch, args: SwitchArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let envelope = context.envelope(args.if_rev);
    let changed = match switch {
        Switch::Enable => client.set_enabled(envelope, &args.name, true).await?,
        Switch::Disable => client.set_enabled(envelope, &args.name, false).await?,
        Switch::Reset => client.reset_user(envelope, &args.name).await?,
    };
    if context.json {
        return context.print_json(&changed);
    }
    context.print(&render(context, switch, &changed))
}

/// What was done, the state that follows, and what that means.
pub fn render(context: &Context, switch: Switch, changed: &UserChanged) -> String {
    let user = &changed.user;
    let key = match (switch, changed.changed) {
        (Switch::Enable, true) => "users.enabled",
        (Switch::Enable, false) => "users.was_enabled",
        (Switch::Disable, true) => "users.disabled",
        (Switch::Disable, false) => "users.was_disabled",
        (Switch::Reset, _) => "users.reset",
    };
    let used = of_quota(user.period.used_bytes, user.period.quota_bytes);
    let text = context.fill(key, &[("name", &quoted(&user.name)), ("used", &used)]);
    let done = if changed.changed { context.paint(Tone::Good, &text) } else { text };
    let state = reason(context, user).map(|reason| safe(&reason));
    let state = state.unwrap_or_else(|| state_text(context, user.state));
    let state = context.paint(tone(user.state), &state);
    format!("{done}\n{state}\n{}\n", enforcement(context, user))
}
