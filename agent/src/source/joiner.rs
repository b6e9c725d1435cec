//! Joins the log's records of one connection: its address (line A) and its user (line B). Pure; time
//! is an argument. Never guesses: what has two readings is counted and left without an owner.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::core::event::{Network, Sighting, SourceEvent, SourceKind};

use super::{
    KnownInbounds,
    api_state::USER_UNNAMED,
    log_line::{Message, Record},
};

/// Connections that are remembered, in two generations of half as many. A bare connect leaves an
/// address without a user, so that a flood of them pushes others out, counted.
pub const JOINS_MAX: usize = 32_768;

/// A connection is remembered for this to twice this time after its last record: a client may take
/// long to log in, and anytls logs further streams of a session by its first number.
pub const JOIN_AGE_MS: u64 = 5 * 60_000;

/// Addresses without a number (QUIC transports) that wait for their user, per inbound.
pub const ADJACENT_MAX: usize = 64;

/// For so long they wait. The user follows in the same millisecond unless the login fails.
pub const ADJACENT_AGE_MS: u64 = 10_000;

/// Addresses of one connection number: grpc and http transports repeat them for every stream.
const PEERS_MAX: usize = 16;

/// A user without an address before it: that line was lost, or the inbound is ShadowTLS.
pub const USER_WITHOUT_SOURCE: &str = "log_user_without_source";
/// Several addresses fit one user line.
pub const SOURCE_AMBIGUOUS: &str = "log_source_ambiguous";
/// An address was forgotten before its user came, because `JOINS_MAX` or `ADJACENT_MAX` waited.
pub const JOIN_FULL: &str = "log_join_full";

#[derive(Debug)]
struct Join {
    inbound: usize,
    /// With how many address lines have no user line yet.
    peers: Vec<(SocketAddr, u32)>,
    told: Vec<(Arc<str>, SocketAddr)>,
}

impl Join {
    fn new(inbound: usize) -> Self {
        Join { inbound, peers: Vec::new(), told: Vec::new() }
    }

    /// The address that the next user line belongs to.
    fn take_peer(&mut self) -> Result<SocketAddr, &'static str> {
        let mut waiting = self.peers.iter_mut().filter(|(_, count)| *count > 0);
        match (waiting.next(), waiting.next()) {
            (Some((peer, count)), None) => {
                *count -= 1;
                Ok(*peer)
            }
            (Some(_), Some(_)) => {
                self.peers.iter_mut().for_each(|(_, count)| *count = 0);
                Err(SOURCE_AMBIGUOUS)
            }
            // A further stream of the same session.
            (None, _) => match self.peers.as_slice() {
                [(peer, _)] => Ok(*peer),
                [] => Err(USER_WITHOUT_SOURCE),
                _ => Err(SOURCE_AMBIGUOUS),
            },
        }
    }
}

/// An address that waits for the user in the record after it.
#[derive(Debug)]
struct Adjacent {
    peer: SocketAddr,
    at_ms: u64,
}

#[derive(Debug)]
pub struct Joiner {
    source: SourceKind,
    known: KnownInbounds,
    young: HashMap<u32, Join>,
    old: HashMap<u32, Join>,
    rotated_ms: u64,
    adjacent: HashMap<usize, Vec<Adjacent>>,
    serial: u64,
}

impl Joiner {
    pub fn new(source: SourceKind, known: KnownInbounds) -> Self {
        Joiner {
            source,
            known,
            young: HashMap::new(),
            old: HashMap::new(),
            rotated_ms: 0,
            adjacent: HashMap::new(),
            serial: 0,
        }
    }

    pub fn known(&self) -> &KnownInbounds {
        &self.known
    }

    /// The configuration was read anew. sing-box drops all connections when it does so itself, and
    /// the numbers of the inbounds may mean others now.
    pub fn set_known(&mut self, known: KnownInbounds) {
        self.known = known;
        self.clear();
    }

