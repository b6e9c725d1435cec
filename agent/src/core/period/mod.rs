//! The billing window that holds an instant, and when an account turns into the next one.
//!
//! A window is a pure function of the rule, the zone and the instant: a clock that jumps changes which
//! window holds now, never the windows. Windows of one rule tile the time line without gap or overlap.
//! They begin at the first instant of a civil day in the zone: that is local midnight, the end of the
//! gap where clocks skip midnight, the first of the two where midnight comes twice.

use jiff::{
    Span, Timestamp,
    civil::{Date, date},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

use super::terms::{PeriodKind, Terms};

#[cfg(test)]
pub(crate) mod tests;

/// One billing account of a user: usage is tagged with the one in force when it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountPeriod {
    /// UTC milliseconds.
    pub start_ms: i64,
    /// One more with each "reset traffic" within the period.
    pub generation: i64,
}

impl AccountPeriod {
    /// The account before the first billing period: that of users who were only metered so far.
    pub const UNSET: AccountPeriod = AccountPeriod { start_ms: 0, generation: 0 };

    /// The account after "reset traffic": the period's usage begins anew at 0, and the period keeps
    /// its begin and its end.
    #[must_use]
    pub fn reset(self) -> AccountPeriod {
        AccountPeriod { start_ms: self.start_ms, generation: self.generation.saturating_add(1) }
    }
}

/// How the time line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub kind: PeriodKind,
    /// Month: 1–31, clamped to the month's last day. Week: 1 (Monday) – 7. What is out of range is
    /// taken as the nearest in range.
    pub reset_day: u8,
    /// When the user was made, UTC milliseconds: `Days` are counted from its civil date.
    pub created_ms: i64,
}

impl Rule {
    #[must_use]
    pub fn of(terms: &Terms, created_ms: i64) -> Rule {
        Rule { kind: terms.period, reset_day: terms.reset_day, created_ms }
    }
}

/// From `start_ms` up to, but not including, `end_ms`; UTC milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// `i64::MIN` where the calendar has no earlier window.
    pub start_ms: i64,
    /// `None`: it never ends.
    pub end_ms: Option<i64>,
}

/// An account has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub account: AccountPeriod,
    /// The window of the new account.
    pub window: Window,
    /// Whole periods between the old account and the new one, in which nothing was counted: the agent
    /// was off, or the clock jumped.
    pub skipped: u32,
    /// There was no billing period before ([`AccountPeriod::UNSET`]).
    pub first: bool,
}

/// The window that holds an instant: `start_ms ≤ at_ms`, and `at_ms < end_ms` if there is an end.
/// Total: instants that no calendar has belong to the first or the last window.
#[must_use]
pub fn window(rule: Rule, at_ms: i64, zone: &TimeZone) -> Window {
    let cuts = Cuts::new(rule, zone);
    let index = cuts.index(at_ms);
    cuts.window(index)
}

/// The rule that an account goes by: as it was when the account began, or when it was changed under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    kind: PeriodKind,
    reset_day: u8,
    /// Of a zone without a name nobody can tell later what it was.
    zone: Option<String>,
    /// The account lasts until then: the first cut of this rule after it took the place of another one.
    /// `None`: until the rule cuts.
    until_ms: Option<i64>,
}

impl Kept {
    #[must_use]
    pub fn of(rule: Rule, zone: &TimeZone) -> Kept {
        let zone = zone.iana_name().map(str::to_owned);
        Kept { kind: rule.kind, reset_day: rule.reset_day, zone, until_ms: None }
    }

    fn is(&self, rule: Rule, zone: &TimeZone) -> bool {
        (self.kind, self.reset_day, self.zone.as_deref()) == (rule.kind, rule.reset_day, zone.iana_name())
    }

    /// Whether the account is over by this rule.
    fn is_over(&self, account: AccountPeriod, created_ms: i64, at_ms: i64) -> bool {
        let Some(zone) = self.zone.as_ref().and_then(|name| TimeZone::get(name).ok()) else { return false };
        let rule = Rule { kind: self.kind, reset_day: self.reset_day, created_ms };
        turn(account, self.until_ms, rule, at_ms, &zone).is_some()
    }
}

/// What becomes of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    Lasts,
    /// It goes on, by this rule: to be kept with it.
    Keeps(Kept),
    Turns(Turn),
}

/// What is due of an account at `at_ms`. `kept` is the rule that is kept with it, `rule` the one that holds.
///
/// An account never goes back: when the clock does, or when a new rule makes the present window begin
/// earlier, it stays until the window that holds its begin is over. Another reset day or zone gives nobody
/// a second quota: the account goes on until the new rule cuts next. Another kind of period begins at once.
#[must_use]
pub fn due(account: AccountPeriod, kept: Option<&Kept>, rule: Rule, at_ms: i64, zone: &TimeZone) -> Due {
    let until_ms = kept.filter(|kept| kept.is(rule, zone)).and_then(|kept| kept.until_ms);
    let turn = turn(account, until_ms, rule, at_ms, zone);
    match (kept, turn) {
        (Some(kept), None) if kept.is(rule, zone) => Due::Lasts,
        (_, None) => Due::Keeps(Kept::of(rule, zone)),
        (Some(kept), Some(turn))
            if !turn.first
                && !kept.is(rule, zone)
                && std::mem::discriminant(&kept.kind) == std::mem::discriminant(&rule.kind)
                && !kept.is_over(account, rule.created_ms, at_ms) =>
        {
            Due::Keeps(Kept { until_ms: turn.window.end_ms, ..Kept::of(rule, zone) })
        }
        (_, Some(turn)) => Due::Turns(turn),
    }
}

