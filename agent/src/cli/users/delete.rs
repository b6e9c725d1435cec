//! `boxmeter users delete`: asks on a terminal; the history stays unless `--purge`.

use boxmeter_web::backend::Backend;
use clap::Args;

use super::quoted;
use crate::cli::{ask::confirmed, context::Context, failure::Failure, format::Tone};

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The user's name.
    name: String,
    /// The history too: usage, packages and events. It cannot be brought back.
    #[arg(long)]
    purge: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only if the account is still at this revision, as `users show --json` has it.
    #[arg(long, value_name = "REV")]
    if_rev: Option<u64>,
}

pub async fn run(context: &Context, args: DeleteArgs) -> Result<(), Failure> {
    let name = quoted(&args.name);
    let client = context.client()?;
    if !args.yes {
        // Who asks about a user that nobody has would be told so after the answer only.
        if !args.purge {
            client.user(&args.name).await?;
        }
        let key = if args.purge { "users.ask_purge" } else { "users.ask_delete" };
        let question = context.fill(key, &[("name", &name)]);
        if !confirmed(context, &question, context.text("ask.need_yes"))? {
            return context.print(context.text("ask.kept"));
        }
    }
    let deleted = client.delete_user(context.envelope(args.if_rev), &args.name, args.purge).await?;
    if context.json {
        return context.print_json(&deleted);
    }
    let key = match (args.purge, deleted.purged) {
        (_, true) => "users.purged",
        (true, false) => "users.purge_waits",
        (false, false) => "users.deleted",
    };
    context.print(&context.paint(Tone::Good, &context.fill(key, &[("name", &name)])))
}
