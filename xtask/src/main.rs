//! boxmeter's own tasks. This file owns the list of verbs; each verb has a file of its own.
//! Tasks may install, build, start and measure; nothing of them is part of the program that is shipped.

// Tasks measure how long things take; nothing here is part of the program.
#![allow(clippy::disallowed_methods)]

mod bench;
mod bench_lib;
mod bpf;
mod browser;
mod build;
mod debian;
mod demo;
mod dist;
mod elf;
mod leftovers;
mod package;
mod packages;
mod paths;
mod python;
mod report;
mod run;
mod screenshots;
mod server;
mod setup;
mod shell;
mod singbox;
mod skips;
mod test;
mod tidy;
mod tidy_rules;
mod toolchain;
mod unpacked;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, runs, tests and measures boxmeter")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: compiler parts for the kernel programs, their linker, sing-box for tests
    Setup(setup::Args),
    /// Build the kernel object that is committed, or compare it with the sources
    Bpf(bpf::Args),
    /// Build the workspace
    Build(build::Args),
    /// Run the main job: the agent beside this machine's sing-box, or beside a demonstration
    Run(run::Args),
    /// Install what is missing and run every test
    Test(test::Args),
    /// Run the kernel tests on Debian's kernel 6.1, in QEMU
    Vm(vm::Args),
    /// Try the package in a clean Debian
    Package,
    /// Drill the package on a server with systemd, in QEMU
    Server(server::Args),
    /// Measure the figures of docs/benchmarks.md
    Bench(bench::Args),
    /// Make the Debian package and the tarball that are handed out
    Dist(dist::Args),
    /// Write the pictures of the panel that the documentation shows
    Screenshots,
    /// Check the rules of the source tree
    Tidy,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(&args)?,
        Verb::Bpf(args) => bpf::run(&args)?,
        Verb::Build(args) => build::run(&args)?,
        Verb::Run(args) => run::run(&args)?,
        Verb::Test(args) => return test::run(&args),
        Verb::Vm(args) => return vm::run(&args),
        Verb::Package => return package::run(),
        Verb::Server(args) => return server::run(&args),
        Verb::Bench(args) => bench::run(&args)?,
        Verb::Dist(args) => dist::run(&args)?,
        Verb::Screenshots => screenshots::run()?,
        Verb::Tidy => tidy::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
