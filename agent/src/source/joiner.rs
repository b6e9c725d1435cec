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

    /// The configuration was read anew. Connections of which one half is known are only forgotten if the
    /// numbers of the inbounds mean others now: sing-box itself may not have read it yet.
    pub fn set_known(&mut self, known: KnownInbounds) {
        let same = self.known.0.len() == known.0.len()
            && self.known.0.iter().zip(known.0.iter()).all(|(a, b)| a.tag == b.tag && a.kind == b.kind);
        self.known = known;
        if !same {
            self.clear();
        }
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
            or_inbounds: Arc::default(),
            within_ms: 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{KnownInbound, KnownUser, log_line};

    fn known() -> KnownInbounds {
        let users = ["a", "b"].map(|name| (name.into(), KnownUser::Named)).into();
        KnownInbounds(Arc::new(vec![KnownInbound { kind: "trojan".into(), tag: "t".into(), users }]))
    }

    fn feed(joiner: &mut Joiner, now_ms: u64, lines: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        for line in lines {
            let line =
                line.replace('T', "inbound/trojan[t]:").replace('F', "inbound connection from 10.0.0.");
            let record = log_line::parse(joiner.known(), &line).unwrap_or_else(|| panic!("{line}"));
            joiner.on(record, now_ms, None, &mut out);
        }
        out.iter()
            .map(|event| match event {
                SourceEvent::Sighting(s) => format!("{} {}", s.user, s.peer),
                SourceEvent::Lost { counter, count } => format!("{counter} {count}"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    const A: &str = "[a] inbound connection to x:1";
    const B: &str = "[b] inbound connection to x:1";

    #[test]
    fn users_join_their_own_address_only() {
        let mut joiner = Joiner::new(SourceKind::ClashLogs, known());
        let found = feed(
            &mut joiner,
            0,
            &["[1 0ms] T F1:1", "[2 0ms] T F2:2", &format!("[2 1ms] T {B}"), &format!("[1 1.2s] T {A}")],
        );
        assert_eq!(found, ["b 10.0.0.2:2", "a 10.0.0.1:1"]);
        // Further streams of the session say nothing new; another user on the socket does.
        let found =
            feed(&mut joiner, 0, &[&format!("[1 2ms] T {A}"), "[1 3ms] T F1:1", &format!("[1 3ms] T {B}")]);
        assert_eq!(found, ["b 10.0.0.1:1"]);
        // Streams with different addresses, interleaved: nobody's.
        let found = feed(
            &mut joiner,
            0,
            &["[3 0ms] T F1:1", "[3 0ms] T F9:1", &format!("[3 0ms] T {A}"), &format!("[4 0ms] T {A}")],
        );
        assert_eq!(found, ["log_source_ambiguous 1", "log_user_without_source 1"]);
        assert_eq!(
            feed(&mut joiner, 0, &["[5 0ms] T F1:1", "[5 0ms] T [zoe] inbound connection to x:1"]),
            ["log_user_unknown 1"]
        );
    }

    /// The file was edited and sing-box has not read it: who logs in at this moment is known all the same.
    #[test]
    fn what_is_half_known_outlives_a_change_of_users() {
        let mut joiner = Joiner::new(SourceKind::ClashLogs, known());
        feed(&mut joiner, 0, &["[1 0ms] T F1:1"]);
        let mut fewer = known();
        Arc::make_mut(&mut fewer.0)[0].users.remove("a");
        assert!(fewer.add(known().names()));
        assert!(!fewer.add(known().names()), "nobody is missing now");
        joiner.set_known(fewer);
        assert_eq!(feed(&mut joiner, 0, &[&format!("[1 1ms] T {A}")]), ["a 10.0.0.1:1"]);
        feed(&mut joiner, 0, &["[2 0ms] T F2:2"]);
        let mut other = known();
        Arc::make_mut(&mut other.0).insert(0, KnownInbound { tag: "first".into(), ..known().0[0].clone() });
        joiner.set_known(other);
        assert_eq!(feed(&mut joiner, 0, &[&format!("[2 1ms] T {B}")]), ["log_user_without_source 1"]);
    }

    #[test]
    fn an_unnamed_users_number_stays_nobodys() {
        let mut inbounds = known();
        Arc::make_mut(&mut inbounds.0)[0].users.insert("4".into(), KnownUser::Unnamed);
        let (tag, name) = (Arc::from("t"), Arc::from("4"));
        assert!(!inbounds.add([(&tag, &name)].into_iter()));
        assert_eq!(inbounds.0[0].users["4"], KnownUser::Unnamed);
    }

    #[test]
    fn without_numbers_only_one_waiting_address_counts() {
        let mut joiner = Joiner::new(SourceKind::ClashLogs, known());
        assert_eq!(feed(&mut joiner, 0, &["T F1:1", &format!("T {A}")]), ["a 10.0.0.1:1"]);
        let two = feed(&mut joiner, 0, &["T F1:1", "T F2:2", &format!("T {A}"), &format!("T {B}")]);
        assert_eq!(two, ["log_source_ambiguous 1", "log_user_without_source 1"]);
        // A failed login does not wait, nor does one of long ago.
        let failed =
            ["T F1:1", "T process connection from 10.0.0.1:1: unknown UUID", "T F2:2", &format!("T {B}")];
        assert_eq!(feed(&mut joiner, 0, &failed), ["b 10.0.0.2:2"]);
        feed(&mut joiner, 0, &["T F1:1"]);
        assert_eq!(feed(&mut joiner, ADJACENT_AGE_MS, &["T F2:2", &format!("T {B}")]), ["b 10.0.0.2:2"]);
    }

    #[test]
    fn memory_is_bounded_and_overflow_is_counted() {
        let mut joiner = Joiner::new(SourceKind::ClashLogs, known());
        let mut out = Vec::new();
        let peer = "10.0.0.1:1".parse().unwrap();
        for id in 0..2 * JOINS_MAX as u32 {
            joiner.on(
                Record { id: Some(id), inbound: 0, message: Message::From { peer } },
                0,
                None,
                &mut out,
            );
        }
        assert!(joiner.young.len() + joiner.old.len() <= JOINS_MAX);
        let lost: u64 =
            out.iter().map(|e| if let SourceEvent::Lost { count, .. } = e { *count } else { 0 }).sum();
        assert_eq!(lost as usize, 2 * JOINS_MAX - joiner.young.len() - joiner.old.len());
        // By age it is no loss.
        out.clear();
        for turn in 1..4 {
            joiner.on(
                Record { id: None, inbound: 0, message: Message::From { peer } },
                turn * JOIN_AGE_MS,
                None,
                &mut out,
            );
        }
        assert!(out.is_empty() && joiner.young.is_empty() && joiner.old.is_empty());
    }
}
