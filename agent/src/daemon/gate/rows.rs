//! What readers see of the gate: one row per user, made when something was decided.

use std::{collections::BTreeMap, sync::Arc};

use boxmeter_web::api::reason::Reason;
use jiff::tz::TimeZone;

use super::{billing::Bases, member::Member, reasons};
use crate::{
    core::{
        event::{PolicyId, UserId},
        policy::State,
        terms::{Overrides, Terms},
    },
    ledger::{ParkedStage, PolicyRecord},
};

/// A user as decided last. What was used meanwhile is added by whoever shows it.
#[derive(Clone, Debug)]
pub struct GateRow {
    pub state: State,
    pub reason: Option<Reason>,
    pub policy: Option<String>,
    pub terms: Terms,
    pub overrides: Overrides,
    pub zone: TimeZone,
    /// Unix milliseconds.
    pub period_end_ms: Option<i64>,
    /// Billed bytes, to which what the kernel counted in its epoch is to be added.
    pub bases: Bases,
    /// Bytes left in packages, as of the decision.
    pub packages_left: u64,
    /// Bytes per second that the kernel holds the user to, by direction; 0 is no limit.
    pub rates: [u64; 2],
    /// The kernel drops the user's packets.
    pub cut: bool,
    /// The entries are not in sing-box's `users`.
    pub taken_out: bool,
}

/// By user. Readers hold the last ones while new ones are made: a change of one copies references only.
pub type Rows = Arc<BTreeMap<UserId, Arc<GateRow>>>;

pub(super) fn row(
    member: &Member,
    policies: &BTreeMap<PolicyId, PolicyRecord>,
    counted: u64,
    now_ms: i64,
) -> GateRow {
    let standing = &member.standing;
    let decision = member.decision.as_ref();
    GateRow {
        state: decision.map_or(State::Active, |decision| decision.state),
        reason: reasons::reason(member),
        policy: policies.get(&standing.settings.policy).map(|policy| policy.name.to_string()),
        terms: member.terms.clone(),
        overrides: standing.settings.overrides.clone(),
        zone: member.zone.clone(),
        period_end_ms: decision.and_then(|decision| decision.period_end_ms),
        bases: member.bases,
        packages_left: member.packages_left(counted, now_ms),
        rates: member.held.map_or([0; 2], |held| held.rates),
        cut: !member.connects(),
        taken_out: standing.parked.iter().any(|(stage, _)| *stage == ParkedStage::Out),
    }
}
