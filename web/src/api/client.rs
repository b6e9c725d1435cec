//! The client of the API over a unix socket. It is a [`Backend`] too, so that faces run the same
//! over a socket as inside the agent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use http::{HeaderValue, Method, Request, StatusCode, header, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Response, body::Bytes, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Zoned;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    PREFIX,
    access_routes::{BROWSER, FROM, SESSION, UNATTENDED},
    change::{Deleted, ImportReport, ImportRequest, NewUser, UserAdded, UserChange, UserChanged},
    error::{ApiError, ErrorKind, Problem},
    live::{LiveSnapshot, LiveUpdate},
    notify::{NotifyShow, NotifyTest, NotifyTested},
    order::{Envelope, IDEMPOTENCY_KEY},
    params::{Pairs, Parameters},
    policies::{
        NewPackage, NewPolicy, PackageAdded, PackageList, PolicyChange, PolicyChanged, PolicyList, PolicyShow,
    },
    query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
    sharing::{SharingChange, SharingShow, Subscription, UserCredentials},
    sse::{Message, Parser},
    types::{Audit, EventList, FlowList, Stats, Status, Usage, UserList, UserShow},
};
use crate::{
    access::{Presented, Visitor},
    backend::{Backend, LiveStream},
    share::percent,
};

/// The largest answer that is read: [`super::query::LIMIT_MAX`] users with long names are about 10 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A little more than the server's own limit, whose error says more.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(35);
/// No message and no keep-alive for this long: the agent is gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// A connection per question: a unix socket costs microseconds, and nothing can go stale.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Whom it asks for, if not for its own user.
    visitor: Option<Arc<Visitor>>,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Client { socket: socket.into(), visitor: None }
    }

    /// The same, asking for a visitor: with that one's rights and name.
    pub fn acting_for(&self, visitor: &Visitor) -> Self {
        Client { socket: self.socket.clone(), visitor: Some(Arc::new(visitor.clone())) }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for a path below `/api/v1` and reads the answer.
    ///
    /// # Errors
    /// `NotRunning` if nobody listens, `NotPermitted` if the socket may not be used, the server's
    /// own error, or `Internal` if the answer cannot be read.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, pairs: &Pairs) -> Result<T, ApiError> {
        self.answer(Request::get(uri(path, pairs)), Vec::new()).await
    }

    /// Asks for a change. Who asks is decided by the server, from the socket's peer.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: String,
        envelope: &Envelope,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ApiError> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(rev) = envelope.if_rev {
            request = request.header(header::IF_MATCH, format!("\"{rev}\""));
        }
        if let Some(key) = &envelope.key {
            request = request.header(IDEMPOTENCY_KEY, &key.key);
        }
        let body = match body {
            None => Vec::new(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(ApiError::internal)?
            }
        };
        self.answer(request, body).await
    }

    /// Asks with a body, and nothing that an [`Envelope`] has.
    pub(crate) async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: String,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ApiError> {
        let request = Request::builder().method(method).uri(uri);
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        self.answer(request.header(header::CONTENT_TYPE, "application/json"), body).await
    }

    pub(crate) async fn answer<T: DeserializeOwned>(
        &self,
        request: request::Builder,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        let asked = async {
            let response = self.send(request, body, "application/json").await?;
            let empty = response.status() == StatusCode::NO_CONTENT;
            let body = read_body(response.into_body()).await?;
            serde_json::from_slice(if empty { b"null" } else { &body }).map_err(|error| {
                ApiError::internal(format!(
                    "the agent's answer is not understood ({error}); is it of the same version as \
                     this program?"
                ))
            })
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::unavailable("the agent does not answer; see its log")),
        }
    }

    async fn send(
        &self,
        request: request::Builder,
        body: Vec<u8>,
        accept: &str,
    ) -> Result<Response<Incoming>, ApiError> {
        let request = for_visitor(request, self.visitor.as_deref());
        let body = Full::<Bytes>::from(body);
        let request = request
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("boxmeter/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| ApiError::bad_request(format!("not a usable request: {error}")))?;
        let response = self.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = read_body(response.into_body()).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.into(),
            Err(_) => ApiError::new(
                ErrorKind::of_status(status),
                format!("the agent answered {status} without saying why"),
            ),
        })
    }

    /// Passes a request on as it is and gives the answer as it comes, errors of the server included.
    ///
    /// # Errors
    /// As those of [`Client::get`] before there is an answer.
    pub async fn pass<B>(&self, request: request::Builder, body: B) -> Result<Response<Incoming>, ApiError>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = for_visitor(request, self.visitor.as_deref()).body(body);
        let request =
            request.map_err(|error| ApiError::bad_request(format!("not a usable request: {error}")))?;
        self.exchange(request).await
    }

    /// Sends a request on a connection of its own and gives the answer as it comes, errors included.
    async fn exchange<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, ApiError>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.refused(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The task ends with the connection, which ends when the answer's body is dropped.
        tokio::spawn(connection);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("boxmeter"));
        sender.send_request(request).await.map_err(broken)
    }

    fn refused(&self, error: &io::Error) -> ApiError {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ApiError::new(
                ErrorKind::NotRunning,
                format!("the agent is not running: nobody listens on {socket} ({error})"),
            ),
            io::ErrorKind::PermissionDenied => ApiError::not_permitted(format!(
                "you may not use {socket}: be root or in the group boxmeter (log in again after \
                 being added to it)"
            )),
            _ => ApiError::unavailable(format!("cannot connect to {socket}: {error}")),
        }
    }
}

