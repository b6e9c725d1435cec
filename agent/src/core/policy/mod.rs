//! What a user may do now, why, and until when: a pure function of the terms, the usage and the time.
//!
//! The order of what is asked, the first that applies decides: disabled by an admin, suspended, expired,
//! total quota, the ladder of the period's quota, sharing, waiting for the first use.
//!
//! **The ladder and packages.** Percentages are shares of the period's quota (rounded up to the byte).
//! Steps below 100 hold while the quota runs. At 100 packages are used first, at full speed; steps at and
//! past 100 begin when packages are used up, so that all of them move behind the packages. Bytes that a
//! package paid for are in no percentage. No ladder means cut at 100; a ladder without a cut never cuts; a
//! cut that is reached stays. With a quota of 100, a package of 30, and steps 80 → throttle, 100 →
//! throttle more, 120 → cut:
//!
//! | used | state |
//! |---|---|
//! | 0 – 79 | active |
//! | 80 – 99 | throttled by the step at 80 |
//! | 100 – 129 | active, out of the package |
//! | 130 – 149 | throttled by the step at 100 |
//! | 150 | limited by the step at 120 |

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{
    notice::{Near, Notices},
    period::{self, AccountPeriod, Due, Kept, Rule},
    terms::{Overrides, SharingAction, Terms},
    wallet::{Running, Usage, Wallet},
};
use ladder::{Ladder, Outcome};

mod ladder;
#[cfg(test)]
mod tests;
mod warnings;

/// The word of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Active,
    Limited,
    Throttled,
    Expired,
    Disabled,
    Suspended,
    Pending,
}

impl State {
    /// May the user connect?
    #[must_use]
    pub fn connects(self) -> bool {
        matches!(self, State::Active | State::Throttled | State::Pending)
    }
}

/// What people decided about a user, not what usage or time did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Admin {
    #[default]
    Enabled,
    /// Stays until an admin enables the user.
    Disabled { since_ms: i64, who: String },
    /// For sharing the account; until an admin enables the user, or until an instant.
    /// With what was seen: so many addresses within so many seconds.
    Suspended { since_ms: i64, until_ms: Option<i64>, addresses: u32, window_s: u32 },
}

/// Billed bytes: both directions of the configured meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Of the account.
    pub period: u64,
    /// Over all time.
    pub total: u64,
}

/// Sharing is going on now (see `core::crowd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharingNow {
    pub since_ms: i64,
    /// At the same time.
    pub addresses: u32,
}

/// What the last decision said, so that "since when" stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub state: State,
    pub cause: Cause,
    pub since_ms: i64,
}

/// Everything that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// See [`in_force`].
    pub terms: &'a Terms,
    /// `false`: the user's policy does not exist (any more).
    pub policy_known: bool,
    pub admin: &'a Admin,
    pub created_ms: i64,
    /// `None`: nothing was used since the user was made or since the validity was given.
    pub first_use_ms: Option<i64>,
    /// A fixed date; beside it `valid_days` after the first use. The earlier one counts.
    pub expires_ms: Option<i64>,
    /// The caller has turned it ([`super::period::due`]); if not, `look_again_ms` is now.
    pub account: AccountPeriod,
    /// The rule that is kept with it.
    pub kept: Option<&'a Kept>,
    pub used: Used,
    pub wallet: &'a Wallet,
    pub sharing: Option<SharingNow>,
    /// Of the last decision, if there was one.
    pub before: Option<Before>,
    /// What is told besides the terms' own warnings.
    pub notices: &'a Notices,
    pub now_ms: i64,
    /// Of the terms, or of billing.
    pub zone: &'a TimeZone,
}

/// Which rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    None,
    FirstUse,
    PeriodQuota,
    TotalQuota,
    Sharing,
    Expiry,
    Admin,
}

