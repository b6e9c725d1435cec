//! Source: a log file, tailed: `log.output` of sing-box here, the access logs of V2Ray and Xray by
//! `access_log`. Lossless, but a client can forge lines in it through a line break in a domain or a user
//! name, of sing-box even before it has logged in. So it has the lowest trust; of sing-box it is used only
//! where an admin asks for it.

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

/// When a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Just now, at this time (milliseconds, monotonic).
    Now(u64),
    /// Before the file was opened: only the line itself says when.
    Before,
}

/// Understands the lines of one kind of log.
pub trait Lines: Send + 'static {
    fn on_line(&mut self, line: &[u8], written: Written, out: &mut Vec<SourceEvent>);

    fn set_known(&mut self, known: KnownInbounds);

    /// Time passes, and who is known may have changed.
    fn later(&mut self, _now_ms: u64, _out: &mut Vec<SourceEvent>) {}

    /// Do lines say when they were written?
    fn are_timed(&self) -> bool;

    /// Lines of the past follow: these, of a file that was written to last at this Unix second.
    fn before(&mut self, text: &[u8], modified_s: i64);

    /// The file in words, and which option names it.
    fn names(&self) -> (&'static str, &'static str);
}

/// sing-box's own log.
pub struct SingboxLines {
    joiner: Joiner,
    timestamp: bool,
}

impl SingboxLines {
    /// `timestamp`: `log.timestamp` is set.
    pub fn new(timestamp: bool, known: KnownInbounds) -> Self {
        SingboxLines { joiner: Joiner::new(SourceKind::LogFile, known), timestamp }
    }
}

impl Lines for SingboxLines {
    fn on_line(&mut self, line: &[u8], written: Written, out: &mut Vec<SourceEvent>) {
        let (now_ms, history) = match written {
            Written::Now(now_ms) => (now_ms, false),
            Written::Before => (0, true),
        };
        on_line(&mut self.joiner, line, now_ms, history, out);
    }

    fn set_known(&mut self, known: KnownInbounds) {
        self.joiner.set_known(known);
    }

    fn are_timed(&self) -> bool {
        self.timestamp
    }

    fn before(&mut self, _: &[u8], _: i64) {}

    fn names(&self) -> (&'static str, &'static str) {
        ("sing-box's log file", "`log.output` in sing-box's configuration")
    }
}

/// Runs until `shutdown`, on a thread of its own, since reading files blocks.
pub async fn run<L: Lines>(
    (path, lines): (PathBuf, L),
    known: watch::Receiver<KnownInbounds>,
    events: Events,
    shutdown: Shutdown,
) {
    let tailer = Tailer::new(path, lines);
    let tail = tokio::task::spawn_blocking(move || tail(tailer, known, &events, &shutdown));
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

fn tail<L: Lines>(
    mut tailer: Tailer<L>,
    mut known: watch::Receiver<KnownInbounds>,
    events: &Events,
    shutdown: &Shutdown,
) {
    tailer.lines.set_known(known.borrow_and_update().clone());
    let start = clock::mono_ns();
    let mut out = Vec::new();
    while !*shutdown.borrow() {
        if known.has_changed().unwrap_or(false) {
            tailer.lines.set_known(known.borrow_and_update().clone());
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
pub struct Tailer<L> {
    path: PathBuf,
    lines: L,
    current: Option<Open>,
    /// The file that `current` has replaced: the proxy writes to it until it is reloaded.
    previous: Option<Open>,
    started: bool,
    said_missing: bool,
    chunk: Vec<u8>,
}

impl<L: Lines> Tailer<L> {
    pub fn new(path: PathBuf, lines: L) -> Self {
        Tailer {
            path,
            lines,
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
        self.lines.later(now_ms, out);
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
        let now = match std::fs::metadata(&self.path) {
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
        let mut open = match Open::at(&self.path) {
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
        if !self.lines.are_timed() {
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
            self.lines.before(&text[first..last], open.file.metadata()?.mtime());
            for line in text[first..last].split(|&b| b == b'\n') {
                self.lines.on_line(line, Written::Before, out);
            }
            // Lost lines of the past are no loss of this run.
            let told = |counter: &str| counter == super::access_log::ZONE_UNKNOWN;
            out.retain(|event| !matches!(event, SourceEvent::Lost { counter, .. } if !told(counter)));
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
        let lines = &mut self.lines;
        let too_long =
            open.records.push(&self.chunk[..count], |line| lines.on_line(line, Written::Now(now_ms), out));
        if too_long > 0 {
            out.push(SourceEvent::Lost { counter: LINE_TOO_LONG, count: too_long });
        }
        Ok(count)
    }

    fn missing(&mut self, error: &io::Error, out: &mut Vec<SourceEvent>) {
        self.current = None;
        if !std::mem::replace(&mut self.said_missing, true) {
            let (path, (file, option)) = (self.path.display(), self.lines.names());
            let reason = format!("{file} {path}: {error}; waiting for it. It is {option}");
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
