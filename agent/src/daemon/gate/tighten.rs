//! Before a limit is lowered: the kernel holds the stricter of what it holds and what a change will make of
//! it. The next look, after the change is in the ledger or was refused, sets what is right.

use std::sync::Arc;

use super::{
    Gate, counted,
    member::{Held, Member},
};
use crate::{
    core::event::{Now, UserId},
    daemon::{meter::Meter, shared::Tighter},
    ledger::{AdminState, PolicyRecord},
};

/// Of two rates the lower one; 0 is none.
fn lower(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, rate) | (rate, 0) => rate,
        (a, b) => a.min(b),
    }
}

/// What is held while one of the two may be in force.
pub(super) fn stricter(held: Held, wanted: Held) -> Held {
    let [up, down] = [0, 1].map(|at: usize| lower(held.rates[at], wanted.rates[at]));
    Held {
        cut_at: wanted.cut_at.min(held.cut_at),
        warn_at: wanted.warn_at.min(held.warn_at),
        rates: [up, down],
    }
}

impl Gate {
    pub fn tighten(&mut self, tighter: &Tighter, meter: &mut Meter, now: Now) {
        match tighter {
            Tighter::Settings(user, _) | Tighter::Out(user) => self.tighten_one(*user, tighter, meter, now),
            Tighter::Policy(policy, _) => {
                let has = |member: &Member| member.standing.settings.policy == *policy && !member.deleted();
                let users = self.members.iter().filter(|(_, member)| has(member)).map(|(&user, _)| user);
                for user in users.collect::<Vec<_>>() {
                    self.tighten_one(user, tighter, meter, now);
                }
            }
        }
    }

    fn tighten_one(&mut self, user: UserId, tighter: &Tighter, meter: &mut Meter, now: Now) {
        let Some(member) = self.members.get(&user) else { return };
        let Some(slot) = meter.kernel.user_slot(user) else { return };
        let mut standing = member.standing.clone();
        match tighter {
            Tighter::Out(_) => standing.admin.state = AdminState::Disabled,
            Tighter::Settings(_, change) => {
                let settings = &mut standing.settings;
                settings.policy = change.policy.unwrap_or(settings.policy);
                settings.overrides = change.overrides.clone().unwrap_or_else(|| settings.overrides.clone());
                settings.expires_ms = change.expires_ms.unwrap_or(settings.expires_ms);
            }
            Tighter::Policy(..) => {}
        }
        let policy = self.policies.get(&standing.settings.policy);
        let policy = match tighter {
            Tighter::Policy(_, terms) => {
                policy.map(|policy| PolicyRecord { terms: terms.as_ref().clone(), ..policy.clone() })
            }
            Tighter::Out(_) | Tighter::Settings(..) => policy.cloned(),
        };
        let mut trial = Member::new(standing, policy.as_ref(), &self.zone, self.of_meter, None);
        trial.billed_offset = member.billed_offset;
        trial.notices = Arc::clone(&self.notices);
        let counted = counted(meter, user, self.of_meter);
        trial.decide(counted, now.wall_ms);
        let wanted = trial.to_hold(counted);
        let held = member.held.unwrap_or(wanted);
        let held = stricter(held, wanted);
        meter.kernel.set_budget(slot, held.cut_at, held.warn_at);
        if meter.kernel.rates(slot) != held.rates {
            meter.kernel.set_rates(slot, held.rates);
        }
        if let Some(member) = self.members.get_mut(&user) {
            // Until the user is loaded anew, nothing is loosened again.
            member.held = Some(held);
            member.tightened = true;
        }
    }
}
