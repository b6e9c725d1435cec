//! Users as another system has them: what its file says, before anything is made of it.
//!
//! Every reader of a foreign format (SQLite, CSV, JSON) gives these values. They are wishes, not
//! facts: names, credentials and figures are checked again when the users are added.

mod csv;
mod fields;
mod findings;
mod json;
pub mod panel;
mod places;
mod request;
mod sui;
mod threexui;
mod xray;

use std::{collections::BTreeMap, fmt};

use boxmeter_web::api::terms::PeriodKind;
use serde_json::Value;

pub use self::{
    csv::read_csv,
    findings::{Findings, quoted},
    json::read_json,
    places::{Placed, place},
    request::to_request,
};

/// The largest file that is read: a million users fit.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a file could not be read at all. What is wrong with single users is told beside them.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the file is not text in UTF-8: save it as UTF-8")]
    NotText,
    #[error("line {line} is not CSV: {what}")]
    Csv { line: u64, what: String },
    #[error("the first line has no column `name` or `username`: it has {found}")]
    NoName { found: String },
    #[error("the file is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the JSON is neither a list of users nor an object with a list `users`")]
    NoUsers,
}

/// What a file said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// In the order of the file; names may come twice, which the one who adds them refuses.
    pub users: Vec<ImportedUser>,
    /// What was left out, or taken with a doubt: one sentence each, for people. Never a credential.
    pub not_understood: Vec<String>,
    /// Whose file it is, where it is a panel's.
    pub panel: Option<Panel>,
    /// The panel's listeners that clients were on, in the order of the file.
    pub inbounds: Vec<ForeignInbound>,
}

/// A program whose database is read, with listeners of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    ThreeXui,
    Sui,
}

impl Panel {
    pub fn name(self) -> &'static str {
        match self {
            Panel::ThreeXui => "3x-ui",
            Panel::Sui => "S-UI",
        }
    }

    /// Whose tables and columns were looked at when the reader was written. Others are read as far as they
    /// are the same.
    pub fn versions(self) -> &'static str {
        match self {
            Panel::ThreeXui => "2.3.10 - 3.7.0",
            Panel::Sui => "1.2 - 1.6.4",
        }
    }
}

/// A listener of the other program.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignInbound {
    pub tag: String,
    /// In sing-box's words, where it has one.
    pub kind: String,
    pub port: Option<u16>,
    /// What sing-box would need to listen like it, with nobody in it yet.
    pub snippet: Option<Value>,
    /// Why nobody can be taken over on it: it is switched off, on another machine, or of a type that
    /// sing-box does not have.
    pub why_not: Option<String>,
}

/// One user. `None` is "the file does not say": the value comes from the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedUser {
    pub name: String,
    pub credentials: ImportedCredentials,
    /// The name of a policy here.
    pub policy: Option<String>,
    /// Bytes per period; `Some(None)` is no limit.
    pub quota_bytes: Option<Option<u64>>,
    /// Bytes over all time; `Some(None)` is no limit.
    pub total_quota_bytes: Option<Option<u64>>,
    pub period: Option<PeriodKind>,
    /// 1–31.
    pub reset_day: Option<u8>,
    /// `Some(None)` is no limit.
    pub max_addresses: Option<Option<u32>>,
    /// UTC milliseconds.
    pub created_ms: Option<i64>,
    pub expires_ms: Option<i64>,
    /// Days from the first use.
    pub valid_days: Option<u32>,
    pub email: Option<String>,
    pub note: Option<String>,
    pub status: ImportedStatus,
    pub used: Vec<ImportedUsage>,
    /// Bytes bought beyond the quota and not used up yet.
    pub package_bytes: u64,
    /// Tags of inbounds; empty: every inbound with users.
    pub inbounds: Vec<String>,
    /// By inbound, where the file tells them apart.
    pub logins: BTreeMap<String, ImportedCredentials>,
}

/// By which a client proves who it is; the one that an inbound's type needs is taken.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ImportedCredentials {
    pub password: Option<String>,
    pub uuid: Option<String>,
    /// Of vless.
    pub flow: Option<String>,
}

/// Credentials never reach logs, not even by accident.
impl fmt::Debug for ImportedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |given: &Option<String>| given.as_ref().map(|_| "…");
        f.debug_struct("ImportedCredentials")
            .field("password", &shown(&self.password))
            .field("uuid", &shown(&self.uuid))
            .field("flow", &self.flow)
            .finish()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImportedStatus {
    #[default]
    Active,
    /// Switched off by a person.
    Disabled,
    /// Over, by a date that is in the file.
    Expired,
    /// Switched off because a quota was used up: the quota that comes over decides from here on.
    OverQuota,
}

/// When something was used, by the other system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsedIn {
    /// Before any month that is known.
    Earlier,
    /// Year, month 1–12.
    Month(i16, i8),
    /// In the period that runs.
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedUsage {
    pub when: UsedIn,
    pub upload_bytes: u64,
    pub download_bytes: u64,
}
