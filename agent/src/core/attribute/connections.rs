//! The open connections over UDP: which user has connections open at a peer's address.
//!
//! Tells sharing of a peer address (two users at the same time) from a hand-over (the earlier user has
//! gone, and another comes from the same address), and whose a flow is that goes on after a pause in
//! which the kernel forgot it, while sing-box kept the session and reports nothing new.
//! Owns the connections; decides nothing.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    flows::{Key, OPEN},
    limits::{REPLAY_NS, UDP_CONNECTIONS_MAX, UDP_RESUME_NS},
    users::UserNo,
};

#[derive(Clone, Copy, Debug)]
struct Connection {
    user: UserNo,
    /// When the flow at its address ended; [`OPEN`] while there is one.
    pause_ns: u64,
    /// The replay in which the source told it last.
    replay: u32,
}

/// Who has connections open at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    Nobody,
    One(UserNo),
    Several,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    at: BTreeMap<(Key, u64), Connection>,
    keys: BTreeMap<u64, Key>,
    replay: u32,
    replayed_at: Option<u64>,
    /// There was no room for one at some time: "nobody else" cannot be said any more until a replay.
    incomplete: bool,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there was room.
    pub fn open(&mut self, key: Key, connection: u64, user: UserNo) -> bool {
        let replay = self.replay;
        let full = self.keys.len() >= UDP_CONNECTIONS_MAX;
        if let Some(old) = self.keys.get(&connection).copied().filter(|&old| old != key) {
            self.at.remove(&(old, connection));
            self.keys.remove(&connection);
        }
        match self.at.entry((key, connection)) {
            Entry::Occupied(mut known) => known.get_mut().replay = replay,
            Entry::Vacant(_) if full => {
                self.incomplete = true;
                return false;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Connection { user, pause_ns: OPEN, replay });
                self.keys.insert(connection, key);
            }
        }
        true
    }

    pub fn end(&mut self, connection: u64) {
        if let Some(key) = self.keys.remove(&connection) {
            self.at.remove(&(key, connection));
        }
    }

    /// Whether this user still has a connection open there, or may have.
    pub fn may_be_open(&self, key: Key, user: UserNo) -> bool {
        self.incomplete || self.range(key).any(|connection| connection.user == user)
    }

    /// The flow at this address ended, by idleness or because it was handed over.
    pub fn pause(&mut self, key: Key, now_ns: u64) {
        for connection in self.at.range_mut((key, 0)..=(key, u64::MAX)).map(|(_, c)| c) {
            connection.pause_ns = now_ns;
        }
    }

    /// A new flow begins at this address: whose connections go on there?
    pub fn resume(&mut self, key: Key, now_ns: u64) -> Occupant {
        let mut occupant = Occupant::Nobody;
        for connection in self.at.range_mut((key, 0)..=(key, u64::MAX)).map(|(_, c)| c) {
            if connection.pause_ns != OPEN && now_ns.saturating_sub(connection.pause_ns) > UDP_RESUME_NS {
                continue;
            }
            connection.pause_ns = OPEN;
            occupant = match occupant {
                Occupant::Nobody => Occupant::One(connection.user),
                Occupant::One(user) if user == connection.user => Occupant::One(user),
                _ => Occupant::Several,
            };
        }
        occupant
    }

    /// The source begins to tell all open connections again.
    pub fn replay_begins(&mut self, now_ns: u64) {
        self.replay = self.replay.wrapping_add(1);
        self.replayed_at = Some(now_ns);
    }

    /// Forgets what a replay did not tell again, once it is over. The sightings that were dropped for
    /// lack of room are in the replay too, so that the table is complete again if there was room.
    pub fn tick(&mut self, now_ns: u64) {
        let Some(due) = self.replay_due() else { return };
        if now_ns < due {
            return;
        }
        self.replayed_at = None;
        let replay = self.replay;
        self.at.retain(|_, connection| connection.replay == replay);
        let at = &self.at;
        self.keys.retain(|&connection, &mut key| at.contains_key(&(key, connection)));
        self.incomplete = self.keys.len() >= UDP_CONNECTIONS_MAX;
    }

    pub fn replay_due(&self) -> Option<u64> {
        self.replayed_at.map(|at| at.saturating_add(REPLAY_NS))
    }

    fn range(&self, key: Key) -> impl Iterator<Item = &Connection> {
        self.at.range((key, 0)..=(key, u64::MAX)).map(|(_, connection)| connection)
    }
}
