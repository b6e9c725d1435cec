//! What clients of sing-box are told: how a server is reached, a user's subscription, and the settings
//! behind both. Credentials are in here: nothing of it is for those who may only look.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
    notes::Note,
    reason::Reason,
    types::{Meter, Packages, Period, Schema, Speed, Time, Total, UserState},
};

/// Bytes of a title: longer ones are cut by clients.
const TITLE_BYTES_MAX: usize = 100;
/// Bytes of an address, a name of TLS, a link.
const TEXT_BYTES_MAX: usize = 500;
/// Hours between two looks of a client, at most: a month.
const UPDATE_HOURS_MAX: u32 = 744;
/// Overrides that are kept.
const INBOUNDS_MAX: usize = 500;

/// How one user gets in through one inbound: everything that a client must be told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The inbound's tag.
    pub inbound: String,
    /// sing-box's word: `trojan`, `vless`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Name or address, without brackets.
    pub address: String,
    pub port: u16,
    /// The user's entry as sing-box names its fields: `name`, `password`, `uuid`, `flow`, …
    pub entry: BTreeMap<String, String>,
    /// Of shadowsocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of shadowsocks 2022: the inbound's own key, which stands before the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<ServerTransport>,
    /// `tcp` or `udp`, where the inbound listens on one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Password of hysteria's obfuscation (hysteria 2: salamander).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obfs: Option<String>,
    /// Of hysteria, as the client sees them, in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_mbps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_mbps: Option<u32>,
    /// Of shadowtls: what is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner: Option<Box<Server>>,
}

/// Credentials reach no log.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("inbound", &self.inbound)
            .field("kind", &self.kind)
            .field("address", &self.address)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// TLS as the client does it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// `None`: the server's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The certificate is not checked: for one that nobody signed.
    #[serde(default)]
    pub insecure: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<Reality>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reality {
    pub public_key: String,
    pub short_id: String,
}

/// V2Ray's transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTransport {
    /// `ws`, `grpc`, `http`, `httpupgrade`, `quic`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
}

/// A server with the link that most clients take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedServer {
    #[serde(flatten)]
    pub server: Server,
    /// `None` where no form of links exists for the type.
    pub link: Option<String>,
}

/// `GET /users/{name}/credentials`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCredentials {
    #[serde(default)]
    pub schema: Schema,
    pub user: String,
    /// The secret of the user's own page and subscription.
    pub token: String,
    /// Where both are: below the panel's public address.
    pub path: String,
    /// The whole address, where `[panel] public_url` says it.
    pub url: Option<String>,
    pub servers: Vec<SharedServer>,
    /// Why links are missing or may not work, in English.
    pub notes: Vec<String>,
    /// The same by codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Note>,
    pub rev: u64,
}

/// Credentials reach no log.
impl fmt::Debug for UserCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserCredentials")
            .field("user", &self.user)
            .field("servers", &self.servers.len())
            .finish_non_exhaustive()
    }
}

/// Which account the figures of a subscription are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The running period: wherever there is a quota per period, and where there is none at all.
    #[default]
    Period,
    /// All time: where only the total is limited.
    Total,
}

/// `GET /subscriptions/{token}`: a user's account as the user may see it, and the ways in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    #[serde(default)]
    pub schema: Schema,
    pub user: String,
    pub state: UserState,
    /// In English.
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Reason>,
    pub meter: Meter,
    pub basis: Basis,
    /// What was used of [`Subscription::basis`], and of how much; `None` is unlimited.
    pub upload_bytes: u64,
    pub download_bytes: u64,
    pub total_bytes: Option<u64>,
    pub period: Period,
    pub total: Total,
    pub packages: Packages,
    pub speed: Speed,
    pub expires_at: Option<Time>,
    pub last_seen_at: Option<Time>,
    /// The IANA zone of the periods and days.
    pub time_zone: Option<String>,
    /// By day, oldest first; days without traffic are there too.
    pub days: Vec<Day>,
    pub profile: Profile,
    pub servers: Vec<Server>,
    pub as_of: Time,
}

/// A day's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    pub start: Time,
    pub upload_bytes: u64,
    pub download_bytes: u64,
}

/// How a client shows the subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub title: String,
    pub update_hours: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_url: Option<String>,
    /// The user's page and subscription, where the configuration says the public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Settings of links and subscriptions, as they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sharing {
    /// Where clients find the server; `None`: the host of `[panel] public_url`, or else the machine's
    /// own address where that is a public one.
    pub address: Option<String>,
    /// The name of subscriptions in clients; `None`: the user's name.
    pub title: Option<String>,
    pub update_hours: u32,
    pub support_url: Option<String>,
    /// By tag.
    pub inbounds: BTreeMap<String, InboundSharing>,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing { address: None, title: None, update_hours: 12, support_url: None, inbounds: BTreeMap::new() }
    }
}

/// What is said of one inbound instead of what its configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboundSharing {
    pub address: Option<String>,
    /// Where clients come in, if another program forwards to the inbound.
    pub port: Option<u16>,
    /// TLS's name; also for an inbound whose TLS another program does: see `tls`.
    pub server_name: Option<String>,
    /// The certificate is not checked.
    pub insecure: Option<bool>,
    /// Another program does TLS before the inbound.
    pub tls: Option<bool>,
    /// Not in links or subscriptions.
    pub hidden: bool,
}

