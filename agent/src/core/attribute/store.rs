//! Where flows are kept: found by id, by address and port, and by port alone.
//!
//! Each of 300,000 flows costs its entry and three references of four bytes. The entries lie in one piece
//! without gaps: the last one takes the place of one that goes.

use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

use crate::core::event::{FlowId, Network};

use super::flows::{Flow, FlowRef, Key};

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    at: FlowRef,
    flow: Flow,
    /// The neighbours among the flows with this port: anybody can have as many as there are addresses, so
    /// that they are a chain and not one place of a hash table.
    before: u32,
    after: u32,
}

/// A port of an inbound, on one network.
type Port = (u16, u16, Network);

fn port(key: Key) -> Port {
    (key.inbound, key.port, key.network)
}

/// See the module. The hash has keys of its own, since clients choose addresses and ports.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Vec<Entry>,
    ids: HashTable<u32>,
    keys: HashTable<u32>,
    /// The first flow of each port.
    ports: HashTable<u32>,
    hasher: RandomState,
}

impl Store {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn hash(&self, what: impl Hash) -> u64 {
        self.hasher.hash_one(what)
    }

    fn place(&self, id: FlowId) -> Option<usize> {
        let same = |&at: &u32| self.entries[at as usize].at.1 == id;
        self.ids.find(self.hash(id), same).map(|&at| at as usize)
    }

    pub fn find(&self, id: FlowId) -> Option<FlowRef> {
        self.place(id).map(|at| self.entries[at].at)
    }

    pub fn get(&self, at: FlowRef) -> Option<&Flow> {
        self.place(at.1).map(|place| &self.entries[place]).filter(|entry| entry.at == at).map(|e| &e.flow)
    }

    pub fn get_mut(&mut self, at: FlowRef) -> Option<&mut Flow> {
        let place = self.place(at.1)?;
        Some(&mut self.entries[place]).filter(|entry| entry.at == at).map(|entry| &mut entry.flow)
    }

    /// Replaces a flow of the same id.
    pub fn insert(&mut self, at: FlowRef, flow: Flow) {
        self.remove_id(at.1);
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        let (key, id) = at;
        let hashes = [self.hash(id), self.hash(key), self.hash(port(key))];
        let after = self.first(key).unwrap_or(NONE);
        self.entries.push(Entry { at, flow, before: NONE, after });
        let Store { entries, ids, keys, ports, hasher } = self;
        let of = |place: &u32| entries[*place as usize].at;
        ids.insert_unique(hashes[0], place, |place| hasher.hash_one(of(place).1));
        keys.insert_unique(hashes[1], place, |place| hasher.hash_one(of(place).0));
        if after == NONE {
            ports.insert_unique(hashes[2], place, |place| hasher.hash_one(port(of(place).0)));
        } else {
            self.set_first(key, after, place);
            self.entries[after as usize].before = place;
        }
    }

    pub fn remove(&mut self, at: FlowRef) -> Option<Flow> {
        self.get(at)?;
        self.remove_id(at.1)
    }

    fn remove_id(&mut self, id: FlowId) -> Option<Flow> {
        let place = self.place(id)? as u32;
        let Entry { at: (key, _), before, after, .. } = self.entries[place as usize];
        let hashes = [self.hash(id), self.hash(key)];
        for (table, hash) in [&mut self.ids, &mut self.keys].into_iter().zip(hashes) {
            if let Ok(found) = table.find_entry(hash, |&known| known == place) {
                found.remove();
            }
        }
        match (before, after) {
            (NONE, NONE) => {
                let hash = self.hash(port(key));
                if let Ok(found) = self.ports.find_entry(hash, |&known| known == place) {
                    found.remove();
                }
            }
            (NONE, after) => self.set_first(key, place, after),
            (before, _) => self.entries[before as usize].after = after,
        }
        if after != NONE {
            self.entries[after as usize].before = before;
        }
        self.move_last_to(place);
        let flow = self.entries.pop().map(|entry| entry.flow);
        self.give_back();
        flow
    }

    /// Changes places with the last entry, which nothing refers to afterwards.
    fn move_last_to(&mut self, place: u32) {
        let last = (self.entries.len() - 1) as u32;
        if last == place {
            return;
        }
        let Entry { at: (key, id), before, after, .. } = self.entries[last as usize];
        let hashes = [self.hash(id), self.hash(key)];
        for (table, hash) in [&mut self.ids, &mut self.keys].into_iter().zip(hashes) {
            if let Some(known) = table.find_mut(hash, |&known| known == last) {
                *known = place;
            }
        }
        match before {
            NONE => self.set_first(key, last, place),
            before => self.entries[before as usize].after = place,
        }
        if after != NONE {
            self.entries[after as usize].before = place;
        }
        self.entries.swap(place as usize, last as usize);
    }

