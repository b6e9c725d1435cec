//! Which minute, hour and day an instant is in. Pure: no clock, no IO.
//!
//! Minutes are UTC's (no zone has an offset of broken minutes today). Hours and days are those of a
//! time zone, so that days in zones like Asia/Kathmandu stay exact when only days are kept.

use jiff::{Timestamp, tz::TimeZone};

use super::{error::QueryError, model::By};

pub(super) const MINUTE_MS: i64 = 60_000;
pub(super) const HOUR_MS: i64 = 3_600_000;

/// How finely usage is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Level {
    Minute,
    Hour,
    Day,
}

impl Level {
    pub(super) fn table(self) -> &'static str {
        match self {
            Level::Minute => "usage_minutes",
            Level::Hour => "usage_hours",
            Level::Day => "usage_days",
        }
    }

    pub(super) fn watched_table(self) -> &'static str {
        match self {
            Level::Minute => "watched_minutes",
            Level::Hour => "watched_hours",
            Level::Day => "watched_days",
        }
    }
}

/// An interval, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: i64,
    pub end: i64,
}

impl Span {
    pub(super) fn contains(&self, ms: i64) -> bool {
        self.start <= ms && ms < self.end
    }
}

fn timestamp(ms: i64) -> Result<Timestamp, QueryError> {
    Timestamp::from_millisecond(ms).map_err(|error| QueryError::Calendar(error.to_string()))
}

fn calendar(error: jiff::Error) -> QueryError {
    QueryError::Calendar(error.to_string())
}

pub(super) fn floor_minute(ms: i64) -> i64 {
    ms - ms.rem_euclid(MINUTE_MS)
}

pub(super) fn ceil_minute(ms: i64) -> i64 {
    floor_minute(ms.saturating_add(MINUTE_MS - 1))
}

/// The interval of `by` that contains the instant. `Range` and `Period` are no calendar intervals.
pub(super) fn span(by: By, ms: i64, zone: &TimeZone) -> Result<Span, QueryError> {
    match by {
        By::Minute | By::Range | By::Period => {
            let start = floor_minute(ms);
            Ok(Span { start, end: start + MINUTE_MS })
        }
        By::Hour => hour(ms, zone),
        By::Day => day(ms, zone),
        By::Month => month(ms, zone),
    }
}

pub(super) fn level_span(level: Level, ms: i64, zone: &TimeZone) -> Result<Span, QueryError> {
    match level {
        Level::Minute => span(By::Minute, ms, zone),
        Level::Hour => hour(ms, zone),
        Level::Day => day(ms, zone),
    }
}

/// The hour on the zone's clock. Where the clock jumps by less than an hour (Lord Howe), the hour
/// ends at the jump.
fn hour(ms: i64, zone: &TimeZone) -> Result<Span, QueryError> {
    let start = hour_start(ms, zone)?;
    let end = start + HOUR_MS;
    let next = hour_start(end, zone)?;
    if next == end || next <= start {
        // The usual case; and an hour cut short at its beginning ends where the next one begins.
        let cut = hour_start(end - 1, zone)?;
        return Ok(Span { start, end: if cut > start { cut } else { end } });
    }
    Ok(Span { start, end: next })
}

fn hour_start(ms: i64, zone: &TimeZone) -> Result<i64, QueryError> {
    let at = timestamp(ms)?;
    let offset_ms = i64::from(zone.to_offset(at).seconds()) * 1000;
    let start = ms - (ms + offset_ms).rem_euclid(HOUR_MS);
    if zone.to_offset(timestamp(start)?).seconds() == zone.to_offset(at).seconds() {
        return Ok(start);
    }
    let after = timestamp(ms.saturating_add(1))?;
    let jump = zone.preceding(after).next().map(|transition| transition.timestamp().as_millisecond());
    Ok(jump.filter(|jump| *jump > start).unwrap_or(start))
}

fn day(ms: i64, zone: &TimeZone) -> Result<Span, QueryError> {
    let start = timestamp(ms)?.to_zoned(zone.clone()).start_of_day().map_err(calendar)?;
    let end = start.tomorrow().and_then(|next| next.start_of_day()).map_err(calendar)?;
    Ok(Span { start: start.timestamp().as_millisecond(), end: end.timestamp().as_millisecond() })
}

