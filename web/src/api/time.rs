//! Instants: how they stand in JSON, and how people may type them.

use std::{fmt, str::FromStr};

use jiff::{
    Span, Timestamp, ToSpan, Unit, Zoned,
    civil::{Date, DateTime},
    fmt::temporal::Pieces,
    tz::{Offset, TimeZone},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant with the offset that it is shown in. Equal instants are equal at any offset.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    pub instant: Timestamp,
    pub offset: Offset,
}

impl Time {
    pub fn new(instant: Timestamp, zone: &TimeZone) -> Self {
        Time { instant, offset: zone.to_offset(instant) }
    }

    /// From Unix milliseconds, as the ledger has them; what no calendar has is cut to what it has.
    pub fn from_ms(wall_ms: i64, zone: &TimeZone) -> Self {
        let edge = if wall_ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Self::new(Timestamp::from_millisecond(wall_ms).unwrap_or(edge), zone)
    }

    pub fn zoned(&self) -> Zoned {
        self.instant.to_zoned(self.offset.to_time_zone())
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.instant == other.instant
    }
}

impl Eq for Time {}

impl From<&Zoned> for Time {
    fn from(zoned: &Zoned) -> Self {
        Time { instant: zoned.timestamp(), offset: zoned.offset() }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instant.display_with_offset(self.offset).fmt(f)
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let instant: Timestamp = text.parse()?;
        let offset = Pieces::parse(text)?.to_numeric_offset().unwrap_or(Offset::UTC);
        Ok(Time { instant, offset })
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The forms that [`parse_time`] takes, for messages.
pub const TIME_FORMS: &str = "an RFC 3339 time (2026-11-01T08:00:00+08:00), a date (2026-11-01), \
                              a date and time (2026-11-01 08:00), now, today, yesterday, month, \
                              or an age such as -7d, -3h, -30m";

/// A time that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a time: give {TIME_FORMS}")]
pub struct BadTime {
    pub text: String,
}

/// Reads what people type, relative to `now` and in its zone. Days and months mean their
/// beginning, so that ranges put side by side neither overlap nor leave a gap.
pub fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp, BadTime> {
    relative_or_absolute(text.trim(), now).ok_or_else(|| BadTime { text: text.to_owned() })
}

/// The forms that [`parse_future`] takes, for messages.
pub const FUTURE_FORMS: &str = "a date (2026-12-31), a date and time (2026-12-31 08:00), an RFC 3339 \
                                time, or a span from now such as 30d or 12h";

/// Why a time to come was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFuture {
    #[error("{0:?} is not a time to come: give {FUTURE_FORMS}")]
    Form(String),
    #[error("{0} lies in the past: give {FUTURE_FORMS}")]
    Past(Time),
}

/// Reads a time to come as people type it: spans count from `now`, days mean their beginning in
/// its zone.
pub fn parse_future(text: &str, now: &Zoned) -> Result<Timestamp, BadFuture> {
    let trimmed = text.trim();
    let span = parse_age(trimmed.strip_prefix('+').unwrap_or(trimmed));
    let time = match span {
        Some(span) => now.checked_add(span).ok().map(|it| it.timestamp()),
        None if trimmed.starts_with('-') => None,
        None => relative_or_absolute(trimmed, now),
    };
    match time {
        None => Err(BadFuture::Form(text.to_owned())),
        Some(time) if time <= now.timestamp() => Err(BadFuture::Past(Time::new(time, now.time_zone()))),
        Some(time) => Ok(time),
    }
}

fn relative_or_absolute(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zone = now.time_zone();
    let day = |date: Date| start_of(date, zone);
    match text.to_ascii_lowercase().as_str() {
        "now" => return Some(now.timestamp()),
        "today" => return day(now.date()),
        "yesterday" => return day(now.date().yesterday().ok()?),
        "month" | "this month" | "this-month" => return day(now.date().first_of_month()),
        "last month" | "last-month" => {
            let first = now.date().first_of_month();
            return day(first.checked_sub(1.month()).ok()?);
        }
        _ => {}
    }
    if let Some(age) = text.strip_prefix('-') {
        return Some(now.checked_sub(parse_age(age)?).ok()?.timestamp());
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    match text.len() {
        // A date alone; jiff's parsers also take a longer text for a date, so the length decides.
        10 => day(text.parse().ok()?),
        _ => {
            let civil: DateTime = text.parse().ok()?;
            Some(zone.to_timestamp(civil).ok()?)
        }
    }
}

/// A day begins at its first instant: not always at midnight, where clocks change then.
fn start_of(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    Some(date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?.timestamp())
}

/// `7d`, `3h`, `1d12h`: numbers with units, all of them whole.
fn parse_age(text: &str) -> Option<Span> {
    let mut span = Span::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        span = add_unit(span, number, &tail[..unit_len])?;
        rest = &tail[unit_len..];
    }
    (!text.is_empty()).then_some(span)
}

fn add_unit(span: Span, number: i64, unit: &str) -> Option<Span> {
    let unit = match unit {
        "s" => Unit::Second,
        "m" | "min" => Unit::Minute,
        "h" => Unit::Hour,
        "d" => Unit::Day,
        "w" => Unit::Week,
        "mo" | "month" | "months" => Unit::Month,
        "y" => Unit::Year,
        _ => return None,
    };
    let set = match unit {
        Unit::Second => span.try_seconds(number),
        Unit::Minute => span.try_minutes(number),
        Unit::Hour => span.try_hours(number),
        Unit::Day => span.try_days(number),
        Unit::Week => span.try_weeks(number),
        Unit::Month => span.try_months(number),
        _ => span.try_years(number),
    };
    set.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
    }