/// The account that follows, once its time has come: `until_ms`, or when the rule cuts.
fn turn(
    account: AccountPeriod,
    until_ms: Option<i64>,
    rule: Rule,
    at_ms: i64,
    zone: &TimeZone,
) -> Option<Turn> {
    let cuts = Cuts::new(rule, zone);
    let index = cuts.index(at_ms);
    let window = cuts.window(index);
    let first = account == AccountPeriod::UNSET;
    let next = AccountPeriod { start_ms: window.start_ms, generation: 0 };
    let lasts = until_ms.is_some_and(|until| at_ms < until);
    if lasts || next == account || window.start_ms <= account.start_ms && !first {
        return None;
    }
    // Its last moment is in the period that it was of.
    let last_ms = until_ms.map_or(account.start_ms, |until| until.saturating_sub(1));
    let skipped = if first { 0 } else { u32::try_from(index - cuts.index(last_ms) - 1).unwrap_or(0) };
    Some(Turn { account: next, window, skipped, first })
}

/// When an account ends, if nothing changes: by the window that holds now, or that of its begin while the
/// clock is before it.
#[must_use]
pub fn end_ms(
    account: AccountPeriod,
    kept: Option<&Kept>,
    rule: Rule,
    now_ms: i64,
    zone: &TimeZone,
) -> Option<i64> {
    let until_ms = match due(account, kept, rule, now_ms, zone) {
        Due::Lasts => kept.and_then(|kept| kept.until_ms),
        Due::Keeps(kept) => kept.until_ms,
        Due::Turns(_) => None,
    };
    until_ms.or_else(|| window(rule, now_ms.max(account.start_ms), zone).end_ms)
}

/// The instants at which windows begin, by index.
struct Cuts<'a> {
    rule: Rule,
    zone: &'a TimeZone,
    created: Date,
}

impl<'a> Cuts<'a> {
    fn new(rule: Rule, zone: &'a TimeZone) -> Self {
        Cuts { rule, zone, created: civil_date(rule.created_ms, zone) }
    }

    fn index(&self, at_ms: i64) -> i64 {
        let mut index = self.guess(at_ms);
        // Where clocks change at midnight, the civil date of an instant may lie on the other side of
        // the cut.
        while self.begin(index).is_some_and(|begin| begin > at_ms) {
            index -= 1;
        }
        while self.begin(index + 1).is_some_and(|begin| begin <= at_ms) {
            index += 1;
        }
        index
    }

    fn window(&self, index: i64) -> Window {
        Window { start_ms: self.begin(index).unwrap_or(i64::MIN), end_ms: self.begin(index + 1) }
    }

    fn guess(&self, at_ms: i64) -> i64 {
        let date = civil_date(at_ms, self.zone);
        match self.rule.kind {
            PeriodKind::Never => i64::from(at_ms >= self.rule.created_ms),
            PeriodKind::Month => {
                let month = months(date);
                if self.date(month).is_some_and(|begin| begin <= date) { month } else { month - 1 }
            }
            PeriodKind::Week | PeriodKind::Day | PeriodKind::Days(_) => {
                days_between(self.origin(), date).div_euclid(self.step())
            }
        }
    }

    /// The first instant of a window; `None` past the ends of the calendar.
    fn begin(&self, index: i64) -> Option<i64> {
        if self.rule.kind == PeriodKind::Never {
            return (index == 1).then_some(self.rule.created_ms);
        }
        first_instant(self.date(index)?, self.zone)
    }

    /// The civil date on which a window begins.
    fn date(&self, index: i64) -> Option<Date> {
        if self.rule.kind == PeriodKind::Month {
            let year = i16::try_from(index.div_euclid(12)).ok()?;
            let month = i8::try_from(index.rem_euclid(12) + 1).ok()?;
            let first = Date::new(year, month, 1).ok()?;
            let day = self.rule.reset_day.clamp(1, 31);
            return Date::new(year, month, (day as i8).min(first.days_in_month())).ok();
        }
        let span = Span::new().try_days(index.checked_mul(self.step())?).ok()?;
        self.origin().checked_add(span).ok()
    }

    /// The date on which window 0 of windows that are so many days long begins.
    fn origin(&self) -> Date {
        match self.rule.kind {
            PeriodKind::Days(_) => self.created,
            // 4 January 1970 was a Sunday.
            PeriodKind::Week => {
                let day = self.rule.reset_day.clamp(1, 7);
                date(1970, 1, 4 + day as i8)
            }
            _ => date(1970, 1, 1),
        }
    }

    /// Days.
    fn step(&self) -> i64 {
        match self.rule.kind {
            PeriodKind::Week => 7,
            PeriodKind::Days(days) => i64::from(days.max(1)),
            _ => 1,
        }
    }
}

/// Months since year 0.
fn months(date: Date) -> i64 {
    i64::from(date.year()) * 12 + i64::from(date.month()) - 1
}

fn days_between(from: Date, to: Date) -> i64 {
    from.until(to).map_or(0, |span| i64::from(span.get_days()))
}

/// What no calendar has is cut to what it has.
pub(super) fn timestamp(ms: i64) -> Timestamp {
    let edge = if ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(ms).unwrap_or(edge)
}

fn civil_date(ms: i64, zone: &TimeZone) -> Date {
    zone.to_datetime(timestamp(ms)).date()
}

fn first_instant(date: Date, zone: &TimeZone) -> Option<i64> {
    let start = date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?;
    Some(start.timestamp().as_millisecond())
}

/// The instant so many civil days later, at the same time of day; `None` past the end of the calendar.
#[must_use]
pub fn days_after(ms: i64, days: u32, zone: &TimeZone) -> Option<i64> {
    let later = timestamp(ms).to_zoned(zone.clone()).checked_add(Span::new().try_days(days).ok()?);
    Some(later.ok()?.timestamp().as_millisecond())
}
