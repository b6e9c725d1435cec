//! One user's flows and addresses, and which of them are too many.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    ADDRESSES_MAX, Effect, Limits, Timing, TooMany,
    sharing::{Suspicion, Traffic, slot_s},
};
use crate::core::{
    event::{FlowId, UserId},
    few::Few,
    terms::Wins,
};

/// A flow with the order of its opening before it, so that sets are sorted by age.
pub(super) type Aged = (u64, FlowId);

/// An address of the user.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub flows: BTreeSet<Aged>,
    /// Since when it is in use without a silence.
    since_ns: u64,
    /// The last sign of life.
    last_ns: u64,
    refused: bool,
    pub traffic: Traffic,
}

impl Place {
    fn in_use(&self, timing: &Timing, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) < timing.silent_ns
    }

    fn counts(&self, timing: &Timing, now_ns: u64) -> bool {
        !self.refused
            && self.in_use(timing, now_ns)
            && now_ns.saturating_sub(self.since_ns) >= timing.grace_ns
    }

    fn lives(&mut self, timing: &Timing, now_ns: u64) {
        if !self.in_use(timing, now_ns) {
            self.since_ns = now_ns;
        }
        self.last_ns = self.last_ns.max(now_ns);
    }

    /// Nothing is lost when it is forgotten.
    fn is_over(&self, timing: &Timing, now_ns: u64) -> bool {
        let silent = now_ns.saturating_sub(self.last_ns);
        let kept = if self.refused { timing.refused_ns } else { timing.silent_ns };
        self.flows.is_empty() && silent >= kept && self.traffic.is_over(now_ns)
    }
}

#[derive(Debug)]
pub(super) struct Person {
    user: UserId,
    limits: Limits,
    places: Few<IpAddr, Place>,
    /// Flows that pass.
    passing: BTreeSet<Aged>,
    /// Flows that are blocked because there are too many flows; those of refused addresses are in neither.
    waiting: BTreeSet<Aged>,
    suspicion: Suspicion,
}

