//! The headers of a subscription, in the exact forms that clients were seen to read: a missing blank or
//! a missing key makes some of them show nothing.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Format, one_line, percent};
use crate::api::sharing::{Basis, Subscription};

const USERINFO: HeaderName = HeaderName::from_static("subscription-userinfo");
const UPDATE_INTERVAL: HeaderName = HeaderName::from_static("profile-update-interval");
const TITLE: HeaderName = HeaderName::from_static("profile-title");
const WEB_PAGE: HeaderName = HeaderName::from_static("profile-web-page-url");
const SUPPORT: HeaderName = HeaderName::from_static("support-url");
const REFILL: HeaderName = HeaderName::from_static("subscription-refill-date");
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// Of every answer below a secret address, whatever it is: nobody keeps it, nobody lists it, and no
/// other site is told where the visitor came from.
pub fn secret() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex, nofollow"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

/// All headers of a subscription in a form.
pub fn of(subscription: &Subscription, format: Format) -> HeaderMap {
    let mut headers = secret();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    let mut set = |name: HeaderName, value: Option<String>| {
        // What is no header is left out: clients do without each of them.
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    };
    set(USERINFO, Some(userinfo(subscription)));
    set(UPDATE_INTERVAL, Some(subscription.profile.update_hours.to_string()));
    set(TITLE, Some(title(&subscription.profile.title)));
    let file = format!("{}.{}", subscription.user, format.extension());
    set(header::CONTENT_DISPOSITION, Some(disposition(&file)));
    set(WEB_PAGE, subscription.profile.url.clone());
    set(SUPPORT, subscription.profile.support_url.clone());
    set(REFILL, refill(subscription));
    headers
}

/// Bytes and Unix seconds; all four keys, 0 for what has no limit.
pub fn userinfo(subscription: &Subscription) -> String {
    format!(
        "upload={}; download={}; total={}; expire={}",
        subscription.upload_bytes,
        subscription.download_bytes,
        subscription.total_bytes.unwrap_or(0),
        subscription.expires_at.map_or(0, |at| at.instant.as_second().max(0)),
    )
}

/// When the figures begin anew.
fn refill(subscription: &Subscription) -> Option<String> {
    let limited = subscription.basis == Basis::Period && subscription.total_bytes.is_some();
    let end = subscription.period.end.filter(|_| limited)?;
    Some(end.instant.as_second().to_string())
}

/// Plain where it is plain ASCII, else marked base64.
fn title(title: &str) -> String {
    let plain = title.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !title.starts_with("base64:");
    if plain { title.to_owned() } else { format!("base64:{}", BASE64.encode(one_line(title))) }
}

/// Both forms of a file's name: the old one in quotes and ASCII, and RFC 5987's.
fn disposition(file: &str) -> String {
    let mut plain = String::with_capacity(file.len());
    for c in file.chars() {
        plain.push(if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ' | '@' | '+') {
            c
        } else {
            '_'
        });
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "attachment; filename=\"{plain}\"; filename*=UTF-8''{}", percent(&one_line(file)));
    text
}
