//! The gate: decides for each user what it may do, and has the kernel hold it.
//!
//! Level-triggered: whatever happens (a threshold is passed, time comes, people change something, the
//! agent starts) a user is looked at anew from what the ledger and the kernel say, and what the kernel
//! holds is made to fit. Nothing here is remembered that could not be read again.
//!
//! The ledger is never waited for: what it is to write and to answer runs as jobs beside the agent's
//! loop ([`Gate::next`]).

mod billing;
mod jobs;
mod limits;
mod member;
mod reasons;
mod rows;
#[cfg(test)]
mod tests;
mod tighten;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::tz::TimeZone;

#[cfg(test)]
pub use billing::Bases;
pub use billing::{billed, of_meter, wallet_of, zone_of};
pub use jobs::News;
pub use limits::{FlowNews, Limits};
pub use reasons::settle;
pub use rows::{GateRow, Rows};

use super::meter::Meter;
use boxmeter_web::panel::options::Network as Addresses;

use crate::{
    clock,
    core::{
        account::Row,
        attribute::ReportedBytes,
        event::{Now, PolicyId, UserId},
        notice::Notices,
        period::Due,
        policy::SharingNow,
    },
    kernel::{KernelError, UserSlot},
    ledger::{Keep, Ledger, PolicyRecord, Standing, StateRecord, Turn},
};
use billing::OfMeter;
use jobs::{Job, Writes};
use member::Member;

/// Readings of a user's counters until two of the billed one agree; traffic is between them.
const OFFSET_READINGS: usize = 64;

