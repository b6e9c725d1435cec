//! Source: the log stream of sing-box's Clash API (`GET /logs?level=info`), for 1.12 and 1.13. Framed
//! as JSON, so that clients cannot forge records; sing-box drops lines for a slow reader.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    clock,
    core::event::{SourceEvent, SourceKind},
};

use super::{Backoff, Endpoint, Events, KnownInbounds, Shutdown, connect, ended, joiner::Joiner, log_line};

/// One record. sing-box's longest are a few hundred bytes; a client's domain has at most 255.
pub const RECORD_MAX: usize = 64 << 10;

/// No answer to a single request in this time is a failure. It does not hold for the log stream,
/// whose headers come only with the first record.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Records longer than `RECORD_MAX`, or no JSON.
pub const RECORD_UNPARSABLE: &str = "clash_record_unparsable";

/// Why the source is gone; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClashError {
    #[error(
        "sing-box's Clash API at {addr} cannot be reached ({error}); is sing-box running, and is this its configuration?"
    )]
    Connect { addr: std::net::SocketAddr, error: std::io::Error },
    #[error(
        "sing-box's Clash API refuses the secret; boxmeter reads it from `experimental.clash_api.secret` in `[singbox] config`, so sing-box runs with another configuration than that: reload sing-box, or correct the path"
    )]
    Secret,
    #[error(
        "the secret in `experimental.clash_api.secret` cannot be sent in a header; use letters and digits"
    )]
    SecretText,
    #[error(
        "the listener at {addr} is not sing-box's Clash API ({what}); is there another program on this port?"
    )]
    Other { addr: std::net::SocketAddr, what: String },
    #[error("sing-box ended the log stream, as it does at a reload or restart")]
    Ended,
    #[error("boxmeter is ending")]
    Shutdown,
}

#[derive(Deserialize)]
struct LogRecord {
    payload: String,
}

/// Runs until `shutdown`.
pub async fn run(
    endpoint: Endpoint,
    mut known: watch::Receiver<KnownInbounds>,
    events: Events,
    mut shutdown: Shutdown,
) {
    let mut backoff = Backoff::default();
    let mut joiner = Joiner::new(SourceKind::ClashLogs, known.borrow_and_update().clone());
    let mut last_reason = String::new();
    while !*shutdown.borrow() {
        let mut connected = false;
        let ended = session(&endpoint, &mut joiner, &mut known, &events, &mut shutdown, &mut connected).await;
        joiner.clear();
        if connected {
            backoff.reset();
            last_reason.clear();
        }
        let Err(error) = ended else { return };
        if matches!(error, ClashError::Shutdown) {
            return;
        }
        let reason = error.to_string();
        if reason != last_reason {
            let event = SourceEvent::Disconnected { source: SourceKind::ClashLogs, reason: reason.clone() };
            if events.send(event).await.is_err() {
                return;
            }
            last_reason = reason;
        }
        if backoff.wait(&mut shutdown).await {
            return;
        }
    }
}

/// Asks once for the version: is the API there, with this secret?
pub async fn version(endpoint: &Endpoint) -> Result<String, ClashError> {
    let (mut sender, driver) = dial(endpoint).await?;
    let _driver = Driver(driver);
    ask_version(&mut sender, endpoint).await
}

type Sender = http1::SendRequest<Empty<Bytes>>;

/// The task that moves the connection's bytes; it ends with its handle.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn dial(endpoint: &Endpoint) -> Result<(Sender, tokio::task::JoinHandle<()>), ClashError> {
    let addr = endpoint.addr;
    let stream = connect::connect(addr, endpoint.netns.clone())
        .await
        .map_err(|error| ClashError::Connect { addr, error })?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| other(endpoint, error))?;
    // Its error comes through the sender and the body as well.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, driver))
}

fn other(endpoint: &Endpoint, what: impl ToString) -> ClashError {
    ClashError::Other { addr: endpoint.addr, what: what.to_string() }
}

fn request(endpoint: &Endpoint, path: &str) -> Result<Request<Empty<Bytes>>, ClashError> {
    let mut request = Request::get(path).header(header::HOST, endpoint.addr.to_string());
    if !endpoint.secret.0.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", endpoint.secret.0));
    }
    request.body(Empty::new()).map_err(|_| ClashError::SecretText)
}

fn check(endpoint: &Endpoint, status: StatusCode) -> Result<(), ClashError> {
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED => Err(ClashError::Secret),
        other_status => Err(other(endpoint, format!("HTTP status {other_status}"))),
    }
}

