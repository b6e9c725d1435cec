//! `boxmeter users`: the accounts. One file per verb.

mod add;
mod delete;
mod import;
mod links;
mod list;
mod set;
mod show;
mod switch;

use boxmeter_web::{
    api::{
        client::Client,
        time::Time,
        types::{User, UserState},
    },
    backend::ApiError,
};
use clap::{Args, Subcommand};

pub use self::import::Format;
#[cfg(test)]
pub use self::{
    add::render as render_added,
    import::{Missing as ImportMissing, ReadAs, Renamed, Report as ImportReport, render as render_imported},
    list::render as render_list,
    show::render as render_one,
    switch::{Switch, render as render_switched},
};
use super::{
    context::Context,
    failure::Failure,
    format::{Tone, minute, safe_cut},
    terms::TermsArgs,
};

#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    verb: UsersVerb,
}

#[derive(Debug, Subcommand)]
enum UsersVerb {
    /// All accounts, with what they used.
    List(list::ListArgs),
    /// One account: its limits, what it used, and why it is in its state.
    Show(show::ShowArgs),
    /// Add an account to sing-box's configuration, and print its credentials once.
    Add(add::AddArgs),
    /// Change an account's limits and properties.
    Set(set::SetArgs),
    /// Let an account in again.
    Enable(switch::SwitchArgs),
    /// Keep an account out, until it is enabled.
    Disable(switch::SwitchArgs),
    /// Remove an account; its history stays unless --purge.
    Delete(delete::DeleteArgs),
    /// Start the period's usage anew; nothing is deleted.
    Reset(switch::SwitchArgs),
    /// An account's share links and the address of its subscription: secrets, only for root.
    Links(links::LinksArgs),
    /// Take over accounts of another program.
    Import(import::ImportArgs),
}

pub async fn run(context: &Context, args: UsersArgs) -> Result<(), Failure> {
    match args.verb {
        UsersVerb::List(args) => list::run(context, args).await,
        UsersVerb::Show(args) => show::run(context, args).await,
        UsersVerb::Add(args) => add::run(context, args).await,
        UsersVerb::Set(args) => set::run(context, args).await,
        UsersVerb::Enable(args) => switch::run(context, switch::Switch::Enable, args).await,
        UsersVerb::Disable(args) => switch::run(context, switch::Switch::Disable, args).await,
        UsersVerb::Reset(args) => switch::run(context, switch::Switch::Reset, args).await,
        UsersVerb::Delete(args) => delete::run(context, args).await,
        UsersVerb::Links(args) => links::run(context, args).await,
        UsersVerb::Import(args) => import::run(context, args).await,
    }
}

/// The options of `add` and `set`.
#[derive(Debug, Args)]
struct UserOptions {
    /// The policy, which says everything that is not said here.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// When the account ends: a date, an RFC 3339 time, or a span from now as 30d; a date means
    /// its beginning.
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    expires: Option<String>,
    /// An address for notices; none for none.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// The inbounds that the user may use, by tag; by default every inbound with users.
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    inbounds: Option<Vec<String>>,
    /// A note for yourself; none for none.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    terms: TermsArgs,
}

/// `none` and the empty text take a text away.
fn text_or_none(text: String) -> Option<String> {
    (!text.is_empty() && !text.eq_ignore_ascii_case("none")).then_some(text)
}

/// A time to come, or `none`.
async fn expiry(context: &Context, client: &Client, text: &str) -> Result<Option<Time>, Failure> {
    match text {
        "none" | "0" => Ok(None),
        text => context.future(client, "--expires", text).await.map(Some),
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

pub fn state_text(context: &Context, state: UserState) -> String {
    context.text(&format!("state.{}", state.as_str())).to_owned()
}

/// Why the user is in its state, in the reader's language where it is known by its kind.
fn reason(context: &Context, user: &User) -> Option<String> {
    match (&user.cause, &user.reason) {
        (Some(cause), _) => Some(cause.sentence(context.lang, user.time_zone.as_deref())),
        (None, reason) => reason.clone(),
    }
}

/// What is done to the user in the kernel and in sing-box's configuration.
fn enforcement(context: &Context, user: &User) -> String {
    let it = &user.enforcement;
    let kernel = if it.cut { "enforcement.cut" } else { "enforcement.passes" };
    let file = if it.taken_out { "enforcement.taken_out" } else { "enforcement.in_config" };
    let mut text =
        context.fill("enforcement.both", &[("kernel", context.text(kernel)), ("config", context.text(file))]);
    if it.reload_pending {
        text.push_str(context.text("enforcement.reload_pending"));
    }
    text
}

fn until(context: &Context, time: Option<&Time>) -> String {
    time.map_or_else(|| context.text("none").to_owned(), minute)
}

/// A name as it stands in a sentence.
fn quoted(name: &str) -> String {
    safe_cut(name, 60)
}

/// Before anything is asked: what can be said about the request alone.
fn checked(result: Result<(), ApiError>) -> Result<(), Failure> {
    Ok(result?)
}
