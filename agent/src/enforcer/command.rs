//! Runs commands of the system with a time limit.

use std::{
    io,
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::clock;

/// A command of the system (systemctl, `check`) that takes longer has failed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a command with a time limit.
pub(super) fn run(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = clock::mono_ns() + COMMAND_TIMEOUT.as_nanos() as u64;
    while child.try_wait()?.is_none() {
        if clock::mono_ns() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output()
}

/// What a command printed, in one line.
pub(super) fn told(output: &Output) -> String {
    let text = [output.stderr.as_slice(), output.stdout.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}
