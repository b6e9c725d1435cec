//! What the gate asks of the ledger, beside the agent's loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};

use tokio::sync::oneshot;

use super::{Gate, reasons};
use crate::{
    clock,
    core::event::UserId,
    ledger::{
        AdminChange, AdminState, Asked, CommitError, Keep, Ledger, Notice, PolicyRecord, Standing,
        StateChange, Turn, Warning,
    },
};

/// How long a job waits after the ledger could not do its part, before it asks again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Warnings, and rules, of one transaction: each waits for the disk, and a tick waits for each.
const WARNINGS_AT_ONCE: usize = 1_000;

pub(super) type Job = Pin<Box<dyn Future<Output = News> + Send>>;

/// What a job found.
pub enum News {
    /// Everybody, as the ledger has them now.
    Everybody(Result<(Vec<PolicyRecord>, Vec<Standing>), CommitError>),
    /// Some users, as the ledger has them now.
    Some(Vec<(UserId, Option<Standing>)>),
    /// What could not be written comes back; and whose first use is written now.
    Written(Writes, Vec<UserId>, Option<CommitError>),
    /// Users of whom packages have expired, as the ledger has them now; the expiries that are booked; and why
    /// others are not.
    Settled(Vec<(UserId, Option<Standing>)>, Vec<(UserId, i64)>, Option<CommitError>),
    /// These accounts could not be turned: to be tried again.
    NotTurned(Vec<UserId>, CommitError),
}

/// What is to be written. The newest state of a user replaces an older one that was never written.
#[derive(Default)]
pub struct Writes {
    pub states: BTreeMap<UserId, StateChange>,
    pub warnings: Vec<Warning>,
    pub notices: Vec<Notice>,
    pub first_uses: Vec<(UserId, i64)>,
    pub rules: BTreeMap<UserId, Keep>,
}

impl Writes {
    fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.warnings.is_empty()
            && self.notices.is_empty()
            && self.first_uses.is_empty()
            && self.rules.is_empty()
    }
}

impl Gate {
    /// Asks for everybody.
    pub fn ask_everybody(&mut self) {
        let (ledger, epoch) = (self.ledger.clone(), self.epoch);
        self.jobs.push(Box::pin(async move {
            let policies = ledger.policies().await;
            let standings = ledger.standings(epoch).await;
            let everybody = policies.and_then(|policies| Ok((policies, standings?)));
            if everybody.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
            News::Everybody(everybody)
        }));
    }

    /// Asks for some users.
    pub fn ask(&mut self, users: Vec<UserId>) {
        let (ledger, epoch) = (self.ledger.clone(), self.epoch);
        self.jobs.push(Box::pin(async move { News::Some(standings(&ledger, &users, epoch).await) }));
    }

    /// Writes what there is to write, one transaction after the other.
    pub(super) fn write(&mut self) {
        if self.writing || self.writes.is_empty() {
            return;
        }
        self.writing = true;
        let (ledger, writes) = (self.ledger.clone(), std::mem::take(&mut self.writes));
        self.jobs.push(Box::pin(async move {
            let first_used: Vec<UserId> = writes.first_uses.iter().map(|(user, _)| *user).collect();
            let (left, error) = write(&ledger, writes).await;
            let first_used = if left.first_uses.is_empty() { first_used } else { Vec::new() };
            if error.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
            News::Written(left, first_used, error)
        }));
    }

    /// A write is over; what is left of it is older than what came meanwhile.
    pub fn written(&mut self, left: Writes, first_used: Vec<UserId>) {
        self.writing = false;
        // Somebody may have been read meanwhile, when it was not there yet.
        if !first_used.is_empty() {
            self.ask(first_used);
        }
        for (user, state) in left.states {
            self.writes.states.entry(user).or_insert(state);
        }
        for (user, keep) in left.rules {
            self.writes.rules.entry(user).or_insert(keep);
        }
        self.writes.warnings.splice(0..0, left.warnings);
        self.writes.notices.splice(0..0, left.notices);
        self.writes.first_uses.splice(0..0, left.first_uses);
        self.write();
    }

    /// Ends accounts when everything that was counted so far is committed to them.
    pub fn turn(&mut self, turns: Vec<Turn>, committed: oneshot::Receiver<Result<(), String>>) {
        let (ledger, epoch) = (self.ledger.clone(), self.epoch);
        let zone = self.zone.clone();
        let of_meter = self.of_meter;
        self.jobs.push(Box::pin(async move {
            let users: Vec<UserId> = turns.iter().map(|turn| turn.user).collect();
            if let Ok(Err(reason)) | Err(reason) =
                committed.await.map_err(|_| "the agent is ending".to_owned())
            {
                tokio::time::sleep(AGAIN).await;
                return News::NotTurned(users, CommitError::Refused(reason));
            }
            let now_ms = clock::wall_ms();
            let settle = reasons::settle(zone, of_meter, now_ms);
            match ledger.turn_accounts(turns, settle, now_ms).await {
                Ok(_) => News::Some(standings(&ledger, &users, epoch).await),
                Err(error) => {
                    tokio::time::sleep(AGAIN).await;
                    News::NotTurned(users, error)
                }
            }
        }));
    }

