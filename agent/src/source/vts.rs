//! Source: nginx with nginx-module-vts, `/status/format/json`. Totals per user, by `filter_by_set_key`:
//! either a group per user (`user1::host`, with a key per address that was asked for: all of them are added),
//! or the group `users::host`, whose keys are the users.
//!
//! Keys are what clients ask for. They may be of any length and no text at all, so that they are hashed as they
//! come, and only names of users are kept.

use std::{borrow::Cow, collections::HashSet, fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

use super::connect;
use crate::core::counters::{COUNTER_MAX, COUNTERS_MAX, Counter, Key, Reading};
use boxmeter_web::api::names::NAME_BYTES_MAX;

/// Bytes of an answer. A key takes some 1,700 of them.
const ANSWER_MAX: usize = 48 << 20;

/// The whole answer is there in this time, or it failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The group whose keys are users.
const USERS: &str = "users";

/// Why there are no totals; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum VtsError {
    #[error("nginx at {addr} cannot be reached ({error}); is it running, and is `status` its address?")]
    Connect { addr: std::net::SocketAddr, error: std::io::Error },
    #[error("nginx does not answer {url} in {seconds} s", seconds = ANSWER_LIMIT.as_secs())]
    Silent { url: String },
    #[error("nginx answers {url} with HTTP status {status}; it needs `vhost_traffic_status_display`")]
    Status { url: String, status: StatusCode },
    #[error(
        "nginx's answer is longer than {ANSWER_MAX} bytes or breaks off ({0}); limit its keys by \
         `vhost_traffic_status_filter_max_node`, or have one key per user: `vhost_traffic_status_filter_by_set_key \
         NAME users::$server_name`"
    )]
    Body(String),
    #[error("nginx's answer is not the JSON of nginx-module-vts ({0}); nothing of it was counted")]
    Json(String),
    #[error(
        "nginx has more than {COUNTERS_MAX} keys; limit them by `vhost_traffic_status_filter_max_node`, or have \
         one key per user"
    )]
    TooMany,
    #[error(
        "`status` must be http://ADDRESS:PORT/PATH with an IP address or localhost, as \
             http://127.0.0.1:8080/status/format/json"
    )]
    Url,
}

/// Where the answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub addr: std::net::SocketAddr,
    text: String,
    path: String,
    host: String,
}

impl Url {
    /// # Errors
    /// What is not an address without TLS on this or another machine.
    pub fn parse(text: &str) -> Result<Url, VtsError> {
        let uri: Uri = text.parse().map_err(|_| VtsError::Url)?;
        if uri.scheme_str() != Some("http") {
            return Err(VtsError::Url);
        }
        let authority = uri.authority().ok_or(VtsError::Url)?;
        let with_port = match authority.port() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{authority}:80"),
        };
        let addr = connect::controller_addr(&with_port).ok_or(VtsError::Url)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Url { addr, text: text.to_owned(), path, host: authority.as_str().to_owned() })
    }
}

/// Asks once.
///
/// # Errors
/// See [`VtsError`]; whatever it is, nothing is lost: the counters stay in nginx.
pub async fn read(url: &Url, netns: Option<PathBuf>) -> Result<Reading, VtsError> {
    let body = match tokio::time::timeout(ANSWER_LIMIT, fetch(url, netns)).await {
        Ok(body) => body?,
        Err(_) => return Err(VtsError::Silent { url: url.text.clone() }),
    };
    // A large answer takes a while, and the agent's loop is on this thread.
    match tokio::task::spawn_blocking(move || parse(&body)).await {
        Ok(read) => read,
        Err(error) => Err(VtsError::Json(error.to_string())),
    }
}

