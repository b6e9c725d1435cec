//! Entries of `users`: which names and credentials are good, what a new one has for each inbound type,
//! and how it is written like its neighbours. Pure but for random numbers.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use boxmeter_web::api::names::{self, NameError};
use rand::RngExt as _;
use uuid::Uuid;

use crate::{
    service::Kind,
    singbox::{
        Secret,
        tree::{self, Node},
    },
};

/// Letters and digits of a made password: 143 bits.
const PASSWORD_LENGTH: usize = 24;

/// Neighbours that are asked for their vless flow.
const FLOW_SAMPLE: usize = 16;

/// Why a name is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error(transparent)]
    Rule(#[from] NameError),
    #[error(
        "a name must not have a colon on inbounds of type http, mixed, socks and naive, whose logins end the name there; leave it out or name other inbounds"
    )]
    Colon,
    #[error("a name must not have a slash on a managed inbound, whose API could not delete it; leave it out")]
    Slash,
}

/// An inbound's type, in the words of its proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    pub proxy: Kind,
    pub name: String,
}

impl Sort {
    /// Of sing-box.
    pub fn singbox(name: &str) -> Sort {
        Sort { proxy: Kind::Singbox, name: name.to_owned() }
    }

    pub fn name_key(&self) -> &'static str {
        self.proxy.name_key(&self.name)
    }

    fn credential_keys(&self) -> &'static [&'static str] {
        self.proxy.credential_keys(&self.name)
    }

    /// Is a user known by a login of name and password, in which a colon ends the name?
    fn has_logins(&self) -> bool {
        matches!(self.name_key(), "username" | "user")
    }
}

/// Is the name one that a new user may have on an inbound of this type? The rule of all names, and what
/// the type cannot bear.
pub fn check_name(name: &str, kind: &Sort) -> Result<(), BadName> {
    names::check_name(name)?;
    if name.contains(':') && kind.has_logins() {
        return Err(BadName::Colon);
    }
    Ok(())
}

/// Credentials that a new user brings along, as an import does; what is missing is made.
#[derive(Clone, Debug, Default)]
pub struct Brought {
    pub password: Option<Secret>,
    pub uuid: Option<Secret>,
    /// Of vless; `None`: what the neighbours have.
    pub flow: Option<String>,
    /// By tag, instead of the others, where there is a login of its own for an inbound.
    pub on: BTreeMap<String, Brought>,
}

impl Brought {
    /// What is for this inbound.
    pub fn at(&self, inbound: &str) -> &Brought {
        self.on.get(inbound).unwrap_or(self)
    }
}

/// Options of an entry and their values, as in the file: `name`, `password`, `uuid`, `flow`, …
pub type Fields = Vec<(&'static str, String)>;

/// A user's login on one inbound: shown once, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub inbound: String,
    pub kind: String,
    pub fields: Fields,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.fields.iter().map(|(key, _)| *key).collect();
        f.debug_struct("Credentials")
            .field("inbound", &self.inbound)
            .field("keys", &keys)
            .finish_non_exhaustive()
    }
}

/// A brought password that the inbound cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKey {
    /// That a key of the inbound's method has.
    pub bytes: usize,
}

/// What is known of the inbound and matters for its entries.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub kind: Sort,
    /// Of shadowsocks.
    pub method: String,
}

impl Shape {
    /// Bytes of a user's key where it must be one in base64.
    pub fn key_bytes(&self) -> Option<usize> {
        match self.method.as_str() {
            "2022-blake3-aes-128-gcm" if self.kind.name == "shadowsocks" => Some(16),
            method if self.kind.name == "shadowsocks" && method.starts_with("2022-") => Some(32),
            _ => None,
        }
    }

    /// The fields of a new entry.
    pub fn fields(&self, name: &str, flow: &str, brought: &Brought) -> Result<Fields, WrongKey> {
        let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.0.clone());
        let uuid = || text(&brought.uuid).unwrap_or_else(|| Uuid::new_v4().to_string());
        let password = || text(&brought.password).unwrap_or_else(password);
        let mut fields = vec![(self.kind.name_key(), name.to_owned())];
        if self.kind.proxy != Kind::Singbox {
            match self.kind.name.as_str() {
                "vmess" => fields.push(("id", uuid())),
                "vless" => {
                    fields.push(("id", uuid()));
                    fields.extend((!flow.is_empty()).then(|| ("flow", flow.to_owned())));
                }
                "shadowsocks" => fields.push(("password", self.key(brought)?)),
                _ if self.kind.has_logins() => fields.push(("pass", password())),
                _ => fields.push(("password", password())),
            }
            return Ok(fields);
        }
        match self.kind.name.as_str() {
            "vmess" => fields.push(("uuid", uuid())),
            "vless" => {
                fields.push(("uuid", uuid()));
                fields.extend((!flow.is_empty()).then(|| ("flow", flow.to_owned())));
            }
            "tuic" => fields.extend([("uuid", uuid()), ("password", password())]),
            "hysteria" => fields.push(("auth_str", password())),
            "snell" => fields.push(("userkey", password())),
            "shadowsocks" => fields.push(("password", self.key(brought)?)),
            _ => fields.push(("password", password())),
        }
        Ok(fields)
    }

    fn key(&self, brought: &Brought) -> Result<String, WrongKey> {
        let Some(bytes) = self.key_bytes() else {
            return Ok(brought.password.as_ref().map_or_else(password, |secret| secret.0.clone()));
        };
        match &brought.password {
            None => {
                let key: [u8; 32] = rand::rng().random();
                Ok(BASE64.encode(&key[..bytes]))
            }
            Some(key) if BASE64.decode(&key.0).is_ok_and(|key| key.len() == bytes) => Ok(key.0.clone()),
            Some(_) => Err(WrongKey { bytes }),
        }
    }
}

