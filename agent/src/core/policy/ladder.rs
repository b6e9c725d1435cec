//! What the quota of a period does to a user, now and so many bytes later.
//!
//! Usage is a line: first the quota with the steps below 100 %, then the packages, then the steps from
//! 100 % on. [`Ladder::at`] tells the outcome at a distance from now, [`Ladder::next`] where it changes.

use crate::core::{
    terms::{Step, Then},
    wallet::Running,
};

/// What holds on a stretch of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Full,
    /// By the step at this percentage; bytes per second.
    Throttle {
        percent: u16,
        rate: u64,
    },
    Cut {
        percent: u16,
    },
}

/// Without a ladder of their own, people are cut when the quota is used up.
const CUT_AT_100: [Step; 1] = [Step { percent: 100, then: Then::Cut }];

pub(super) struct Ladder<'a> {
    quota: u64,
    steps: &'a [Step],
    running: Running,
    /// Bytes from now until packages begin to pay; 0 when they do.
    packages_in: u64,
}

/// So many percent of the quota, rounded up to the byte.
pub(super) fn threshold(quota: u64, percent: u16) -> u64 {
    let bytes = (u128::from(quota) * u128::from(percent)).div_ceil(100);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl<'a> Ladder<'a> {
    pub fn new(quota: u64, steps: &'a [Step], running: Running) -> Self {
        let steps = if steps.is_empty() { &CUT_AT_100 } else { steps };
        let packages_in = running.packages_at.saturating_sub(running.base);
        Ladder { quota, steps, running, packages_in }
    }

    /// The outcome so many bytes from now.
    pub fn at(&self, distance: u64) -> Outcome {
        let before = distance.min(self.packages_in);
        let past = distance - before;
        let paid = past.min(self.running.remaining);
        let level = self.running.base.saturating_add(distance - paid);
        self.reached(level, level >= self.quota && past < self.running.remaining)
    }

    /// `paying`: packages pay at this place, and steps from 100 % on are behind them.
    fn reached(&self, level: u64, paying: bool) -> Outcome {
        let reached = |step: &&Step| {
            let at = threshold(self.quota, step.percent);
            at <= level && !(paying && at >= self.quota)
        };
        let steps = || self.steps.iter().filter(reached);
        let cut = steps().filter(|step| step.then == Then::Cut).map(|step| step.percent).min();
        if let Some(percent) = cut {
            return Outcome::Cut { percent };
        }
        if paying {
            return Outcome::Full;
        }
        match steps().max_by_key(|step| step.percent) {
            Some(&Step { percent, then: Then::Throttle(rate) }) => Outcome::Throttle { percent, rate },
            _ => Outcome::Full,
        }
    }

    /// The distance of the first change to an outcome that `wanted` accepts.
    pub fn next(&self, wanted: impl Fn(Outcome) -> bool) -> Option<u64> {
        let packages_end = self.packages_in.saturating_add(self.running.remaining);
        let steps = self.steps.iter().filter_map(|step| self.distance(step.percent));
        let mut changes: Vec<u64> = steps.chain([0, self.packages_in, packages_end]).collect();
        changes.sort_unstable();
        changes.into_iter().find(|&distance| distance < u64::MAX && wanted(self.at(distance)))
    }

    /// Bytes from now until the step at a percentage may begin; `None` if its bytes are used already,
    /// or so many that no counter gets there.
    fn distance(&self, percent: u16) -> Option<u64> {
        let at = threshold(self.quota, percent);
        let waits = at >= self.quota && self.running.remaining > 0;
        let begins = if waits { at.max(self.running.packages_at) } else { at };
        let packages = if waits { self.running.remaining } else { 0 };
        begins.checked_sub(self.running.base)?.checked_add(packages)
    }

    /// Bytes from now until a warning; what is told at 100 % is that the quota is used up, whether
    /// packages follow or not.
    pub fn warning(&self, percent: u16) -> Option<u64> {
        let at = threshold(self.quota, percent);
        let packages = if at > self.quota { self.running.remaining } else { 0 };
        at.checked_sub(self.running.base).filter(|&bytes| bytes > 0)?.checked_add(packages)
    }
}
