//! Who owns a flow: joins the flows that the kernel sees and the sightings that sing-box tells.
//!
//! Owns the flows, the waiting sightings and the names; says what is to be done by effects. What no
//! sighting names stays without owner: nothing is guessed (`matching` has the rules).
//!
//! # What the daemon keeps to
//!
//! - It hands over all events of the kernel that it can read before each batch of sightings. A flow
//!   whose closing is known too late could be taken for the next one of the same address and port.
//! - After the kernel lost events it walks the flows ([`Attributor::flow_seen`] for each,
//!   [`Attributor::reconcile_walk`] at the end) before it hands over more sightings.
//! - A closing is told as [`Attributor::flow_seen`] and [`Attributor::flow_closed`]: the opening may
//!   have been lost.
//! - A socket that is older than the kernel programs has `opened_ns` 0.
//! - It takes all effects after each input, and calls [`Attributor::tick`] at
//!   [`Attributor::next_deadline`], or each tick.

mod connections;
mod decide;
mod flows;
mod limits;
mod matching;
mod reported;
mod store;
#[cfg(test)]
mod tests;
mod users;
mod views;
mod waiters;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    clock_map::{CLOCK_ERROR_NS, ClockMap, Instants},
    event::{FlowId, FlowSeen, InboundIndex, Network, Now, OwnerBy, Sighting, SourceKind, UserId},
};
use connections::{Connections, Occupant};
pub use flows::Live;
use flows::{Flow, FlowRef, FlowTable, Key, OPEN, seen};
pub use limits::*;
use matching::{Judgement, When, judge_forwarded, judge_true_address, short};
use reported::{Begin, Fresh, Reported};
use users::{UserNo, Users};
use waiters::{Waiters, Waiting, pop_due};

/// What attribution needs to know of an inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundInfo {
    pub index: InboundIndex,
    pub tag: Arc<str>,
    /// The transports that it listens on.
    pub networks: BTreeSet<Network>,
    /// It believes a forwarded address (`X-Forwarded-For`), which a client can forge.
    pub forwarded: bool,
    /// Other inbounds by whose tags its flows are sighted: what ShadowTLS hands its flows to.
    pub sighted_as: Vec<Arc<str>>,
    /// Its UDP goes over ports of its own that are not watched (socks, mixed): metered by the totals
    /// that sing-box reports.
    pub reported_udp: bool,
    /// A forwarded address replaces the true one without a port (http, mixed), so that nothing tells
    /// which flow it is: metered by the totals that sing-box reports.
    pub loses_port: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The flow's bytes, those that are pending included, are the user's.
    Own { flow: FlowSeen, user: UserId, by: OwnerBy },
    /// A second user was seen on the flow; its bytes stay the first one's.
    Shared { flow: FlowId, user: UserId },
    /// Another user comes from a UDP peer's address, the flow's owner has gone: end the flow, so that
    /// the peer's next packet begins a new one.
    Handover { flow: FlowId },
    /// The TCP flow ended and no owner came: its bytes are unattributed.
    Expire { flow: FlowId },
    /// Bytes that the kernel cannot give to the user, as sing-box reports them; or, with no bytes, the
    /// end of such a connection.
    Reported(ReportedBytes),
}

/// See [`Effect::Reported`]. By direction: client to target, target to client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedBytes {
    pub user: UserId,
    pub inbound: InboundIndex,
    /// Those that were not told before.
    pub bytes: [u64; 2],
    /// The source's own id of the connection.
    pub connection: Arc<str>,
    /// How far the connection is.
    pub totals: [u64; 2],
    pub ended: bool,
}

/// A flow as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    pub id: FlowId,
    pub inbound: InboundIndex,
    pub network: Network,
    pub peer: SocketAddr,
    /// 0: before the kernel programs.
    pub opened_ns: u64,
    pub user: Option<UserId>,
    /// `None` also where the owner is known from the kernel alone, until a sighting confirms it.
    pub by: Option<OwnerBy>,
    pub shared_with: Option<UserId>,
}

#[derive(Debug)]
struct Inbound {
    forwarded: bool,
    networks: BTreeSet<Network>,
    reported_udp: bool,
    loses_port: bool,
}

