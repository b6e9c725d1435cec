//! `cargo xtask build`: the whole workspace. The kernel object is committed, so no kernel compiler is needed.

use crate::shell::{cargo, succeed};
use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    /// Optimised
    #[arg(long)]
    pub release: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--workspace", "--exclude", "boxmeter-ebpf", "--locked"]);
    if args.release {
        command.arg("--release");
    }
    succeed(&mut command)
}
