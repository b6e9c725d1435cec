//! `cargo xtask bench`: measures beside the plain thing in the same run and writes docs/benchmarks.md.
//! Owns the table of aims; a figure without a measurement says so and is never filled in by hand.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench_lib, paths, setup,
    shell::{cargo, is_root, succeed},
};

#[derive(clap::Args)]
pub struct Args {}

/// The aims of docs/benchmarks.md, by the beginning of the measured figure's name.
const AIMS: &[(&str, &str)] = &[
    ("CPU in the programs against sing-box, bulk trojan", "≤ 0.5 %"),
    ("CPU in the programs against sing-box, hysteria2", "≤ 1 %"),
    ("throughput with the agent against without", "≥ 0.98"),
    ("agent at 1 s ticks, idle", "≤ 2 % of a core"),
    ("resident memory of the agent", "≤ 20 MiB with 100 users"),
    ("cost per TCP packet", "≤ 1.6 ×"),
    ("cost per UDP packet, one peer", "≤ 2 ×"),
    ("owner known after the report, 1,000 connections/s, p99", "≤ 10 ms"),
    ("16,000 short connections in 12 s, owned", "≥ 99.9 %"),
    ("tick with 10,000 users and 100,000 flows", "≤ 50 ms CPU"),
    ("bytes beyond the budget", "one GSO packet (64 KiB; 512 KiB on loopback) per CPU"),
    ("speed: download", "0.97–1.03, sent again < 0.1 %"),
    ("speed: upload", "0.90–1.10"),
    ("speed: datagrams", "0.97–1.03"),
    ("edit of a configuration with 10,000 users", "≤ 100 ms"),
];

pub fn run(_args: &Args) -> Result<()> {
    ensure!(is_root(), "benchmarks load kernel programs: run as root");
    setup::everything()?;
    succeed(cargo().args(["build", "--release", "--locked", "-p", "boxmeter"]))?;
    let mut text = String::new();
    for target in ["kernel", "flow"] {
        text += &measure(target)?;
    }
    text += &bench_lib::figures()?;
    let measured: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once("FIGURE\t")?.1.split_once('\t')).collect();
    let table = table(&measured);
    print!("{table}");
    let page = paths::root().join("docs/benchmarks.md");
    fs::write(&page, format!("{HEAD}{table}")).with_context(|| page.display().to_string())?;
    Ok(())
}

/// Runs the benchmarks of one test target and returns what they print.
fn measure(target: &str) -> Result<String> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "-p", "boxmeter-tests", "--test", target, "--"])
        .args(["--ignored", "--nocapture", "--test-threads=1", "bench_"])
        .env("BOXMETER_BIN", paths::program(true))
        .env("BOXMETER_TOOLS", paths::tools());
    let output = command.stderr(Stdio::inherit()).output().context("the benchmarks do not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "a benchmark failed:\n{text}");
    Ok(text)
}

const HEAD: &str = "# Benchmarks\n\nWritten by `cargo xtask bench`: medians of runs side by side on one machine, real sing-box 1.14.4 with a \
real client. A figure without a measurement says so.\n\n";

fn table(measured: &[(&str, &str)]) -> String {
    let mut text = String::from("| figure | aim | measured |\n|---|---|---|\n");
    let mut row = |figure: &str, aim: &str, value: &str| {
        let _ = writeln!(text, "| {figure} | {aim} | {value} |");
    };
    for (figure, value) in measured {
        let aim = AIMS.iter().find(|(name, _)| figure.starts_with(name)).map_or("", |(_, aim)| aim);
        row(figure, aim, value);
    }
    for (name, aim) in
        AIMS.iter().filter(|(name, _)| !measured.iter().any(|(figure, _)| figure.starts_with(name)))
    {
        row(name, aim, "not measured by this command yet");
    }
    if let Ok(output) = Command::new("nproc").output() {
        row("cores", "", String::from_utf8_lossy(&output.stdout).trim());
    }
    text
}
