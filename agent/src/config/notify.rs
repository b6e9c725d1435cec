//! `[notify]`: what is told to whom, and how it is sent. Secrets are here or in files of their own, and never
//! in anything that is printed.

use std::{fmt, path::PathBuf, time::Duration};

use jiff::civil::Time;
use lettre::message::Mailbox;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::values::duration;
pub use crate::core::notice::Channel;
pub use address::{Web, web};

mod address;

/// Percentages beyond this are no warnings of anything.
const PERCENT_MAX: u16 = 1000;
/// Percentages, instants before an expiry, recipients: more are a mistake.
const LIST_MAX: usize = 20;
/// A year before it ends nothing is near.
const BEFORE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
const TROUBLE_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longer lists are no summary.
const TOP_MAX: u32 = 100;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A percentage of a quota is reached.
    Quota,
    /// An expiry is near, or was now.
    Expiry,
    /// Cut or slowed down for a quota.
    Cut,
    /// After a cut, an expiry or a suspension.
    Comeback,
    /// An account seems to be used by several.
    Sharing,
    Suspended,
    /// A part does not work, and works again.
    Trouble,
    /// A backup failed, and one is made again.
    Backup,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Quota,
        Kind::Expiry,
        Kind::Cut,
        Kind::Comeback,
        Kind::Sharing,
        Kind::Suspended,
        Kind::Trouble,
        Kind::Backup,
    ];

    /// As in the configuration, the queue and the webhook.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Quota => "quota",
            Kind::Expiry => "expiry",
            Kind::Cut => "cut",
            Kind::Comeback => "comeback",
            Kind::Sharing => "sharing",
            Kind::Suspended => "suspended",
            Kind::Trouble => "trouble",
            Kind::Backup => "backup",
        }
    }

    /// Is it about one user, whom it may be told to?
    pub fn is_of_user(self) -> bool {
        matches!(self, Kind::Quota | Kind::Expiry | Kind::Cut | Kind::Comeback | Kind::Suspended)
    }
}

/// What nobody may see but the one it is sent to.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To be sent, and never to be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "…" })
    }
}

/// Only its place is written: what reads a written configuration asks for keys.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

/// A time before something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Before(pub Duration);

impl Serialize for Before {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        duration::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Before {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::deserialize(deserializer).map(Before)
    }
}

/// A time of day; `never` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At(pub Option<Time>);

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => serializer.collect_str(&time.strftime("%H:%M")),
            None => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(At(None));
        }
        let time = Time::strptime("%H:%M", &text).ok().filter(|_| text.len() == 5);
        time.map(|time| At(Some(time)))
            .ok_or_else(|| de::Error::custom("expected a time of day as \"08:00\", or \"never\""))
    }
}

/// The language of what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tongue {
    #[default]
    #[serde(rename = "en")]
    English,
    #[serde(rename = "zh-CN", alias = "zh")]
    Chinese,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notify {
    /// What the admin is told.
    pub kinds: Vec<Kind>,
    /// Of the quota of a period, and of the quota over all time.
    pub percentages: Vec<u16>,
    pub expiry_before: Vec<Before>,
    /// How long something must not work before it is told.
    #[serde(with = "duration")]
    pub trouble_after: Duration,
    pub language: Tongue,
    /// What users are told themselves, by mail to the address of their account.
    pub to_users: Vec<Kind>,
    pub mail: Mail,
    pub telegram: Telegram,
    pub webhook: Webhook,
    pub reports: Reports,
}

impl Default for Notify {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Notify {
            kinds: Kind::ALL.to_vec(),
            percentages: vec![80, 95, 100],
            expiry_before: vec![Before(7 * day), Before(day)],
            trouble_after: Duration::from_secs(120),
            language: Tongue::English,
            to_users: Vec::new(),
            mail: Mail::default(),
            telegram: Telegram::default(),
            webhook: Webhook::default(),
            reports: Reports::default(),
        }
    }
}

/// How the connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Asked for and insisted on before anything is said.
    #[default]
    Starttls,
    Tls,
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// A host's name or address; empty: no mail.
    pub server: String,
    /// 0: by `security` (587, 465 or 25).
    pub port: u16,
    pub security: Security,
    /// Empty: the server asks for nobody.
    pub user: String,
    pub password: Secret,
    pub password_file: String,
    pub from: String,
    pub to: Vec<String>,
    /// PEM of authorities that are trusted besides the usual ones.
    pub ca_file: String,
}

