//! Daily and monthly reports: when one is due, and what it says. Its figures are gathered by whoever has them,
//! when it is due, and kept with the message.

use boxmeter_web::{
    api::reason::Reason,
    letter::{Letter, Table, shown},
    locale::Lang,
    units::Size,
    wording,
};
use jiff::{ToSpan, Zoned, civil};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::words::Voice;

/// What a report covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Daily,
    Monthly,
}

impl Span {
    pub const ALL: [Span; 2] = [Span::Daily, Span::Monthly];

    /// In the ledger and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Span::Daily => "daily",
            Span::Monthly => "monthly",
        }
    }

    pub fn kind(self) -> &'static str {
        match self {
            Span::Daily => "daily_report",
            Span::Monthly => "monthly_report",
        }
    }
}

/// A day or a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// `2026-11-28`, `2026-10`.
    pub key: String,
    pub from: Zoned,
    /// Not included.
    pub to: Zoned,
}

/// The period of the last report that was due by `now`. Whatever clock and agent did since the one before: it
/// is one report, and the ledger knows whether it was made.
pub fn last_due(span: Span, at: civil::Time, now: &Zoned) -> Option<Period> {
    let zone = now.time_zone().clone();
    let today = now.date();
    let begin = |date: civil::Date| date.to_zoned(zone.clone()).ok();
    match span {
        Span::Daily => {
            let passed = *now >= today.to_datetime(at).to_zoned(zone.clone()).ok()?;
            let to = if passed { today } else { today.yesterday().ok()? };
            let from = to.yesterday().ok()?;
            Some(Period { key: from.to_string(), from: begin(from)?, to: begin(to)? })
        }
        Span::Monthly => {
            let first = today.first_of_month();
            let passed = *now >= first.to_datetime(at).to_zoned(zone.clone()).ok()?;
            let to = if passed { first } else { first.checked_sub(1.month()).ok()? };
            let from = to.checked_sub(1.month()).ok()?;
            Some(Period { key: from.strftime("%Y-%m").to_string(), from: begin(from)?, to: begin(to)? })
        }
    }
}

/// The figures of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// `daily` or `monthly`.
    pub span: String,
    pub period: String,
    pub time_zone: String,
    /// `payload` or `wire`.
    pub meter: String,
    pub upload_bytes: u64,
    pub download_bytes: u64,
    pub unattributed_bytes: u64,
    pub users: u64,
    pub active_users: u64,
    /// By what they used, the most first.
    pub top: Vec<Used>,
    /// Of those that are not cut, the nearest first.
    pub near: Vec<Near>,
    pub cut: Vec<Cut>,
    /// More than are listed.
    pub more_near: u64,
    pub more_cut: u64,
    pub health: Health,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    pub user: String,
    pub upload_bytes: u64,
    pub download_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Near {
    pub user: String,
    pub used_bytes: u64,
    pub quota_bytes: u64,
    pub percent: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cut {
    pub user: String,
    pub state: String,
    pub cause: Option<Reason>,
    pub time_zone: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub version: String,
    pub singbox: Option<String>,
    /// Part and reason of what does not work.
    pub degraded: Vec<[String; 2]>,
    pub last_backup_ms: Option<i64>,
    /// Messages that wait.
    pub waiting: u64,
}

/// The report as a message.
pub(super) fn letter(voice: &Voice, data: &Value) -> Letter {
    let figures: Figures = serde_json::from_value(data.clone()).unwrap_or_default();
    let lang = voice.lang;
    let (host, period) = (voice.host.as_str(), figures.period.as_str());
    let values = [("period", period), ("host", host), ("zone", &figures.time_zone)];
    let title = lang.fill(&format!("notify.report.{}", figures.span), &values);
    Letter {
        lang,
        subject: title,
        lines: lines(lang, &figures),
        tables: vec![top(lang, &figures), near(lang, &figures), cut(lang, &figures), health(voice, &figures)],
        footer: lang.fill("notify.footer", &[("host", host)]),
    }
}

fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

fn lines(lang: Lang, figures: &Figures) -> Vec<String> {
    let total = figures.upload_bytes.saturating_add(figures.download_bytes);
    let meter = lang.text(&format!("notify.report.{}", figures.meter)).to_owned();
    let values = [
        ("total", &*size(total)),
        ("up", &size(figures.upload_bytes)),
        ("down", &size(figures.download_bytes)),
        ("meter", &meter),
    ];
    let users = [("active", &*figures.active_users.to_string()), ("users", &figures.users.to_string())];
    vec![
        lang.fill("notify.report.total", &values),
        lang.fill("notify.report.users", &users),
        lang.fill("notify.report.unattributed", &[("size", &size(figures.unattributed_bytes))]),
    ]
}

fn heads(lang: Lang, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| lang.text(key).to_owned()).collect()
}

