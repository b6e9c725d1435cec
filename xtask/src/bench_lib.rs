//! Benchmarks of pure code: ignored unit tests that print figures, in an optimised build.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::shell::cargo;

/// What they print.
pub fn figures() -> Result<String> {
    let mut command = cargo();
    command.args(["test", "--release", "--locked", "-p", "boxmeter", "--lib", "--"]).args([
        "--ignored",
        "--nocapture",
        "--test-threads=1",
        "bench_",
    ]);
    let output =
        command.stderr(Stdio::inherit()).output().context("the benchmarks of pure code do not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "a benchmark of pure code failed:\n{text}");
    Ok(text)
}