/// Why a user is in a state, with the figures. Instants are UTC milliseconds, rates bytes per second.
/// The daemon makes the API's reason of it, with offsets and the zone; that one makes the sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Active,
    /// Active, because the policy does not exist.
    NoPolicy,
    /// Waits for the first use, from which on it is valid so many days.
    FirstUse {
        valid_days: u32,
    },
    /// Cut by the ladder. `paid`: bytes that packages paid for, not in `used`.
    PeriodQuota {
        since_ms: i64,
        used: u64,
        quota: u64,
        paid: u64,
        percent: u16,
        back_ms: Option<i64>,
    },
    /// Slowed by the ladder.
    PeriodThrottle {
        since_ms: i64,
        used: u64,
        quota: u64,
        paid: u64,
        percent: u16,
        rate: u64,
        back_ms: Option<i64>,
    },
    TotalQuota {
        since_ms: i64,
        used: u64,
        quota: u64,
    },
    SharingThrottle {
        since_ms: i64,
        addresses: u32,
        window_s: u32,
        rate: u64,
    },
    Expired {
        at_ms: i64,
    },
    /// Expired so many days after the first use.
    ExpiredAfterUse {
        at_ms: i64,
        first_use_ms: i64,
        valid_days: u32,
    },
    Disabled {
        since_ms: i64,
        who: String,
    },
    Suspended {
        since_ms: i64,
        addresses: u32,
        window_s: u32,
        until_ms: Option<i64>,
    },
}

/// What is to be done about a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub state: State,
    pub reason: Reason,
    /// Billed bytes from now until bytes change the state or the rates; `None` never, 0: cut now.
    /// `used + allowance` is the first byte count of the new state.
    pub allowance: Option<u64>,
    /// Bytes from now until the user is cut, whatever happens before; `None` never. For the kernel's
    /// `cut_at`, so that a ladder ends at the byte though nobody decides again in between.
    pub cut_in: Option<u64>,
    /// What the allowance ends in: the cut, or something that the caller has to decide about again.
    pub cut_when_used_up: bool,
    /// Bytes until the next warning percentage.
    pub warn_in: Option<u64>,
    /// Warning percentages that are reached, rising. The caller tells each once per account.
    pub crossed: Vec<u16>,
    /// The same of the quota over all time, of those that are asked for by the notices.
    pub crossed_total: Vec<u16>,
    pub expiry_near: Option<Near>,
    /// Bytes per second, upload and download.
    pub rates: [Option<u64>; 2],
    /// The next instant at which time may change the decision.
    pub look_again_ms: Option<i64>,
    /// The end of the account's period.
    pub period_end_ms: Option<i64>,
    /// For the next [`Standing`].
    pub before: Before,
}

/// The terms of a user. Without a policy (deleted, or unknown to this ledger) only the user's own values
/// hold and the rest is unlimited: a gap in the books cuts nobody.
#[must_use]
pub fn in_force(policy: Option<&Terms>, own: &Overrides) -> Terms {
    match policy {
        Some(policy) => policy.with(own),
        None => Terms::default().with(own),
    }
}

/// What is to be done about a user. Total: there is an answer to every standing.
#[must_use]
pub fn decide(standing: &Standing<'_>) -> Decision {
    Judge::new(standing).decide()
}

/// A decision in the making: what several rules need, computed once.
struct Judge<'a> {
    standing: &'a Standing<'a>,
    running: Running,
    ladder: Option<Ladder<'a>>,
    period_end_ms: Option<i64>,
    expiry: Option<Expiry>,
}

/// When a user expires, and whether the first use decided that.
#[derive(Clone, Copy)]
struct Expiry {
    at_ms: i64,
    after_use: Option<(i64, u32)>,
}

impl<'a> Judge<'a> {
    fn new(standing: &'a Standing<'a>) -> Self {
        let Standing { terms, account, used, wallet, now_ms, zone, .. } = *standing;
        let usage = Usage { account, used: used.period, quota: terms.quota_bytes };
        let running = wallet.running(usage, now_ms);
        let rule = Rule::of(terms, standing.created_ms);
        Judge {
            standing,
            running,
            ladder: terms.quota_bytes.map(|quota| Ladder::new(quota, &terms.over_quota, running)),
            period_end_ms: period::end_ms(account, standing.kept, rule, now_ms, zone),
            expiry: expiry(standing),
        }
    }

