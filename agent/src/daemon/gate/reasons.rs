//! From the core's decisions to what the ledger keeps and people read.

use boxmeter_web::{
    api::{reason::Reason as ApiReason, types::Time},
    locale::Lang,
};
use jiff::tz::TimeZone;
use serde_json::json;

use super::{
    billing::{OfMeter, billed, wallet_of, zone_of},
    member::{self, Member, word},
};
use crate::{
    core::{
        period::{self, AccountPeriod, Due, Rule},
        policy::{self, Before, Cause, Reason, State},
        wallet::{Usage, Wallet, What},
    },
    ledger::{Closing, NewEntry, Notice, NoticeOf, Settle, StateChange, WalletEntry, Warning},
};

/// Why the user is in its state, as the API says it. `None`: nothing limits it.
pub fn reason(member: &Member) -> Option<ApiReason> {
    let zone = &member.zone;
    let time = |ms: i64| Time::from_ms(ms, zone);
    Some(match member.decision.as_ref()?.reason.clone() {
        Reason::Active | Reason::NoPolicy => return None,
        Reason::FirstUse { valid_days } => ApiReason::NotUsedYet { valid_days },
        Reason::PeriodQuota { since_ms, used, quota, paid, back_ms, .. } => ApiReason::PeriodQuota {
            packages_bytes: paid,
            at: time(since_ms),
            used_bytes: used,
            quota_bytes: quota,
            until: back_ms.map(time),
        },
        Reason::PeriodThrottle { since_ms, used, quota, paid, percent, rate, back_ms } => {
            ApiReason::OverQuota {
                packages_bytes: paid,
                at: time(since_ms),
                percent,
                used_bytes: used,
                quota_bytes: quota,
                rate,
                until: back_ms.map(time),
            }
        }
        Reason::TotalQuota { since_ms, used, quota } => {
            ApiReason::TotalQuota { at: time(since_ms), used_bytes: used, quota_bytes: quota }
        }
        Reason::SharingThrottle { since_ms, addresses, window_s, rate } => {
            ApiReason::Shared { at: time(since_ms), networks: addresses, window_s, rate }
        }
        Reason::Expired { at_ms } => ApiReason::Expired { at: time(at_ms), valid_days: None },
        Reason::ExpiredAfterUse { at_ms, valid_days, .. } => {
            ApiReason::Expired { at: time(at_ms), valid_days: Some(valid_days) }
        }
        Reason::Disabled { since_ms, who } => ApiReason::Disabled { at: time(since_ms), who },
        Reason::Suspended { since_ms, addresses, window_s, until_ms } => {
            let until = until_ms.map(time);
            ApiReason::Suspended { at: time(since_ms), networks: addresses, window_s, until }
        }
    })
}

/// The state as decided, with the event that tells it.
pub fn state_change(member: &Member, now_ms: i64) -> StateChange {
    let before = member.decision.as_ref().map(|decision| decision.before);
    let Before { state, cause, since_ms } =
        before.unwrap_or(Before { state: State::Active, cause: Cause::None, since_ms: now_ms });
    let reason = reason(member);
    let message = match &reason {
        Some(reason) => reason.sentence(Lang::En, member.zone.iana_name()),
        None => "active: nothing limits it".to_owned(),
    };
    let severity = if state.connects() { "info" } else { "warning" };
    StateChange {
        user: member.standing.id,
        state: word(&state),
        cause: word(&cause),
        since_ms,
        data: json!({
            "from": member.standing.state.state,
            "to": word(&state),
            "cause": reason,
            "time_zone": member.zone.iana_name(),
            "message": message,
            "severity": severity,
        }),
    }
}

/// A percentage of the quota that was reached.
pub fn warning(member: &Member, percent: u16, counted: u64, now_ms: i64) -> Warning {
    let used = member.used(counted).period;
    let quota = member.terms.quota_bytes.unwrap_or(0);
    let sizes = (crate::units::Size(used), crate::units::Size(quota));
    Warning {
        user: member.standing.id,
        account: member.standing.account,
        percent,
        data: json!({
            "percent": percent,
            "used_bytes": used,
            "quota_bytes": quota,
            "message": format!("{percent} % of the quota reached: {} of {} used", sizes.0, sizes.1),
            "severity": "warning",
        }),
        at_ms: now_ms,
    }
}

