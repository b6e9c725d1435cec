//! How many at once: a user's flows and client addresses, and whether the account is shared.
//!
//! Fed with flows and their activity, it answers which flows are to be blocked and tells suspicions.
//! Addresses are the kernel's: IPv4 whole, IPv6 by its /64.
//!
//! **Addresses.** An address is *in use* from its first sign of life until it was silent for
//! [`Timing::silent_ns`]; signs are opening a flow and bytes *from* the client, acknowledgements included,
//! since bytes to a client that has left prove nothing. It *counts* when it has been in use for
//! [`Timing::grace_ns`]. A phone that moves from Wi-Fi to mobile goes silent on the old address before the
//! new one counts, so that it is never refused. When more addresses count than are allowed, the oldest
//! (or, where the oldest wins, the newest) is refused: its flows, and those that it opens later, are
//! blocked until there is room again, or until it has kept away for [`Timing::refused_ns`].
//!
//! **Flows.** The newest that are too many are blocked, or the oldest, by the same option; they are let in
//! again when there is room. Where the oldest wins, flows of an address that has been silent for
//! [`Timing::moved_ns`] make room first: their client has moved.
//!
//! **Sharing** is in [`sharing`]: it only tells, and refuses nobody.
//!
//! An event costs O(log n) of the user's flows and addresses; a tick looks only at users who have more
//! addresses than one of their limits, or somebody refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    event::{FlowId, UserId},
    terms::{Sharing, SharingAction, Terms, Wins},
};
use person::Person;
pub use sharing::{Evidence, SeenAddress};

mod person;
mod sharing;
#[cfg(test)]
mod tests;

/// Flows known at a time, as many as the attributor knows.
pub const FLOWS_MAX: usize = 300_000;

/// Addresses per user that are told apart; flows from more count as flows only.
pub const ADDRESSES_MAX: usize = 256;

/// The intervals of address limits, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// An address that sent nothing for so long is not in use any more.
    pub silent_ns: u64,
    /// An address counts when it was in use for so long. What it is longer than `silent_ns` is how long
    /// the old address may go on while the new one is in use already.
    pub grace_ns: u64,
    /// Flows of an address that sent nothing for so long make room for those of another. Longer than
    /// [`LOOKS_WITHIN_NS`]: a busy client that was not looked at has not moved.
    pub moved_ns: u64,
    /// A refused address that opens nothing for so long is forgotten.
    pub refused_ns: u64,
}

/// How often the caller tells what TCP flows did, at the least.
pub const LOOKS_WITHIN_NS: u64 = 10_000_000_000;

impl Default for Timing {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Timing {
            silent_ns: 30 * SECOND,
            grace_ns: 60 * SECOND,
            moved_ns: 15 * SECOND,
            refused_ns: 300 * SECOND,
        }
    }
}

/// What of a user's terms matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_flows: Option<u32>,
    pub max_addresses: Option<u32>,
    pub wins: Wins,
    /// `networks: 0` is off.
    pub sharing: Sharing,
}

impl From<&Terms> for Limits {
    fn from(terms: &Terms) -> Self {
        let Terms { max_flows, max_addresses, wins, sharing, .. } = *terms;
        Limits { max_flows, max_addresses, wins, sharing }
    }
}

impl Limits {
    pub const NONE: Limits = Limits {
        max_flows: None,
        max_addresses: None,
        wins: Wins::Newest,
        sharing: Sharing { networks: 0, window_s: 0, action: SharingAction::Note },
    };

    fn watches_addresses(&self) -> bool {
        self.max_addresses.is_some() || self.sharing.networks > 0
    }
}

/// A flow whose owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub flow: FlowId,
    pub user: UserId,
    pub peer: IpAddr,
    /// `false` on inbounds behind loopback or a configured proxy: the flow counts as a flow, its
    /// address means nobody.
    pub address_known: bool,
}

/// Bytes of a flow since its last activity: wire bytes, so that acknowledgements are signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    pub flow: FlowId,
    pub upload: u64,
    pub download: u64,
}

/// Which limit blocks a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    Flows,
    Addresses,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Drop the flow's packets, and destroy its socket.
    Block {
        flow: FlowId,
        user: UserId,
        why: TooMany,
    },
    Unblock {
        flow: FlowId,
        user: UserId,
    },
    /// Told once per window while it goes on.
    SharingSuspected {
        user: UserId,
        evidence: Evidence,
        action: SharingAction,
    },
    /// For a window there was no sharing: a throttle on its account ends.
    SharingOver {
        user: UserId,
    },
}

/// What was turned away, since the start of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrowdCounters {
    pub blocked_flows: u64,
    pub blocked_addresses: u64,
    pub suspicions: u64,
    /// Flows without limits because [`FLOWS_MAX`] were known.
    pub flows_full: u64,
    /// Flows without address limits because their user had [`ADDRESSES_MAX`].
    pub addresses_full: u64,
}

impl CrowdCounters {
    /// Names and values, as `status --json` shows them.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("limits_blocked_flows", self.blocked_flows),
            ("limits_blocked_addresses", self.blocked_addresses),
            ("sharing_suspicions", self.suspicions),
            ("limits_flows_full", self.flows_full),
            ("limits_addresses_full", self.addresses_full),
        ]
        .into_iter()
    }
}

/// A flow of a user.
#[derive(Clone, Copy, Debug)]
struct Flow {
    user: UserId,
    /// `None`: not known.
    address: Option<IpAddr>,
    /// The order of opening.
    number: u64,
}