/// A password that needs no escape in any file, link or form.
pub fn password() -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..PASSWORD_LENGTH).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

/// What sing-box looks a user up by, in one form for equal ones.
pub fn credential(kind: &Sort, user: &Node) -> Option<String> {
    let texts = kind.credential_keys().iter().filter_map(|key| user.get(key).and_then(Node::str));
    texts.into_iter().find(|text| !text.is_empty()).map(|text| normal(kind, text))
}

/// Of the fields of a new entry.
pub fn credential_in(kind: &Sort, fields: &[(&'static str, String)]) -> Option<String> {
    let keys = kind.credential_keys();
    fields.iter().find(|(key, _)| keys.contains(key)).map(|(_, value)| normal(kind, value))
}

/// UUIDs are the same in capitals and with other punctuation.
fn normal(kind: &Sort, text: &str) -> String {
    let uuid =
        matches!(kind.credential_keys(), ["uuid" | "id"]).then(|| Uuid::try_parse(text).ok()).flatten();
    uuid.map_or_else(|| text.to_owned(), |uuid| uuid.to_string())
}

fn parse(text: &str) -> Option<Node> {
    tree::parse(&Arc::new(PathBuf::new()), text).ok().map(|(node, _)| node)
}

/// Of an entry's text.
pub fn credential_of(kind: &Sort, text: &str) -> Option<String> {
    credential(kind, &parse(text)?)
}

/// All fields of an entry that a client needs.
pub fn fields_of(kind: &Sort, text: &str) -> Fields {
    const KEYS: [&str; 12] = [
        "name", "username", "email", "user", "uuid", "id", "password", "pass", "flow", "auth", "auth_str",
        "userkey",
    ];
    let Some(node) = parse(text) else { return Vec::new() };
    let value = |key| node.get(key).and_then(Node::str).map(str::to_owned);
    let named = |key: &str| matches!(key, "name" | "username" | "email" | "user");
    let fits = |key: &&str| !named(key) || *key == kind.name_key();
    KEYS.into_iter().filter(fits).filter_map(|key| Some((key, value(key)?))).collect()
}

/// The flow that most of the last entries have.
pub fn usual_flow<'t>(texts: impl DoubleEndedIterator<Item = &'t str>) -> String {
    let flow = |text| {
        let node = parse(text)?;
        Some(node.get("flow").and_then(Node::str).unwrap_or_default().to_owned())
    };
    let flows: Vec<String> = texts.rev().take(FLOW_SAMPLE).filter_map(flow).collect();
    let count = |wanted: &str| flows.iter().filter(|flow| *flow == wanted).count();
    flows.iter().max_by_key(|flow| count(flow)).cloned().unwrap_or_default()
}

/// Writes an entry like its neighbour.
pub fn compose(fields: &[(&'static str, String)], neighbour: Option<&str>) -> String {
    let plain = || Layout { between: " ".into(), colon: " ".into(), ..Layout::default() };
    let Layout { opens, between, colon, closes } = neighbour.and_then(Layout::of).unwrap_or_else(plain);
    let pairs: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("\"{key}\":{colon}{}", serde_json::Value::from(value.as_str())))
        .collect();
    format!("{{{opens}{}{closes}}}", pairs.join(&format!(",{between}")))
}

/// The blanks of an object.
#[derive(Default)]
struct Layout {
    opens: String,
    between: String,
    colon: String,
    closes: String,
}

impl Layout {
    fn of(text: &str) -> Option<Layout> {
        let blanks = |text: &str| text.chars().take_while(|c| c.is_ascii_whitespace()).collect::<String>();
        let opens = blanks(text.strip_prefix('{')?);
        let rest = text[1..].trim_start().strip_prefix('"')?;
        let colon = rest.split_once("\":").map(|(_, value)| blanks(value))?;
        let inside = text.strip_suffix('}')?;
        let closes = inside[inside.trim_end().len()..].to_owned();
        let between = match (opens.contains('\n'), text.contains("\",\"")) {
            (true, _) => opens.clone(),
            (false, true) => String::new(),
            (false, false) => " ".to_owned(),
        };
        // Comments inside are not repeated.
        let plain = !opens.contains('\n') || closes.contains('\n');
        (!inside.trim_end().ends_with("*/") && plain && !colon.contains('\n')).then_some(Layout {
            opens,
            between,
            colon,
            closes,
        })
    }
}
