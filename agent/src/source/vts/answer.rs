//! The JSON of nginx-module-vts, read while it comes.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    io::{BufReader, Read},
    sync::Arc,
};

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

use super::VtsError;
use crate::core::counters::{COUNTER_MAX, COUNTERS_MAX, Counter, Document, Key, Reading};
use boxmeter_web::api::names::NAME_BYTES_MAX;

/// The group whose keys are users.
const USERS: &str = "users";

/// The group whose keys are countries.
const COUNTRIES: &str = "country";

/// Reads an answer as a whole, or nothing of it.
///
/// # Errors
/// What is not the module's JSON, or too much.
pub fn parse(body: impl Read) -> Result<Reading, VtsError> {
    let mut found = Found::default();
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(body));
    let json = |error: serde_json::Error| VtsError::Json(error.to_string());
    Top(&mut found).deserialize(&mut deserializer).map_err(json)?;
    deserializer.end().map_err(json)?;
    if !found.is_vts {
        return Err(VtsError::Json("it has no moduleVersion or nginxVersion".to_owned()));
    }
    let Found { requests, counted, .. } = found;
    let document = found.loaded_ms.zip(found.at_ms);
    let document = document.map(|(loaded_ms, at_ms)| Document { loaded_ms, at_ms, requests, counted });
    // `vhost_traffic_status_dump` does, and nothing in an answer says whether there is one.
    Ok(Reading { document, keeps: true, ..found.finish()? })
}

#[derive(Default)]
struct Found {
    reading: Reading,
    loaded_ms: Option<u64>,
    at_ms: Option<u64>,
    requests: Option<u64>,
    counted: Option<u64>,
    is_vts: bool,
    full: bool,
    /// Of the group of users over all servers.
    users: Vec<Counter>,
    /// Of other groups over all servers.
    others: Vec<Counter>,
    others_full: bool,
    /// The names that counters have, each kept once.
    names: HashSet<Arc<str>>,
}

/// Where a group counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Server,
    /// Users over all servers.
    Users,
    /// Over all servers, and of anything.
    Others,
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

    fn counter(&mut self, key: Key, name: Arc<str>, zone: Zone, place: Place) {
        let list = match place {
            Place::Server => &mut self.reading.counters,
            Place::Users => &mut self.users,
            Place::Others => &mut self.others,
        };
        match (zone.upload, zone.download) {
            _ if list.len() >= COUNTERS_MAX && place == Place::Others => self.others_full = true,
            _ if list.len() >= COUNTERS_MAX => self.full = true,
            (Some(upload), Some(download)) => list.push(Counter { key, name, bytes: [upload, download] }),
            // As many as there may be good ones.
            _ if self.reading.refused.len() < COUNTERS_MAX => self.reading.refused.push(key),
            _ => self.full = true,
        }
    }

    /// What groups over all servers count is a user's where no group of one server has the same name: that would be
    /// the same bytes.
    fn finish(self) -> Result<Reading, VtsError> {
        let Found { mut reading, users, others, .. } = self;
        let mut names: HashSet<Arc<str>> = reading.counters.iter().map(|it| Arc::clone(&it.name)).collect();
        reading.counters.extend(users.into_iter().filter(|it| !names.contains(&it.name)));
        names.extend(reading.counters.iter().map(|it| Arc::clone(&it.name)));
        let others: Vec<Counter> = others.into_iter().filter(|it| !names.contains(&it.name)).collect();
        // They may be of anything, as programs that clients say they are: too many of them are none.
        if !self.others_full && reading.counters.len() + others.len() <= COUNTERS_MAX {
            reading.unsure = others.iter().map(|it| Arc::clone(&it.name)).collect();
            reading.counters.extend(others);
        }
        if self.full || reading.counters.len() > COUNTERS_MAX {
            return Err(VtsError::TooMany);
        }
        Ok(reading)
    }
}

/// The bytes of one key.
#[derive(Clone, Copy, Default)]
struct Zone {
    upload: Option<u64>,
    download: Option<u64>,
    requests: Option<u64>,
}

pub(super) fn key_of(group: &[u8], key: &[u8]) -> Key {
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
                b"serverZones" => self.0.counted = map.next_value_seed(Servers)?,
                b"filterZones" => map.next_value_seed(Groups(self.0))?,
                b"loadMsec" => self.0.loaded_ms = map.next_value_seed(Count)?,
                b"nowMsec" => self.0.at_ms = map.next_value_seed(Count)?,
                b"connections" => self.0.requests = map.next_value_seed(Connections)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// `connections`: how many requests there were.
struct Connections;

impl<'de> DeserializeSeed<'de> for Connections {
    type Value = Option<u64>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Connections {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters of connections")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut requests = None;
        while let Some(key) = map.next_key_seed(Raw)? {
            match &*key {
                b"requests" => requests = map.next_value_seed(Count)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(requests)
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

/// Keys may be no text.
fn skip<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_key_seed(Raw)?.is_some() {
        map.next_value::<IgnoredAny>()?;
    }
    Ok(())
}

/// `serverZones`: how many requests there were at all servers together.
struct Servers;

impl<'de> DeserializeSeed<'de> for Servers {
    type Value = Option<u64>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Servers {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters of servers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut counted = None;
        while let Some(key) = map.next_key_seed(Raw)? {
            match &*key {
                b"*" => counted = map.next_value_seed(ZoneSeed)?.requests,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(counted)
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
        if head == COUNTRIES.as_bytes() {
            return skip(map);
        }
        let of_users = head == USERS.as_bytes();
        let place = match group.ends_with(b"::*") {
            false => Place::Server,
            true if of_users => Place::Users,
            true => Place::Others,
        };
        while let Some(key) = map.next_key_seed(Raw)? {
            let zone = map.next_value_seed(ZoneSeed)?;
            let name = found.name(if of_users { &key } else { head });
            found.counter(key_of(group, &key), name, zone, place);
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
                b"requestCounter" => zone.requests = map.next_value_seed(Count)?,
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

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip(map).map(|()| None)
    }
}
