//! Runs commands of the system with a time limit.

use std::{
    io,
    process::{Command, Output},
    time::Duration,
};

use crate::output;

/// A command of the system (systemctl, `check`) that takes longer has failed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of what a command printed that people are told.
const TOLD_MAX: usize = 4096;

/// Runs a command with a time limit.
pub(super) fn run(command: &mut Command) -> io::Result<Output> {
    output::run(command, COMMAND_TIMEOUT)
}

/// What a command printed, in one line.
pub(super) fn told(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&text[..text.len().min(TOLD_MAX)]);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}
