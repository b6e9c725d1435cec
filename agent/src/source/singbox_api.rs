//! Source: the gRPC `api` service of sing-box ≥ 1.14. A reader task per subscription that never
//! blocks, renewed periodically, because sing-box silently drops events for a slow reader: the replay
//! at each renewal repairs what was dropped.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint as GrpcEndpoint},
};
use tower::service_fn;

use crate::core::event::{SourceEvent, SourceKind};

use super::{
    Backoff, Endpoint, Events, Shutdown,
    api_state::ApiState,
    connect, daemon,
    daemon::{ConnectionEvents, SubscribeConnectionsRequest, started_service_client::StartedServiceClient},
    ended,
};

/// The oldest API that has what is used here: sing-box 1.14.4 says 4.
const API_VERSION_KNOWN: i32 = 4;

/// Byte totals come with the closing event and the renewal's replay; updates in between are not
/// needed, so they are asked for rarely.
const UPDATE_INTERVAL: Duration = Duration::from_secs(10);

/// A replay is one message of about 250 bytes per connection; gRPC's own default is 4 MiB, which
/// 16,000 connections exceed.
const MESSAGE_MAX: usize = 128 << 20;

/// Messages between the readers and the task that passes them on. One message holds one event, or a
/// replay. More wait in HTTP/2's window and then in sing-box.
pub const QUEUE_MAX: usize = 65_536;

/// The old subscription is kept for so long after the new one's replay, so that nothing falls
/// between them.
const OVERLAP: Duration = Duration::from_secs(1);

/// A renewal follows so long after messages were dropped: not at once, or a burst renews all the time.
const REPAIR_AFTER: Duration = Duration::from_secs(1);

/// No answer to a single call in this time is a failure.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages were dropped because `QUEUE_MAX` waited; the next renewal repairs.
pub const QUEUE_FULL: &str = "api_queue_full";

#[derive(Clone, Debug)]
pub struct ApiConfig {
    pub endpoint: Endpoint,
    /// How often the subscription is renewed.
    pub renew: Duration,
}

impl From<Endpoint> for ApiConfig {
    fn from(endpoint: Endpoint) -> Self {
        ApiConfig { endpoint, renew: Duration::from_secs(30) }
    }
}

/// Why the source is gone; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "sing-box's API service at {addr} cannot be reached ({error}); is sing-box running, and is this its configuration?"
    )]
    Connect { addr: std::net::SocketAddr, error: String },
    #[error(
        "sing-box's API service refuses the secret; boxmeter reads it from `services[].secret` in `[singbox] config`, so sing-box runs with another configuration than that: reload sing-box, or correct the path"
    )]
    Secret,
    #[error("the secret in `services[].secret` cannot be sent in a header; use letters and digits")]
    SecretText,
    #[error(
        "the listener at {addr} is not sing-box's API service ({error}); sing-box 1.14 is needed, and no other program on this port"
    )]
    Missing { addr: std::net::SocketAddr, error: String },
    #[error("sing-box ended the stream, as it does at a reload or restart")]
    Ended,
    #[error("sing-box's API service failed: {0}")]
    Failed(String),
    #[error("boxmeter is ending")]
    Shutdown,
}

type Client = StartedServiceClient<Channel>;

/// Version of the running sing-box, as its API tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersion {
    pub version: String,
    pub api: i32,
}

