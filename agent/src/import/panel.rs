//! What the readers of panels' databases have in common: values as panels write them, whether somebody was
//! switched off by a person, and clients who are on several inbounds.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::{
    Findings, ForeignInbound, Imported, ImportedCredentials, ImportedStatus, ImportedUsage, ImportedUser,
    Panel, UsedIn, quoted, sui, threexui,
};
use crate::{
    enforcer::users_edit::{Brought, Shape, Sort},
    singbox::config::LOCKED_USER,
};

/// More bytes than this are a slip, or another word for no limit.
const BYTES_MAX: i64 = 1 << 58;
pub const DAY_MS: i64 = 86_400_000;

/// One row, by column.
#[derive(Debug, Default)]
pub struct Row(BTreeMap<String, Value>);

impl Row {
    pub fn set(&mut self, column: &str, value: Value) {
        self.0.insert(column.to_owned(), value);
    }

    pub fn get(&self, column: &str) -> Option<&Value> {
        self.0.get(column).filter(|value| !value.is_null())
    }

    /// Without blanks around it; empty if there is none.
    pub fn text(&self, column: &str) -> &str {
        self.get(column).and_then(Value::as_str).unwrap_or_default().trim()
    }

    /// JSON that stands in a text.
    pub fn json(&self, column: &str) -> Option<Value> {
        serde_json::from_str(self.text(column)).ok()
    }
}

/// The tables of a panel.
#[derive(Default)]
pub struct Rows {
    pub inbounds: Vec<Row>,
    /// The traffic of 3x-ui's clients, who themselves are in the inbounds; the clients of S-UI.
    pub people: Vec<Row>,
    pub tls: Vec<Row>,
    /// Of 3x-ui since 3.0: clients once more, and which inbounds they are on.
    pub clients: Vec<Row>,
    pub links: Vec<Row>,
}

/// Reads what a panel's tables say. What is wrong with one client or inbound is told, and holds up no other.
pub fn read(panel: Panel, rows: &Rows, now_ms: i64, findings: &mut Findings) -> Imported {
    let (users, inbounds) = match panel {
        Panel::ThreeXui => threexui::read(rows, now_ms, findings),
        Panel::Sui => sui::read(rows, now_ms, findings),
    };
    Imported { users, inbounds, panel: Some(panel), ..Imported::default() }
}

/// Why a number is not taken.
#[derive(Debug)]
pub struct NoNumber;

/// A whole number, as panels of any age wrote it. What is not there is 0.
pub fn whole(value: Option<&Value>) -> Result<i64, NoNumber> {
    match value {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(number)) => {
            if let Some(whole) = number.as_i64() {
                return Ok(whole);
            }
            let float = number.as_f64().filter(|it| it.fract() == 0.0).ok_or(NoNumber)?;
            // Saturates.
            Ok(float as i64)
        }
        Some(Value::String(text)) => {
            let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| NoNumber) }
        }
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(NoNumber),
    }
}

pub fn truth(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(is) => Some(*is),
        Value::Number(number) => Some(number.as_i64()? != 0),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Without blanks around it; `None` if there is nothing.
pub fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// One client while it is read.
pub struct Client<'f> {
    pub user: ImportedUser,
    findings: &'f mut Findings,
}

