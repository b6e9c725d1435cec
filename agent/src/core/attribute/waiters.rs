//! Sightings that wait: for their flow, for their user to become known, or for a decision that is
//! only sound when no other flow shows up.
//!
//! Owns them, their order by address, and their deadlines. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use crate::core::event::{InboundIndex, Network, SourceKind};

use super::{
    flows::octets,
    limits::{DECIDE_AFTER_NS, SAME_PORT_MAX, SIGHTING_AGE_NS, SIGHTINGS_WAITING_MAX},
    matching::When,
};

/// A sighting with its time made comparable.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub source: SourceKind,
    /// The hash of the source and its connection's id.
    pub connection: u64,
    /// Where its flow may be: several for an inbound behind ShadowTLS.
    pub inbounds: Arc<[InboundIndex]>,
    pub network: Network,
    pub peer: SocketAddr,
    pub user: Arc<str>,
    pub when: When,
    pub closed: bool,
    /// It waits for the time to decide.
    pub deciding: bool,
    /// The time to decide without waiting for other flows has come.
    pub final_decision: bool,
    /// It has waited for as long as one may.
    pub aged: bool,
    /// Another user's sighting claims the same flow, and nothing tells which one is forged.
    pub contested: bool,
}

type Place = (InboundIndex, u16, [u8; 16], u64);

#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<u64, Waiting>,
    places: BTreeSet<Place>,
    by_connection: BTreeMap<u64, u64>,
    ages: VecDeque<(u64, u64)>,
    decisions: VecDeque<(u64, u64)>,
    next: u64,
}

impl Waiters {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number to find it by, or `None` when there is no room.
    pub fn add(&mut self, waiting: Waiting, now_ns: u64) -> Option<u64> {
        if self.waiting.len() >= SIGHTINGS_WAITING_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        for &inbound in waiting.inbounds.iter() {
            self.places.insert(place(inbound, waiting.peer, number));
        }
        self.ages.push_back((now_ns.saturating_add(SIGHTING_AGE_NS), number));
        self.by_connection.insert(waiting.connection, number);
        self.waiting.insert(number, waiting);
        Some(number)
    }

    pub fn decide_later(&mut self, number: u64, now_ns: u64) {
        self.decisions.push_back((now_ns.saturating_add(DECIDE_AFTER_NS), number));
    }

    pub fn get(&self, number: u64) -> Option<&Waiting> {
        self.waiting.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(&number)
    }

    pub fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.by_connection.remove(&waiting.connection);
        for &inbound in waiting.inbounds.iter() {
            self.places.remove(&place(inbound, waiting.peer, number));
        }
        Some(waiting)
    }

    /// The one of this connection.
    pub fn of_connection(&mut self, connection: u64) -> Option<&mut Waiting> {
        let number = self.by_connection.get(&connection)?;
        self.waiting.get_mut(number)
    }

    pub fn numbers(&self) -> Vec<u64> {
        self.waiting.keys().copied().collect()
    }

    /// Those that name an address and port, in the order of their arrival.
    pub fn at(&self, inbound: InboundIndex, peer: SocketAddr) -> Vec<u64> {
        let from = place(inbound, peer, 0);
        self.places
            .range(from..=place(inbound, peer, u64::MAX))
            .map(|place| place.3)
            .take(SAME_PORT_MAX)
            .collect()
    }

    /// Those that name a port.
    pub fn at_port(&self, inbound: InboundIndex, port: u16) -> Vec<u64> {
        let places = (inbound, port, [0; 16], 0)..=(inbound, port, [0xff; 16], u64::MAX);
        self.places.range(places).map(|place| place.3).take(SAME_PORT_MAX).collect()
    }

    /// One whose decision is due.
    pub fn pop_decision(&mut self, now_ns: u64) -> Option<u64> {
        pop_due(&mut self.decisions, now_ns)
    }

    /// One that has waited for too long; it may have gone since.
    pub fn pop_aged(&mut self, now_ns: u64) -> Option<u64> {
        pop_due(&mut self.ages, now_ns)
    }

    pub fn next_deadline(&self) -> Option<u64> {
        [self.decisions.front(), self.ages.front()].into_iter().flatten().map(|&(at, _)| at).min()
    }
}

fn place(inbound: InboundIndex, peer: SocketAddr, number: u64) -> Place {
    (inbound, peer.port(), octets(peer.ip()), number)
}

/// The queues hold one kind of deadline each, so that they are in order without sorting.
pub(super) fn pop_due<T>(queue: &mut VecDeque<(u64, T)>, now_ns: u64) -> Option<T> {
    queue.pop_front_if(|(at, _)| *at <= now_ns).map(|(_, item)| item)
}