async fn ask_version(sender: &mut Sender, endpoint: &Endpoint) -> Result<String, ClashError> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    let answer = async {
        let response = sender
            .send_request(request(endpoint, "/version")?)
            .await
            .map_err(|error| other(endpoint, error))?;
        check(endpoint, response.status())?;
        let limited = http_body_util::Limited::new(response.into_body(), RECORD_MAX);
        let body = limited.collect().await.map_err(|error| other(endpoint, error))?.to_bytes();
        let version: Version = serde_json::from_slice(&body).map_err(|error| other(endpoint, error))?;
        Ok(version.version.strip_prefix("sing-box ").unwrap_or(&version.version).to_owned())
    };
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(version) => version,
        Err(_) => Err(other(endpoint, "no answer to GET /version")),
    }
}

async fn session(
    endpoint: &Endpoint,
    joiner: &mut Joiner,
    known: &mut watch::Receiver<KnownInbounds>,
    events: &Events,
    shutdown: &mut Shutdown,
    connected: &mut bool,
) -> Result<(), ClashError> {
    let (mut sender, driver) = tokio::select! {
        dialled = dial(endpoint) => dialled?,
        () = ended(shutdown) => return Err(ClashError::Shutdown),
    };
    let _driver = Driver(driver);
    ask_version(&mut sender, endpoint).await?;
    let asked = sender.send_request(request(endpoint, "/logs?level=info")?);
    let event = SourceEvent::Connected { source: SourceKind::ClashLogs, replay: false };
    events.send(event).await.map_err(|_| ClashError::Shutdown)?;
    *connected = true;
    let response = tokio::select! {
        response = asked => response.map_err(|_| ClashError::Ended)?,
        () = ended(shutdown) => return Err(ClashError::Shutdown),
    };
    check(endpoint, response.status())?;
    let mut body: Incoming = response.into_body();
    let mut buffer = Records::default();
    let start = clock::mono_ns();
    let mut out = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = ended(shutdown) => return Err(ClashError::Shutdown),
        };
        let Some(Ok(frame)) = frame else {
            return Err(ClashError::Ended);
        };
        if known.has_changed().unwrap_or(false) {
            joiner.set_known(known.borrow_and_update().clone());
        }
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let now_ms = (clock::mono_ns() - start) / 1_000_000;
        let lost = buffer.push(&data, |line| on_record(joiner, line, now_ms, &mut out));
        if lost > 0 {
            out.push(SourceEvent::Lost { counter: RECORD_UNPARSABLE, count: lost });
        }
        for event in out.drain(..) {
            events.send(event).await.map_err(|_| ClashError::Shutdown)?;
        }
    }
}

/// Feeds one line of the stream.
pub fn on_record(joiner: &mut Joiner, line: &[u8], now_ms: u64, out: &mut Vec<SourceEvent>) {
    match serde_json::from_slice::<LogRecord>(line) {
        Ok(record) => {
            if let Some(record) = log_line::parse(joiner.known(), &record.payload) {
                joiner.on(record, now_ms, None, out);
            }
        }
        Err(_) => out.push(SourceEvent::Lost { counter: RECORD_UNPARSABLE, count: 1 }),
    }
}

/// Cuts a stream of bytes into lines of at most `RECORD_MAX` bytes.
#[derive(Debug, Default)]
pub struct Records {
    partial: Vec<u8>,
    /// Inside a line that is too long.
    skipping: bool,
}

impl Records {
    /// Calls `line` for each complete line, without its end. Returns how many were too long.
    pub fn push(&mut self, mut data: &[u8], mut line: impl FnMut(&[u8])) -> u64 {
        let mut too_long = 0;
        while let Some(end) = data.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = data.split_at(end);
            data = &tail[1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.len() + head.len() > RECORD_MAX {
                too_long += 1;
            } else if self.partial.is_empty() {
                line(head);
            } else {
                self.partial.extend_from_slice(head);
                line(&self.partial);
            }
            self.partial.clear();
        }
        if !self.skipping {
            if self.partial.len() + data.len() > RECORD_MAX {
                too_long += 1;
                self.skipping = true;
                self.partial.clear();
            } else {
                self.partial.extend_from_slice(data);
            }
        }
        too_long
    }

    /// Forgets a line that was begun.
    pub fn clear(&mut self) {
        self.partial.clear();
        self.skipping = false;
    }
}
