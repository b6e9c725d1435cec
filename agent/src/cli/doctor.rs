//! `boxmeter doctor`: what is not well with the machine and sing-box's configuration.

use clap::Args;

use super::{context::Context, failure::Failure, local};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Show what would be changed in sing-box's configuration, and change it after a yes.
    #[arg(long)]
    pub fix: bool,
    /// Do not ask.
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

pub fn run(context: &Context, args: &DoctorArgs) -> Result<(), Failure> {
    let report = local::doctor(context.config.as_deref(), args, context.json)?;
    context.print(&report)
}