impl Mail {
    pub fn wanted(&self) -> bool {
        !self.server.is_empty()
    }

    pub fn port(&self) -> u16 {
        match (self.port, self.security) {
            (0, Security::Starttls) => 587,
            (0, Security::Tls) => 465,
            (0, Security::None) => 25,
            (port, _) => port,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telegram {
    /// Of the bot, as @BotFather gives it.
    pub token: Secret,
    pub token_file: String,
    /// A chat's number, or `@channel`; empty: no Telegram.
    pub chat_id: String,
    /// Where the bots' API is: another one is a proxy of it.
    pub api: String,
    pub ca_file: String,
}

impl Default for Telegram {
    fn default() -> Self {
        Telegram {
            token: Secret::default(),
            token_file: String::new(),
            chat_id: String::new(),
            api: "https://api.telegram.org".to_owned(),
            ca_file: String::new(),
        }
    }
}

impl Telegram {
    pub fn wanted(&self) -> bool {
        !self.chat_id.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Empty: none.
    pub url: Secret,
    /// What bodies are signed with.
    pub secret: Secret,
    pub secret_file: String,
    pub ca_file: String,
}

impl Webhook {
    pub fn wanted(&self) -> bool {
        !self.url.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reports {
    /// Of the day before.
    pub daily: At,
    /// Of the month before, on its first day.
    pub monthly: At,
    /// An IANA name; `billing`: that of `[billing] time_zone`.
    pub time_zone: String,
    /// Users who are listed, by what they used.
    pub top: u32,
    pub by: Vec<Channel>,
}

impl Default for Reports {
    fn default() -> Self {
        Reports {
            daily: At(None),
            monthly: At(None),
            time_zone: "billing".to_owned(),
            top: 10,
            by: vec![Channel::Mail],
        }
    }
}

type Bad = (&'static str, String);

fn bad<T>(key: &'static str, text: &str) -> Result<T, Bad> {
    Err((key, text.to_owned()))
}

/// Exactly one of a secret and its file.
fn one_secret(keys: [&'static str; 2], secret: &Secret, file: &str) -> Result<(), Bad> {
    match (secret.is_empty(), file.is_empty()) {
        (true, true) => bad(keys[0], &format!("is missing; give it, or a file that has it by {}", keys[1])),
        (false, false) => bad(keys[1], &format!("and {} are both given; leave one out", keys[0])),
        _ => file_path(keys[1], file),
    }
}

fn file_path(key: &'static str, path: &str) -> Result<(), Bad> {
    if path.is_empty() || path.starts_with('/') { Ok(()) } else { bad(key, "must be an absolute path") }
}

impl Notify {
    /// Can anything be sent?
    pub fn wanted(&self) -> bool {
        self.mail.wanted() || self.telegram.wanted() || self.webhook.wanted()
    }

    /// The secrets that stand in the configuration itself.
    pub fn has_secrets(&self) -> bool {
        let all = [&self.mail.password, &self.telegram.token, &self.webhook.secret, &self.webhook.url];
        all.iter().any(|secret| !secret.is_empty())
    }

    /// Files that hold a secret.
    pub fn secret_files(&self) -> impl Iterator<Item = PathBuf> {
        let all = [&self.mail.password_file, &self.telegram.token_file, &self.webhook.secret_file];
        all.into_iter().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(super) fn check(&self) -> Result<(), Bad> {
        if self.percentages.len() > LIST_MAX
            || self.percentages.iter().any(|it| !(1..=PERCENT_MAX).contains(it))
        {
            return bad("notify.percentages", "must be at most 20 numbers from 1 to 1000, as [80, 95, 100]");
        }
        let before = |it: &Before| it.0.is_zero() || it.0 > BEFORE_MAX;
        if self.expiry_before.len() > LIST_MAX || self.expiry_before.iter().any(before) {
            return bad("notify.expiry_before", "must be at most 20 times up to 366d, as [\"7d\", \"1d\"]");
        }
        if self.trouble_after > TROUBLE_AFTER_MAX {
            return bad("notify.trouble_after", "must be at most 1d");
        }
        if self.to_users.iter().any(|kind| !kind.is_of_user()) {
            let text =
                "takes what is about one user: \"quota\", \"expiry\", \"cut\", \"comeback\", \"suspended\"";
            return bad("notify.to_users", text);
        }
        if !self.to_users.is_empty() && !self.mail.wanted() {
            return bad("notify.to_users", "needs [notify.mail]: users are told by mail");
        }
        self.mail.check()?;
        self.telegram.check()?;
        self.webhook.check()?;
        self.check_reports()
    }

    fn check_reports(&self) -> Result<(), Bad> {
        let reports = &self.reports;
        if reports.top > TOP_MAX {
            return bad("notify.reports.top", "must be at most 100");
        }
        if reports.time_zone != "billing"
            && let Err(error) = jiff::tz::TimeZone::get(&reports.time_zone)
        {
            let text = format!("{error}; use an IANA name as \"Asia/Shanghai\", or \"billing\"");
            return bad("notify.reports.time_zone", &text);
        }
        if reports.daily.0.is_none() && reports.monthly.0.is_none() {
            return Ok(());
        }
        for by in &reports.by {
            let (wanted, table) = match by {
                Channel::Mail => (self.mail.wanted() && !self.mail.to.is_empty(), "[notify.mail] with `to`"),
                Channel::Telegram => (self.telegram.wanted(), "[notify.telegram]"),
                Channel::Webhook => (self.webhook.wanted(), "[notify.webhook]"),
            };
            if !wanted {
                return bad("notify.reports.by", &format!("names a way that is not set up: add {table}"));
            }
        }
        if reports.by.is_empty() {
            return bad("notify.reports.by", "must name a way, as [\"mail\"]");
        }
        Ok(())
    }
}

impl Mail {
    fn check(&self) -> Result<(), Bad> {
        if !self.wanted() {
            let given = [&self.user, &self.password_file, &self.from];
            return match given.iter().all(|it| it.is_empty()) && self.to.is_empty() {
                true => Ok(()),
                false => bad("notify.mail.server", "is missing; name the mail server"),
            };
        }
        if self.server.contains([':', '/', '@', ' ']) && self.server.parse::<std::net::Ipv6Addr>().is_err() {
            return bad("notify.mail.server", "must be a host's name or address; the port goes into `port`");
        }
        if self.from.parse::<Mailbox>().is_err() {
            let text = "must be an address as \"boxmeter <boxmeter@example.org>\"";
            return bad("notify.mail.from", text);
        }
        if self.to.len() > LIST_MAX || self.to.iter().any(|to| to.parse::<Mailbox>().is_err()) {
            return bad("notify.mail.to", "must be at most 20 addresses, as [\"admin@example.org\"]");
        }
        if !self.user.is_empty() {
            let keys = ["notify.mail.password", "notify.mail.password_file"];
            one_secret(keys, &self.password, &self.password_file)?;
        } else if !self.password.is_empty() || !self.password_file.is_empty() {
            return bad("notify.mail.user", "is missing; a password alone signs nobody in");
        }
        if !self.user.is_empty() && self.security == Security::None && !address::is_near(&self.server) {
            let text = "\"none\" would send the password readable by everybody on the way; use \"starttls\" or \"tls\"";
            return bad("notify.mail.security", text);
        }
        file_path("notify.mail.ca_file", &self.ca_file)
    }
}

impl Telegram {
    fn check(&self) -> Result<(), Bad> {
        if !self.wanted() {
            return match self.token.is_empty() && self.token_file.is_empty() {
                true => Ok(()),
                false => bad("notify.telegram.chat_id", "is missing; write the chat's number as a text"),
            };
        }
        let number = self.chat_id.parse::<i64>().is_ok();
        if !number && self.chat_id.strip_prefix('@').is_none_or(str::is_empty) {
            return bad("notify.telegram.chat_id", "must be a number as \"-1001234\", or \"@channel\"");
        }
        let keys = ["notify.telegram.token", "notify.telegram.token_file"];
        one_secret(keys, &self.token, &self.token_file)?;
        web(&self.api).map_err(|text| ("notify.telegram.api", text))?;
        file_path("notify.telegram.ca_file", &self.ca_file)
    }
}

impl Webhook {
    fn check(&self) -> Result<(), Bad> {
        if !self.wanted() {
            return match self.secret.is_empty() && self.secret_file.is_empty() {
                true => Ok(()),
                false => bad("notify.webhook.url", "is missing; say where to send to"),
            };
        }
        web(self.url.expose()).map_err(|text| ("notify.webhook.url", text))?;
        let keys = ["notify.webhook.secret", "notify.webhook.secret_file"];
        one_secret(keys, &self.secret, &self.secret_file)?;
        file_path("notify.webhook.ca_file", &self.ca_file)
    }
}

#[cfg(test)]
mod tests;
