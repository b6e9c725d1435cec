//! Runs programs of the system with a limit of time, and keeps what they print, of which they may print any amount.

use std::{
    io::{self, Read},
    process::{Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::clock;

/// Bytes that are kept of each stream; the rest is read and forgotten, so that the program can end.
pub const KEPT_MAX: u64 = 16 << 20;

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A child of its own that lives on may hold a stream open: what was printed until then is all there is.
const REST: Duration = Duration::from_secs(1);

/// Runs a command, and ends it after a time.
///
/// # Errors
/// It cannot be started, or does not end.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A full pipe would have it wait for ever.
    let streams = [child.stdout.take().map(reader), child.stderr.take().map(reader)];
    let deadline = clock::mono_ns().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if clock::mono_ns() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
        }
        thread::sleep(LOOK);
    };
    let [stdout, stderr] = streams.map(|stream| stream.map(whole).unwrap_or_default());
    Ok(Output { status, stdout, stderr })
}

fn reader(stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, parts) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, mut kept) = (stream, 0);
        let mut part = [0; 8 << 10];
        loop {
            match stream.read(&mut part) {
                Ok(0) => return,
                Ok(length) if kept < KEPT_MAX => {
                    kept += length as u64;
                    if sender.send(part[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    parts
}

fn whole(parts: mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(part) = parts.recv_timeout(REST) {
        all.extend(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> io::Result<Output> {
        run(Command::new("sh").args(["-c", script]), Duration::from_secs(20))
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let output = shell("head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; exit 3").unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 200_000));
        assert_eq!(output.status.code(), Some(3));
        let endless = run(Command::new("sh").args(["-c", "yes"]), Duration::from_millis(200));
        assert_eq!(endless.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Somebody else holds the stream.
        assert_eq!(
            shell("echo a; sleep 30 & echo $! >&2")
                .map(|output| {
                    let pid: i32 = String::from_utf8_lossy(&output.stderr).trim().parse().unwrap();
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    )
                    .unwrap();
                    output.stdout
                })
                .unwrap(),
            b"a\n"
        );
    }
}