#[async_trait]
impl Backend for Client {
    /// This machine's own clock and zone; the server reads relative times with its own.
    fn now(&self) -> Zoned {
        Zoned::now()
    }

    async fn status(&self) -> Result<Status, ApiError> {
        self.get("/status", &Pairs::new()).await
    }

    async fn users(&self, filter: UserFilter, page: Page) -> Result<UserList, ApiError> {
        self.get("/users", &(filter, page).to_pairs()).await
    }

    async fn user(&self, name: &str) -> Result<UserShow, ApiError> {
        self.get(&user_path(name, "")?, &Pairs::new()).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Usage, ApiError> {
        self.get("/usage", &query.to_pairs()).await
    }

    async fn flows(&self, filter: FlowFilter) -> Result<FlowList, ApiError> {
        self.get("/flows", &filter.to_pairs()).await
    }

    async fn events(&self, query: EventQuery) -> Result<EventList, ApiError> {
        self.get("/events", &query.to_pairs()).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<Audit, ApiError> {
        self.get("/audit", &query.to_pairs()).await
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        self.get("/stats", &Pairs::new()).await
    }

    async fn metrics(&self) -> Result<String, ApiError> {
        let response = self.send(Request::get(plain("/metrics")), Vec::new(), "text/plain").await?;
        String::from_utf8(read_body(response.into_body()).await?.to_vec()).map_err(ApiError::internal)
    }

    async fn add_user(&self, envelope: Envelope, new: NewUser) -> Result<UserAdded, ApiError> {
        self.change(Method::POST, plain("/users"), &envelope, Some(&new)).await
    }

    async fn change_user(
        &self,
        envelope: Envelope,
        name: &str,
        change: UserChange,
    ) -> Result<UserChanged, ApiError> {
        self.change(Method::PATCH, plain(&user_path(name, "")?), &envelope, Some(&change)).await
    }

    async fn delete_user(&self, envelope: Envelope, name: &str, purge: bool) -> Result<Deleted, ApiError> {
        let pairs = vec![("purge".to_owned(), purge.to_string())];
        self.change(Method::DELETE, uri(&user_path(name, "")?, &pairs), &envelope, NOTHING).await
    }

    async fn reset_user(&self, envelope: Envelope, name: &str) -> Result<UserChanged, ApiError> {
        self.change(Method::POST, plain(&user_path(name, "/reset")?), &envelope, NOTHING).await
    }

    async fn set_enabled(
        &self,
        envelope: Envelope,
        name: &str,
        enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        let tail = if enabled { "/enable" } else { "/disable" };
        self.change(Method::POST, plain(&user_path(name, tail)?), &envelope, NOTHING).await
    }

    async fn packages(&self, name: &str, page: Page) -> Result<PackageList, ApiError> {
        self.get(&user_path(name, "/packages")?, &page.to_pairs()).await
    }

    async fn add_package(
        &self,
        envelope: Envelope,
        name: &str,
        new: NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        self.change(Method::POST, plain(&user_path(name, "/packages")?), &envelope, Some(&new)).await
    }

    async fn policies(&self, page: Page) -> Result<PolicyList, ApiError> {
        self.get("/policies", &page.to_pairs()).await
    }

    async fn policy(&self, name: &str) -> Result<PolicyShow, ApiError> {
        self.get(&policy_path(name)?, &Pairs::new()).await
    }

    async fn add_policy(&self, envelope: Envelope, new: NewPolicy) -> Result<PolicyChanged, ApiError> {
        self.change(Method::POST, plain("/policies"), &envelope, Some(&new)).await
    }

    async fn change_policy(
        &self,
        envelope: Envelope,
        name: &str,
        change: PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        self.change(Method::PATCH, plain(&policy_path(name)?), &envelope, Some(&change)).await
    }

    async fn delete_policy(&self, envelope: Envelope, name: &str) -> Result<Deleted, ApiError> {
        self.change(Method::DELETE, plain(&policy_path(name)?), &envelope, NOTHING).await
    }

    async fn import(&self, envelope: Envelope, request: ImportRequest) -> Result<ImportReport, ApiError> {
        self.change(Method::POST, plain("/import"), &envelope, Some(&request)).await
    }

    async fn credentials(&self, name: &str) -> Result<UserCredentials, ApiError> {
        self.get(&user_path(name, "/credentials")?, &Pairs::new()).await
    }

    async fn rotate_subscription(&self, envelope: Envelope, name: &str) -> Result<UserCredentials, ApiError> {
        let uri = plain(&user_path(name, "/subscription/rotate")?);
        self.change(Method::POST, uri, &envelope, NOTHING).await
    }

    async fn subscription(&self, token: &str) -> Result<Subscription, ApiError> {
        match token {
            "" => Err(ApiError::no_such_subscription()),
            token => self.get(&format!("/subscriptions/{}", percent(token)), &Pairs::new()).await,
        }
    }

    async fn notify(&self) -> Result<NotifyShow, ApiError> {
        self.get("/notify", &Pairs::new()).await
    }

    async fn test_notify(&self, envelope: Envelope, test: NotifyTest) -> Result<NotifyTested, ApiError> {
        self.change(Method::POST, plain("/notify/test"), &envelope, Some(&test)).await
    }

    async fn sharing(&self) -> Result<SharingShow, ApiError> {
        self.get("/settings/sharing", &Pairs::new()).await
    }

    async fn change_sharing(
        &self,
        envelope: Envelope,
        change: SharingChange,
    ) -> Result<SharingShow, ApiError> {
        self.change(Method::PATCH, plain("/settings/sharing"), &envelope, Some(&change)).await
    }

    async fn subscribe(&self) -> Result<LiveStream, ApiError> {
        let request = Request::get(uri("/stream", &Pairs::new()));
        let response = self.send(request, Vec::new(), "text/event-stream").await?;
        let reader = Reader {
            body: response.into_body(),
            parser: Parser::default(),
            waiting: Vec::new().into_iter(),
            last: None,
        };
        let snapshots = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(snapshot)) => Some((Ok(snapshot), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Box::pin(snapshots))
    }
}

/// The receiving end of `/stream`.
struct Reader {
    body: Incoming,
    parser: Parser,
    waiting: std::vec::IntoIter<Message>,
    last: Option<Arc<LiveSnapshot>>,
}

impl Reader {
    /// The next full snapshot; `None` when the agent ended the stream.
    async fn next(&mut self) -> Result<Option<Arc<LiveSnapshot>>, ApiError> {
        loop {
            while let Some(message) = self.waiting.next() {
                if let Some(snapshot) = self.take(&message)? {
                    return Ok(Some(snapshot));
                }
            }
            let frame = match tokio::time::timeout(SILENCE_MAX, self.body.frame()).await {
                Err(_) => return Err(ApiError::unavailable("the agent's stream fell silent")),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(broken)?,
            };
            if let Some(piece) = frame.data_ref() {
                self.waiting = self.parser.push(piece).map_err(ApiError::internal)?.into_iter();
            }
        }
    }

    fn take(&mut self, message: &Message) -> Result<Option<Arc<LiveSnapshot>>, ApiError> {
        if message.event == "error" {
            return Err(match serde_json::from_str::<Problem>(&message.data) {
                Ok(problem) => problem.into(),
                Err(_) => ApiError::internal("the agent ended the stream with an error"),
            });
        }
        let update: LiveUpdate = serde_json::from_str(&message.data).map_err(|error| {
            ApiError::internal(format!("a message of the stream is not understood ({error})"))
        })?;
        self.last = update.apply(self.last.as_deref()).map(Arc::new);
        Ok(self.last.clone())
    }
}

/// Whom a request speaks for.
fn for_visitor(mut request: request::Builder, visitor: Option<&Visitor>) -> request::Builder {
    let Some(visitor) = visitor else { return request };
    request = request.header(FROM, visitor.from.to_string());
    // A header holds visible ASCII; the name is only for people.
    let browser: String = visitor.browser.chars().filter(|it| (' '..='~').contains(it)).collect();
    request = request.header(BROWSER, browser);
    if visitor.unattended {
        request = request.header(UNATTENDED, "yes");
    }
    match &visitor.presented {
        Some(Presented::Session(session)) => request.header(SESSION, session),
        Some(Presented::Token(token)) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, ApiError> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(ApiError::internal(format!("the agent's answer ended early: {error}"))),
    }
}

fn broken(error: hyper::Error) -> ApiError {
    ApiError::unavailable(format!("the connection to the agent broke: {error}"))
}

/// No body.
pub(crate) const NOTHING: Option<&()> = None;

fn uri(path: &str, pairs: &Pairs) -> String {
    format!("{PREFIX}{path}{}", query_string(pairs))
}

pub(crate) fn plain(path: &str) -> String {
    uri(path, &Pairs::new())
}

/// An empty name would be another route.
fn user_path(name: &str, tail: &str) -> Result<String, ApiError> {
    match name {
        "" => Err(ApiError::no_such_user(name)),
        name => Ok(format!("/users/{}{tail}", percent(name))),
    }
}

fn policy_path(name: &str) -> Result<String, ApiError> {
    match name {
        "" => Err(ApiError::no_such_policy(name)),
        name => Ok(format!("/policies/{}", percent(name))),
    }
}

fn query_string(pairs: &Pairs) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&percent(name));
        text.push('=');
        text.push_str(&percent(value));
    }
    text
}
