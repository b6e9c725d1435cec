//! What the columns of a foreign table of users mean, by their names, and what their values are.

use jiff::{civil, tz::TimeZone};
use rusqlite::{Row, types::ValueRef};

use super::{Findings, NAMES, quoted, tables::Table};
use crate::import::{ImportedCredentials, ImportedStatus, ImportedUser};

/// Bytes of any text that is taken.
const TEXT_MAX: usize = 1000;
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;
/// More bytes than this are a slip, not a quota.
const BYTES_MAX: f64 = (1_u64 << 58) as f64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Name,
    Password,
    Uuid,
    Email,
    Note,
    Policy,
    Status,
    Enabled,
    Quota,
    TotalQuota,
    ResetDay,
    Addresses,
    Created,
    Expires,
    Bonus,
}

/// By name in lower case, without a unit at its end. Words of the field; the tutorial's are first.
const MEANINGS: &[(Meaning, &[&str])] = &[
    (Meaning::Name, NAMES),
    (Meaning::Password, &["password", "passwd", "pass", "secret"]),
    (Meaning::Uuid, &["uuid"]),
    (Meaning::Email, &["email", "mail"]),
    (Meaning::Note, &["note", "remark", "comment", "notes"]),
    (Meaning::Policy, &["policy", "plan"]),
    (Meaning::Status, &["status", "state"]),
    (Meaning::Enabled, &["enabled", "enable", "active", "is_active"]),
    (Meaning::Quota, &["monthly_quota", "quota", "monthly_limit", "traffic_limit", "data_limit"]),
    (Meaning::TotalQuota, &["total_quota", "total_limit"]),
    (Meaning::ResetDay, &["reset_day"]),
    // What the tutorial calls connections are the places that somebody connects from.
    (Meaning::Addresses, &["max_addresses", "concurrent_connections", "limit_ip", "ip_limit"]),
    (Meaning::Created, &["created_at", "created"]),
    (
        Meaning::Expires,
        &["expires_at", "expire_at", "expires", "expire", "expiry", "expire_date", "expiry_date"],
    ),
    (Meaning::Bonus, &["bonus_traffic", "bonus"]),
];

pub(super) struct Columns {
    /// By the column's place in the row, with the bytes of one unit where it is an amount.
    known: Vec<(usize, Meaning, f64)>,
}

impl Columns {
    pub fn of(table: &Table, findings: &mut Findings) -> Columns {
        let mut known: Vec<(usize, Meaning, f64)> = Vec::new();
        for (place, column) in table.columns.iter().enumerate() {
            let lower = column.to_ascii_lowercase();
            let (stem, unit) = unit_of(&lower);
            let meaning =
                MEANINGS.iter().find(|(_, names)| names.contains(&stem)).map(|(meaning, _)| *meaning);
            match meaning {
                Some(meaning) if !known.iter().any(|(_, other, _)| *other == meaning) => {
                    // The tutorial's script adds packages in bytes and writes quotas in GB.
                    let plain = if meaning == Meaning::Bonus { 1.0 } else { GIB };
                    known.push((place, meaning, unit.unwrap_or(plain)));
                }
                _ if lower == "id" => {}
                _ => findings.add(format!("the column users.{} was not taken over", quoted(column))),
            }
        }
        Columns { known }
    }

    /// `None` without a name.
    pub fn user(
        &self,
        row: &Row<'_>,
        number: usize,
        findings: &mut Findings,
    ) -> rusqlite::Result<Option<ImportedUser>> {
        let mut user = ImportedUser::default();
        let mut odd = Vec::new();
        for (place, meaning, unit) in &self.known {
            let value = row.get_ref(*place)?;
            if !take(&mut user, *meaning, *unit, value) {
                odd.push(row.as_ref().column_name(*place)?.to_owned());
            }
        }
        if user.name.is_empty() {
            findings.add(format!("row {number} of users has no name"));
            return Ok(None);
        }
        for column in odd {
            // Never the value: it may be a credential.
            findings.add(format!(
                "{}: the value of {} is not understood",
                quoted(&user.name),
                quoted(&column)
            ));
        }
        Ok(Some(user))
    }
}

/// A unit at the end of a column's name.
fn unit_of(name: &str) -> (&str, Option<f64>) {
    for (ending, bytes) in [("_bytes", 1.0), ("_mb", MIB), ("_mib", MIB), ("_gb", GIB), ("_gib", GIB)] {
        if let Some(stem) = name.strip_suffix(ending) {
            return (stem, Some(bytes));
        }
    }
    (name, None)
}