impl Person {
    pub fn new(user: UserId) -> Self {
        Person {
            user,
            limits: Limits::NONE,
            places: Few::new(),
            passing: BTreeSet::new(),
            waiting: BTreeSet::new(),
            suspicion: Suspicion::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.limits == Limits::NONE
            && self.places.is_empty()
            && self.passing.is_empty()
            && self.waiting.is_empty()
    }

    /// Does a tick have to look?
    pub fn is_watched(&self) -> bool {
        let many = |limit: u32| self.places.len() > limit as usize;
        let Limits { max_addresses, sharing, .. } = self.limits;
        max_addresses.is_some_and(many)
            || self.places.values().any(|place| place.refused)
            || sharing.networks > 0 && many(sharing.networks)
            || self.suspicion.lasts()
            || !self.waiting.is_empty() && self.limits.wins == Wins::Oldest
    }

    /// The slot of the window in which it is looked for sharing, where there are addresses enough.
    pub fn slot_s(&self) -> Option<u32> {
        let sharing = self.limits.sharing;
        let looks = sharing.networks > 0 && self.places.len() > sharing.networks as usize;
        looks.then(|| slot_s(sharing.window_s))
    }

    pub fn set_limits(&mut self, limits: Limits, timing: &Timing, now_ns: u64, out: &mut Vec<Effect>) {
        self.limits = limits;
        for place in self.places.values_mut() {
            place.traffic.set_window(limits.sharing.window_s);
        }
        self.limit_addresses(timing, now_ns, out);
        self.limit_flows(timing, now_ns, out);
    }

    /// Is there room for a flow of this address? If so it is known from now on.
    pub fn enters(&mut self, address: IpAddr, timing: &Timing, now_ns: u64) -> bool {
        if self.places.contains_key(&address) {
            return true;
        }
        self.places.retain(|_, place| !place.is_over(timing, now_ns));
        if self.places.len() >= ADDRESSES_MAX {
            return false;
        }
        let traffic = Traffic::new(self.limits.sharing.window_s);
        self.places.insert(address, Place { since_ns: now_ns, last_ns: now_ns, traffic, ..Place::default() });
        true
    }

    pub fn opened(
        &mut self,
        flow: Aged,
        address: Option<IpAddr>,
        timing: &Timing,
        now_ns: u64,
        out: &mut Vec<Effect>,
    ) {
        if let Some(place) = address.and_then(|address| self.places.get_mut(&address)) {
            place.flows.insert(flow);
            place.lives(timing, now_ns);
            if place.refused {
                out.push(Effect::Block { flow: flow.1, user: self.user, why: TooMany::Addresses });
                return;
            }
        }
        self.passing.insert(flow);
        self.limit_flows(timing, now_ns, out);
    }

    pub fn active(&mut self, address: IpAddr, upload: u64, download: u64, timing: &Timing, now_ns: u64) {
        if !self.limits.watches_addresses() && self.limits.max_flows.is_none() {
            return;
        }
        let Some(place) = self.places.get_mut(&address) else { return };
        if place.refused {
            return;
        }
        if upload > 0 {
            place.lives(timing, now_ns);
        }
        place.traffic.add(upload.saturating_add(download), now_ns);
    }

    pub fn ended(
        &mut self,
        flow: Aged,
        address: Option<IpAddr>,
        timing: &Timing,
        now_ns: u64,
        out: &mut Vec<Effect>,
    ) {
        self.passing.remove(&flow);
        self.waiting.remove(&flow);
        if let Some(address) = address
            && let Some(place) = self.places.get_mut(&address)
        {
            place.flows.remove(&flow);
            if place.is_over(timing, now_ns) || place.flows.is_empty() && !self.limits.watches_addresses() {
                self.places.remove(&address);
            }
        }
        self.limit_flows(timing, now_ns, out);
    }

    pub fn tick(&mut self, timing: &Timing, now_ns: u64, out: &mut Vec<Effect>) {
        self.places.retain(|_, place| !place.is_over(timing, now_ns));
        self.limit_addresses(timing, now_ns, out);
        self.limit_flows(timing, now_ns, out);
        self.suspicion.look(self.user, &self.limits.sharing, &mut self.places, now_ns, out);
    }

    pub fn blocks(&self, flow: Aged, address: Option<IpAddr>) -> bool {
        let place = address.and_then(|address| self.places.get(&address));
        self.waiting.contains(&flow) || place.is_some_and(|place| place.refused)
    }

    #[cfg(test)]
    pub fn counting(&self, timing: &Timing, now_ns: u64) -> usize {
        self.places.values().filter(|place| place.counts(timing, now_ns)).count()
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.places.is_empty() && self.passing.is_empty() && self.waiting.is_empty()
    }

    /// Refuses addresses that are too many, and lets refused ones in where there is room.
    fn limit_addresses(&mut self, timing: &Timing, now_ns: u64, out: &mut Vec<Effect>) {
        let max = self.limits.max_addresses.map_or(usize::MAX, |max| max as usize);
        let counting = self.places.iter().filter(|(_, place)| place.counts(timing, now_ns));
        let mut counting: Vec<(u64, IpAddr)> = counting.map(|(&ip, place)| (place.since_ns, ip)).collect();
        counting.sort_unstable();
        while counting.len() > max {
            let lost = match self.limits.wins {
                Wins::Newest => counting.remove(0),
                Wins::Oldest => counting.remove(counting.len() - 1),
            };
            self.refuse(lost.1, out);
        }
        let taken = |place: &&Place| !place.refused && place.in_use(timing, now_ns);
        let taken = self.places.values().filter(taken).count();
        let refused = self.places.iter().filter(|(_, place)| place.refused);
        let mut refused: Vec<(u64, IpAddr)> = refused
            .map(|(&ip, place)| match self.limits.wins {
                Wins::Newest => (u64::MAX - place.last_ns, ip),
                Wins::Oldest => (place.since_ns, ip),
            })
            .collect();
        refused.sort_unstable();
        for (_, address) in refused.into_iter().take(max.saturating_sub(taken)) {
            self.admit(address, now_ns);
        }
    }

    fn refuse(&mut self, address: IpAddr, out: &mut Vec<Effect>) {
        let Some(place) = self.places.get_mut(&address) else { return };
        place.refused = true;
        for flow in &place.flows {
            if self.passing.remove(flow) {
                out.push(Effect::Block { flow: flow.1, user: self.user, why: TooMany::Addresses });
            }
            // A flow that waited is blocked already.
            self.waiting.remove(flow);
        }
    }

    /// The address is new again. Its flows wait; the limit of flows lets them in.
    fn admit(&mut self, address: IpAddr, now_ns: u64) {
        let Some(place) = self.places.get_mut(&address) else { return };
        place.refused = false;
        place.since_ns = now_ns;
        place.last_ns = now_ns;
        self.waiting.extend(&place.flows);
    }

    /// Blocks flows that are too many, and lets waiting ones in where there is room.
    fn limit_flows(&mut self, timing: &Timing, now_ns: u64, out: &mut Vec<Effect>) {
        let max = self.limits.max_flows.map_or(usize::MAX, |max| max as usize);
        if self.passing.len() <= max && self.waiting.is_empty() {
            return;
        }
        let moved = self.moved(timing, now_ns);
        while self.passing.len() > max {
            let Some(flow) = self.most_dispensable(&moved) else { break };
            self.block(flow, out);
        }
        while self.passing.len() < max {
            let Some(flow) = self.most_wanted(&moved) else { break };
            self.unblock(flow, out);
        }
        // A client that has moved makes room for itself.
        while let Some(gone) = self.passing.iter().rev().find(|flow| moved.contains(flow)).copied() {
            let Some(here) = self.waiting.iter().find(|flow| !moved.contains(flow)).copied() else { break };
            self.block(gone, out);
            self.unblock(here, out);
        }
    }

    fn block(&mut self, flow: Aged, out: &mut Vec<Effect>) {
        self.passing.remove(&flow);
        self.waiting.insert(flow);
        out.push(Effect::Block { flow: flow.1, user: self.user, why: TooMany::Flows });
    }

    fn unblock(&mut self, flow: Aged, out: &mut Vec<Effect>) {
        self.waiting.remove(&flow);
        self.passing.insert(flow);
        out.push(Effect::Unblock { flow: flow.1, user: self.user });
    }

    /// Flows of addresses that went silent, which matter only where the oldest wins.
    fn moved(&self, timing: &Timing, now_ns: u64) -> BTreeSet<Aged> {
        let silent = |place: &&Place| now_ns.saturating_sub(place.last_ns) >= timing.moved_ns;
        match self.limits.wins {
            Wins::Newest => BTreeSet::new(),
            Wins::Oldest => {
                self.places.values().filter(silent).flat_map(|place| &place.flows).copied().collect()
            }
        }
    }

    fn most_dispensable(&self, moved: &BTreeSet<Aged>) -> Option<Aged> {
        match self.limits.wins {
            Wins::Newest => self.passing.first().copied(),
            Wins::Oldest => {
                let gone = self.passing.iter().rev().find(|flow| moved.contains(flow));
                gone.or(self.passing.last()).copied()
            }
        }
    }

    fn most_wanted(&self, moved: &BTreeSet<Aged>) -> Option<Aged> {
        match self.limits.wins {
            Wins::Newest => self.waiting.last().copied(),
            Wins::Oldest => {
                let here = self.waiting.iter().find(|flow| !moved.contains(flow));
                here.or(self.waiting.first()).copied()
            }
        }
    }
}
