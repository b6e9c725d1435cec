//! `boxmeter run`: the agent, in the foreground.

use clap::Args;

use super::{context::Context, failure::Failure, local};

#[derive(Debug, Args)]
pub struct RunArgs {}

pub fn run(context: &Context, _args: &RunArgs) -> Result<(), Failure> {
    Ok(local::run(context.config.as_deref(), context.socket_option())?)
}
