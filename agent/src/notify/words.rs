//! What a message says, made when it is sent: in its language, with nothing of a name or a reason that could act.

use boxmeter_web::{
    api::{reason::Reason, told, types::Time},
    letter::{Letter, shown},
    locale::Lang,
    units::Size,
};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::report;
use crate::{config::notify::Tongue, ledger::Delivery};

/// In which language, zone and name is spoken.
#[derive(Clone, Debug)]
pub struct Voice {
    pub lang: Lang,
    pub zone: TimeZone,
    /// The machine's name.
    pub host: String,
}

impl Voice {
    pub fn new(tongue: Tongue, zone: TimeZone) -> Self {
        let lang = match tongue {
            Tongue::English => Lang::En,
            Tongue::Chinese => Lang::ZhCn,
        };
        Voice { lang, zone, host: host() }
    }

    pub fn time(&self, ms: i64) -> Time {
        Time::from_ms(ms, &self.zone)
    }

    fn minute(&self, ms: i64) -> String {
        let at = Timestamp::from_millisecond(ms).unwrap_or_default();
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M %Q").to_string()
    }
}

/// The machine's name, as far as it is fit for a mail server.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fit = |c: &char| c.is_ascii_alphanumeric() || ".-".contains(*c);
    let name: String = name.trim().chars().filter(fit).take(200).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The message to its recipient.
pub fn letter(voice: &Voice, message: &Delivery) -> Letter {
    if let Some(found) = message.data.get("report") {
        return report::letter(voice, found);
    }
    let own = message.data["own"].as_bool() == Some(true);
    let told = Told { voice, data: &message.data["data"] };
    let event = message.data["event"].as_str().unwrap_or_default();
    let (base, mut values) = told.about(event);
    let user = shown(message.data["user"].as_str().unwrap_or_default());
    values.extend([("user", user), ("host", voice.host.clone())]);
    let fill = |key: &str| {
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, &**value)).collect();
        voice.lang.fill(&format!("notify.{base}.{key}"), &values)
    };
    let at_ms = message.data["at_ms"].as_i64().unwrap_or(message.created_ms);
    let time = voice.minute(at_ms);
    Letter {
        lang: voice.lang,
        subject: fill("title"),
        lines: vec![fill(if own { "own" } else { "text" }), voice.lang.fill("notify.at", &[("time", &time)])],
        tables: Vec::new(),
        footer: match own {
            true => voice.lang.text("notify.footer_own").to_owned(),
            false => voice.lang.fill("notify.footer", &[("host", &voice.host)]),
        },
    }
}

type Values = Vec<(&'static str, String)>;

struct Told<'a> {
    voice: &'a Voice,
    data: &'a Value,
}

impl Told<'_> {
    /// Which texts, and what goes into them.
    fn about(&self, event: &str) -> (&'static str, Values) {
        match event {
            "quota_warning" => ("quota", self.quota()),
            "total_quota_warning" => ("total_quota", self.quota()),
            "expiry_near" => ("expiry", self.expiry()),
            "state_changed" => {
                let base = match self.data["to"].as_str() {
                    Some("limited") => "cut",
                    Some("throttled") => "throttled",
                    Some("expired") => "expired",
                    Some("suspended") => "suspended",
                    _ => "comeback",
                };
                (base, vec![("reason", self.reason())])
            }
            "sharing_suspected" => ("sharing", vec![("reason", self.reason_of(event))]),
            "trouble_began" => ("trouble", self.part()),
            "trouble_over" => ("well", self.part()),
            _ => ("test", Vec::new()),
        }
    }

    fn quota(&self) -> Values {
        let number = |key: &str| self.data[key].as_u64().unwrap_or(0);
        vec![
            ("percent", number("percent").to_string()),
            ("used", Size(number("used_bytes")).to_string()),
            ("quota", Size(number("quota_bytes")).to_string()),
        ]
    }

    fn expiry(&self) -> Values {
        let zone = self.data["time_zone"].as_str().and_then(|name| TimeZone::get(name).ok());
        let zone = zone.unwrap_or_else(|| self.voice.zone.clone());
        let at: Option<Timestamp> = self.data["expires_at"].as_str().and_then(|text| text.parse().ok());
        let time = at.map(|at| at.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Q").to_string());
        let hours = self.data["before_s"].as_u64().unwrap_or(0) / 3600;
        let (key, n) = if hours >= 48 { ("notify.days", hours / 24) } else { ("notify.hours", hours) };
        let left = self.voice.lang.fill(key, &[("n", &n.to_string())]);
        vec![("time", time.unwrap_or_default()), ("left", left)]
    }

    /// In the language where it is known by its kind, else as the agent said it.
    fn reason(&self) -> String {
        let zone = self.data["time_zone"].as_str();
        match serde_json::from_value::<Reason>(self.data["cause"].clone()) {
            Ok(reason) => shown(&reason.sentence(self.voice.lang, zone)),
            Err(_) => self.message(),
        }
    }

    fn reason_of(&self, event: &str) -> String {
        let told = told::sentence(event, self.data, &self.voice.zone, self.voice.lang);
        told.map_or_else(|| self.message(), |text| shown(&text))
    }

    fn message(&self) -> String {
        shown(self.data["message"].as_str().unwrap_or_default())
    }

    fn part(&self) -> Values {
        let part = shown(self.data["part"].as_str().unwrap_or_default());
        let reason = shown(self.data["reason"].as_str().unwrap_or_default());
        vec![("part", part), ("reason", reason)]
    }
}