    fn decide(&self) -> Decision {
        let terms = self.standing.terms;
        let outcome = self.outcome(0);
        let (state, cause) = self.cause(outcome);
        let before = Before { state, cause, since_ms: self.since(state, cause) };
        let ladder = self.ladder.as_ref();
        let change = ladder.and_then(|ladder| ladder.next(|other| other != outcome));
        let cut = ladder.and_then(|ladder| ladder.next(|other| matches!(other, Outcome::Cut { .. })));
        let total = terms.total_quota_bytes.map(|quota| quota.saturating_sub(self.standing.used.total));
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        let (allowance, cut_in) = match state.connects() {
            true => (least(change, total), least(cut, total)),
            false => (Some(0), Some(0)),
        };
        Decision {
            state,
            reason: self.reason(before, outcome),
            allowance,
            cut_in,
            cut_when_used_up: allowance.is_some() && allowance == cut_in,
            warn_in: self.warn_in(),
            crossed: self.crossed(),
            crossed_total: self.crossed_total(),
            expiry_near: self.expiry_near(),
            rates: self.rates(outcome),
            look_again_ms: self.look_again(),
            period_end_ms: self.period_end_ms,
            before,
        }
    }

    fn outcome(&self, distance: u64) -> Outcome {
        self.ladder.as_ref().map_or(Outcome::Full, |ladder| ladder.at(distance))
    }

    /// The first rule that applies.
    fn cause(&self, outcome: Outcome) -> (State, Cause) {
        let Standing { terms, admin, used, now_ms, .. } = *self.standing;
        match *admin {
            Admin::Disabled { .. } => return (State::Disabled, Cause::Admin),
            Admin::Suspended { until_ms, .. } if until_ms.is_none_or(|until| now_ms < until) => {
                return (State::Suspended, Cause::Sharing);
            }
            _ => {}
        }
        if self.expiry.is_some_and(|expiry| expiry.at_ms <= now_ms) {
            return (State::Expired, Cause::Expiry);
        }
        if terms.total_quota_bytes.is_some_and(|quota| used.total >= quota) {
            return (State::Limited, Cause::TotalQuota);
        }
        match outcome {
            Outcome::Cut { .. } => (State::Limited, Cause::PeriodQuota),
            Outcome::Throttle { .. } => (State::Throttled, Cause::PeriodQuota),
            Outcome::Full if self.sharing_rate().is_some() => (State::Throttled, Cause::Sharing),
            Outcome::Full if self.waits() => (State::Pending, Cause::FirstUse),
            Outcome::Full => (State::Active, Cause::None),
        }
    }

    fn waits(&self) -> bool {
        self.standing.first_use_ms.is_none() && self.standing.terms.valid_days.is_some()
    }

    fn sharing_rate(&self) -> Option<u64> {
        match self.standing.terms.sharing.action {
            SharingAction::Throttle(rate) => self.standing.sharing.map(|_| rate),
            _ => None,
        }
    }

    fn since(&self, state: State, cause: Cause) -> i64 {
        let before = self.standing.before.filter(|before| (before.state, before.cause) == (state, cause));
        before.map_or(self.standing.now_ms, |before| before.since_ms)
    }