/// Runs until `shutdown`.
pub async fn run(config: ApiConfig, events: Events, mut shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let mut state = ApiState::default();
    let mut last_reason = String::new();
    while !*shutdown.borrow() {
        let mut connected = false;
        let ended = session(&config, &mut state, &events, &mut shutdown, &mut connected).await;
        state.disconnected();
        if connected {
            backoff.reset();
            last_reason.clear();
        }
        let Err(error) = ended else { return };
        if matches!(error, ApiError::Shutdown) {
            return;
        }
        let reason = error.to_string();
        // Said once per reason, not once per try.
        if reason != last_reason {
            let event = SourceEvent::Disconnected { source: SourceKind::Api, reason: reason.clone() };
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
pub async fn version(endpoint: &Endpoint) -> Result<ApiVersion, ApiError> {
    let (mut client, secret) = dial(endpoint).await?;
    ask_version(&mut client, &secret, endpoint).await
}

async fn dial(endpoint: &Endpoint) -> Result<(Client, Option<MetadataValue<Ascii>>), ApiError> {
    let secret = match endpoint.secret.0.as_str() {
        "" => None,
        text => Some(format!("Bearer {text}").parse().map_err(|_| ApiError::SecretText)?),
    };
    let (addr, netns): (_, Option<PathBuf>) = (endpoint.addr, endpoint.netns.clone());
    let fail = |error: String| ApiError::Connect { addr, error };
    let channel = GrpcEndpoint::from_shared(format!("http://{addr}"))
        .map_err(|e| fail(e.to_string()))?
        .connect_timeout(connect::CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector(service_fn(move |_| {
            let netns = netns.clone();
            async move { connect::connect(addr, netns).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|e| fail(innermost(&e)))?;
    let client = StartedServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    Ok((client, secret))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

fn request<T>(message: T, secret: &Option<MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(secret) = secret {
        request.metadata_mut().insert("authorization", secret.clone());
    }
    request
}

/// A single call that failed. Another kind of server answers with what is not gRPC.
fn refused(status: &Status, endpoint: &Endpoint) -> ApiError {
    let (addr, error) = (endpoint.addr, innermost(status));
    match status.code() {
        Code::Unauthenticated => ApiError::Secret,
        Code::Unimplemented | Code::Unknown | Code::Internal => ApiError::Missing { addr, error },
        code => ApiError::Failed(format!("{code:?}: {error}")),
    }
}

/// A stream that failed. At a reload it is cancelled, removed or cut.
fn broken(status: &Status, endpoint: &Endpoint) -> ApiError {
    match status.code() {
        Code::Cancelled | Code::Unavailable | Code::Unknown | Code::Internal => ApiError::Ended,
        _ => refused(status, endpoint),
    }
}

async fn ask_version(
    client: &mut Client,
    secret: &Option<MetadataValue<Ascii>>,
    endpoint: &Endpoint,
) -> Result<ApiVersion, ApiError> {
    match tokio::time::timeout(CALL_TIMEOUT, client.get_version(request((), secret))).await {
        Err(_) => Err(ApiError::Missing { addr: endpoint.addr, error: "no answer to GetVersion".into() }),
        Ok(Err(status)) => Err(refused(&status, endpoint)),
        Ok(Ok(answer)) => {
            let daemon::Version { version, api_version } = answer.into_inner();
            Ok(ApiVersion { version, api: api_version })
        }
    }
}

/// What a reader task passes on.
enum Read {
    Message { subscription: u64, message: ConnectionEvents },
    Ended { subscription: u64, error: ApiError },
}

/// A reader ends with its handle.
struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn session(
    config: &ApiConfig,
    state: &mut ApiState,
    events: &Events,
    shutdown: &mut Shutdown,
    connected: &mut bool,
) -> Result<(), ApiError> {
    let endpoint = &config.endpoint;
    let (mut client, secret) = tokio::select! {
        dialled = dial(endpoint) => dialled?,
        () = ended(shutdown) => return Err(ApiError::Shutdown),
    };
    let version = ask_version(&mut client, &secret, endpoint).await?;
    if version.api < API_VERSION_KNOWN {
        tracing::warn!(
            version = version.version,
            api = version.api,
            "older API than any boxmeter was tested with"
        );
    }
    let (queue_tx, mut queue) = mpsc::channel(QUEUE_MAX);
    let dropped = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut session = Session { client, secret, endpoint, queue: queue_tx, dropped, subscription: 0 };
    let mut current = session.subscribe(state).await?;
    let mut previous: Option<(Reader, Instant)> = None;
    let mut renew_at = Instant::now() + config.renew;
    send(events, SourceEvent::Connected { source: SourceKind::Api, replay: true }).await?;
    *connected = true;
    let mut out = Vec::new();
    loop {
        let drop_at = previous.as_ref().map_or(renew_at, |(_, at)| *at);
        tokio::select! {
            read = queue.recv() => match read {
                // The sender is part of `session`, so the queue cannot end before it.
                None => return Err(ApiError::Ended),
                Some(Read::Message { subscription, message }) => {
                    let latest = subscription == session.subscription;
                    if message.reset && latest && let Some((_, drop_at)) = &mut previous {
                        *drop_at = Instant::now() + OVERLAP;
                    }
                    state.on(message, latest, &mut out);
                }
                Some(Read::Ended { subscription, error }) if subscription == session.subscription => return Err(error),
                Some(Read::Ended { .. }) => {}
            },
            () = sleep_until(drop_at), if previous.is_some() => previous = None,
            () = sleep_until(renew_at) => {
                renew_at = Instant::now() + config.renew;
                let reader = session.subscribe(state).await?;
                let old = std::mem::replace(&mut current, reader);
                // Until the replay comes; it must come before the next renewal.
                previous = Some((old, renew_at));
            }
            () = ended(shutdown) => return Err(ApiError::Shutdown),
        }
        let count = session.dropped.swap(0, std::sync::atomic::Ordering::Relaxed);
        if count > 0 {
            out.push(SourceEvent::Lost { counter: QUEUE_FULL, count });
            renew_at = renew_at.min(Instant::now() + REPAIR_AFTER);
        }
        for event in out.drain(..) {
            send(events, event).await?;
        }
    }
}

async fn send(events: &Events, event: SourceEvent) -> Result<(), ApiError> {
    events.send(event).await.map_err(|_| ApiError::Shutdown)
}

struct Session<'a> {
    client: Client,
    secret: Option<MetadataValue<Ascii>>,
    endpoint: &'a Endpoint,
    queue: mpsc::Sender<Read>,
    dropped: std::sync::Arc<std::sync::atomic::AtomicU64>,
    subscription: u64,
}

impl Session<'_> {
    async fn subscribe(&mut self, state: &mut ApiState) -> Result<Reader, ApiError> {
        state.subscribing();
        let interval = UPDATE_INTERVAL.as_nanos() as i64;
        let asked = request(SubscribeConnectionsRequest { interval }, &self.secret);
        let stream = match tokio::time::timeout(CALL_TIMEOUT, self.client.subscribe_connections(asked)).await
        {
            Err(_) => return Err(ApiError::Failed("no answer to SubscribeConnections".into())),
            Ok(Err(status)) => return Err(refused(&status, self.endpoint)),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        self.subscription += 1;
        let (subscription, queue, dropped) = (self.subscription, self.queue.clone(), self.dropped.clone());
        let endpoint = self.endpoint.clone();
        Ok(Reader(tokio::spawn(read(stream, subscription, queue, dropped, endpoint))))
    }
}

/// Drains one stream. It must never wait, or sing-box drops events for it.
async fn read(
    mut stream: Streaming<ConnectionEvents>,
    subscription: u64,
    queue: mpsc::Sender<Read>,
    dropped: std::sync::Arc<std::sync::atomic::AtomicU64>,
    endpoint: Endpoint,
) {
    let error = loop {
        match stream.message().await {
            Ok(Some(message)) => {
                // Updates of the totals are the bulk, and of no use here.
                let only_updates = !message.reset
                    && message
                        .events
                        .iter()
                        .all(|e| e.r#type() == daemon::ConnectionEventType::ConnectionEventUpdate);
                if only_updates {
                    continue;
                }
                match queue.try_send(Read::Message { subscription, message }) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => {
                        dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    Err(TrySendError::Closed(_)) => return,
                }
            }
            Ok(None) => break ApiError::Ended,
            Err(status) => break broken(&status, &endpoint),
        }
    };
    // Waiting is harmless here: the stream has ended.
    let _ = queue.send(Read::Ended { subscription, error }).await;
}