/// Joins flows and sightings.
#[derive(Debug, Default)]
pub struct Attributor {
    inbounds: BTreeMap<InboundIndex, Inbound>,
    tags: BTreeMap<Arc<str>, Arc<[InboundIndex]>>,
    users: Users,
    clock: ClockMap,
    flows: FlowTable,
    waiters: Waiters,
    connections: Connections,
    reported: Reported,
    /// Ended flows and when to forget them.
    ended: VecDeque<(u64, FlowRef)>,
    effects: VecDeque<Effect>,
    counters: AttributeCounters,
}

impl Attributor {
    pub fn set_inbounds(&mut self, inbounds: &[InboundInfo]) {
        let mut tags: BTreeMap<Arc<str>, Vec<InboundIndex>> = BTreeMap::new();
        self.inbounds.clear();
        for info in inbounds {
            for tag in std::iter::once(&info.tag).chain(&info.sighted_as) {
                tags.entry(Arc::clone(tag)).or_default().push(info.index);
            }
            let inbound = Inbound {
                forwarded: info.forwarded,
                networks: info.networks.clone(),
                reported_udp: info.reported_udp,
                loses_port: info.loses_port,
            };
            self.inbounds.insert(info.index, inbound);
        }
        self.tags = tags.into_iter().map(|(tag, indexes)| (tag, indexes.into())).collect();
    }

    /// The users by name, all of them; sightings that wait for a name are looked at again.
    pub fn set_users(&mut self, names: BTreeMap<Arc<str>, UserId>, now: Now) {
        self.users.set_names(names);
        for number in self.waiters.numbers() {
            self.recheck(number, now);
        }
    }

    pub fn counters(&self) -> &AttributeCounters {
        &self.counters
    }

