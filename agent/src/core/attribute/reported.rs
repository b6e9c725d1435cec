//! Connections whose bytes the kernel cannot give to a user: SOCKS5 UDP goes over a port of its own, and
//! of a forwarded address without a port nobody can say which flow it is. Counted by sing-box's own totals.
//!
//! Each byte is given out once: totals are remembered by connection, also for a while after its end,
//! because sing-box tells ended connections again; what earlier lives of the process gave out is told by
//! the daemon at the start.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::core::event::InboundIndex;

use super::{
    limits::{REPLAY_NS, REPORTED_CONNECTIONS_MAX},
    users::UserNo,
};

#[derive(Clone, Debug)]
struct Known {
    id: Arc<str>,
    user: UserNo,
    inbound: InboundIndex,
    totals: [u64; 2],
    ended: bool,
    /// The replay in which the source told it last.
    replay: u32,
}

/// News of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub id: Arc<str>,
    pub user: UserNo,
    pub inbound: InboundIndex,
    /// Bytes that were not given out before.
    pub bytes: [u64; 2],
    pub totals: [u64; 2],
    pub ended: bool,
}

/// A connection that begins to be counted.
pub(super) struct Begin {
    pub id: Arc<str>,
    pub user: UserNo,
    pub inbound: InboundIndex,
    /// Bytes up to here are not given out, unless an earlier life of the process says how far it was.
    pub before: [u64; 2],
}

#[derive(Debug, Default)]
pub(super) struct Reported {
    known: BTreeMap<u64, Known>,
    ended: VecDeque<u64>,
    former: HashMap<Arc<str>, [u64; 2]>,
    replay: u32,
    replayed_at: Option<u64>,
}

impl Known {
    fn fresh(&self, bytes: [u64; 2]) -> Fresh {
        let Known { user, inbound, totals, ended, .. } = *self;
        Fresh { id: Arc::clone(&self.id), user, inbound, bytes, totals, ended }
    }
}

impl Reported {
    /// How far earlier lives of the process were.
    pub fn set_former(&mut self, former: HashMap<Arc<str>, [u64; 2]>) {
        self.former = former;
    }

    pub fn is_known(&self, connection: u64) -> bool {
        self.known.contains_key(&connection)
    }

    /// Takes a connection in. `false`: there is no room.
    pub fn begin(&mut self, connection: u64, begin: Begin) -> bool {
        while self.known.len() >= REPORTED_CONNECTIONS_MAX {
            let Some(oldest) = self.ended.pop_front() else { return false };
            self.known.remove(&oldest);
        }
        let Begin { id, user, inbound, before } = begin;
        let totals = self.former.remove(&id).unwrap_or(before);
        let replay = self.replay;
        self.known.insert(connection, Known { id, user, inbound, totals, ended: false, replay });
        true
    }

    /// New totals; smaller ones than before change nothing.
    pub fn totals(&mut self, connection: u64, totals: [u64; 2]) -> Option<Fresh> {
        let known = self.known.get_mut(&connection)?;
        known.replay = self.replay;
        let mut bytes = [0; 2];
        for direction in 0..2 {
            bytes[direction] = totals[direction].saturating_sub(known.totals[direction]);
            known.totals[direction] = known.totals[direction].max(totals[direction]);
        }
        (bytes != [0; 2]).then(|| known.fresh(bytes))
    }

    pub fn end(&mut self, connection: u64) -> Option<Fresh> {
        let known = self.known.get_mut(&connection).filter(|known| !known.ended)?;
        known.ended = true;
        self.ended.push_back(connection);
        Some(known.fresh([0; 2]))
    }

    /// The source begins to tell all open connections again.
    pub fn replay_begins(&mut self, now_ns: u64) {
        self.replay = self.replay.wrapping_add(1);
        self.replayed_at = Some(now_ns);
    }

    pub fn replay_due(&self) -> Option<u64> {
        self.replayed_at.map(|at| at.saturating_add(REPLAY_NS))
    }

    /// Ends what a replay did not tell again, once it is over: those ended while nobody listened. What
    /// former lives counted of connections that did not come back is of no use any more.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Fresh> {
        if self.replay_due().is_none_or(|due| now_ns < due) {
            return Vec::new();
        }
        self.replayed_at = None;
        self.former = HashMap::new();
        let open = self.known.iter().filter(|(_, known)| !known.ended && known.replay != self.replay);
        let gone: Vec<u64> = open.map(|(&connection, _)| connection).collect();
        gone.into_iter().filter_map(|connection| self.end(connection)).collect()
    }
}
