//! `boxmeter man`: the manual page, or all pages as files.

use std::path::PathBuf;

use clap::Args;

use super::{args, context::Context, failure::Failure};

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the page of every command into this directory instead of printing the first.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(context: &Context, args: &ManArgs) -> Result<(), Failure> {
    let command = args::documented(context.lang);
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir)?;
        return Ok(clap_mangen::generate_to(command, dir)?);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    context.print(&String::from_utf8_lossy(&page))
}
