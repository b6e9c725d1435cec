//! One user as the gate sees it: what was used, what follows from it, what the kernel is to hold.

use std::{collections::BTreeSet, sync::Arc};

use boxmeter_common::user::UNLIMITED;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{
    billing::{Bases, OfMeter, wallet_of, zone_of},
    reasons,
};
use crate::{
    core::{
        notice::{Near, Notices},
        period::{self, Due, Kept, Rule},
        policy::{self, Admin, Before, Decision, SharingNow, Used},
        terms::Terms,
        wallet::{Usage, Wallet},
    },
    ledger::{AdminRecord, AdminState, PolicyRecord, Standing, StateRecord},
};

/// What the kernel is to hold for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Absolute values of the kernel's billed counter.
    pub cut_at: u64,
    pub warn_at: u64,
    /// Bytes per second by direction, 0 for no limit.
    pub rates: [u64; 2],
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    pub standing: Standing,
    pub terms: Terms,
    pub zone: TimeZone,
    pub wallet: Wallet,
    pub sharing: Option<SharingNow>,
    pub decision: Option<Decision>,
    /// As the hands were told last; somebody new is taken to be in sing-box's files. It outlives a reading
    /// anew, which a turn brings: what follows from that is a change.
    pub connected: bool,
    /// What was written to the kernel last.
    pub held: Option<Held>,
    /// The kernel's billed counter less what its accounts have of the billed meter: 0 but where the
    /// meter was changed within an epoch. `None` until it was measured.
    pub billed_offset: Option<i128>,
    /// A stricter limit is on its way to the ledger: what the kernel holds is not loosened.
    pub tightened: bool,
    /// When it was looked at last, in Unix milliseconds.
    looked_ms: Option<i64>,
    /// Expiries of packages that are still to be booked.
    expiries: BTreeSet<i64>,
    policy_known: bool,
    admin: Admin,
    before: Option<Before>,
    pub bases: Bases,
    /// What is told besides the terms' own warnings.
    pub notices: Arc<Notices>,
    /// What was handed to the ledger, which tells each once: (what of, which).
    noticed: BTreeSet<(i64, i64)>,
}

impl Member {
    /// From what the ledger knows now. `old`: the same user as it was known before.
    pub fn new(
        standing: Standing,
        policy: Option<&PolicyRecord>,
        billing_zone: &TimeZone,
        of_meter: OfMeter,
        old: Option<Member>,
    ) -> Self {
        let terms = policy::in_force(policy.map(|policy| &policy.terms), &standing.settings.overrides);
        Member {
            bases: Bases::new(&standing.used, &standing.total, &standing.taken_over, of_meter),
            wallet: wallet_of(&standing.wallet),
            zone: zone_of(&terms, billing_zone),
            policy_known: policy.is_some(),
            sharing: old.as_ref().and_then(|old| old.sharing),
            connected: old.as_ref().is_none_or(|old| old.connected),
            held: old.as_ref().and_then(|old| old.held),
            billed_offset: old.as_ref().and_then(|old| old.billed_offset),
            tightened: false,
            looked_ms: old.as_ref().and_then(|old| old.looked_ms),
            expiries: old.as_ref().map(|old| old.expiries.clone()).unwrap_or_default(),
            notices: old.as_ref().map(|old| Arc::clone(&old.notices)).unwrap_or_default(),
            noticed: old.as_ref().map(|old| old.noticed.clone()).unwrap_or_default(),
            before: old.and_then(|old| old.before).or_else(|| remembered(&standing.state)),
            admin: match standing.tombstoned_ms {
                // A running sing-box may not have read yet that the user is gone.
                Some(since_ms) => Admin::Disabled { since_ms, who: String::new() },
                None => admin(&standing.admin),
            },
            decision: None,
            terms,
            standing,
        }
    }

    /// `counted`: of the billed meter, by the kernel in its epoch.
    pub fn used(&self, counted: u64) -> Used {
        self.bases.used(counted)
    }

    /// Bytes left in packages after what the running account took of them.
    pub fn packages_left(&self, counted: u64, now_ms: i64) -> u64 {
        let used = self.used(counted).period;
        let usage = Usage { account: self.standing.account, used, quota: self.terms.quota_bytes };
        self.wallet.running(usage, now_ms).remaining
    }

    fn rule(&self) -> Rule {
        Rule::of(&self.terms, self.standing.created_ms)
    }

    /// What becomes of the account.
    pub fn due(&self, now_ms: i64) -> Due {
        period::due(self.standing.account, self.standing.kept.as_ref(), self.rule(), now_ms, &self.zone)
    }

    /// The rule that holds now, for an account that begins.
    pub fn kept(&self) -> Kept {
        Kept::of(self.rule(), &self.zone)
    }

    /// The instants at which packages have expired of which something was left, until each is booked
    /// ([`Member::booked`]): those since the last look, and at the first one all whose expiry the ledger
    /// does not have, whenever that was and whatever the clock did since.
    pub fn expired(&mut self, now_ms: i64) -> Vec<i64> {
        let from_ms = match self.looked_ms.replace(now_ms) {
            Some(looked_ms) => looked_ms,
            None => reasons::booked_ms(&self.standing.wallet, self.standing.account),
        };
        self.expiries.extend(reasons::unbooked(&self.wallet, from_ms, now_ms));
        self.expiries.iter().copied().collect()
    }