/// Sets what the value says; false if it says nothing that is understood. NULL and an empty text say
/// nothing, and that is understood.
fn take(user: &mut ImportedUser, meaning: Meaning, unit: f64, value: ValueRef<'_>) -> bool {
    if matches!(value, ValueRef::Null | ValueRef::Text(b"")) {
        return true;
    }
    match meaning {
        Meaning::Name => set(&mut user.name, text(value)),
        Meaning::Password => set_some(&mut credentials(user).password, text(value)),
        Meaning::Uuid => {
            let uuid = text(value).and_then(|text| uuid::Uuid::try_parse(&text).ok());
            set_some(&mut credentials(user).uuid, uuid.map(|uuid| uuid.to_string()))
        }
        Meaning::Email => set_some(&mut user.email, text(value)),
        Meaning::Note => set_some(&mut user.note, text(value)),
        Meaning::Policy => set_some(&mut user.policy, text(value)),
        Meaning::Status => set_status(user, text(value).as_deref().and_then(status)),
        Meaning::Enabled => set_status(
            user,
            truth(value).map(|on| if on { ImportedStatus::Active } else { ImportedStatus::Disabled }),
        ),
        Meaning::Quota => set_some(&mut user.quota_bytes, amount(value, unit).map(limit)),
        Meaning::TotalQuota => set_some(&mut user.total_quota_bytes, amount(value, unit).map(limit)),
        Meaning::Bonus => set(&mut user.package_bytes, amount(value, unit)),
        Meaning::ResetDay => {
            let day = integer(value).and_then(|day| u8::try_from(day).ok());
            set_some(&mut user.reset_day, day.filter(|day| (1..=31).contains(day)))
        }
        Meaning::Addresses => {
            let count = integer(value).and_then(|count| u32::try_from(count).ok());
            set_some(&mut user.max_addresses, count.map(|count| (count > 0).then_some(count)))
        }
        Meaning::Created => set_some(&mut user.created_ms, instant(value)),
        Meaning::Expires => set_some(&mut user.expires_ms, instant(value)),
    }
}

fn credentials(user: &mut ImportedUser) -> &mut ImportedCredentials {
    &mut user.credentials
}

fn set<T>(field: &mut T, value: Option<T>) -> bool {
    value.map(|value| *field = value).is_some()
}

fn set_some<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    value.map(|value| *field = Some(value)).is_some()
}

/// The stricter one, where a file says it twice. What is not understood is taken as switched off:
/// nobody is let in by a word that nobody knows.
fn set_status(user: &mut ImportedUser, said: Option<ImportedStatus>) -> bool {
    let status = said.unwrap_or(ImportedStatus::Disabled);
    if user.status == ImportedStatus::Active {
        user.status = status;
    }
    said.is_some()
}

fn status(word: &str) -> Option<ImportedStatus> {
    match word.to_ascii_lowercase().as_str() {
        "active" | "enabled" | "ok" | "normal" | "on" | "1" => Some(ImportedStatus::Active),
        "expired" => Some(ImportedStatus::Expired),
        "disabled" | "inactive" | "suspended" | "banned" | "off" | "0" => Some(ImportedStatus::Disabled),
        "limited" | "over_quota" | "exceeded" => Some(ImportedStatus::OverQuota),
        _ => None,
    }
}

fn truth(value: ValueRef<'_>) -> Option<bool> {
    match value {
        ValueRef::Integer(0) => Some(false),
        ValueRef::Integer(1) => Some(true),
        ValueRef::Text(_) => match text(value)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// 0 means no limit, as in the tutorial's plans.
fn limit(bytes: u64) -> Option<u64> {
    (bytes > 0).then_some(bytes)
}

/// Bytes of an amount in units.
fn amount(value: ValueRef<'_>, unit: f64) -> Option<u64> {
    let number = match value {
        // Exact where it can be: whole bytes may be beyond what a float tells apart.
        ValueRef::Integer(value) => {
            let bytes = u64::try_from(value).ok()?.checked_mul(unit as u64)?;
            return (bytes as f64 <= BYTES_MAX).then_some(bytes);
        }
        ValueRef::Real(value) => value,
        ValueRef::Text(_) => text(value)?.trim().parse().ok()?,
        _ => return None,
    };
    let bytes = number * unit;
    // What is not a number is in no range.
    (0.0..=BYTES_MAX).contains(&bytes).then_some(bytes as u64)
}

fn integer(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(value) => Some(value),
        ValueRef::Text(_) => text(value)?.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(bytes) if bytes.len() <= TEXT_MAX => String::from_utf8(bytes.to_vec()).ok(),
        ValueRef::Integer(value) => Some(value.to_string()),
        _ => None,
    }
}

/// A date, with or without a time, in UTC as SQLite writes it; or Unix seconds.
fn instant(value: ValueRef<'_>) -> Option<i64> {
    if let ValueRef::Integer(seconds) = value {
        return jiff::Timestamp::from_second(seconds).ok().map(|at| at.as_millisecond());
    }
    let text = text(value)?;
    let text = text.trim();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let at = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.to_datetime(civil::Time::midnight())))
        .ok()?;
    at.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp().as_millisecond())
}

/// The month of "2026-11" or of an instant that begins so.
pub(super) fn month(value: ValueRef<'_>) -> Option<(i16, i8)> {
    let text = text(value)?;
    let (year, rest) = text.split_once('-')?;
    let month = rest.get(..2)?;
    let date = civil::Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
    Some((date.year(), date.month()))
}
