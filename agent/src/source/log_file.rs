//! Source: the file `log.output` of sing-box, tailed. Lossless, but a client can forge lines in it
//! through a line break in a domain or a user name, even before it has logged in. So it has the
//! lowest trust, and is used only where an admin asks for it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    clock,
    core::event::{SourceEvent, SourceKind},
};

use super::{
    Events, KnownInbounds, Shutdown,
    clash_logs::Records,
    joiner::Joiner,
    log_line::{self, Line},
};

/// The file is looked at so often. One `fstat` and one `read` cost a few microseconds.
const POLL: Duration = Duration::from_millis(20);

/// At the start, so much of the file's end is read for connections that may still be open; only where
/// lines carry the time, since a connection must be told from a later one of the same address.
const HISTORY: u64 = 1 << 20;

/// Read at a time.
const CHUNK: usize = 256 << 10;

/// Lines longer than the limit of a record.
pub const LINE_TOO_LONG: &str = "log_line_too_long";
/// The file was cut in place; lines between the last look and the cut are lost.
pub const TRUNCATED: &str = "log_truncated";

#[derive(Clone, Debug)]
pub struct LogFile {
    pub path: PathBuf,
    /// `log.timestamp` is set.
    pub timestamp: bool,
}

/// Runs until `shutdown`, on a thread of its own, since reading files blocks.
pub async fn run(file: LogFile, known: watch::Receiver<KnownInbounds>, events: Events, shutdown: Shutdown) {
    let tail = tokio::task::spawn_blocking(move || tail(&file, known, &events, &shutdown));
    if let Err(error) = tail.await {
        tracing::error!(%error, "the log file's reader has failed");
    }
}

struct Open {
    file: File,
    device_inode: (u64, u64),
    position: u64,
    records: Records,
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Open { file, device_inode: (meta.dev(), meta.ino()), position: 0, records: Records::default() })
    }
}

fn tail(config: &LogFile, mut known: watch::Receiver<KnownInbounds>, events: &Events, shutdown: &Shutdown) {
    let mut tailer = Tailer::new(config.clone(), known.borrow_and_update().clone());
    let start = clock::mono_ns();
    let mut out = Vec::new();
    while !*shutdown.borrow() {
        if known.has_changed().unwrap_or(false) {
            tailer.joiner.set_known(known.borrow_and_update().clone());
        }
        let more = tailer.poll((clock::mono_ns() - start) / 1_000_000, &mut out);
        for event in out.drain(..) {
            if events.blocking_send(event).is_err() {
                return;
            }
        }
        if !more {
            std::thread::sleep(POLL);
        }
    }
}

/// Follows one path over rotation and truncation. `poll` does not block beyond reading the file.
pub struct Tailer {
    config: LogFile,
    joiner: Joiner,
    current: Option<Open>,
    /// The file that `current` has replaced: sing-box writes to it until it is reloaded.
    previous: Option<Open>,
    started: bool,
    said_missing: bool,
    chunk: Vec<u8>,
}

impl Tailer {
    pub fn new(config: LogFile, known: KnownInbounds) -> Self {
        Tailer {
            config,
            joiner: Joiner::new(SourceKind::LogFile, known),
            current: None,
            previous: None,
            started: false,
            said_missing: false,
            chunk: vec![0; CHUNK],
        }
    }

    /// Reads what was written. `true`: there may be more at once.
    pub fn poll(&mut self, now_ms: u64, out: &mut Vec<SourceEvent>) -> bool {
        self.follow(out);
        let mut more = false;
        if let Some(mut open) = self.previous.take() {
            let read = self.read(&mut open, now_ms, out);
            let silent = matches!(read, Ok(0) | Err(_));
            more |= !silent;
            let replaced = self
                .current
                .as_ref()
                .is_some_and(|current| current.file.metadata().is_ok_and(|m| m.len() > 0));
            if !(silent && replaced) {
                self.previous = Some(open);
            }
        }
        if let Some(mut open) = self.current.take() {
            match self.read(&mut open, now_ms, out) {
                Ok(count) => {
                    more |= count > 0;
                    self.current = Some(open);
                }
                Err(error) => self.missing(&error, out),
            }
        }
        more
    }

