//! The fields of one user, as CSV and JSON name them. Spellings of other programs are understood
//! beside our own.

use std::collections::BTreeMap;

use boxmeter_web::api::time::parse_time;
use jiff::Zoned;

use super::{ImportedStatus, ImportedUsage, ImportedUser, UsedIn};
use crate::units::parse_size;

/// Names and values of one user; names are as [`normal`] gives them.
pub type Row = BTreeMap<String, String>;

/// A name of a column as it is compared: `Monthly Quota (GB)` is `monthly_quota_gb`.
pub fn normal(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

/// Every name that is understood.
const KNOWN: &[&[&str]] = &[
    NAME, PASSWORD, UUID, POLICY, QUOTA, QUOTA_GIB, TOTAL, TOTAL_GIB, RESET_DAY, ADDRESSES, EXPIRES, CREATED,
    EMAIL, NOTE, STATUS, UPLOAD, DOWNLOAD, USED, PACKAGE, INBOUNDS,
];
pub const NAME: &[&str] = &["name", "username", "user"];
const PASSWORD: &[&str] = &["password"];
const UUID: &[&str] = &["uuid"];
const POLICY: &[&str] = &["policy", "plan"];
const QUOTA: &[&str] = &["quota", "quota_bytes", "monthly_quota_bytes"];
const QUOTA_GIB: &[&str] =
    &["quota_gb", "quota_gib", "monthly_quota", "monthly_quota_gb", "monthly_limit_gb"];
const TOTAL: &[&str] = &["total_quota", "total_quota_bytes"];
const TOTAL_GIB: &[&str] = &["total_quota_gb", "total_quota_gib", "total_limit_gb"];
const RESET_DAY: &[&str] = &["reset_day"];
/// In the tutorial's words, connections are places that somebody connects from.
const ADDRESSES: &[&str] = &["max_addresses", "concurrent_connections", "limit_ip", "ip_limit"];
const EXPIRES: &[&str] = &["expires", "expires_at", "expiry", "expire_date", "expiry_date"];
const CREATED: &[&str] = &["created", "created_at"];
const EMAIL: &[&str] = &["email", "e_mail", "mail"];
const NOTE: &[&str] = &["note", "remark", "comment"];
const STATUS: &[&str] = &["status", "state", "enabled", "active"];
const UPLOAD: &[&str] = &["upload", "upload_bytes", "up"];
const DOWNLOAD: &[&str] = &["download", "download_bytes", "down"];
const USED: &[&str] = &["used", "used_bytes"];
const PACKAGE: &[&str] = &["package", "package_bytes"];
const INBOUNDS: &[&str] = &["inbounds", "inbound"];

pub fn known(name: &str) -> bool {
    KNOWN.iter().any(|names| names.contains(&name))
}

/// The user of a row.
///
/// # Errors
/// A sentence about the field that is not understood. A user is then left out: one with a limit
/// that was misread would be worse than one who is missing.
pub fn user(row: &Row, now: &Zoned) -> Result<ImportedUser, String> {
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| row.get(*name));
        found.map(|it| it.trim()).filter(|it| !it.is_empty()).map(str::to_owned)
    };
    let size = |names: &[&str], unit: &str| match text(names) {
        None => Ok(None),
        Some(value) => match parse_size(&format!("{value}{unit}")) {
            Ok(size) => Ok(Some(size)),
            Err(error) => Err(format!("{}: {error}", names[0])),
        },
    };
    let time = |names: &[&str]| match text(names) {
        None => Ok(None),
        Some(value) if value.eq_ignore_ascii_case("never") || value == "0" => Ok(None),
        Some(value) => match parse_time(&value, now) {
            Ok(time) => Ok(Some(time.as_millisecond())),
            Err(error) => Err(format!("{}: {error}", names[0])),
        },
    };
    let reset_day = match text(RESET_DAY) {
        None => None,
        Some(day) => match day.parse() {
            Ok(day) if (1..=31).contains(&day) => Some(day),
            _ => return Err(format!("reset_day: {day:?} is not a day from 1 to 31")),
        },
    };
    let max_addresses = match text(ADDRESSES) {
        None => None,
        Some(count) => match count.parse::<u32>() {
            Ok(count) => Some((count > 0).then_some(count)),
            Err(_) => return Err(format!("max_addresses: {count:?} is not a number of addresses")),
        },
    };
    let bytes = |names: &[&str]| size(names, "").map(|size| size.flatten().unwrap_or(0));
    let mut user = ImportedUser {
        name: text(NAME).ok_or("the name is missing")?,
        policy: text(POLICY),
        quota_bytes: size(QUOTA, "")?.or(size(QUOTA_GIB, "GiB")?),
        total_quota_bytes: size(TOTAL, "")?.or(size(TOTAL_GIB, "GiB")?),
        reset_day,
        max_addresses,
        created_ms: time(CREATED)?,
        expires_ms: time(EXPIRES)?,
        email: text(EMAIL),
        note: text(NOTE),
        status: status(text(STATUS).as_deref())?,
        package_bytes: bytes(PACKAGE)?,
        ..ImportedUser::default()
    };
    user.credentials.password = text(PASSWORD);
    user.credentials.uuid = text(UUID);
    if let Some(tags) = text(INBOUNDS) {
        let tags = tags.split([',', ';', ' ']).filter(|tag| !tag.is_empty());
        user.inbounds = tags.map(str::to_owned).collect();
    }
    // A sum without directions is as much as its bytes in one of them.
    let (upload_bytes, download_bytes) = (bytes(UPLOAD)?, bytes(DOWNLOAD)?.saturating_add(bytes(USED)?));
    if upload_bytes > 0 || download_bytes > 0 {
        user.used.push(ImportedUsage { when: UsedIn::Now, upload_bytes, download_bytes });
    }
    Ok(user)
}

fn status(text: Option<&str>) -> Result<ImportedStatus, String> {
    let Some(text) = text else { return Ok(ImportedStatus::Active) };
    match text.to_lowercase().as_str() {
        "active" | "enabled" | "enable" | "true" | "yes" | "1" => Ok(ImportedStatus::Active),
        "disabled" | "disable" | "inactive" | "false" | "no" | "0" => Ok(ImportedStatus::Disabled),
        "limited" | "over_quota" | "overquota" => Ok(ImportedStatus::OverQuota),
        _ => Err(format!("status: {text:?} is not active, disabled or limited")),
    }
}