    fn at(text: &str) -> String {
        let zone = now().time_zone().clone();
        Time::new(parse_time(text, &now()).unwrap(), &zone).to_string()
    }

    #[test]
    fn people_type_times_in_many_forms() {
        assert_eq!(at("2026-11-01T00:00:00Z"), "2026-11-01T08:00:00+08:00");
        assert_eq!(at("2026-11-01"), "2026-11-01T00:00:00+08:00");
        assert_eq!(at("2026-11-01 08:15"), "2026-11-01T08:15:00+08:00");
        assert_eq!(at("2026-11-01T08:15"), "2026-11-01T08:15:00+08:00");
        assert_eq!(at("now"), "2026-11-24T15:30:00+08:00");
        assert_eq!(at("Today"), "2026-11-24T00:00:00+08:00");
        assert_eq!(at("yesterday"), "2026-11-23T00:00:00+08:00");
        assert_eq!(at("this month"), "2026-11-01T00:00:00+08:00");
        assert_eq!(at("last month"), "2026-10-01T00:00:00+08:00");
        assert_eq!(at("-7d"), "2026-11-17T15:30:00+08:00");
        assert_eq!(at("-1d12h"), "2026-11-23T03:30:00+08:00");
        assert_eq!(at("-30m"), "2026-11-24T15:00:00+08:00");
    }

    #[test]
    fn what_is_not_a_time_is_refused_with_the_forms() {
        for text in ["", "-", "7d", "-7", "-7q", "tomorrowish", "2026-13-01", "2026-02-30", "-é"] {
            let error = parse_time(text, &now()).unwrap_err().to_string();
            assert!(error.contains("2026-11-01"), "{text:?}: {error}");
        }
        assert!(parse_time("-99999999999999999999d", &now()).is_err());
    }

    #[test]
    fn times_to_come_are_dates_or_spans() {
        let at = |text: &str| {
            let zone = now().time_zone().clone();
            Time::new(parse_future(text, &now()).unwrap(), &zone).to_string()
        };
        assert_eq!(at("2026-12-31"), "2026-12-31T00:00:00+08:00");
        assert_eq!(at("2026-12-31 08:00"), "2026-12-31T08:00:00+08:00");
        assert_eq!(at("2026-12-31T00:00:00Z"), "2026-12-31T08:00:00+08:00");
        assert_eq!(at("30d"), "2026-12-24T15:30:00+08:00");
        assert_eq!(at("+12h"), "2026-11-25T03:30:00+08:00");
        assert_eq!(at("1mo"), "2026-12-24T15:30:00+08:00");
        for text in ["2020-01-01", "today", "now", "0d"] {
            assert!(matches!(parse_future(text, &now()), Err(BadFuture::Past(_))), "{text}");
        }
        for text in ["", "-7d", "soon", "30", "2026-02-30", "99999999999999999999d", "+"] {
            let error = parse_future(text, &now()).unwrap_err();
            assert!(matches!(&error, BadFuture::Form(_)), "{text}");
            assert!(error.to_string().contains("30d"), "{error}");
        }
    }

    #[test]
    fn a_day_without_midnight_begins_at_its_first_instant() {
        let now: Zoned = "2018-11-04T12:00:00-02:00[America/Sao_Paulo]".parse().unwrap();
        let start = parse_time("today", &now).unwrap();
        assert_eq!(Time::new(start, now.time_zone()).to_string(), "2018-11-04T01:00:00-02:00");
    }

    #[test]
    fn the_offset_survives_json() {
        let json = "\"2026-11-01T00:00:00+08:00\"";
        let time: Time = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&time).unwrap(), json);
    }
}
