//! Which buckets make up which interval of an answer. Pure: no SQL, no clock.
//!
//! An interval is cut into whole days, then hours, then minutes of the ledger's own zone, the
//! coarsest first. Where the finer buckets of a day or hour are not kept any more, the bucket as a
//! whole goes to the interval in which it began, and that interval is not exact: every bucket is in
//! exactly one interval, so that sums are right even where an edge is not.

use jiff::tz::TimeZone;

use super::{
    bucket::{self, Level, Span},
    error::QueryError,
    model::By,
};

/// Rows per user that one answer may have: two years of hours.
pub(super) const INTERVALS_MAX: usize = 20_000;

/// What of the history is kept how finely.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub zone: TimeZone,
    pub minutes_from: i64,
    pub hours_from: i64,
    /// Before this, days were those of another zone and are taken as wholes.
    pub zone_from: i64,
}

impl Kept {
    /// The finest buckets that the day or hour that begins then can be taken apart into.
    fn splits_day(&self, day_start: i64) -> bool {
        day_start >= self.hours_from && day_start >= self.zone_from
    }

    fn splits_hour(&self, hour_start: i64) -> bool {
        hour_start >= self.minutes_from
    }

    /// The smallest interval that the ledger can still tell at this instant.
    fn finest(&self, ms: i64) -> Result<Span, QueryError> {
        let day = bucket::level_span(Level::Day, ms, &self.zone)?;
        if !self.splits_day(day.start) {
            return Ok(day);
        }
        let hour = bucket::level_span(Level::Hour, ms, &self.zone)?;
        if !self.splits_hour(hour.start) {
            return Ok(hour);
        }
        bucket::level_span(Level::Minute, ms, &self.zone)
    }
}

/// A run of buckets of one level, by their starts, that belongs to one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub level: Level,
    pub span: Span,
    /// Index of the interval.
    pub interval: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub span: Span,
    pub exact: bool,
}

/// The intervals of `by` over a range of whole minutes. Minutes and hours that are not kept any more
/// become the hours and days that are.
pub(super) fn intervals(by: By, range: Span, zone: &TimeZone, kept: &Kept) -> Result<Vec<Span>, QueryError> {
    if matches!(by, By::Range | By::Period) {
        return Ok(vec![range]);
    }
    let mut intervals = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let mut span = bucket::span(by, at, zone)?;
        if matches!(by, By::Minute | By::Hour) {
            let finest = kept.finest(at)?;
            if finest.start < span.start || finest.end > span.end {
                span = finest;
            }
        }
        span.start = span.start.max(at);
        span.end = span.end.min(range.end);
        at = span.end;
        intervals.push(span);
        if intervals.len() > INTERVALS_MAX {
            return Err(QueryError::TooLong(INTERVALS_MAX));
        }
    }
    Ok(intervals)
}

/// Cuts adjoining intervals into pieces, in order of time.
pub(super) fn pieces(spans: &[Span], kept: &Kept) -> Result<(Vec<Interval>, Vec<Piece>), QueryError> {
    let mut intervals = Vec::with_capacity(spans.len());
    let mut cutter = Cutter { kept, pieces: Vec::new(), interval: 0, exact: true };
    for (index, span) in spans.iter().enumerate() {
        cutter.interval = index;
        cutter.exact = true;
        cutter.days(*span)?;
        intervals.push(Interval { span: *span, exact: cutter.exact });
    }
    Ok((intervals, cutter.pieces))
}

struct Cutter<'a> {
    kept: &'a Kept,
    pieces: Vec<Piece>,
    interval: usize,
    exact: bool,
}

