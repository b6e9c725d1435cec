//! The part of the agent that carries out what the gate decides: thresholds and rates are written by
//! the gate itself; flows are blocked and ended here, accounts turned, users suspended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::json;
use tokio::sync::oneshot;

use super::{
    agent::Agent,
    gate,
    hands::HandsNews,
    people,
    shared::{Tighter, UserNow},
};
use crate::{
    clock,
    core::{
        account::UserSlot,
        attribute::FlowView,
        crowd::{Effect, Evidence, TooMany},
        event::{FlowId, FlowSeen, Network, Now, UserId},
        policy::SharingNow,
        terms::SharingAction,
    },
    enforcer::reloads::Scene,
    fault,
    kernel::{KernelError, KernelEvent},
    ledger::{PolicyRecord, Standing},
    service::Service,
};

/// A source that is away for less is only reconnecting (the start of the agent, a restart of sing-box):
/// no reason to reload, which drops everybody.
const SOURCE_GRACE_NS: u64 = 30_000_000_000;

/// A connection that nobody told the user of is somebody's once it is so old.
const STRANGER_NS: u64 = 10_000_000_000;

impl Agent {
    /// Everything that happened since the last turn: flows, limits, thresholds, time.
    ///
    /// # Errors
    /// When the kernel refuses; what was decided stays to be done.
    pub(super) fn steer(&mut self) -> Result<(), KernelError> {
        let now = clock::now();
        let mut ended: Vec<FlowSeen> = Vec::new();
        // What is refused for one user keeps nothing from the others.
        let mut done = Ok(());
        for news in self.meter.take_flow_news() {
            if let gate::FlowNews::Owned(flow, user) = &news
                && !self.gate.connects(*user)
            {
                ended.push(*flow);
            }
            self.gate.limits.news(news, now.mono_ns);
        }
        if let Some(open) = self.meter.take_walk() {
            self.gate.limits.walked(&open, now.mono_ns);
            done = self.review_blocks(&open, &mut ended);
            self.look_at_unowned(&open, now, &mut ended);
        }
        for effect in self.gate.limits.tick(now.mono_ns) {
            done = done.and(self.limit(effect, now, &mut ended));
        }
        self.meter.walk_within_ns = self.gate.limits.looks_within_ns();
        let looked = self.gate.look(&mut self.meter, clock::billing());
        ended.extend(self.meter.flows_of(&looked.cut));
        self.end_flows(&ended);
        if !looked.turns.is_empty() {
            let committed = self.commit_now();
            self.gate.turn(looked.turns, committed);
        }
        if !looked.expired.is_empty() {
            let committed = self.commit_now();
            self.gate.settle(looked.expired, committed);
        }
        if looked.membership {
            fault::point("kernel-cut");
            self.tell_kept_out();
        }
        looked.failed.map_or(done, Err)
    }

    /// Answered when everything that was counted so far is in the ledger.
    fn commit_now(&mut self) -> oneshot::Receiver<Result<(), String>> {
        let (committed, waits) = oneshot::channel();
        self.flush_waiting.push(committed);
        self.flush();
        waits
    }

    fn tell_kept_out(&self) {
        if let Some(out) = self.gate.kept_out() {
            self.hands.want(out);
        }
    }

    /// The hands see the proxies as they were found last: all that are configured, since somebody may be in
    /// files that cannot be read now.
    pub(super) fn look_at_hands(&self) {
        let way = |service: &Service| self.ways.iter().find(|way| way.service == *service);
        let found = self.proxies.all.iter().filter_map(|proxy| Some(proxy.edited(way(&proxy.service)?)));
        self.hands.look(found.collect());
    }

    /// How much would be lost by a reload now.
    pub(super) fn tell_hands(&mut self) {
        let now_ns = clock::mono_ns();
        let flows = self.flows_lost(now_ns);
        let mut scenes = BTreeMap::new();
        for (at, proxy) in self.proxies.all.iter().enumerate() {
            let down_ns = match proxy.connected {
                true => {
                    self.source_down_ns.remove(&at);
                    0
                }
                false => now_ns.saturating_sub(*self.source_down_ns.entry(at).or_insert(now_ns)),
            };
            let source_down = !proxy.connected && down_ns >= SOURCE_GRACE_NS;
            let flows = flows.get(&at).copied().unwrap_or(0);
            scenes.insert(proxy.service.clone(), Scene { flows, source_down });
        }
        self.hands.scene(scenes);
    }

    /// By proxy: the flows that somebody would miss. Where nothing waits for a reload nobody asks which they are.
    fn flows_lost(&self, now_ns: u64) -> BTreeMap<usize, u64> {
        let mut flows = BTreeMap::new();
        let mut count = |at: usize, more: u64| *flows.entry(at).or_default() += more;
        let waits = self.directory.enforcement.pending.is_some();
        if self.proxies.all.len() == 1 || !waits {
            let live = self.meter.attributor.all_live();
            let others = live.filter(|(user, _)| self.gate.connects(*user));
            let owned = others.fold(0_u64, |sum, (_, live)| sum + u64::from(live.flows));
            let strangers = if waits { self.strangers(now_ns).count() as u64 } else { 0 };
            (0..self.proxies.all.len()).for_each(|at| count(at, owned + strangers));
            return flows;
        }
        let place = |flow: &FlowView| self.proxies.of_tag(self.directory.tags.get(&flow.inbound)?);
        let owned = self.meter.attributor.open();
        let owned = owned.filter(|flow| flow.user.is_some_and(|user| self.gate.connects(user)));
        for flow in owned.chain(self.strangers(now_ns)) {
            place(&flow).into_iter().for_each(|at| count(at, 1));
        }
        flows
    }