    /// The log was interrupted.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.adjacent.clear();
    }

    /// `now_ms` is monotonic. `created_ms` is the record's own time, where it has one that is exact
    /// enough; else the time of arrival is meant.
    pub fn on(&mut self, record: Record, now_ms: u64, created_ms: Option<i64>, out: &mut Vec<SourceEvent>) {
        self.age(now_ms);
        match record.id {
            Some(id) => self.on_numbered(id, record, created_ms, out),
            None => self.on_adjacent(record, now_ms, created_ms, out),
        }
    }

    fn on_numbered(&mut self, id: u32, record: Record, created_ms: Option<i64>, out: &mut Vec<SourceEvent>) {
        let inbound = record.inbound;
        match record.message {
            Message::From { peer } => {
                let join = self.join(id, inbound, out);
                match join.peers.iter_mut().find(|(known, _)| *known == peer) {
                    Some((_, count)) => *count += 1,
                    None => {
                        if join.peers.len() >= PEERS_MAX {
                            join.peers.remove(0);
                            out.push(SourceEvent::Lost { counter: JOIN_FULL, count: 1 });
                        }
                        join.peers.push((peer, 1));
                    }
                }
            }
            Message::UserFrom { user, network, peer } => {
                let join = self.join(id, inbound, out);
                if !join.peers.iter().any(|(known, _)| *known == peer) {
                    join.peers.push((peer, 0));
                }
                self.tell(id, inbound, user, network, peer, created_ms, out);
            }
            Message::UserTo { user, network } => {
                match self.find(id, inbound).map_or(Err(USER_WITHOUT_SOURCE), Join::take_peer) {
                    Ok(peer) => self.tell(id, inbound, user, network, peer, created_ms, out),
                    Err(counter) => out.push(SourceEvent::Lost { counter, count: 1 }),
                }
            }
            Message::UnnamedTo => {
                if let Some(join) = self.find(id, inbound) {
                    // Only so that the address does not wait on.
                    let _ = join.take_peer();
                }
                out.push(SourceEvent::Lost { counter: USER_UNNAMED, count: 1 });
            }
            // Either a failed login, whose address waits no longer, or the end of a connection.
            Message::Failed { peer } => {
                if let Some(join) = self.find(id, inbound)
                    && let Some((_, count)) = join.peers.iter_mut().find(|(known, _)| *known == peer)
                {
                    *count = count.saturating_sub(1);
                }
            }
            Message::Refused { counter } => {
                if let Some(join) = self.find(id, inbound) {
                    let _ = join.take_peer();
                }
                out.push(SourceEvent::Lost { counter, count: 1 });
            }
        }
    }

    /// Records without a number: the user belongs to the address before it, if there is only one.
    fn on_adjacent(
        &mut self,
        record: Record,
        now_ms: u64,
        created_ms: Option<i64>,
        out: &mut Vec<SourceEvent>,
    ) {
        let waiting = self.adjacent.entry(record.inbound).or_default();
        waiting.retain(|adjacent| now_ms.saturating_sub(adjacent.at_ms) < ADJACENT_AGE_MS);
        match record.message {
            Message::From { peer } => {
                if waiting.len() >= ADJACENT_MAX {
                    waiting.remove(0);
                    out.push(SourceEvent::Lost { counter: JOIN_FULL, count: 1 });
                }
                waiting.push(Adjacent { peer, at_ms: now_ms });
            }
            Message::UserTo { user, network } => {
                let Some(first) = waiting.first().map(|adjacent| adjacent.peer) else {
                    out.push(SourceEvent::Lost { counter: USER_WITHOUT_SOURCE, count: 1 });
                    return;
                };
                if waiting.iter().any(|adjacent| adjacent.peer != first) {
                    waiting.clear();
                    out.push(SourceEvent::Lost { counter: SOURCE_AMBIGUOUS, count: 1 });
                    return;
                }
                waiting.remove(0);
                self.sighting(record.inbound, user, network, first, created_ms, out);
            }
            Message::UserFrom { user, network, peer } => {
                self.sighting(record.inbound, user, network, peer, created_ms, out);
            }
            Message::Failed { peer } => waiting.retain(|adjacent| adjacent.peer != peer),
            Message::UnnamedTo => {
                waiting.clear();
                out.push(SourceEvent::Lost { counter: USER_UNNAMED, count: 1 });
            }
            Message::Refused { counter } => {
                waiting.clear();
                out.push(SourceEvent::Lost { counter, count: 1 });
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn tell(
        &mut self,
        id: u32,
        inbound: usize,
        user: Arc<str>,
        network: Network,
        peer: SocketAddr,
        created_ms: Option<i64>,
        out: &mut Vec<SourceEvent>,
    ) {
        if let Some(join) = self.find(id, inbound) {
            if join.told.iter().any(|(told, at)| *told == user && *at == peer) {
                return;
            }
            if join.told.len() >= PEERS_MAX {
                join.told.remove(0);
            }
            join.told.push((user.clone(), peer));
        }
        self.sighting(inbound, user, network, peer, created_ms, out);
    }

    fn sighting(
        &mut self,
        inbound: usize,
        user: Arc<str>,
        network: Network,
        peer: SocketAddr,
        created_ms: Option<i64>,
        out: &mut Vec<SourceEvent>,
    ) {
        self.serial += 1;
        out.push(SourceEvent::Sighting(Sighting {
            source: self.source,
            // sing-box's own numbers repeat; this one does not while the agent runs.
            connection: format!("{:?}-{}", self.source, self.serial).into(),
            inbound: self.known.0[inbound].tag.clone(),
            network,
            peer,
            user,
            created_ms,
            closed: false,
            totals: None,
        }));
    }

    fn find(&mut self, id: u32, inbound: usize) -> Option<&mut Join> {
        if let Some(join) = self.old.remove(&id) {
            self.young.insert(id, join);
        }
        self.young.get_mut(&id).filter(|join| join.inbound == inbound)
    }

    fn join(&mut self, id: u32, inbound: usize, out: &mut Vec<SourceEvent>) -> &mut Join {
        if let Some(join) = self.old.remove(&id) {
            self.young.insert(id, join);
        } else if self.young.len() >= JOINS_MAX / 2 && !self.young.contains_key(&id) {
            let count = self.rotate();
            if count > 0 {
                out.push(SourceEvent::Lost { counter: JOIN_FULL, count });
            }
        }
        let join = self.young.entry(id).or_insert_with(|| Join::new(inbound));
        if join.inbound != inbound {
            // The number was drawn again, by another inbound.
            *join = Join::new(inbound);
        }
        join
    }

    /// Forgets the older half; returns how many addresses in it still had no user.
    fn rotate(&mut self) -> u64 {
        let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        old.values().filter(|join| join.told.is_empty()).count() as u64
    }

    fn age(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.rotated_ms) >= JOIN_AGE_MS {
            // Not a loss: nobody logged in on these in all that time.
            self.rotate();
            self.rotated_ms = now_ms;
        }
    }
}