    /// Opens the path, at first and after a rotation.
    fn follow(&mut self, out: &mut Vec<SourceEvent>) {
        let now = match std::fs::metadata(&self.config.path) {
            Ok(meta) => (meta.dev(), meta.ino()),
            Err(error) => {
                // A file that was moved away is still written to.
                if self.current.is_none() {
                    self.missing(&error, out);
                }
                return;
            }
        };
        if self.current.as_ref().is_some_and(|open| open.device_inode == now) {
            return;
        }
        let mut open = match Open::at(&self.config.path) {
            Ok(open) => open,
            Err(error) => return self.missing(&error, out),
        };
        if !std::mem::replace(&mut self.started, true)
            && let Err(error) = self.start(&mut open, out)
        {
            return self.missing(&error, out);
        }
        if self.current.is_none() {
            out.push(SourceEvent::Connected { source: SourceKind::LogFile, replay: false });
        }
        self.said_missing = false;
        self.previous = self.current.take();
        self.current = Some(open);
    }

    /// The first file is read from its end; a later one, from its start.
    fn start(&mut self, open: &mut Open, out: &mut Vec<SourceEvent>) -> io::Result<()> {
        let end = open.file.metadata()?.len();
        open.position = end;
        if !self.config.timestamp {
            return Ok(());
        }
        let from = end.saturating_sub(HISTORY);
        open.file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        io::Read::by_ref(&mut open.file).take(end - from).read_to_end(&mut text)?;
        // The first line is a half one, the last one may be.
        let first = if from == 0 { Some(0) } else { text.iter().position(|&b| b == b'\n').map(|at| at + 1) };
        let last = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        if let Some(first) = first.filter(|&first| first < last) {
            for line in text[first..last].split(|&b| b == b'\n') {
                on_line(&mut self.joiner, line, 0, true, out);
            }
            // Lost lines of the past are no loss of this run.
            out.retain(|event| !matches!(event, SourceEvent::Lost { .. }));
        }
        open.records.push(&text[last..], |_| {});
        Ok(())
    }

    fn read(&mut self, open: &mut Open, now_ms: u64, out: &mut Vec<SourceEvent>) -> io::Result<usize> {
        if open.file.metadata()?.len() < open.position {
            open.position = 0;
            open.records.clear();
            out.push(SourceEvent::Lost { counter: TRUNCATED, count: 1 });
        }
        open.file.seek(SeekFrom::Start(open.position))?;
        let count = open.file.read(&mut self.chunk)?;
        open.position += count as u64;
        let joiner = &mut self.joiner;
        let too_long =
            open.records.push(&self.chunk[..count], |line| on_line(joiner, line, now_ms, false, out));
        if too_long > 0 {
            out.push(SourceEvent::Lost { counter: LINE_TOO_LONG, count: too_long });
        }
        Ok(count)
    }

    fn missing(&mut self, error: &io::Error, out: &mut Vec<SourceEvent>) {
        self.current = None;
        if !std::mem::replace(&mut self.said_missing, true) {
            let path = self.config.path.display();
            let reason = format!(
                "sing-box's log file {path}: {error}; waiting for it. It is `log.output` in sing-box's configuration"
            );
            out.push(SourceEvent::Disconnected { source: SourceKind::LogFile, reason });
        }
    }
}

/// Feeds one line. `history`: the line's own time is the connection's.
pub fn on_line(joiner: &mut Joiner, line: &[u8], now_ms: u64, history: bool, out: &mut Vec<SourceEvent>) {
    let Ok(line) = std::str::from_utf8(line) else {
        return;
    };
    let Some(Line { time_s, payload }) = log_line::parse_line(line) else {
        return;
    };
    // The end of the second that the line names: the connection was there by then.
    let created_ms = match (history, time_s) {
        (false, _) => None,
        (true, Some(time_s)) => Some(time_s * 1000 + 999),
        (true, None) => return,
    };
    if let Some(record) = log_line::parse(joiner.known(), &payload) {
        joiner.on(record, now_ms, created_ms, out);
    }
}