    /// Connections whose user is not known: older than boxmeter, or nobody told. Somebody has them, and they are
    /// counted where a reload waits. A scanner's last no longer than that.
    fn strangers(&self, now_ns: u64) -> impl Iterator<Item = FlowView> {
        let lasting = move |flow: &FlowView| {
            flow.network == Network::Tcp && now_ns.saturating_sub(flow.opened_ns) >= STRANGER_NS
        };
        self.meter.attributor.unowned_live().filter(lasting)
    }

    pub(super) fn hands_news(&mut self, news: HandsNews) {
        match news {
            HandsNews::Event { kind, user, data } => self.event(kind, user, data),
            HandsNews::Trouble(Some(reason)) => {
                self.meter.publisher.degrade("enforcement", reason, clock::now());
            }
            HandsNews::Trouble(None) => self.meter.publisher.restore("enforcement"),
            HandsNews::Moved(users) => self.gate.ask(users),
        }
    }

    /// What the kernel blocks is what the limits say: an agent before this one may have blocked others.
    fn review_blocks(
        &mut self,
        open: &BTreeSet<FlowId>,
        ended: &mut Vec<FlowSeen>,
    ) -> Result<(), KernelError> {
        let held = self.meter.kernel.blocked()?;
        // One that is refused keeps no other from being done: the first refusal is told at the end.
        let mut done = Ok(());
        for &flow in held.keys().filter(|flow| !self.gate.limits.is_blocked(**flow)) {
            done = done.and(self.meter.kernel.unblock(flow));
        }
        // Makes room before others are blocked.
        done = done.and(self.meter.kernel.sweep_blocked(&open.iter().map(|id| id.0).collect()));
        // And what the kernel has refused before is tried again; the connection is ended in any case.
        for (flow, user) in self.gate.limits.blocked() {
            if open.contains(&flow) && !held.contains_key(&flow) {
                ended.extend(self.meter.flow(flow));
                done = done.and(self.block(flow, user));
            }
        }
        done
    }

    fn block(&mut self, flow: FlowId, user: UserId) -> Result<(), KernelError> {
        let Some(slot) = self.meter.kernel.user_slot(user) else { return Ok(()) };
        if fault::refuses("block") {
            return Ok(());
        }
        self.meter.kernel.block(flow, slot)
    }

    fn limit(&mut self, effect: Effect, now: Now, ended: &mut Vec<FlowSeen>) -> Result<(), KernelError> {
        match effect {
            Effect::Block { flow, user, why } => {
                // The connection is ended, also where the kernel has no room for the block now.
                ended.extend(self.meter.flow(flow));
                let blocked = self.block(flow, user);
                let limit = match why {
                    TooMany::Flows => "max_flows",
                    TooMany::Addresses => "max_addresses",
                };
                self.limit_event(user, limit, now);
                blocked?;
            }
            Effect::Unblock { flow, .. } => self.meter.kernel.unblock(flow)?,
            Effect::SharingSuspected { user, evidence, action } => {
                self.shared_account(user, &evidence, action, now);
            }
            Effect::SharingOver { user } => {
                self.gate.set_sharing(user, None);
            }
        }
        Ok(())
    }

    /// Told once an hour per user and limit: a client that tries again and again is one piece of news.
    fn limit_event(&mut self, user: UserId, limit: &'static str, now: Now) {
        if !self.gate.tells(user, limit, now.mono_ns) {
            return;
        }
        let message = match limit {
            "max_flows" => "more connections than the limit: some are refused",
            _ => "more addresses than the limit: connections are refused",
        };
        let data = json!({"limit": limit, "message": message, "severity": "warning"});
        self.event("user_over_limit", Some(user), data);
    }

    fn shared_account(&mut self, user: UserId, evidence: &Evidence, action: SharingAction, now: Now) {
        let addresses: Vec<_> = evidence
            .addresses
            .iter()
            .map(|seen| {
                json!({"address": seen.address.to_string(), "bytes": seen.bytes, "active_s": seen.active_s})
            })
            .collect();
        let severity = if action == SharingAction::Note { "info" } else { "warning" };
        let message = format!(
            "used from {} addresses at the same time, {} are usual (score {})",
            evidence.peak, evidence.allowed, evidence.score
        );
        let data = json!({
            "score": evidence.score,
            "addresses": addresses,
            "peak": evidence.peak,
            "allowed": evidence.allowed,
            "overlap_s": evidence.overlap_s,
            "window_s": evidence.window_s,
            "networks": evidence.networks,
            "action": action,
            "message": message,
            "severity": severity,
        });
        self.event("sharing_suspected", Some(user), data.clone());
        let sharing = SharingNow { since_ms: now.wall_ms, addresses: evidence.peak };
        match action {
            SharingAction::Note | SharingAction::Warn => {}
            SharingAction::Throttle(_) => self.gate.set_sharing(user, Some(sharing)),
            SharingAction::Suspend => {
                self.gate.set_sharing(user, Some(sharing));
                self.gate.suspend(user, message, data);
            }
        }
    }

