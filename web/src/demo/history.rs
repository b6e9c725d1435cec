//! Made-up usage: for every user and hour how much, from a seed. Whatever the faces show of one
//! user adds up, because everything is summed from the same hours.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::data::GIB;
use crate::api::{query::By, types::Traffic};

/// How far back the history goes.
pub(super) const DAYS: i64 = 60;
const HOUR_S: i64 = 3_600;

/// A small generator of numbers that look random: SplitMix64. Its whole state is the seed, so that
/// every demonstration with one seed is the same.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, but without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// In the given percentage of cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How much of a usual hour is used at which hour of the day, in percent.
const DAY: [u64; 24] =
    [60, 35, 20, 12, 10, 10, 20, 45, 70, 80, 85, 90, 120, 110, 90, 90, 95, 110, 140, 180, 220, 230, 180, 110];

/// Upload and download of every hour of one user.
#[derive(Clone, Debug, Default)]
pub(super) struct Hours {
    /// The hour since the epoch that `bytes` begins with.
    first: i64,
    bytes: Vec<[u64; 2]>,
}

fn hour_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(HOUR_S)
}

impl Hours {
    /// Two months of somebody who uses about so much a day, beginning so many days ago.
    pub fn made_up(now: &Zoned, random: &mut Random, per_day: u64, since_days: i64) -> Self {
        let last = hour_of(now.timestamp());
        let first = last - since_days.clamp(0, DAYS) * 24;
        let mut day_factor = 100;
        let bytes = (first..=last).map(|hour| {
            let local = at_hour(hour).to_zoned(now.time_zone().clone());
            if local.hour() == 0 || hour == first {
                day_factor = 40 + random.below(140);
            }
            let weight = DAY[usize::try_from(local.hour()).unwrap_or_default() % 24];
            let noise = 20 + random.below(160);
            // Of the running hour only what has passed.
            let part = if hour == last { u64::try_from(local.minute()).unwrap_or_default() } else { 60 };
            let total = (per_day / 24 / 1_000_000) * weight * noise * day_factor / 60 * part;
            let upload = total * (6 + random.below(12)) / 100;
            [upload, total - upload]
        });
        Hours { first, bytes: bytes.collect() }
    }

    /// Adds to the hour of `now`.
    pub fn add(&mut self, now: Timestamp, upload: u64, download: u64) {
        let hour = hour_of(now);
        if self.bytes.is_empty() {
            self.first = hour;
        }
        let at = usize::try_from(hour - self.first).unwrap_or(0);
        while self.bytes.len() <= at {
            self.bytes.push([0, 0]);
        }
        let [up, down] = &mut self.bytes[at];
        *up += upload;
        *down += download;
    }

    /// The sum of the hours that begin in the range.
    pub fn sum(&self, from: Timestamp, to: Timestamp) -> [u64; 2] {
        self.each(from, to).fold([0, 0], |[up, down], (_, hour)| [up + hour[0], down + hour[1]])
    }

    fn each(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = (Timestamp, [u64; 2])> {
        let (from, to) = (hour_of(from), to.as_second().saturating_add(HOUR_S - 1).div_euclid(HOUR_S));
        let hours = (self.first..).zip(self.bytes.iter().copied());
        hours.filter(move |(hour, _)| (from..to).contains(hour)).map(|(hour, it)| (at_hour(hour), it))
    }

    /// By spans of time: the beginning of each and its sum.
    pub fn by(&self, by: By, from: Timestamp, to: Timestamp, zone: &TimeZone) -> Vec<(Timestamp, [u64; 2])> {
        let mut spans: BTreeMap<Timestamp, [u64; 2]> = BTreeMap::new();
        for (at, [up, down]) in self.each(from, to) {
            let span = spans.entry(begin_of(by, at, zone)).or_default();
            *span = [span[0] + up, span[1] + down];
        }
        spans.into_iter().collect()
    }
}

fn at_hour(hour: i64) -> Timestamp {
    Timestamp::from_second(hour.saturating_mul(HOUR_S)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The beginning of the span that a moment lies in; the periods of a demonstration are months.
fn begin_of(by: By, at: Timestamp, zone: &TimeZone) -> Timestamp {
    let local = at.to_zoned(zone.clone());
    let start = match by {
        By::Minute | By::Hour => return at,
        By::Day => local.start_of_day(),
        By::Month | By::Period => local.first_of_month().and_then(|it| it.start_of_day()),
    };
    start.map_or(at, |it| it.timestamp())
}

/// Payload as counted, and what carries it.
pub(super) fn wire([upload, download]: [u64; 2]) -> Traffic {
    Traffic {
        upload_payload_bytes: upload,
        download_payload_bytes: download,
        upload_wire_bytes: upload + upload / 16 + download / 40,
        download_wire_bytes: download + download / 32 + upload / 40,
    }
}

/// About so much a day, for one of those who use little, more or much.
pub(super) fn habit(random: &mut Random) -> u64 {
    match random.below(10) {
        0..4 => GIB / 4 + random.below(GIB),
        4..8 => GIB + random.below(3 * GIB),
        _ => 4 * GIB + random.below(8 * GIB),
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    #[test]
    fn hours_days_and_months_add_up() {
        let now: Zoned = "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap();
        let hours = Hours::made_up(&now, &mut Random::new(7), 3 * GIB, DAYS);
        let from = now.checked_sub(70.days()).unwrap().timestamp();
        let sum = |rows: &[(Timestamp, [u64; 2])]| {
            rows.iter().fold([0, 0], |[up, down], (_, it)| [up + it[0], down + it[1]])
        };
        let whole = hours.sum(from, now.timestamp());
        assert!(whole[1] > 60 * GIB && whole[0] > GIB, "{whole:?}");
        for by in By::ALL {
            let rows = hours.by(by, from, now.timestamp(), now.time_zone());
            assert_eq!(sum(&rows), whole, "{by:?}");
        }
        let days = hours.by(By::Day, from, now.timestamp(), now.time_zone());
        assert!((60..=62).contains(&days.len()), "{}", days.len());
        let again = Hours::made_up(&now, &mut Random::new(7), 3 * GIB, DAYS);
        assert_eq!(again.sum(from, now.timestamp()), whole);
    }
}