    /// After a flood its memory is given back.
    fn give_back(&mut self) {
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            let Store { entries, ids, keys, ports, hasher } = self;
            entries.shrink_to(2 * entries.len());
            let of = |place: &u32| entries[*place as usize].at;
            ids.shrink_to(0, |place| hasher.hash_one(of(place).1));
            keys.shrink_to(0, |place| hasher.hash_one(of(place).0));
            ports.shrink_to(0, |place| hasher.hash_one(port(of(place).0)));
        }
    }

    fn first(&self, key: Key) -> Option<u32> {
        let same = |&place: &u32| port(self.entries[place as usize].at.0) == port(key);
        self.ports.find(self.hash(port(key)), same).copied()
    }

    fn set_first(&mut self, key: Key, from: u32, to: u32) {
        let hash = self.hash(port(key));
        if let Some(known) = self.ports.find_mut(hash, |&known| known == from) {
            *known = to;
        }
    }

    /// All flows of one address and port, by id.
    pub fn at(&self, key: Key) -> Vec<(FlowRef, &Flow)> {
        let places = self.keys.iter_hash(self.hash(key));
        let entries = places.map(|&place| &self.entries[place as usize]);
        let mut found: Vec<(FlowRef, &Flow)> =
            entries.filter(|entry| entry.at.0 == key).map(|entry| (entry.at, &entry.flow)).collect();
        found.sort_unstable_by_key(|(at, _)| at.1);
        found
    }

    /// Some flows with one port, whatever their address: all, if they are not more than `max`.
    pub fn at_port(&self, key: Key, max: usize) -> Vec<(FlowRef, &Flow)> {
        let mut found = Vec::new();
        let mut next = self.first(key).unwrap_or(NONE);
        while next != NONE && found.len() < max {
            let entry = &self.entries[next as usize];
            found.push((entry.at, &entry.flow));
            next = entry.after;
        }
        found.sort_unstable_by_key(|(at, _)| *at);
        found
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowRef, &Flow)> {
        self.entries.iter().map(|entry| (entry.at, &entry.flow))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::flows::OPEN, *};

    fn key(inbound: u16, port: u16, ip: u8) -> Key {
        Key { inbound, port, network: Network::Udp, ip: [ip; 16] }
    }

    fn flow(opened_ns: u64) -> Flow {
        Flow {
            opened_ns,
            closed_ns: OPEN,
            owner: None,
            shared_with: None,
            connection: 0,
            by: None,
            weak: false,
            owned_elsewhere: false,
            handed_over: false,
        }
    }

    fn numbers(found: impl IntoIterator<Item = (FlowRef, u64)>) -> Vec<(FlowRef, u64)> {
        found.into_iter().collect()
    }

    proptest! {
        /// Against a sorted map, with few ports and addresses so that chains are long.
        #[test]
        fn it_finds_what_is_there(
            steps in prop::collection::vec((0_u8..3, 0_u64..40, 0_u16..2, 0_u16..3, 0_u8..3), 0..300)
        ) {
            let (mut store, mut known) = (Store::default(), BTreeMap::new());
            for (number, (what, id, inbound, port, ip)) in steps.into_iter().enumerate() {
                let (at, number) = ((key(inbound, port, ip), FlowId(id)), number as u64);
                let there = known.keys().find(|at: &&FlowRef| at.1 == FlowId(id)).copied();
                if what < 2 {
                    there.map(|there| known.remove(&there));
                    known.insert(at, number);
                    store.insert(at, flow(number));
                } else {
                    let gone = store.remove(at).map(|flow| flow.opened_ns);
                    prop_assert_eq!(gone, known.remove(&at), "only with its address");
                }
                prop_assert_eq!(store.len(), known.len());
                let opened = |(at, flow): (FlowRef, &Flow)| (at, flow.opened_ns);
                for at in known.keys() {
                    prop_assert_eq!(store.find(at.1), Some(*at));
                    prop_assert_eq!(store.get(*at).map(|flow| flow.opened_ns), known.get(at).copied());
                    let same_key = known.iter().filter(|(other, _)| other.0 == at.0).map(|(a, n)| (*a, *n));
                    prop_assert_eq!(numbers(store.at(at.0).into_iter().map(opened)), numbers(same_key));
                    let same_port = known
                        .iter()
                        .filter(|(other, _)| super::port(other.0) == super::port(at.0))
                        .map(|(a, n)| (*a, *n));
                    prop_assert_eq!(
                        numbers(store.at_port(at.0, usize::MAX).into_iter().map(opened)),
                        numbers(same_port)
                    );
                }
                let all: BTreeMap<FlowRef, u64> = store.iter().map(opened).collect();
                prop_assert_eq!(&all, &known);
            }
        }
    }

    #[test]
    fn one_port_of_many_addresses_is_looked_at_in_part_and_memory_comes_back() {
        let mut store = Store::default();
        for number in 0..100_000_u64 {
            let mut key = key(1, 443, 0);
            key.ip[..8].copy_from_slice(&number.to_be_bytes());
            store.insert((key, FlowId(number)), flow(number));
        }
        assert_eq!(store.at_port(key(1, 443, 0), 65).len(), 65);
        let all: Vec<FlowRef> = store.iter().map(|(at, _)| at).collect();
        for at in all {
            store.remove(at);
        }
        assert!(store.at_port(key(1, 443, 0), 65).is_empty());
        assert!(store.entries.capacity() <= 1024, "{}", store.entries.capacity());
        assert!(store.ids.capacity() <= 2048, "{}", store.ids.capacity());
    }
}