    /// These expiries are in the ledger.
    pub fn booked(&mut self, expiries: &[i64]) {
        self.expiries.retain(|at| !expiries.contains(at));
    }

    /// Decides anew. True if the state is another one than the ledger has.
    pub fn decide(&mut self, counted: u64, now_ms: i64) -> bool {
        let decision = policy::decide(&self.standing_for(counted, now_ms));
        self.before = Some(decision.before);
        let known = &self.standing.state;
        let changed = (word(&decision.state), word(&decision.before.cause))
            != (known.state.clone(), known.cause.clone());
        self.decision = Some(decision);
        changed
    }

    fn standing_for(&self, counted: u64, now_ms: i64) -> policy::Standing<'_> {
        policy::Standing {
            terms: &self.terms,
            policy_known: self.policy_known,
            admin: &self.admin,
            created_ms: self.standing.created_ms,
            first_use_ms: self.standing.first_use_ms,
            expires_ms: self.standing.settings.expires_ms,
            account: self.standing.account,
            kept: self.standing.kept.as_ref(),
            used: self.used(counted),
            wallet: &self.wallet,
            sharing: self.sharing,
            before: self.before,
            notices: &self.notices,
            now_ms,
            zone: &self.zone,
        }
    }

    /// What the kernel is to hold, from the decision that was made at `counted`.
    pub fn to_hold(&self, counted: u64) -> Held {
        let Some(decision) = &self.decision else {
            return Held { cut_at: UNLIMITED, warn_at: UNLIMITED, rates: [0, 0] };
        };
        let billed = i128::from(counted) + self.billed_offset.unwrap_or(0);
        let at = |bytes: u64| u64::try_from(billed + i128::from(bytes)).unwrap_or(0);
        let cut_at = match decision.cut_in {
            // Nothing passes, whatever the counter is.
            Some(0) => 0,
            Some(bytes) => at(bytes),
            None => UNLIMITED,
        };
        let step = decision.allowance.filter(|_| !decision.cut_when_used_up);
        let next = [step, decision.warn_in].into_iter().flatten().min();
        Held {
            cut_at,
            warn_at: next.map_or(UNLIMITED, at),
            rates: decision.rates.map(|rate| rate.unwrap_or(0)),
        }
    }

    pub fn deleted(&self) -> bool {
        self.standing.tombstoned_ms.is_some()
    }

    /// May the user connect? Before the first decision, yes: not knowing cuts nobody.
    pub fn connects(&self) -> bool {
        self.decision.as_ref().is_none_or(|decision| decision.state.connects())
    }

    /// When time may change the decision.
    pub fn look_again_ms(&self) -> Option<i64> {
        self.decision.as_ref().and_then(|decision| decision.look_again_ms)
    }

    /// Warnings that are due and were not told in this account.
    pub fn warnings(&self) -> Vec<u16> {
        let Some(decision) = &self.decision else { return Vec::new() };
        let told = &self.standing.warned;
        decision.crossed.iter().copied().filter(|percent| !told.contains(percent)).collect()
    }
}

/// What is due besides the warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A percentage of the quota over all time.
    Total(u16),
    Expiry(Near),
}

impl Member {
    /// What is due and was not handed on before. The ledger may know it from another life of the agent.
    pub fn notices_due(&mut self) -> Vec<Notice> {
        let Some(decision) = &self.decision else { return Vec::new() };
        let quota = self.terms.total_quota_bytes.and_then(|quota| i64::try_from(quota).ok()).unwrap_or(0);
        let total =
            decision.crossed_total.iter().map(|&percent| (Notice::Total(percent), (quota, percent.into())));
        let near = decision.expiry_near.map(|near| (Notice::Expiry(near), (near.expires_ms, near.before_ms)));
        let all: Vec<_> = total.chain(near).collect();
        // What does not hold any more may come to hold again.
        self.noticed.retain(|mark| all.iter().any(|(_, held)| held == mark));
        all.into_iter().filter(|(_, mark)| self.noticed.insert(*mark)).map(|(due, _)| due).collect()
    }
}

/// A word of the core as the ledger keeps it: that of its JSON.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// What was decided before the agent started: what goes on is not new.
fn remembered(state: &StateRecord) -> Option<Before> {
    let json = |word: &str| serde_json::Value::String(word.to_owned());
    Some(Before {
        state: serde_json::from_value(json(&state.state)).ok()?,
        cause: serde_json::from_value(json(&state.cause)).ok()?,
        since_ms: state.since_ms,
    })
}

fn admin(record: &AdminRecord) -> Admin {
    let since_ms = record.since_ms;
    let seen = |key: &str| {
        let number = record.evidence.as_ref().and_then(|evidence| evidence.get(key)?.as_u64());
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    };
    match record.state {
        AdminState::Enabled => Admin::Enabled,
        AdminState::Disabled => Admin::Disabled { since_ms, who: record.actor.clone() },
        AdminState::Suspended => Admin::Suspended {
            since_ms,
            until_ms: record.until_ms,
            addresses: seen("peak"),
            window_s: seen("window_s"),
        },
    }
}
