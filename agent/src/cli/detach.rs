//! `boxmeter detach`: removes the kernel programs and maps, after a yes.

use clap::Args;
use serde_json::json;

use super::{ask::confirmed, context::Context, failure::Failure, local};

#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

pub fn run(context: &Context, args: &DetachArgs) -> Result<(), Failure> {
    let question = context.text("detach.ask");
    if !args.yes && !confirmed(context, question, context.text("detach.need_yes"))? {
        return context.print(context.text("ask.kept"));
    }
    let done = local::detach(context.config.as_deref(), args)?;
    match context.json {
        true => context.print_json(&json!({"schema": 1, "detached": true, "message": done})),
        false => context.print(&done),
    }
}
