//! `boxmeter completions`: a completion script for a shell.

use clap::Args;
use clap_complete::Shell;

use super::{args, context::Context, failure::Failure};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn run(context: &Context, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = args::documented(context.lang);
    clap_complete::generate(args.shell, &mut command, "boxmeter", &mut script);
    context.print(&String::from_utf8_lossy(&script))
}