async fn fetch(url: &Url, netns: Option<PathBuf>) -> Result<Bytes, VtsError> {
    let addr = url.addr;
    let stream = connect::connect(addr, netns).await.map_err(|error| VtsError::Connect { addr, error })?;
    let broken = |error: hyper::Error| VtsError::Body(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its error comes through the body as well.
    let driver = tokio::spawn(connection);
    let request = Request::get(&url.path)
        .header(header::HOST, &url.host)
        .header(header::USER_AGENT, concat!("boxmeter/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| VtsError::Url)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(VtsError::Status { url: url.text.clone(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok(body.map_err(|error| VtsError::Body(error.to_string()))?.to_bytes())
    };
    let body = answered.await;
    driver.abort();
    body
}

/// Reads an answer as a whole, or nothing of it.
///
/// # Errors
/// What is not the module's JSON, or too much.
pub fn parse(body: &[u8]) -> Result<Reading, VtsError> {
    let mut found = Found::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let json = |error: serde_json::Error| VtsError::Json(error.to_string());
    Top(&mut found).deserialize(&mut deserializer).map_err(json)?;
    deserializer.end().map_err(json)?;
    if !found.is_vts {
        return Err(VtsError::Json("it has no moduleVersion or nginxVersion".to_owned()));
    }
    if found.full {
        return Err(VtsError::TooMany);
    }
    Ok(found.reading)
}

#[derive(Default)]
struct Found {
    reading: Reading,
    is_vts: bool,
    full: bool,
    /// The names that counters have, each kept once.
    names: HashSet<Arc<str>>,
}

impl Found {
    /// One that cannot be a user's is not kept: it is nobody's.
    fn name(&mut self, bytes: &[u8]) -> Arc<str> {
        let text = std::str::from_utf8(bytes).ok().filter(|name| name.len() <= NAME_BYTES_MAX);
        let text = text.unwrap_or_default();
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let name: Arc<str> = text.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn counter(&mut self, key: Key, name: Arc<str>, zone: Zone) {
        if self.reading.counters.len() >= COUNTERS_MAX {
            self.full = true;
            return;
        }
        match (zone.upload, zone.download) {
            (Some(upload), Some(download)) => {
                self.reading.counters.push(Counter { key, name, bytes: [upload, download] });
            }
            // As many as there may be good ones.
            _ if self.reading.refused.len() < COUNTERS_MAX => self.reading.refused.push(key),
            _ => self.full = true,
        }
    }
}

/// The bytes of one key.
#[derive(Clone, Copy, Default)]
struct Zone {
    upload: Option<u64>,
    download: Option<u64>,
}

fn key_of(group: &[u8], key: &[u8]) -> Key {
    let mut hash = Sha256::new();
    // With its length, so that no group and key read as another pair.
    hash.update((group.len() as u64).to_le_bytes());
    hash.update(group);
    hash.update(key);
    let mut short = Key::default();
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

/// Reads a key or a text as bytes, whatever they are.
struct Raw;

impl<'de> DeserializeSeed<'de> for Raw {
    type Value = Cow<'de, [u8]>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Raw {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_vec()))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text.as_bytes()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.as_bytes().to_vec()))
    }
}

/// The whole answer.
struct Top<'f>(&'f mut Found);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the module's status")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Raw)? {
            self.0.is_vts |= matches!(&*key, b"moduleVersion" | b"nginxVersion");
            match &*key {
                b"filterZones" => map.next_value_seed(Groups(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// `filterZones`: the groups.
struct Groups<'f>(&'f mut Found);

impl<'de> DeserializeSeed<'de> for Groups<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Groups<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("groups of keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(group) = map.next_key_seed(Raw)? {
            map.next_value_seed(Keys { found: self.0, group: &group })?;
        }
        Ok(())
    }
}

/// One group: the keys.
struct Keys<'f> {
    found: &'f mut Found,
    group: &'f [u8],
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Keys { found, group } = self;
        let colons = group.windows(2).position(|two| two == b"::");
        let head = &group[..colons.unwrap_or(group.len())];
        while let Some(key) = map.next_key_seed(Raw)? {
            let zone = map.next_value_seed(ZoneSeed)?;
            let name = found.name(if head == USERS.as_bytes() { &key } else { head });
            found.counter(key_of(group, &key), name, zone);
        }
        Ok(())
    }
}

/// One key: its bytes.
struct ZoneSeed;

impl<'de> DeserializeSeed<'de> for ZoneSeed {
    type Value = Zone;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Zone, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ZoneSeed {
    type Value = Zone;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the counters of a key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Zone, A::Error> {
        let mut zone = Zone::default();
        while let Some(key) = map.next_key_seed(Raw)? {
            match &*key {
                b"inBytes" => zone.upload = map.next_value_seed(Count)?,
                b"outBytes" => zone.download = map.next_value_seed(Count)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(zone)
    }
}

/// A counter; `None` for anything else that may stand there.
struct Count;

impl<'de> DeserializeSeed<'de> for Count {
    type Value = Option<u64>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a counter")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value).filter(|value| *value <= COUNTER_MAX))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