/// `GET /settings/sharing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharingShow {
    #[serde(default)]
    pub schema: Schema,
    pub sharing: Sharing,
    /// The address that holds where `sharing.address` is none; `None`: there is none, and no links.
    pub found_address: Option<String>,
    /// `[panel] public_url`.
    pub public_url: Option<String>,
    pub rev: u64,
}

/// The body of `PATCH /settings/sharing`: an absent field stays, `null` takes a value away. Of
/// `inbounds`, `null` forgets what was said of the inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharingChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_hours: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_url: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inbounds: BTreeMap<String, Option<InboundSharing>>,
}

impl FromFields for SharingChange {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(SharingChange {
            address: fields.take("address")?,
            title: fields.take("title")?,
            update_hours: fields.take("update_hours")?,
            support_url: fields.take("support_url")?,
            inbounds: fields.take("inbounds")?.unwrap_or_default(),
        })
    }
}

impl Sharing {
    /// The settings after a change.
    ///
    /// # Errors
    /// `Invalid` with the field that cannot be.
    pub fn changed(&self, change: &SharingChange) -> Result<Sharing, ApiError> {
        let mut new = self.clone();
        let text = |change: &Option<Option<String>>, old: Option<String>| match change {
            None => old,
            Some(value) => value.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned),
        };
        new.address = text(&change.address, new.address);
        new.title = text(&change.title, new.title);
        new.support_url = text(&change.support_url, new.support_url);
        new.update_hours = change.update_hours.unwrap_or(new.update_hours);
        for (tag, said) in &change.inbounds {
            match said {
                None => new.inbounds.remove(tag),
                Some(said) => new.inbounds.insert(tag.clone(), said.clone()),
            };
        }
        new.check()?;
        Ok(new)
    }

    fn check(&self) -> Result<(), ApiError> {
        check_address("address", self.address.as_deref())?;
        if let Some(title) = &self.title
            && (title.len() > TITLE_BYTES_MAX || title.chars().any(char::is_control))
        {
            let text = format!("at most {TITLE_BYTES_MAX} bytes, on one line");
            return Err(ApiError::invalid("title", text));
        }
        if !(1..=UPDATE_HOURS_MAX).contains(&self.update_hours) {
            return Err(ApiError::invalid("update_hours", format!("from 1 to {UPDATE_HOURS_MAX}")));
        }
        if let Some(url) = &self.support_url {
            check_url("support_url", url)?;
        }
        if self.inbounds.len() > INBOUNDS_MAX {
            return Err(ApiError::invalid("inbounds", format!("more than {INBOUNDS_MAX} are not kept")));
        }
        for (tag, said) in &self.inbounds {
            if tag.len() > TEXT_BYTES_MAX {
                return Err(ApiError::invalid("inbounds", "a tag is too long"));
            }
            check_address("inbounds", said.address.as_deref())?;
            check_address("inbounds", said.server_name.as_deref())?;
            if said.port == Some(0) {
                return Err(ApiError::invalid("inbounds", "a port is from 1 to 65535"));
            }
        }
        Ok(())
    }
}

/// A host name or an address; no port, no brackets, nothing that could be more than a host in a link.
fn check_address(field: &str, text: Option<&str>) -> Result<(), ApiError> {
    let Some(text) = text else { return Ok(()) };
    let name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let sound = !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.chars().all(name);
    match sound || text.parse::<std::net::Ipv6Addr>().is_ok() {
        true => Ok(()),
        false => {
            let text =
                format!("{text:?} is no host name or address: give it without port, brackets and scheme");
            Err(ApiError::invalid(field, text))
        }
    }
}

/// An absolute address that a browser opens and that is no script.
fn check_url(field: &str, url: &str) -> Result<(), ApiError> {
    let starts = ["https://", "http://", "mailto:", "tg://"].iter().any(|start| url.starts_with(start));
    let plain =
        url.len() <= TEXT_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    match starts && plain {
        true => Ok(()),
        false => Err(ApiError::invalid(
            field,
            "give an address that begins with https://, http://, mailto: or tg://",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: serde_json::Value) -> Result<Sharing, ApiError> {
        Sharing::default().changed(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn only_hosts_are_addresses() {
        for good in ["vpn.example.org", "203.0.113.7", "2001:db8::7", "例え.jp"] {
            assert_eq!(change(serde_json::json!({"address": good})).unwrap().address.as_deref(), Some(good));
        }
        for bad in ["a b", "a@b", "a:443", "[::1]", "https://a", "a/b", "a#b", "a\nb"] {
            assert_eq!(
                change(serde_json::json!({"address": bad})).unwrap_err().field.as_deref(),
                Some("address")
            );
        }
    }

    #[test]
    fn null_and_blanks_take_a_value_away() {
        let some =
            change(serde_json::json!({"address": "a.example", "inbounds": {"in": {"port": 8443}}})).unwrap();
        assert_eq!(some.inbounds["in"].port, Some(8443));
        let none = SharingChange {
            address: Some(None),
            inbounds: [("in".to_owned(), None)].into(),
            ..SharingChange::default()
        };
        assert_eq!(some.changed(&none).unwrap(), Sharing::default());
        let blank = SharingChange { address: Some(Some(" ".to_owned())), ..SharingChange::default() };
        assert_eq!(some.changed(&blank).unwrap().address, None);
    }

    #[test]
    fn scripts_are_no_support() {
        assert!(change(serde_json::json!({"support_url": "javascript:alert(1)"})).is_err());
        assert!(change(serde_json::json!({"support_url": "https://t.me/x"})).is_ok());
        assert!(change(serde_json::json!({"update_hours": 0})).is_err());
    }
}