impl Client<'_> {
    pub fn new(name: String, findings: &mut Findings) -> Client<'_> {
        Client { user: ImportedUser { name, ..ImportedUser::default() }, findings }
    }

    pub fn tell(&mut self, what: impl std::fmt::Display) {
        self.findings.add(format!("{}: {what}", quoted(&self.user.name)));
    }

    /// `None` is told: a client whose limit is misread would be worse than one who is missing.
    pub fn number(&mut self, what: &str, value: Option<&Value>) -> Option<i64> {
        let number = whole(value).ok();
        if number.is_none() {
            self.tell(format!("{what} is no whole number; the client was left out"));
        }
        number
    }

    /// Bytes of a limit. Panels take nothing and less than nothing for no limit.
    pub fn limit(&mut self, what: &str, bytes: i64) -> Option<u64> {
        if bytes > BYTES_MAX {
            self.tell(format!("{what} of {bytes} bytes was taken as no limit"));
            return None;
        }
        if bytes < 0 {
            self.tell(format!(
                "{what} of {bytes} bytes is no amount: it was taken as no limit, as the panel does"
            ));
        }
        u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
    }

    /// Bytes that were used; what cannot be true is told and not taken.
    pub fn used(&mut self, when: UsedIn, [up, down]: [Option<&Value>; 2]) -> u64 {
        let bytes = |value| {
            let bytes = whole(value).ok().filter(|bytes| (0..=BYTES_MAX).contains(bytes))?;
            u64::try_from(bytes).ok()
        };
        let (Some(upload_bytes), Some(download_bytes)) = (bytes(up), bytes(down)) else {
            self.tell("the traffic that the file has cannot be true; it was not taken over");
            return 0;
        };
        if upload_bytes + download_bytes > 0 {
            self.user.used.push(ImportedUsage { when, upload_bytes, download_bytes });
        }
        upload_bytes + download_bytes
    }

    /// Panels switch clients off for their quota and their date as people do by hand.
    pub fn judge(&mut self, on: bool, quota: Option<u64>, used: u64, now_ms: i64) {
        self.user.status = if on {
            ImportedStatus::Active
        } else if quota.is_some_and(|quota| used >= quota) {
            self.tell("switched off, and its quota is used up; it comes over enabled, and the quota decides");
            ImportedStatus::OverQuota
        } else if self.user.expires_ms.is_some_and(|at| at <= now_ms) {
            ImportedStatus::Expired
        } else {
            ImportedStatus::Disabled
        };
    }

    /// So many days of validity that begin with the first use.
    pub fn valid(&mut self, days: i64) {
        match u32::try_from(days).ok().filter(|days| (1..=36_500).contains(days)) {
            Some(days) => self.user.valid_days = Some(days),
            None => self.tell("the days from the first use are more than anybody lives; they were left out"),
        }
    }
}

/// The day from which periods of so many days are counted, for one of them to end at `end_ms`. It is before
/// the period that runs: what was used before that one is of an account of its own.
pub fn counted_from(end_ms: i64, days: u16, now_ms: i64) -> i64 {
    let length = i64::from(days).max(1) * DAY_MS;
    let ahead = end_ms.saturating_sub(now_ms);
    end_ms.saturating_sub((ahead.div_euclid(length) + 2).saturating_mul(length))
}

/// What a client needs on an inbound of this type.
///
/// # Errors
/// What is missing, in words that follow "the client has".
pub fn login(kind: &str, found: ImportedCredentials) -> Result<ImportedCredentials, &'static str> {
    let ImportedCredentials { password, uuid, flow } = found;
    let uuid_there = uuid.is_some();
    let uuid = uuid.filter(|text| Uuid::try_parse(text).is_ok());
    let needs_uuid = matches!(kind, "vmess" | "vless" | "tuic");
    if needs_uuid && uuid.is_none() {
        return Err(if uuid_there { "an identifier that is no UUID" } else { "no identifier" });
    }
    if !matches!(kind, "vmess" | "vless") && password.is_none() {
        return Err("no password");
    }
    let password = password.filter(|_| !matches!(kind, "vmess" | "vless"));
    let flow = (kind == "vless").then(|| flow.filter(|flow| flow == "xtls-rprx-vision").unwrap_or_default());
    Ok(ImportedCredentials { password, uuid: uuid.filter(|_| needs_uuid), flow })
}

/// An inbound as sing-box has it, with the entry that nobody can use: an empty list would let everybody in.
pub fn with_nobody(mut inbound: serde_json::Map<String, Value>) -> Value {
    let word = |key| inbound.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let shape = Shape { kind: Sort::singbox(&word("type")), method: word("method") };
    // Nothing is brought, so that no key can be wrong.
    let fields = shape.fields(LOCKED_USER, "", &Brought::default()).unwrap_or_default();
    let entry: serde_json::Map<String, Value> =
        fields.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    inbound.insert("users".to_owned(), Value::Array(vec![Value::Object(entry)]));
    Value::Object(inbound)
}

/// Inbounds by what they are called in the rows of clients.
pub fn port(value: Option<&Value>) -> Option<u16> {
    whole(value).ok().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// An inbound of which nothing but the reason matters.
pub fn no_inbound(tag: &str, kind: &str, why: &str) -> ForeignInbound {
    ForeignInbound {
        tag: tag.to_owned(),
        kind: kind.to_owned(),
        port: None,
        snippet: None,
        why_not: Some(why.to_owned()),
    }
}