fn month(ms: i64, zone: &TimeZone) -> Result<Span, QueryError> {
    let at = timestamp(ms)?.to_zoned(zone.clone());
    let first = at.date().first_of_month();
    let next = first.checked_add(jiff::Span::new().months(1)).map_err(calendar)?;
    // `to_zoned` takes the first instant of the day where midnight does not exist.
    let start = first.to_zoned(zone.clone()).and_then(|day| day.start_of_day()).map_err(calendar)?;
    let end = next.to_zoned(zone.clone()).and_then(|day| day.start_of_day()).map_err(calendar)?;
    Ok(Span { start: start.timestamp().as_millisecond(), end: end.timestamp().as_millisecond() })
}

/// The buckets of the present instant, remembered: the calendar is asked once an hour.
#[derive(Debug)]
pub(super) struct Buckets {
    zone: TimeZone,
    hour: Span,
    day: Span,
}

impl Buckets {
    pub(super) fn new(zone: TimeZone) -> Self {
        let never = Span { start: 0, end: 0 };
        Buckets { zone, hour: never, day: never }
    }

    /// The starts of the minute, the hour and the day that the instant is in.
    pub(super) fn starts(&mut self, ms: i64) -> Result<[i64; 3], QueryError> {
        if !self.hour.contains(ms) {
            self.hour = hour(ms, &self.zone)?;
        }
        if !self.day.contains(ms) {
            self.day = day(ms, &self.zone)?;
        }
        Ok([floor_minute(ms), self.hour.start, self.day.start])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn shown(by: By, at: &str, name: &str) -> (String, String) {
        let span = span(by, ms(at), &zone(name)).unwrap();
        (timestamp(span.start).unwrap().to_string(), timestamp(span.end).unwrap().to_string())
    }

    #[test]
    fn hours_follow_the_zones_clock() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            shown(By::Hour, "2026-11-24T10:10:00Z", "Asia/Kolkata"),
            pair("2026-11-24T09:30:00Z", "2026-11-24T10:30:00Z")
        );
        assert_eq!(
            shown(By::Hour, "2026-11-24T10:10:00Z", "Asia/Kathmandu"),
            pair("2026-11-24T09:15:00Z", "2026-11-24T10:15:00Z")
        );
    }

    #[test]
    fn days_and_months_follow_daylight_saving() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            shown(By::Day, "2026-03-29T12:00:00Z", "Europe/Berlin"),
            pair("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
        assert_eq!(
            shown(By::Day, "2026-10-25T12:00:00Z", "Europe/Berlin"),
            pair("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
        );
        assert_eq!(
            shown(By::Month, "2026-11-30T17:00:00Z", "Asia/Shanghai"),
            pair("2026-11-30T16:00:00Z", "2026-12-31T16:00:00Z")
        );
        // Midnight does not exist on this day in Cuba: the day begins at one o'clock.
        assert_eq!(
            shown(By::Day, "2026-03-08T12:00:00Z", "America/Havana"),
            pair("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z")
        );
    }

    #[test]
    fn a_jump_of_half_an_hour_ends_the_hour() {
        // Lord Howe, 2026-04-05 02:00 (+11) becomes 01:30 (+10:30), at 15:00Z of the 4th.
        let before = span(By::Hour, ms("2026-04-04T14:59:00Z"), &zone("Australia/Lord_Howe")).unwrap();
        let after = span(By::Hour, ms("2026-04-04T15:01:00Z"), &zone("Australia/Lord_Howe")).unwrap();
        assert_eq!(before.end, after.start);
        assert_eq!(after.start, ms("2026-04-04T15:00:00Z"));
        assert_eq!(after.end, ms("2026-04-04T15:30:00Z"));
    }

    proptest! {
        #[test]
        fn every_instant_is_in_its_bucket_and_buckets_adjoin(
            at in 1_600_000_000_000_i64..2_000_000_000_000,
            name in prop::sample::select(vec![
                "UTC", "Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin",
                "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham", "America/Havana",
            ]),
        ) {
            let zone = zone(name);
            for by in [By::Minute, By::Hour, By::Day, By::Month] {
                let here = span(by, at, &zone).unwrap();
                prop_assert!(here.contains(at), "{by:?} {here:?}");
                prop_assert_eq!(span(by, here.start, &zone).unwrap(), here);
                prop_assert_eq!(span(by, here.end - 1, &zone).unwrap(), here);
                prop_assert_eq!(span(by, here.end, &zone).unwrap().start, here.end);
            }
        }
    }
}
