//! Bytes that sing-box reports where the kernel cannot give them to a user, on their way to the ledger.
//!
//! Owns the sums of this life of the agent, which only grow, and what of them the ledger does not have
//! yet. A batch holds sums and how far each connection is together, so that an agent that is killed
//! leaves both or neither.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    core::{
        attribute::ReportedBytes,
        event::{InboundIndex, UserId},
    },
    ledger::{InboundNo, Reported, ReportedConnection, ReportedRow},
};

/// Connections that wait for a ledger that cannot write. Of more, an agent that is killed before it can
/// would not know the next time that it had counted them.
const CONNECTIONS_MAX: usize = 262_144;

type Account = (UserId, InboundIndex);

/// See the module.
#[derive(Debug)]
pub struct ReportedSums {
    /// Names this life of the agent.
    reporter: [u8; 16],
    sums: BTreeMap<Account, [u64; 2]>,
    grown: BTreeSet<Account>,
    connections: HashMap<Arc<str>, ([u64; 2], bool)>,
}

impl ReportedSums {
    pub fn new(reporter: [u8; 16]) -> Self {
        ReportedSums { reporter, sums: BTreeMap::new(), grown: BTreeSet::new(), connections: HashMap::new() }
    }

    pub fn take(&mut self, told: ReportedBytes) {
        let account = (told.user, told.inbound);
        if told.bytes != [0; 2] {
            let sum = self.sums.entry(account).or_default();
            *sum = [0, 1].map(|direction| sum[direction].saturating_add(told.bytes[direction]));
            self.grown.insert(account);
        }
        if self.connections.len() < CONNECTIONS_MAX || self.connections.contains_key(&told.connection) {
            self.connections.insert(told.connection, (told.totals, told.ended));
        }
    }

    /// What the ledger does not have. `None` too while it does not know an inbound: all of it or nothing.
    pub fn batch(&self, inbounds: &BTreeMap<InboundIndex, InboundNo>) -> Option<Reported> {
        if self.grown.is_empty() && self.connections.is_empty() {
            return None;
        }
        let row = |account: &Account| {
            let &(user, inbound) = account;
            let total = self.sums.get(account).copied().unwrap_or_default();
            Some(ReportedRow { user, inbound: *inbounds.get(&inbound)?, total })
        };
        let rows = self.grown.iter().map(row).collect::<Option<Vec<_>>>()?;
        let connections = self.connections.iter().map(|(id, &(total, ended))| ReportedConnection {
            id: Arc::clone(id),
            total,
            ended,
        });
        Some(Reported { reporter: self.reporter, rows, connections: connections.collect() })
    }

    /// The ledger has this batch.
    pub fn committed(&mut self, batch: &Reported, inbounds: &BTreeMap<InboundIndex, InboundNo>) {
        let written: HashMap<(UserId, InboundNo), [u64; 2]> =
            batch.rows.iter().map(|row| ((row.user, row.inbound), row.total)).collect();
        let sums = &self.sums;
        self.grown.retain(|account| {
            let no = inbounds.get(&account.1);
            no.and_then(|no| written.get(&(account.0, *no))) != sums.get(account)
        });
        for done in &batch.connections {
            if self.connections.get(&done.id) == Some(&(done.total, done.ended)) {
                self.connections.remove(&done.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ALICE: UserId = UserId(Uuid::from_u128(1));
    const SOCKS: InboundIndex = InboundIndex(3);

    fn told(id: &str, bytes: u64, total: u64, ended: bool) -> ReportedBytes {
        ReportedBytes {
            user: ALICE,
            inbound: SOCKS,
            bytes: [bytes, 2 * bytes],
            connection: id.into(),
            totals: [total, 2 * total],
            ended,
        }
    }

    fn known() -> BTreeMap<InboundIndex, InboundNo> {
        BTreeMap::from([(SOCKS, InboundNo(9))])
    }

    #[test]
    fn sums_grow_and_what_is_committed_is_not_sent_again() {
        let mut sums = ReportedSums::new([7; 16]);
        assert_eq!(sums.batch(&known()), None);
        sums.take(told("a", 10, 10, false));
        sums.take(told("b", 5, 105, false));
        let batch = sums.batch(&known()).expect("news");
        assert_eq!(batch.rows, [ReportedRow { user: ALICE, inbound: InboundNo(9), total: [15, 30] }]);
        assert_eq!(batch.connections.len(), 2);
        // While that is on its way, more comes.
        sums.take(told("a", 1, 11, true));
        sums.committed(&batch, &known());
        let next = sums.batch(&known()).expect("news");
        assert_eq!(next.rows[0].total, [16, 32]);
        let a = ReportedConnection { id: "a".into(), total: [11, 22], ended: true };
        assert_eq!(next.connections, [a]);
        sums.committed(&next, &known());
        assert_eq!(sums.batch(&known()), None);
        // A failed batch is simply not committed: the next one has it all.
        sums.take(told("b", 1, 106, true));
        assert_eq!(sums.batch(&known()), sums.batch(&known()));
    }

    #[test]
    fn nothing_is_sent_of_an_inbound_that_the_ledger_does_not_know() {
        let mut sums = ReportedSums::new([7; 16]);
        sums.take(told("a", 10, 10, false));
        assert_eq!(sums.batch(&BTreeMap::new()), None);
        assert!(sums.batch(&known()).is_some());
    }
}