    /// Sightings that wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Flows known, ended ones included.
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Open connections over UDP that are remembered.
    pub fn udp_connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Steps of the wall clock seen.
    pub fn clock_steps(&self) -> u64 {
        self.clock.steps()
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The monotonic instant at which [`Self::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        let ended = self.ended.front().map(|&(at, _)| at);
        let replay = self.connections.replay_due();
        [ended, self.waiters.next_deadline(), replay].into_iter().flatten().min()
    }

    /// A flow opened, or a walk found it. `owner` is the user of the account slot that the kernel has
    /// for it ([`FlowSeen::owner`]). Repeating it does no harm.
    pub fn flow_seen(&mut self, flow: FlowSeen, owner: Option<UserId>, now: Now) {
        self.clock.observe(now);
        let Some(key) = Key::new(flow.inbound, flow.network, flow.peer) else {
            self.counters.flows_full += 1;
            return;
        };
        let at = (key, flow.id);
        let owner = owner.and_then(|user| self.users.number(user));
        if let Some(known) = self.flows.find(flow.id) {
            self.flow_seen_again(known, flow, owner);
            return;
        }
        if self.flows.len() >= FLOWS_MAX {
            self.counters.flows_full += 1;
            return;
        }
        let closed_ns = self.neighbours(at, flow.opened_ns, now);
        let new = Flow {
            opened_ns: flow.opened_ns,
            closed_ns: OPEN,
            owner: None,
            shared_with: None,
            connection: 0,
            by: None,
            weak: false,
            owned_elsewhere: flow.owner.is_some() && owner.is_none(),
            handed_over: false,
        };
        self.flows.insert(at, new);
        if let Some(owner) = owner {
            self.flows.set_owner(at, owner, None, 0);
        }
        if flow.network == Network::Udp && closed_ns.is_none() {
            self.resume(at, flow.owner.is_some(), now);
        }
        if let Some(closed_ns) = closed_ns {
            self.counters.flows_close_implied += 1;
            self.close(at, closed_ns, now);
        }
        self.recheck_at(key, now);
    }

    /// Two flows of one address and port are never open at the same time: ends the earlier ones whose
    /// closing is not known, and says when this one ended if there is a later one.
    fn neighbours(&mut self, at: FlowRef, opened_ns: u64, now: Now) -> Option<u64> {
        let others: Vec<(FlowRef, u64, bool)> =
            self.flows.at(at.0).map(|(other, flow)| (other, flow.opened_ns, flow.is_open())).collect();
        for &(other, other_opened_ns, is_open) in &others {
            if is_open && other_opened_ns <= opened_ns {
                self.counters.flows_close_implied += 1;
                self.close(other, opened_ns, now);
            }
        }
        others.iter().map(|&(_, other_opened_ns, _)| other_opened_ns).filter(|&other| other > opened_ns).min()
    }

    fn flow_seen_again(&mut self, at: FlowRef, flow: FlowSeen, owner: Option<UserNo>) {
        let Some(known) = self.flows.get(at).copied() else { return };
        match (known.owner, owner) {
            (None, Some(owner)) => self.flows.set_owner(at, owner, None, 0),
            (None, None) if flow.owner.is_some() => self.flows.set_owned_elsewhere(at),
            (Some(owner), None) if flow.owner.is_none() && known.is_open() => {
                self.counters.flows_owner_repeated += 1;
                self.tell_owner(at, owner, known.by.unwrap_or(OwnerBy::Api));
            }
            _ => {}
        }
    }

    /// A UDP peer comes back whose connections sing-box still has open.
    fn resume(&mut self, at: FlowRef, owned: bool, now: Now) {
        let occupant = self.connections.resume(at.0, now.mono_ns);
        if owned {
            return;
        }
        if let Occupant::One(user) = occupant {
            self.counters.flows_resumed += 1;
            self.flows.set_owner(at, user, Some(OwnerBy::Api), 0);
            self.tell_owner(at, user, OwnerBy::Api);
        }
    }

    /// A flow ended. One that is not known and is TCP can be settled at once.
    pub fn flow_closed(&mut self, id: FlowId, closed_ns: u64, now: Now) {
        self.clock.observe(now);
        match self.flows.find(id) {
            Some(at) => self.close(at, closed_ns, now),
            None => {
                self.counters.flows_close_unknown += 1;
                if id.0 & boxmeter_common::flow::UDP_ID == 0 {
                    self.effects.push_back(Effect::Expire { flow: id });
                }
            }
        }
    }

    fn close(&mut self, at: FlowRef, closed_ns: u64, now: Now) {
        if !self.flows.close(at, closed_ns) {
            return;
        }
        self.ended.push_back((now.mono_ns.saturating_add(ENDED_GRACE_NS), at));
        if at.0.network == Network::Udp {
            self.connections.pause(at.0, now.mono_ns);
        }
    }

    /// A complete walk over the kernel's open flows found exactly these: what was opened before the
    /// walk began and is not among them has ended unnoticed.
    pub fn reconcile_walk(&mut self, open: &BTreeSet<FlowId>, began_ns: u64, now: Now) {
        self.clock.observe(now);
        let mut gone: Vec<FlowRef> = self
            .flows
            .iter()
            .filter(|(at, flow)| flow.is_open() && flow.opened_ns < began_ns && !open.contains(&at.1))
            .map(|(at, _)| at)
            .collect();
        gone.sort_unstable();
        for at in gone {
            self.counters.flows_close_lost += 1;
            self.close(at, began_ns, now);
        }
    }

    /// A source has connected and begins to tell its open connections again.
    pub fn replay_begins(&mut self, source: SourceKind, now: Now) {
        self.clock.observe(now);
        if source == SourceKind::Api {
            self.connections.replay_begins(now.mono_ns);
            self.reported.replay_begins(now.mono_ns);
        }
    }

    /// sing-box says that a connection of a user came from an address.
    pub fn sighting(&mut self, sighting: Sighting, now: Now) {
        self.clock.observe(now);
        self.counters.sightings += 1;
        if sighting.user.is_empty() {
            self.counters.sightings_without_user += 1;
            return;
        }
        let Some(inbounds) = self.places_of(&sighting) else {
            self.counters.sightings_unknown_inbound += 1;
            return;
        };
        let connection = hash(sighting.source, &sighting.connection);
        let when = self.when(&sighting, now);
        let report = self.metered_by_report(&inbounds, &sighting, connection, &when);
        if let (Some(inbound), Some(totals)) = (report, sighting.totals) {
            self.report(&sighting, connection, inbound, totals);
            return;
        }
        if report.is_some() {
            self.counters.sightings_without_totals += 1;
            return;
        }
        if sighting.peer.port() == 0 {
            self.counters.sightings_without_port += 1;
            return;
        }
        if let Some(waiting) = self.waiters.of_connection(connection) {
            waiting.closed |= sighting.closed;
            self.counters.sightings_repeated += 1;
            return;
        }
        let waiting = Waiting {
            source: sighting.source,
            connection,
            inbounds,
            network: sighting.network,
            peer: SocketAddr::new(sighting.peer.ip().to_canonical(), sighting.peer.port()),
            user: sighting.user,
            when,
            closed: sighting.closed,
            deciding: false,
            final_decision: false,
            aged: false,
            contested: false,
        };
        self.decide_or_wait(waiting, now);
    }

    /// The watched inbounds that it may be on.
    fn places_of(&self, sighting: &Sighting) -> Option<Arc<[InboundIndex]>> {
        if sighting.or_inbounds.is_empty() {
            return self.tags.get(&sighting.inbound).cloned();
        }
        let tags = std::iter::once(&sighting.inbound).chain(sighting.or_inbounds.iter());
        let places: BTreeSet<InboundIndex> =
            tags.filter_map(|tag| self.tags.get(tag)).flat_map(|places| places.iter().copied()).collect();
        (!places.is_empty()).then(|| places.into_iter().collect())
    }

    fn when(&self, sighting: &Sighting, now: Now) -> When {
        let Some(created_ms) = sighting.created_ms else {
            return When::Between(now.mono_ns.saturating_sub(LOG_LAG_NS), now.mono_ns);
        };
        if sighting.within_ms > 0 {
            return self.within(created_ms, sighting.within_ms);
        }
        match self.clock.instants(created_ms) {
            Instants::At(instants) => When::At(instants),
            Instants::BeforeStart { .. } if !sighting.closed => When::OpenAtStart(self.clock.start_ns()),
            Instants::BeforeStart { if_not_stepped_ns } => When::EndedAfter(if_not_stepped_ns),
        }
    }

    /// Some time in a second that a log names, in which it wrote the line; the connection may have ended a
    /// little before.
    fn within(&self, created_ms: i64, within_ms: i64) -> When {
        let from = match self.clock.instants(created_ms) {
            Instants::At(instants) => instants.first().copied(),
            Instants::BeforeStart { if_not_stepped_ns } => if_not_stepped_ns,
        };
        let Some(from) = from else { return When::EndedAfter(None) };
        let within_ns = u64::try_from(within_ms).unwrap_or(0).saturating_mul(1_000_000);
        When::Between(from.saturating_sub(LOG_WRITTEN_NS), from.saturating_add(within_ns + CLOCK_ERROR_NS))
    }

    /// A connection ended, with its totals where the source tells them.
    pub fn ended(&mut self, source: SourceKind, connection: &str, totals: Option<[u64; 2]>, now: Now) {
        self.clock.observe(now);
        let connection = hash(source, connection);
        if let Some(waiting) = self.waiters.of_connection(connection) {
            waiting.closed = true;
        }
        self.connections.end(connection);
        self.take_totals(connection, totals);
        let ended = self.reported.end(connection);
        self.tell_reported(ended);
    }

    /// How far earlier lives of the process counted connections by their reported totals. To be told
    /// before any sighting.
    pub fn reported_before(&mut self, connections: HashMap<Arc<str>, [u64; 2]>) {
        self.reported.set_former(connections);
    }

    /// Time passes: decisions that are due, sightings and ended flows that have waited for too long.
    pub fn tick(&mut self, now: Now) {
        self.clock.observe(now);
        while let Some(number) = self.waiters.pop_decision(now.mono_ns) {
            if let Some(waiting) = self.waiters.get_mut(number) {
                waiting.final_decision = true;
            }
            self.recheck(number, now);
        }
        while let Some(number) = self.waiters.pop_aged(now.mono_ns) {
            // Only so many are looked at when a flow opens: here is the last chance.
            if let Some(waiting) = self.waiters.get_mut(number) {
                (waiting.final_decision, waiting.aged) = (true, true);
            }
            self.recheck(number, now);
            let Some(waiting) = self.waiters.remove(number) else { continue };
            match self.users.by_name(&waiting.user) {
                Some(_) => self.counters.sightings_unmatched += 1,
                None => self.counters.sightings_unknown_user += 1,
            }
        }
        while let Some(at) = pop_due(&mut self.ended, now.mono_ns) {
            let Some(flow) = self.flows.remove(at) else { continue };
            if at.0.network == Network::Tcp && !flow.is_owned() {
                self.counters.flows_expired += 1;
                self.effects.push_back(Effect::Expire { flow: at.1 });
            }
        }
        self.connections.tick(now.mono_ns);
        for ended in self.reported.tick(now.mono_ns) {
            self.tell_reported(Some(ended));
        }
    }
}

/// A connection's id in eight bytes. The keys of the hash are fixed, which does no harm: sing-box
/// makes the ids, not its clients.
fn hash(source: SourceKind, connection: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source, connection).hash(&mut hasher);
    hasher.finish()
}