/// See the module.
pub struct Gate {
    ledger: Ledger,
    /// Of billing; a policy may have its own.
    zone: TimeZone,
    /// `METER_*`.
    meter: u32,
    of_meter: OfMeter,
    epoch: [u8; 16],
    /// What is told of every user besides the warnings of policies.
    notices: Arc<Notices>,
    policies: BTreeMap<PolicyId, PolicyRecord>,
    /// Each in memory of its own: a node of the map has room for eleven and is half full, and a member
    /// takes more than a kilobyte.
    members: BTreeMap<UserId, Box<Member>>,
    /// Everybody was read once. Until then nothing is known of those who are missing here.
    loaded: bool,
    /// The wall clock of the last look, in Unix milliseconds.
    looked_ms: i64,
    /// When time may change something for whom, in Unix milliseconds.
    due: BTreeSet<(i64, UserId)>,
    /// Whom to look at in the next turn.
    dirty: BTreeSet<UserId>,
    jobs: FuturesUnordered<Job>,
    writes: Writes,
    writing: bool,
    /// Accounts whose end is under way.
    turning: BTreeSet<UserId>,
    /// Users of whom expiries of packages are being booked.
    settling: BTreeSet<UserId>,
    rows: Rows,
    /// Too many flows or addresses, and sharing.
    pub limits: Limits,
    /// Of whom reported bytes are on their way to the ledger.
    reported: BTreeSet<UserId>,
    /// When an event about a user's limit was told last.
    told: BTreeMap<(UserId, &'static str), u64>,
}

/// What a look found to be done by others.
#[derive(Default)]
pub struct Looked {
    /// Users whose period is over: their accounts end when everything up to now is committed.
    pub turns: Vec<crate::ledger::Turn>,
    /// Users of whom a package has expired, with the instant: what packages paid until then is to be
    /// booked.
    pub expired: Vec<(UserId, i64)>,
    /// Users who may not connect: their flows are to be ended so that both sides notice.
    pub cut: BTreeSet<UserId>,
    /// Somebody is to be taken out of sing-box's users, or put back.
    pub membership: bool,
    /// The kernel refused something about a user, who is looked at again in the next turn.
    pub failed: Option<KernelError>,
}

impl Gate {
    pub fn new(ledger: Ledger, zone: TimeZone, meter: u32, epoch: [u8; 16], notices: Notices) -> Self {
        Gate {
            ledger,
            zone,
            meter,
            of_meter: of_meter(meter),
            epoch,
            notices: Arc::new(notices),
            policies: BTreeMap::new(),
            members: BTreeMap::new(),
            loaded: false,
            looked_ms: i64::MIN,
            due: BTreeSet::new(),
            dirty: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
            writes: Writes::default(),
            writing: false,
            turning: BTreeSet::new(),
            settling: BTreeSet::new(),
            rows: Arc::default(),
            limits: Limits::new(Vec::new()),
            reported: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// Reverse proxies and CDNs that clients come through: to be called before the first flow is.
    pub fn set_proxies(&mut self, proxies: Vec<Addresses>) {
        self.limits = Limits::new(proxies);
    }

    /// The next thing that a job has found; never, while there is none.
    pub async fn next(&mut self) -> News {
        match self.jobs.next().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// Everybody, as readers see them.
    pub fn rows(&self) -> Rows {
        Arc::clone(&self.rows)
    }

    /// May the user connect?
    pub fn connects(&self, user: UserId) -> bool {
        self.members.get(&user).is_none_or(|member| member.connects())
    }

    /// Users who may not connect now: to be taken out of sing-box's `users`. `None` until everybody is
    /// known: whoever is missing would be put back.
    pub fn kept_out(&self) -> Option<BTreeSet<UserId>> {
        let out = self.members.iter().filter(|(_, member)| !member.connects() && !member.deleted());
        self.loaded.then(|| out.map(|(&id, _)| id).collect())
    }

    /// Something happened to a user: it is looked at in the next turn.
    pub fn touch(&mut self, user: UserId) {
        self.dirty.insert(user);
    }

    /// The kernel told that a threshold was crossed. It knows where the billed counter is: if that is not where
    /// it was taken to be, the thresholds move.
    pub fn crossed(&mut self, user: UserId) {
        if let Some(member) = self.members.get_mut(&user) {
            member.billed_offset = None;
        }
        self.touch(user);
    }

    /// What the kernel told was lost on the way, and it tells each crossing once.
    pub fn anybody_crossed(&mut self) {
        for member in self.members.values_mut() {
            member.billed_offset = None;
        }
        self.dirty.extend(self.members.keys());
    }

    /// Everybody anew, as the ledger has them.
    pub fn load(&mut self, policies: Vec<PolicyRecord>, standings: Vec<Standing>) {
        for policy in policies {
            let known = self.policies.get(&policy.id);
            if known.is_none_or(|known| known.rev <= policy.rev) {
                self.policies.insert(policy.id, policy);
            }
        }
        let as_of = standings.first().map(|standing| standing.as_of);
        let mut old = std::mem::take(&mut self.members);
        self.due.clear();
        for standing in standings {
            let before = old.remove(&standing.id);
            self.admit(standing, before);
        }
        // A running sing-box may let a deleted user in for a while: it stays cut. And somebody may have
        // been made since this was read.
        let stays = |member: &Member| member.deleted() || Some(member.standing.as_of) > as_of;
        let (stay, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            old.into_iter().partition(|(_, member)| stays(member));
        self.dirty.extend(stay.keys());
        self.members.extend(stay);
        let gone: Vec<UserId> = gone.into_keys().collect();
        self.forget(&gone);
        self.rows = Arc::default();
        self.loaded = true;
    }

    /// One user anew; `None`: it is not there any more.
    pub fn reload(&mut self, user: UserId, standing: Option<Standing>) {
        if !self.loaded && standing.as_ref().is_none_or(|standing| standing.tombstoned_ms.is_none()) {
            // Its policy is not known yet; it comes with everybody.
            return;
        }
        let old = self.members.remove(&user);
        match standing {
            Some(standing) => self.admit(standing, old),
            None => self.forget(&[user]),
        }
    }

    fn admit(&mut self, standing: Standing, old: Option<Box<Member>>) {
        let id = standing.id;
        // Readings come by several ways: an older one must not undo what a newer one has told.
        let newer = old.as_ref().filter(|old| old.standing.as_of > standing.as_of);
        let tightened = newer.is_some_and(|newer| newer.tightened);
        let standing = newer.map_or(standing, |newer| newer.standing.clone());
        let policy = self.policies.get(&standing.settings.policy);
        let mut member = Member::new(standing, policy, &self.zone, self.of_meter, old.map(|old| *old));
        member.tightened = tightened;
        member.notices = Arc::clone(&self.notices);
        self.limits.set(id, (&member.terms).into(), clock::mono_ns());
        self.members.insert(id, Box::new(member));
        self.turning.remove(&id);
        self.dirty.insert(id);
    }

    fn forget(&mut self, users: &[UserId]) {
        for user in users {
            self.members.remove(user);
            self.limits.forget(*user);
            self.dirty.remove(user);
            self.turning.remove(user);
            self.settling.remove(user);
            Arc::make_mut(&mut self.rows).remove(user);
        }
    }

    /// Looks at everybody for whom something may have changed, and has the kernel hold what follows.
    pub fn look(&mut self, meter: &mut Meter, now: Now) -> Looked {
        let mut looked = Looked::default();
        if now.wall_ms < self.looked_ms {
            // The clock was set back: what time has decided may not be so yet.
            self.dirty.extend(self.members.keys());
        }
        self.looked_ms = now.wall_ms;
        while let Some(&(at, user)) = self.due.first()
            && at <= now.wall_ms
        {
            self.due.pop_first();
            self.dirty.insert(user);
        }
        for user in std::mem::take(&mut self.dirty) {
            if let Err(error) = self.look_at(user, meter, now, &mut looked) {
                self.dirty.insert(user);
                looked.failed = Some(error);
            }
        }
        self.write();
        looked
    }

    fn look_at(
        &mut self,
        user: UserId,
        meter: &mut Meter,
        now: Now,
        looked: &mut Looked,
    ) -> Result<(), KernelError> {
        let Some(member) = self.members.get_mut(&user) else { return Ok(()) };
        let slot = meter.kernel.allocate_user(user, self.meter)?;
        let of_meter = self.of_meter;
        let offset =
            member.billed_offset.unwrap_or_else(|| measure_offset(meter, slot, self.meter, of_meter));
        member.billed_offset = Some(offset);
        let counted = counted(meter, user, of_meter);
        if member.deleted() {
            member.decide(counted, now.wall_ms);
            hold(member, meter, slot, counted);
            looked.cut.insert(user);
            Arc::make_mut(&mut self.rows).remove(&user);
            return Ok(());
        }
        let account = member.standing.account;
        match member.due(now.wall_ms) {
            Due::Lasts => {}
            Due::Keeps(kept) => {
                member.standing.kept = Some(kept.clone());
                self.writes.rules.insert(user, Keep { user, account, kept });
            }
            Due::Turns(turn) => {
                if self.turning.insert(user) {
                    let (to, kept) = (turn.account, member.kept());
                    looked.turns.push(Turn { user, from: account, to, kept });
                }
            }
        }
        let expired = member.expired(now.wall_ms);
        if !expired.is_empty() && self.settling.insert(user) {
            looked.expired.extend(expired.into_iter().map(|at_ms| (user, at_ms)));
        }
        if member.decide(counted, now.wall_ms) {
            let change = reasons::state_change(member, now.wall_ms);
            member.standing.state = StateRecord {
                state: change.state.clone(),
                cause: change.cause.clone(),
                since_ms: change.since_ms,
            };
            self.writes.states.insert(user, change);
        }
        if !member.tightened {
            hold(member, meter, slot, counted);
        }
        let connects = member.connects();
        looked.membership |= std::mem::replace(&mut member.connected, connects) != connects;
        if !member.connects() {
            looked.cut.insert(user);
        }
        for percent in member.warnings() {
            member.standing.warned.push(percent);
            self.writes.warnings.push(reasons::warning(member, percent, counted, now.wall_ms));
        }
        for due in member.notices_due() {
            self.writes.notices.push(reasons::notice(member, due, counted, now.wall_ms));
        }
        // One whose account is turning is read anew when that is done.
        if let Some(at) = member.look_again_ms()
            && !self.turning.contains(&user)
        {
            self.due.insert((at, user));
        }
        let row = rows::row(member, &self.policies, counted, now.wall_ms);
        Arc::make_mut(&mut self.rows).insert(user, Arc::new(row));
        Ok(())
    }

    /// sing-box told of bytes that the kernel does not see: they count as well, once they are committed.
    pub fn reported(&mut self, told: &[ReportedBytes]) {
        self.reported.extend(told.iter().map(|told| told.user));
    }

    /// Everything that was read so far is in the ledger.
    pub fn committed(&mut self) {
        if !self.reported.is_empty() {
            let users = std::mem::take(&mut self.reported);
            self.ask(users.into_iter().collect());
        }
    }

    /// Bytes were counted for these users: those who were never seen before are now.
    pub fn seen(&mut self, rows: &[Row], now: Now) {
        for user in rows.iter().filter(|row| row.counters.payload != [0, 0]).filter_map(|row| row.owner.user)
        {
            let Some(member) = self.members.get_mut(&user) else { continue };
            if member.standing.first_use_ms.is_none() {
                member.standing.first_use_ms = Some(now.wall_ms);
                self.writes.first_uses.push((user, now.wall_ms));
                self.dirty.insert(user);
            }
        }
    }
}

/// What the kernel counted for a user in its epoch, of the billed meter.
pub fn counted(meter: &Meter, user: UserId, of_meter: OfMeter) -> u64 {
    let slots = meter.kernel.accounts_of(user);
    slots.fold(0, |sum: u64, slot| sum.saturating_add(of_meter(&meter.kernel.counters(slot))))
}

/// How far the billed counter is from what the accounts have. The billed one is read first, and a packet adds
/// to it last: if one comes in between, the user gets that much less until [`Gate::crossed`], never more.
fn measure_offset(meter: &mut Meter, slot: UserSlot, wanted: u32, of_meter: OfMeter) -> i128 {
    let info = meter.kernel.user(slot);
    if info.meter != wanted {
        meter.kernel.set_meter(slot, wanted);
    }
    let mut offset = 0;
    for _ in 0..OFFSET_READINGS {
        let before = meter.kernel.user(slot).billed;
        let counted = counted(meter, info.user, of_meter);
        offset = i128::from(before) - i128::from(counted);
        if meter.kernel.user(slot).billed == before {
            break;
        }
    }
    offset
}

fn hold(member: &mut Member, meter: &mut Meter, slot: UserSlot, counted: u64) {
    let held = member.to_hold(counted);
    let old = member.held.replace(held);
    if old != Some(held) {
        meter.kernel.set_budget(slot, held.cut_at, held.warn_at);
    }
    if old.is_none_or(|old| old.rates != held.rates) && meter.kernel.rates(slot) != held.rates {
        meter.kernel.set_rates(slot, held.rates);
    }
}

/// Between two events about the same limit of the same user.
const TELL_AGAIN_NS: u64 = 3_600_000_000_000;

impl Gate {
    pub fn set_sharing(&mut self, user: UserId, sharing: Option<SharingNow>) {
        if let Some(member) = self.members.get_mut(&user)
            && member.sharing != sharing
        {
            member.sharing = sharing;
            self.dirty.insert(user);
        }
    }

    /// Is an event about this limit due?
    pub fn tells(&mut self, user: UserId, limit: &'static str, now_ns: u64) -> bool {
        let told = self.told.get(&(user, limit));
        let due = told.is_none_or(|&at| now_ns.saturating_sub(at) >= TELL_AGAIN_NS);
        if due {
            self.told.retain(|_, &mut at| now_ns.saturating_sub(at) < TELL_AGAIN_NS);
            self.told.insert((user, limit), now_ns);
        }
        due
    }
}