impl Cutter<'_> {
    fn days(&mut self, span: Span) -> Result<(), QueryError> {
        let [left, whole, right] = whole_buckets(Level::Day, span, &self.kept.zone)?;
        self.within_day(left)?;
        self.push(Level::Day, whole);
        self.within_day(right)
    }

    /// A part of one day.
    fn within_day(&mut self, span: Span) -> Result<(), QueryError> {
        if span.start >= span.end {
            return Ok(());
        }
        let day = bucket::level_span(Level::Day, span.start, &self.kept.zone)?;
        if !self.kept.splits_day(day.start) {
            self.exact = false;
            self.push(Level::Day, span);
            return Ok(());
        }
        let [left, whole, right] = whole_buckets(Level::Hour, span, &self.kept.zone)?;
        self.within_hour(left)?;
        self.push(Level::Hour, whole);
        self.within_hour(right)
    }

    /// A part of one hour.
    fn within_hour(&mut self, span: Span) -> Result<(), QueryError> {
        if span.start >= span.end {
            return Ok(());
        }
        let hour = bucket::level_span(Level::Hour, span.start, &self.kept.zone)?;
        if self.kept.splits_hour(hour.start) {
            self.push(Level::Minute, span);
        } else {
            self.exact = false;
            self.push(Level::Hour, span);
        }
        Ok(())
    }

    fn push(&mut self, level: Level, span: Span) {
        if span.start < span.end {
            self.pieces.push(Piece { level, span, interval: self.interval });
        }
    }
}

/// The part before the first whole bucket, the whole buckets, and the part after the last one.
fn whole_buckets(level: Level, span: Span, zone: &TimeZone) -> Result<[Span; 3], QueryError> {
    let none = Span { start: span.end, end: span.end };
    if span.start >= span.end {
        return Ok([none; 3]);
    }
    let first = bucket::level_span(level, span.start, zone)?;
    let from = if first.start == span.start { first.start } else { first.end };
    if from > span.end {
        return Ok([span, none, none]);
    }
    let to = bucket::level_span(level, span.end, zone)?.start.max(from);
    Ok([
        Span { start: span.start, end: from },
        Span { start: from, end: to },
        Span { start: to, end: span.end },
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is kept, the pieces adjoin and cover the range: no bucket is left out or in twice.
        #[test]
        fn pieces_cover_the_range_once(
            from in 1_700_000_000_000_i64..1_703_000_000_000,
            length in 1_i64..6_000_000_000,
            minutes_from in 1_699_000_000_000_i64..1_709_000_000_000,
            hours_back in 0_i64..4_000_000_000,
            by in prop::sample::select(vec![By::Range, By::Hour, By::Day, By::Month]),
            zones in prop::sample::select(vec![
                ("UTC", "Asia/Kolkata"), ("Asia/Kathmandu", "UTC"), ("Asia/Shanghai", "Asia/Shanghai"),
                ("Europe/Berlin", "America/New_York"), ("Australia/Lord_Howe", "UTC"),
            ]),
        ) {
            let kept = Kept {
                zone: TimeZone::get(zones.0).unwrap(),
                minutes_from,
                hours_from: minutes_from - hours_back,
                zone_from: i64::MIN,
            };
            let range = Span { start: bucket::floor_minute(from), end: bucket::ceil_minute(from + length) };
            let spans = intervals(by, range, &TimeZone::get(zones.1).unwrap(), &kept).unwrap();
            let (_, pieces) = pieces(&spans, &kept).unwrap();
            let mut at = range.start;
            for piece in &pieces {
                prop_assert_eq!(piece.span.start, at);
                prop_assert!(piece.span.end > at);
                at = piece.span.end;
            }
            prop_assert_eq!(at, range.end);
            // A bucket that is split anywhere is split everywhere: no piece of a coarse level begins
            // within a bucket of it that finer pieces were taken from.
            for pair in pieces.windows(2) {
                if pair[0].level < pair[1].level {
                    let start = pair[1].span.start;
                    let begins = bucket::level_span(pair[1].level, start, &kept.zone).unwrap().start == start;
                    prop_assert!(begins, "{:?}", pair);
                }
            }
        }
    }
}
