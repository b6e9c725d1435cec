//! Connections whose bytes the kernel does not see on a watched socket (SOCKS5 UDP goes over a port
//! of its own): counted by sing-box's own totals.
//!
//! Each byte is given out once in the life of the process: totals are remembered by connection, also
//! for a while after its end, because sing-box tells ended connections again.

use std::collections::{BTreeMap, VecDeque};

use crate::core::event::InboundIndex;

use super::{limits::REPORTED_CONNECTIONS_MAX, users::UserNo};

#[derive(Clone, Copy, Debug)]
struct Known {
    user: UserNo,
    inbound: InboundIndex,
    totals: [u64; 2],
    ended: bool,
}

/// Bytes that were not given out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub user: UserNo,
    pub inbound: InboundIndex,
    pub bytes: [u64; 2],
}

#[derive(Debug, Default)]
pub(super) struct Reported {
    known: BTreeMap<u64, Known>,
    ended: VecDeque<u64>,
}

impl Reported {
    pub fn is_known(&self, connection: u64) -> bool {
        self.known.contains_key(&connection)
    }

    /// Takes a connection in; bytes up to `before` are not given out. `false`: there is no room.
    pub fn begin(&mut self, connection: u64, user: UserNo, inbound: InboundIndex, before: [u64; 2]) -> bool {
        while self.known.len() >= REPORTED_CONNECTIONS_MAX {
            let Some(oldest) = self.ended.pop_front() else { return false };
            self.known.remove(&oldest);
        }
        self.known.insert(connection, Known { user, inbound, totals: before, ended: false });
        true
    }

    /// New totals; smaller ones than before change nothing.
    pub fn totals(&mut self, connection: u64, totals: [u64; 2]) -> Option<Fresh> {
        let known = self.known.get_mut(&connection)?;
        let mut bytes = [0; 2];
        for direction in 0..2 {
            bytes[direction] = totals[direction].saturating_sub(known.totals[direction]);
            known.totals[direction] = known.totals[direction].max(totals[direction]);
        }
        let fresh = Fresh { user: known.user, inbound: known.inbound, bytes };
        (bytes != [0; 2]).then_some(fresh)
    }

    pub fn end(&mut self, connection: u64) {
        if let Some(known) = self.known.get_mut(&connection)
            && !known.ended
        {
            known.ended = true;
            self.ended.push_back(connection);
        }
    }
}
