//! A request that changes something: who asks, on which condition, and with which key.

use std::{fmt, net::IpAddr};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
    routes::Access,
};
use crate::access::By;

/// The header that makes a request safe to send again.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longer keys than this identify nothing better.
pub const KEY_BYTES_MAX: usize = 128;
/// How the command line names itself in `User-Agent`, before its version.
pub const CLI_AGENT: &str = "boxmeter/";

/// Who asks, as the listener knows it, and by which way. Events and wallet entries keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub identity: Identity,
    pub origin: Origin,
}

/// Proven by the kernel or by a secret, never by what a request says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// The user id of the peer of a unix socket.
    Uid(u32),
    /// Somebody whom the panel speaks for, as the session or token says.
    Visitor { by: By, name: String, from: IpAddr },
}

/// Which program asked, as it says itself: for people who read events, never for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Cli,
    Api,
    Panel,
}

impl Actor {
    pub fn uid(uid: u32, origin: Origin) -> Self {
        Actor { identity: Identity::Uid(uid), origin }
    }
}

/// As it stands in events: `uid:0`, `admin@203.0.113.7`, `token:backup@203.0.113.7`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Identity::Uid(uid) => write!(f, "uid:{uid}"),
            Identity::Visitor { by: By::Token, name, from } => write!(f, "token:{name}@{from}"),
            Identity::Visitor { name, from, .. } => write!(f, "{name}@{from}"),
        }
    }
}

/// What every change comes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub actor: Actor,
    /// Only if the object is still at this revision.
    pub if_rev: Option<u64>,
    pub key: Option<IdempotencyKey>,
}

impl Envelope {
    /// Without a condition and without a key.
    pub fn of(actor: Actor) -> Self {
        Envelope { actor, if_rev: None, key: None }
    }

    /// Whether the object is still what the caller has seen.
    ///
    /// # Errors
    /// `Stale` with both revisions and the object as it is now.
    pub fn check_rev(&self, current_rev: u64, current: &impl Serialize) -> Result<(), ApiError> {
        match self.if_rev {
            Some(given) if given != current_rev => Err(ApiError::stale(given, current_rev, current)),
            _ => Ok(()),
        }
    }
}

/// A caller's name for one change: the same key with the same request is the same change, which is
/// done once and answered as often as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: String,
    /// SHA-256 of method, path, condition and body: what the key was given for.
    pub fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// Whether the change that is stored under this key is this one.
    ///
    /// # Errors
    /// `Invalid` if it was another.
    pub fn check(&self, stored_fingerprint: &[u8; 32]) -> Result<(), ApiError> {
        if self.fingerprint == *stored_fingerprint {
            return Ok(());
        }
        let text = "this key was used for another change: take a new one for every change";
        Err(ApiError::invalid(IDEMPOTENCY_KEY.as_str(), text))
    }
}

/// A change by someone who may change things, with its body read and nothing left over.
pub struct Order<T> {
    pub envelope: Envelope,
    pub body: T,
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Order<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let actor = changer(&request)?;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let headers = request.headers().clone();
        let bytes = bytes(request, state).await?;
        let if_rev = if_match(&headers)?;
        let key = match header_text(&headers, &IDEMPOTENCY_KEY)? {
            None => None,
            Some(key) => {
                let parts = [method.as_str(), &path, &format!("{if_rev:?}")];
                Some(idempotency_key(key, parts, &bytes)?)
            }
        };
        Ok(Order { envelope: Envelope { actor, if_rev, key }, body: parse(&bytes)? })
    }
}

/// The body of a request that changes nothing that anybody would look for in the audit trail.
///
/// # Errors
/// As those of an [`Order`]'s body.
pub(super) async fn body<T: FromFields>(request: Request) -> Result<T, ApiError> {
    parse(&bytes(request, &()).await?)
}

fn parse<T: FromFields>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let body = T::from_fields(&mut fields)?;
    fields.finish()?;
    Ok(body)
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let headers = request.headers().clone();
    let bytes = Bytes::from_request(request, state).await.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            super::error::ErrorKind::TooLarge,
            format!("the body is longer than {} bytes: send it in parts", super::routes::BODY_BYTES_MAX),
        ),
        _ => ApiError::bad_request(format!("the body cannot be read: {error}")),
    })?;
    check_content_type(&headers, &bytes)?;
    Ok(bytes)
}

/// Whoever may change things. How much of it was asked of the route's rule before.
fn changer(request: &Request) -> Result<Actor, ApiError> {
    let extensions = request.extensions();
    match (extensions.get::<Access>(), extensions.get::<Identity>()) {
        (Some(Access::Users | Access::Admin), Some(identity)) => {
            let agent = request.headers().get(header::USER_AGENT).and_then(|it| it.to_str().ok());
            let cli = agent.is_some_and(|agent| agent.starts_with(CLI_AGENT));
            let origin = match identity {
                Identity::Visitor { by: By::Session, .. } => Origin::Panel,
                Identity::Uid(_) if cli => Origin::Cli,
                _ => Origin::Api,
            };
            Ok(Actor { identity: identity.clone(), origin })
        }
        _ => Err(ApiError::not_permitted("you may look, but only root may change something: use sudo")),
    }
}

fn check_content_type(headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let json =
        kind.is_some_and(|kind| kind.split(';').next().is_some_and(|it| it.trim() == "application/json"));
    match body.is_empty() || json {
        true => Ok(()),
        false => Err(ApiError::bad_request("the body must be JSON: send Content-Type: application/json")),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::bad_request(format!("{name} is given twice: give it once")));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(ApiError::bad_request(format!("{name}: only visible ASCII characters"))),
    }
}

/// The revision in `If-Match`: `"12"` as it stands in `ETag`, or 12; `*` is any.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let text = match header_text(headers, &header::IF_MATCH)? {
        None | Some("*") => return Ok(None),
        Some(text) => text,
    };
    let rev = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    rev.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!("If-Match: {text:?} is no revision: give the rev of the object"))
    })
}

fn idempotency_key(key: &str, parts: [&str; 3], body: &[u8]) -> Result<IdempotencyKey, ApiError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let text = format!("{IDEMPOTENCY_KEY}: give 1 to {KEY_BYTES_MAX} characters, for instance a UUID");
        return Err(ApiError::bad_request(text));
    }
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hash.update(body);
    Ok(IdempotencyKey { key: key.to_owned(), fingerprint: hash.finalize().into() })
}