    /// Takes what the kernel tells. Crossings are looked at with the turn.
    pub(super) fn kernel_news(&mut self) -> Result<(), KernelError> {
        let mut events = Vec::new();
        let done = self.meter.kernel_events(self.news.get_mut(), &mut events);
        for event in events {
            if fault::refuses("user-event") {
                self.meter.lost = true;
                continue;
            }
            if let KernelEvent::Warned { user, .. } | KernelEvent::Cut { user, .. } = event
                && let Some(user) = self.meter.accounts.user_in(UserSlot(user.0))
            {
                self.gate.crossed(user);
            }
        }
        if self.meter.take_lost() {
            self.gate.anybody_crossed();
        }
        done
    }

    /// Ends sockets so that both sides notice; the kernel drops their packets already.
    fn end_flows(&mut self, flows: &[FlowSeen]) {
        if flows.is_empty() {
            return;
        }
        match self.meter.kernel.destroy(flows) {
            Ok(done) => {
                for (flow, error) in &done.failed {
                    tracing::warn!(flow = flow.0, "a connection was not ended: {error}");
                }
            }
            Err(error) => tracing::warn!("ending connections: {error}"),
        }
    }

    /// What a job of the gate found.
    pub(super) fn gate_news(&mut self, news: gate::News) -> Result<(), KernelError> {
        match news {
            gate::News::Everybody(Ok((policies, standings))) => {
                return self.everybody_changed(policies, standings);
            }
            gate::News::Everybody(Err(error)) => {
                self.gate_trouble(&error.to_string());
                self.gate.ask_everybody();
            }
            gate::News::Some(users) => {
                for (user, standing) in users {
                    self.note(user, standing.as_ref());
                    self.gate.reload(user, standing);
                }
            }
            gate::News::Written(left, first_used, error) => {
                match error {
                    Some(error) => self.gate_trouble(&error.to_string()),
                    None => self.meter.publisher.restore("gate"),
                }
                self.gate.written(left, first_used);
            }
            gate::News::Settled(users, booked, error) => {
                match error {
                    Some(error) => self.gate_trouble(&error.to_string()),
                    None => self.meter.publisher.restore("gate"),
                }
                self.gate.settled(users, &booked);
            }
            gate::News::NotTurned(users, error) => {
                self.gate_trouble(&error.to_string());
                self.gate.not_turned(users);
            }
        }
        self.steer()
    }

    /// What readers see of a user follows what the gate has read.
    fn note(&mut self, user: UserId, standing: Option<&Standing>) {
        let Some(known) = self.directory.users.get(&user) else { return };
        let Some(now) = standing.filter(|now| now.tombstoned_ms.is_none()) else {
            Arc::make_mut(&mut self.directory.users).remove(&user);
            return;
        };
        if (now.account, now.first_use_ms) == (known.account, known.first_use_ms) {
            return;
        }
        if let Some(record) = Arc::make_mut(&mut self.directory.users).get_mut(&user) {
            let record = Arc::make_mut(record);
            (record.account, record.first_use_ms) = (now.account, now.first_use_ms);
        }
    }

    fn gate_trouble(&mut self, reason: &str) {
        tracing::error!("the gate's part of the ledger: {reason}");
        self.meter.publisher.degrade("gate", reason.to_owned(), clock::now());
    }

    /// Somebody changed users in the ledger: from here on it is so.
    pub(super) fn users_changed(&mut self, now: Vec<UserNow>) -> Result<(), KernelError> {
        let users = std::sync::Arc::make_mut(&mut self.directory.users);
        for UserNow { record, standing } in now {
            self.gate.reload(record.id, standing);
            if users.get(&record.id).is_none_or(|known| known.rev <= record.rev) {
                users.insert(record.id, std::sync::Arc::new(record));
            }
        }
        let named = self.meter.set_users(people::names(users.values().map(|user| &**user)));
        let held = self.steer();
        self.tell_kept_out();
        self.publish();
        named.and(held)
    }

    /// Everybody was read, or policies changed: everybody is looked at anew.
    pub(super) fn everybody_changed(
        &mut self,
        policies: Vec<PolicyRecord>,
        standings: Vec<Standing>,
    ) -> Result<(), KernelError> {
        for standing in &standings {
            self.note(standing.id, Some(standing));
        }
        self.gate.load(policies, standings);
        let held = self.steer();
        // Also when nobody is out: the files may say otherwise.
        self.tell_kept_out();
        self.publish();
        held
    }

    /// Before a limit is lowered in the ledger.
    pub(super) fn tighten(&mut self, tighter: &Tighter) {
        let now = clock::billing();
        self.gate.tighten(tighter, &mut self.meter, now);
    }
}