    fn reason(&self, Before { state, cause, since_ms }: Before, outcome: Outcome) -> Reason {
        let Standing { terms, admin, used, .. } = *self.standing;
        let quota = terms.quota_bytes.unwrap_or(u64::MAX);
        let (used_of_quota, paid, back_ms) = (self.running.base, self.running.paid, self.period_end_ms);
        match (cause, admin, outcome) {
            (Cause::Admin, Admin::Disabled { since_ms, who }, _) => {
                Reason::Disabled { since_ms: *since_ms, who: who.clone() }
            }
            (Cause::Sharing, &Admin::Suspended { since_ms, until_ms, addresses, window_s }, _)
                if state == State::Suspended =>
            {
                Reason::Suspended { since_ms, addresses, window_s, until_ms }
            }
            (Cause::Expiry, ..) => self.expired(),
            (Cause::TotalQuota, ..) => {
                let quota = terms.total_quota_bytes.unwrap_or(u64::MAX);
                Reason::TotalQuota { since_ms, used: used.total, quota }
            }
            (_, _, Outcome::Cut { percent }) => {
                Reason::PeriodQuota { since_ms, used: used_of_quota, quota, paid, percent, back_ms }
            }
            (_, _, Outcome::Throttle { percent, rate }) => {
                Reason::PeriodThrottle { since_ms, used: used_of_quota, quota, paid, percent, rate, back_ms }
            }
            (_, _, Outcome::Full) => self.at_full_quota(),
        }
    }

    /// Reasons of users whom no quota limits.
    fn at_full_quota(&self) -> Reason {
        let Standing { terms, sharing, policy_known, .. } = *self.standing;
        if let (Some(now), Some(rate)) = (sharing, self.sharing_rate()) {
            let SharingNow { since_ms, addresses } = now;
            return Reason::SharingThrottle { since_ms, addresses, window_s: terms.sharing.window_s, rate };
        }
        match terms.valid_days.filter(|_| self.waits()) {
            Some(valid_days) => Reason::FirstUse { valid_days },
            None if policy_known => Reason::Active,
            None => Reason::NoPolicy,
        }
    }

    fn expired(&self) -> Reason {
        match self.expiry {
            Some(Expiry { at_ms, after_use: Some((first_use_ms, valid_days)) }) => {
                Reason::ExpiredAfterUse { at_ms, first_use_ms, valid_days }
            }
            expiry => Reason::Expired { at_ms: expiry.map_or(self.standing.now_ms, |expiry| expiry.at_ms) },
        }
    }

    fn rates(&self, outcome: Outcome) -> [Option<u64>; 2] {
        let ladder = match outcome {
            Outcome::Throttle { rate, .. } => Some(rate),
            _ => None,
        };
        let terms = self.standing.terms;
        let sharing = self.sharing_rate();
        [terms.speed_up, terms.speed_down].map(|own| [own, ladder, sharing].into_iter().flatten().min())
    }

    fn look_again(&self) -> Option<i64> {
        let Standing { terms, admin, created_ms, account, wallet, now_ms, zone, .. } = *self.standing;
        let rule = Rule::of(terms, created_ms);
        if matches!(period::due(account, self.standing.kept, rule, now_ms, zone), Due::Turns(_)) {
            return Some(now_ms);
        }
        let suspended_until = match admin {
            Admin::Suspended { until_ms, .. } => *until_ms,
            _ => None,
        };
        let expiry = self.expiry.map(|expiry| expiry.at_ms);
        let instants = [self.period_end_ms, expiry, wallet.next_expiry(now_ms), suspended_until];
        let instants = instants.into_iter().flatten().chain(self.expiry_notices().map(|(at, _)| at));
        instants.filter(|&at| at > now_ms).min()
    }
}

/// The earlier of the fixed date and the days after the first use.
fn expiry(standing: &Standing<'_>) -> Option<Expiry> {
    let after_use = standing.first_use_ms.zip(standing.terms.valid_days).and_then(|(first_use_ms, days)| {
        let at_ms = period::days_after(first_use_ms, days, standing.zone)?;
        Some(Expiry { at_ms, after_use: Some((first_use_ms, days)) })
    });
    let fixed = standing.expires_ms.map(|at_ms| Expiry { at_ms, after_use: None });
    fixed.into_iter().chain(after_use).min_by_key(|expiry| expiry.at_ms)
}
