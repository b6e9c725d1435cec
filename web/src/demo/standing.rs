//! What follows for a made-up user from its terms and its usage: a short form of the agent's rules.

use jiff::Zoned;

use crate::api::types::*;

/// The state and why.
pub(super) fn standing(now: &Zoned, user: &User, terms: &Terms) -> (UserState, Option<Reason>) {
    let at = Time::from(now);
    let stays = match &user.cause {
        Some(Reason::Disabled { .. }) => Some(UserState::Disabled),
        Some(Reason::Suspended { .. }) => Some(UserState::Suspended),
        Some(Reason::NotUsedYet { .. }) => Some(UserState::Pending),
        _ => None,
    };
    if let Some(state) = stays {
        return (state, user.cause.clone());
    }
    if let Some(expired) = user.expires_at.filter(|it| it.instant <= now.timestamp()) {
        return (UserState::Expired, Some(Reason::Expired { at: expired, valid_days: None }));
    }
    let (used_bytes, total) = (user.period.used_bytes, user.total.used_bytes);
    if let Some(quota_bytes) = terms.total_quota_bytes.filter(|quota| total >= *quota) {
        return (UserState::Limited, Some(Reason::TotalQuota { at, used_bytes: total, quota_bytes }));
    }
    let Some(quota_bytes) = terms.quota_bytes.filter(|_| user.packages.remaining_bytes == 0) else {
        return (UserState::Active, None);
    };
    let cut = [Step { percent: 100, then: Then::Cut }];
    let steps = if terms.over_quota.is_empty() { &cut[..] } else { &terms.over_quota[..] };
    let until = user.period.end;
    let reached =
        |step: &&Step| u128::from(used_bytes) * 100 >= u128::from(quota_bytes) * u128::from(step.percent);
    match steps.iter().rfind(reached) {
        None => (UserState::Active, None),
        Some(Step { then: Then::Cut, .. }) => (
            UserState::Limited,
            Some(Reason::PeriodQuota { at, used_bytes, quota_bytes, packages_bytes: 0, until }),
        ),
        Some(&Step { percent, then: Then::Throttle(rate) }) => {
            let cause =
                Reason::OverQuota { at, percent, used_bytes, quota_bytes, packages_bytes: 0, rate, until };
            (UserState::Throttled, Some(cause))
        }
    }
}