/// All users with flows or limits.
#[derive(Debug, Default)]
pub struct Crowd {
    timing: Timing,
    people: BTreeMap<UserId, Person>,
    flows: HashMap<FlowId, Flow>,
    /// Users whom a tick has to look at.
    watched: BTreeSet<UserId>,
    next_number: u64,
    counters: CrowdCounters,
    /// See [`Crowd::looks_within_ns`].
    slot_s: Option<u32>,
}

impl Crowd {
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Crowd { timing, ..Crowd::default() }
    }

    /// A user's limits, at the start and whenever they change. Flows that are open are blocked or let in
    /// accordingly.
    pub fn set_limits(&mut self, user: UserId, limits: Limits, now_ns: u64, out: &mut Vec<Effect>) {
        let from = out.len();
        let person = self.people.entry(user).or_insert_with(|| Person::new(user));
        person.set_limits(limits, &self.timing, now_ns, out);
        self.after(user, from, out);
    }

    /// The user is gone, with all flows.
    pub fn forget(&mut self, user: UserId) {
        self.people.remove(&user);
        self.watched.remove(&user);
        self.flows.retain(|_, flow| flow.user != user);
    }

    /// A flow's owner became known. Told again it changes nothing; another owner takes the flow over.
    pub fn opened(&mut self, opened: Opened, now_ns: u64, out: &mut Vec<Effect>) {
        match self.flows.get(&opened.flow) {
            Some(known) if known.user == opened.user => return,
            Some(_) => self.ended(opened.flow, now_ns, out),
            None if self.flows.len() >= FLOWS_MAX => {
                self.counters.flows_full += 1;
                return;
            }
            None => {}
        }
        let from = out.len();
        let number = self.next_number;
        self.next_number += 1;
        let person = self.people.entry(opened.user).or_insert_with(|| Person::new(opened.user));
        let wanted = opened.address_known.then(|| address(opened.peer));
        let address = wanted.filter(|&address| person.enters(address, &self.timing, now_ns));
        self.counters.addresses_full += u64::from(wanted != address);
        self.flows.insert(opened.flow, Flow { user: opened.user, address, number });
        person.opened((number, opened.flow), address, &self.timing, now_ns, out);
        self.after(opened.user, from, out);
    }

    /// What a flow did since the last time. For a user without limits it changes nothing.
    pub fn active(&mut self, active: Active, now_ns: u64) {
        let Some(&Flow { user, address: Some(address), .. }) = self.flows.get(&active.flow) else { return };
        if let Some(person) = self.people.get_mut(&user) {
            person.active(address, active.upload, active.download, &self.timing, now_ns);
        }
    }

    /// A flow ended. One that nobody knows is ignored.
    pub fn ended(&mut self, flow: FlowId, now_ns: u64, out: &mut Vec<Effect>) {
        let Some(known) = self.flows.remove(&flow) else { return };
        let from = out.len();
        if let Some(person) = self.people.get_mut(&known.user) {
            person.ended((known.number, flow), known.address, &self.timing, now_ns, out);
        }
        self.after(known.user, from, out);
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Effect>) {
        self.slot_s = None;
        for user in std::mem::take(&mut self.watched) {
            let from = out.len();
            if let Some(person) = self.people.get_mut(&user) {
                person.tick(&self.timing, now_ns, out);
                let slots = [self.slot_s, person.slot_s()].into_iter().flatten();
                self.slot_s = slots.min();
            }
            self.after(user, from, out);
        }
    }

    /// How often the caller has to tell what flows did while somebody has more addresses than are usual: once
    /// in each slot of the window, or slots without a look would seem to be without traffic.
    #[must_use]
    pub fn looks_within_ns(&self) -> u64 {
        self.slot_s.map_or(LOOKS_WITHIN_NS, |seconds| LOOKS_WITHIN_NS.min(u64::from(seconds) * 1_000_000_000))
    }

    /// Is the flow to be blocked? For comparing with what the kernel has after a restart.
    #[must_use]
    pub fn is_blocked(&self, flow: FlowId) -> bool {
        let Some(known) = self.flows.get(&flow) else { return false };
        self.people.get(&known.user).is_some_and(|person| person.blocks((known.number, flow), known.address))
    }

    /// Flows that are to be blocked, with their users.
    pub fn blocked(&self) -> impl Iterator<Item = (FlowId, UserId)> {
        let blocks = |(&id, flow): (&FlowId, &Flow)| {
            let person = self.people.get(&flow.user)?;
            person.blocks((flow.number, id), flow.address).then_some((id, flow.user))
        };
        self.flows.iter().filter_map(blocks)
    }

    #[must_use]
    pub fn counters(&self) -> CrowdCounters {
        self.counters
    }

    /// Counts what was told since `from`, and keeps or drops the user from the tick.
    fn after(&mut self, user: UserId, from: usize, out: &[Effect]) {
        for effect in &out[from..] {
            match effect {
                Effect::Block { why: TooMany::Flows, .. } => self.counters.blocked_flows += 1,
                Effect::Block { why: TooMany::Addresses, .. } => self.counters.blocked_addresses += 1,
                Effect::SharingSuspected { .. } => self.counters.suspicions += 1,
                Effect::Unblock { .. } | Effect::SharingOver { .. } => {}
            }
        }
        let Some(person) = self.people.get(&user) else { return };
        if person.is_watched() {
            self.watched.insert(user);
        } else {
            self.watched.remove(&user);
        }
        if person.is_empty() {
            self.people.remove(&user);
        }
    }
}

/// What counts as one address.
fn address(peer: IpAddr) -> IpAddr {
    network(peer, 32, 64)
}

/// The network that an address lies in, by the length of the prefix.
fn network(address: IpAddr, v4_prefix: u32, v6_prefix: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - v4_prefix).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - v6_prefix).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}