    /// Books what packages paid up to an expiry of one of them, when all that was counted is committed.
    pub fn settle(&mut self, expired: Vec<(UserId, i64)>, committed: oneshot::Receiver<Result<(), String>>) {
        let (ledger, epoch) = (self.ledger.clone(), self.epoch);
        let (zone, of_meter) = (self.zone.clone(), self.of_meter);
        self.jobs.push(Box::pin(async move {
            let mut trouble = match committed.await {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(CommitError::Refused(reason)),
                Err(_) => Some(CommitError::Refused("the agent is ending".to_owned())),
            };
            let users: BTreeSet<UserId> = expired.iter().map(|(user, _)| *user).collect();
            let mut booked = Vec::with_capacity(expired.len());
            for (user, at_ms) in expired {
                if trouble.is_some() {
                    break;
                }
                let settle = reasons::settle(zone.clone(), of_meter, at_ms.saturating_sub(1));
                match ledger.book_expiry(user, settle, at_ms).await {
                    Ok(()) => booked.push((user, at_ms)),
                    Err(error) => trouble = Some(error),
                }
            }
            if trouble.is_some() {
                tokio::time::sleep(AGAIN).await;
            }
            let users = users.into_iter().collect::<Vec<_>>();
            News::Settled(standings(&ledger, &users, epoch).await, booked, trouble)
        }));
    }

    /// Expiries were booked; what is left of them is tried again.
    pub fn settled(&mut self, users: Vec<(UserId, Option<Standing>)>, booked: &[(UserId, i64)]) {
        for (user, standing) in users {
            self.settling.remove(&user);
            if let Some(member) = self.members.get_mut(&user) {
                let of = booked.iter().filter(|(of, _)| *of == user);
                member.booked(&of.map(|(_, at_ms)| *at_ms).collect::<Vec<_>>());
            }
            self.reload(user, standing);
        }
    }

    /// Suspends a user for sharing its account.
    pub fn suspend(&mut self, user: UserId, why: String, evidence: serde_json::Value) {
        let (ledger, epoch) = (self.ledger.clone(), self.epoch);
        self.jobs.push(Box::pin(async move {
            let asked = Asked::new("agent", clock::wall_ms());
            let change = AdminChange {
                why: Some(why),
                evidence: Some(evidence),
                if_enabled: true,
                ..AdminChange::to(AdminState::Suspended)
            };
            let done = ledger.set_admin_state(user, change, None, asked).await;
            if let Err(error) = done {
                // It is suspected again while it lasts.
                tracing::error!("suspending a user: {error}");
            }
            News::Some(standings(&ledger, &[user], epoch).await)
        }));
    }

    /// The accounts are still to be turned.
    pub fn not_turned(&mut self, users: Vec<UserId>) {
        for user in users {
            self.turning.remove(&user);
            self.dirty.insert(user);
        }
    }
}

async fn standings(ledger: &Ledger, users: &[UserId], epoch: [u8; 16]) -> Vec<(UserId, Option<Standing>)> {
    // Whatever has changed must be known in the end: an account that turned would turn no more.
    loop {
        match ledger.standings_of(users.to_vec(), epoch).await {
            Ok(standings) => return users.iter().copied().zip(standings).collect(),
            Err(error) => tracing::warn!("reading users from the ledger: {error}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn write(ledger: &Ledger, mut writes: Writes) -> (Writes, Option<CommitError>) {
    if !writes.first_uses.is_empty() {
        if let Err(error) = ledger.mark_first_use(writes.first_uses.clone()).await {
            return (writes, Some(error));
        }
        writes.first_uses.clear();
    }
    while !writes.rules.is_empty() {
        let some: Vec<Keep> = writes.rules.values().take(WARNINGS_AT_ONCE).cloned().collect();
        if let Err(error) = ledger.keep_rules(some.clone()).await {
            return (writes, Some(error));
        }
        for kept in some {
            writes.rules.remove(&kept.user);
        }
    }
    if !writes.states.is_empty() {
        if let Err(error) = ledger.set_states(writes.states.values().cloned().collect()).await {
            return (writes, Some(error));
        }
        writes.states.clear();
    }
    while !writes.warnings.is_empty() {
        let some = writes.warnings.len().min(WARNINGS_AT_ONCE);
        if let Err(error) = ledger.mark_warned(writes.warnings[..some].to_vec()).await {
            return (writes, Some(error));
        }
        writes.warnings.drain(..some);
    }
    while !writes.notices.is_empty() {
        let some = writes.notices.len().min(WARNINGS_AT_ONCE);
        if let Err(error) = ledger.notice(writes.notices[..some].to_vec()).await {
            return (writes, Some(error));
        }
        writes.notices.drain(..some);
    }
    (writes, None)
}
