//! What people are warned of: percentages of quotas that are reached, and an expiry that is near.

use super::{Admin, Judge, ladder::Ladder, ladder::threshold};
use crate::core::notice::Near;

impl<'a> Judge<'a> {
    /// The percentages that people are warned at. There is nothing to warn of where there is no quota, or one
    /// of 0.
    fn warn_percents(&self) -> impl Iterator<Item = (u16, &Ladder<'a>)> {
        let ladder = self.ladder.as_ref().filter(|_| self.standing.terms.quota_bytes != Some(0));
        let own = self.standing.terms.warn_percents.iter();
        let percents = own.chain(&self.standing.notices.percents);
        ladder.into_iter().flat_map(move |ladder| percents.clone().map(move |&percent| (percent, ladder)))
    }

    /// The bytes over all time at which somebody wants to be told.
    fn total_thresholds(&self) -> impl Iterator<Item = (u16, u64)> {
        let quota = self.standing.terms.total_quota_bytes.filter(|&quota| quota > 0);
        let percents = self.standing.notices.percents.iter();
        quota
            .into_iter()
            .flat_map(move |quota| percents.clone().map(move |&percent| (percent, threshold(quota, percent))))
    }

    pub(super) fn warn_in(&self) -> Option<u64> {
        let used = self.standing.used.total;
        let total = self.total_thresholds().filter_map(|(_, at)| at.checked_sub(used));
        let period = self.warn_percents().filter_map(|(percent, ladder)| ladder.warning(percent));
        period.chain(total.filter(|&bytes| bytes > 0)).min()
    }

    pub(super) fn crossed(&self) -> Vec<u16> {
        let quota = self.standing.terms.quota_bytes.unwrap_or(u64::MAX);
        let reached = |&percent: &u16| threshold(quota, percent) <= self.running.base;
        in_order(self.warn_percents().map(|(percent, _)| percent).filter(reached).collect())
    }

    pub(super) fn crossed_total(&self) -> Vec<u16> {
        let used = self.standing.used.total;
        in_order(self.total_thresholds().filter(|(_, at)| *at <= used).map(|(percent, _)| percent).collect())
    }

    /// When somebody wants to be told that a user expires, with how long before that is.
    pub(super) fn expiry_notices(&self) -> impl Iterator<Item = (i64, i64)> {
        let expiry = self.expiry.map(|expiry| expiry.at_ms);
        let before = &self.standing.notices.expiry_before_ms;
        expiry.into_iter().flat_map(move |at| before.iter().map(move |&ms| (at.saturating_sub(ms), ms)))
    }

    /// One who cannot connect for another reason is not told that it will end.
    pub(super) fn expiry_near(&self) -> Option<Near> {
        let expires_ms = self.expiry?.at_ms;
        let now_ms = self.standing.now_ms;
        if expires_ms <= now_ms || matches!(self.standing.admin, Admin::Disabled { .. }) {
            return None;
        }
        let begun = self.expiry_notices().filter(|(at, _)| *at <= now_ms);
        begun.map(|(_, before_ms)| Near { expires_ms, before_ms }).min_by_key(|near| near.before_ms)
    }
}

fn in_order(mut percents: Vec<u16>) -> Vec<u16> {
    percents.sort_unstable();
    percents.dedup();
    percents
}
