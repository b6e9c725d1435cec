//! `boxmeter top`: the live view. Without a terminal it is one plain table.

mod model;
mod screen;
mod view;

use std::io::{self, IsTerminal};

use boxmeter_web::backend::{ApiError, Backend};
use clap::Args;
use futures_util::StreamExt;

use super::{context::Context, failure::Failure};

pub use self::model::Sort;
#[cfg(test)]
pub use self::{
    model::{Model, Step},
    view::{draw, plain},
};

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one plain table and end; this is also what happens without a terminal.
    #[arg(long, visible_alias = "plain")]
    once: bool,
    /// What the lines are sorted by: rate, total or name.
    #[arg(long, default_value = "rate", value_parser = Sort::parse)]
    sort: Sort,
}

pub async fn run(context: &Context, args: TopArgs) -> Result<(), Failure> {
    let mut live = context.client()?.subscribe().await?;
    let interactive = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || context.json || !interactive {
        let Some(first) = live.next().await else {
            return Err(ApiError::unavailable("the agent ended the stream at once").into());
        };
        let snapshot = first?;
        if context.json {
            return context.print_json(&*snapshot);
        }
        return context.print(&view::plain(context, &snapshot, args.sort));
    }
    screen::run(context, live, args.sort).await
}