fn top(lang: Lang, figures: &Figures) -> Table {
    let row = |it: &Used| {
        let total = it.upload_bytes.saturating_add(it.download_bytes);
        vec![shown(&it.user), size(total), size(it.upload_bytes), size(it.download_bytes)]
    };
    Table {
        title: lang.text("notify.report.top").to_owned(),
        head: heads(lang, &["col.user", "col.total", "col.upload", "col.download"]),
        rows: figures.top.iter().map(row).collect(),
        none: lang.text("notify.report.nobody_active").to_owned(),
    }
}

fn near(lang: Lang, figures: &Figures) -> Table {
    let row = |it: &Near| {
        vec![shown(&it.user), format!("{} %", it.percent), size(it.used_bytes), size(it.quota_bytes)]
    };
    let mut rows: Vec<_> = figures.near.iter().map(row).collect();
    rows.extend(more(lang, figures.more_near));
    Table {
        title: lang.text("notify.report.near").to_owned(),
        head: heads(lang, &["col.user", "notify.report.percent", "notify.report.used", "col.quota"]),
        rows,
        none: lang.text("notify.report.nobody").to_owned(),
    }
}

fn cut(lang: Lang, figures: &Figures) -> Table {
    let row = |it: &Cut| {
        let zone = it.time_zone.as_deref();
        let why = it.cause.as_ref().map(|cause| shown(&cause.sentence(lang, zone)));
        vec![shown(&it.user), why.unwrap_or_else(|| state(lang, &it.state))]
    };
    let mut rows: Vec<_> = figures.cut.iter().map(row).collect();
    rows.extend(more(lang, figures.more_cut));
    Table {
        title: lang.text("notify.report.cut").to_owned(),
        head: heads(lang, &["col.user", "notify.report.why"]),
        rows,
        none: lang.text("notify.report.nobody").to_owned(),
    }
}

fn state(lang: Lang, word: &str) -> String {
    lang.find(&format!("state.{word}")).unwrap_or(word).to_owned()
}

fn more(lang: Lang, count: u64) -> Option<Vec<String>> {
    (count > 0).then(|| vec![lang.fill("notify.report.more", &[("count", &count.to_string())])])
}

fn health(voice: &Voice, figures: &Figures) -> Table {
    let lang = voice.lang;
    let health = &figures.health;
    let singbox = health.singbox.as_deref().map_or_else(|| lang.text("none").to_owned(), shown);
    let backup = health.last_backup_ms.map(|ms| wording::minute(&voice.time(ms)));
    let mut rows = vec![
        vec!["boxmeter".to_owned(), health.version.clone()],
        vec!["sing-box".to_owned(), singbox],
        vec![
            lang.text("notify.report.backup").to_owned(),
            backup.unwrap_or_else(|| lang.text("none").to_owned()),
        ],
    ];
    if health.waiting > 0 {
        rows.push(vec![lang.text("notify.report.waiting").to_owned(), health.waiting.to_string()]);
    }
    if health.degraded.is_empty() {
        rows.push(vec![lang.text("notify.report.well").to_owned()]);
    }
    rows.extend(health.degraded.iter().map(|[part, reason]| vec![shown(part), shown(reason)]));
    Table { title: lang.text("notify.report.health").to_owned(), rows, ..Table::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    fn key(span: Span, at: &str, text: &str) -> String {
        last_due(span, at.parse().unwrap(), &now(text)).unwrap().key
    }

    #[test]
    fn the_last_one_that_was_due_is_the_one() {
        let daily = |text: &str| key(Span::Daily, "08:00", text);
        assert_eq!(
            daily("2026-11-29T07:59[Asia/Shanghai]"),
            "2026-11-27",
            "yesterday's report, if it is missing"
        );
        assert_eq!(daily("2026-11-29T08:00[Asia/Shanghai]"), "2026-11-28");
        assert_eq!(daily("2026-11-29T23:59[Asia/Shanghai]"), "2026-11-28");
        let monthly = |text: &str| key(Span::Monthly, "09:00", text);
        assert_eq!(monthly("2026-03-01T08:59[Asia/Shanghai]"), "2026-01");
        assert_eq!(monthly("2026-03-01T09:00[Asia/Shanghai]"), "2026-02");
        assert_eq!(monthly("2026-03-31T09:00[Asia/Shanghai]"), "2026-02");
    }

    /// The time of day that a change of clocks leaves out, and days of 23 and 25 hours.
    #[test]
    fn changes_of_clocks_are_ordinary_days() {
        assert_eq!(key(Span::Daily, "02:30", "2026-03-29T03:10[Europe/Berlin]"), "2026-03-27");
        assert_eq!(key(Span::Daily, "02:30", "2026-03-29T03:30[Europe/Berlin]"), "2026-03-28");
        let short =
            last_due(Span::Daily, "08:00".parse().unwrap(), &now("2026-03-30T09:00[Europe/Berlin]")).unwrap();
        let hours = (short.to.timestamp().as_second() - short.from.timestamp().as_second()) / 3600;
        assert_eq!(hours, 23);
    }
}