/// What is told besides the warnings, once.
pub fn notice(member: &Member, due: member::Notice, counted: u64, now_ms: i64) -> Notice {
    let user = member.standing.id;
    match due {
        member::Notice::Total(percent) => {
            let (used, quota) = (member.used(counted).total, member.terms.total_quota_bytes.unwrap_or(0));
            let sizes = (crate::units::Size(used), crate::units::Size(quota));
            Notice {
                user,
                of: NoticeOf::TotalQuota(quota),
                mark: percent.into(),
                data: json!({
                    "percent": percent,
                    "used_bytes": used,
                    "quota_bytes": quota,
                    "message": format!("{percent} % of the total quota reached: {} of {} used", sizes.0, sizes.1),
                    "severity": "warning",
                }),
                at_ms: now_ms,
            }
        }
        member::Notice::Expiry(near) => {
            let at = Time::from_ms(near.expires_ms, &member.zone);
            Notice {
                user,
                of: NoticeOf::Expiry(near.expires_ms),
                mark: near.before_ms,
                data: json!({
                    "expires_at": at,
                    "time_zone": member.zone.iana_name(),
                    "before_s": near.before_ms / 1000,
                    "message": format!("expires on {}", at.zoned().strftime("%Y-%m-%d %H:%M")),
                    "severity": "warning",
                }),
                at_ms: now_ms,
            }
        }
    }
}

/// What an account books when it ends: what packages paid of it, and what is left for the next one
/// where the policy says so. One that goes on books what packages paid so far.
/// `until_ms`: the last instant at which the usage may have happened. Packages that have expired before that
/// and whose expiry was not booked yet pay too: nobody knows what was used before it and what after, and the
/// account goes on without them.
pub fn settle(billing_zone: TimeZone, of_meter: OfMeter, until_ms: i64) -> Settle {
    Box::new(move |closing: &Closing| {
        let terms = policy::in_force(Some(&closing.terms), &closing.overrides);
        let zone = zone_of(&terms, &billing_zone);
        let wallet = wallet_of(&closing.wallet);
        let usage = Usage {
            account: closing.account,
            used: billed(&closing.used, of_meter),
            quota: terms.quota_bytes,
        };
        let booked_ms =
            booked_ms(&closing.wallet, closing.account).max(closing.expired_ms.unwrap_or(i64::MIN));
        let alive_ms = match unbooked(&wallet, booked_ms, until_ms).first() {
            Some(expiry) => until_ms.min(expiry.saturating_sub(1)),
            None => until_ms,
        };
        let Some(next) = closing.next else {
            return written(wallet.settle(usage, alive_ms));
        };
        let mut entries = wallet.spendings(usage, alive_ms);
        let rule = Rule::of(&terms, closing.created_ms);
        let due = period::due(closing.account, closing.kept.as_ref(), rule, until_ms, &zone);
        if let Due::Turns(turn) = due
            && terms.rollover
            && turn.account == next
        {
            entries.extend(wallet.rollover(usage, &turn, alive_ms));
        }
        written(entries)
    })
}

/// Until when the ledger has what packages paid of an account: the last entry of it, else its beginning.
pub fn booked_ms(wallet: &[WalletEntry], account: AccountPeriod) -> i64 {
    let of_account = wallet.iter().filter(|entry| entry.account == Some(account));
    of_account.map(|entry| entry.at_ms).max().unwrap_or(account.start_ms)
}

/// The instants after `from_ms` and up to `until_ms` at which packages expired of which something was left.
pub fn unbooked(wallet: &Wallet, from_ms: i64, until_ms: i64) -> Vec<i64> {
    let lots = wallet.lots().iter().filter(|lot| lot.left() > 0);
    let mut expiries: Vec<i64> =
        lots.filter_map(|lot| lot.expires_ms).filter(|&at| from_ms < at && at <= until_ms).collect();
    expiries.sort_unstable();
    expiries.dedup();
    expiries
}

fn written(entries: Vec<What>) -> Vec<NewEntry> {
    entries.into_iter().map(|what| NewEntry::of(what, None)).collect()
}
