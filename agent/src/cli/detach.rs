//! `boxmeter detach`: removes the kernel programs and maps, after a yes.

use std::io::{self, BufRead, IsTerminal, Write};

use boxmeter_web::backend::ApiError;
use clap::Args;
use serde_json::json;

use super::{context::Context, failure::Failure, local};

#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

pub fn run(context: &Context, args: &DetachArgs) -> Result<(), Failure> {
    if !args.yes && !confirmed(context)? {
        return context.print(context.text("detach.kept"));
    }
    let done = local::detach(context.config.as_deref(), args)?;
    match context.json {
        true => context.print_json(&json!({"schema": 1, "detached": true, "message": done})),
        false => context.print(&done),
    }
}

/// Asks on the terminal; without one there is nobody to say yes.
fn confirmed(context: &Context) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(ApiError::bad_request(context.text("detach.need_yes")).into());
    }
    let mut err = io::stderr();
    write!(err, "{} ", context.text("detach.ask"))?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "是"))
}
