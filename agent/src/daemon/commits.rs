//! Batches on their way to the ledger: one at a time, each with the newest absolute counts.

use std::{collections::BTreeMap, sync::Arc};

use super::{meter::Tick, reported::ReportedSums};
use crate::{
    core::{
        account::{self, Anomaly},
        event::{Counters, InboundIndex, Now, Slot},
    },
    ledger::{
        Batch, CommitError, Committed, InboundNo, InboundRecord, Ledger, NewEvent, Reply, Reported, Row,
    },
};

pub struct Commits {
    pub ledger: Ledger,
    /// Rows that the ledger does not have yet: the newest reading of each slot.
    waiting: BTreeMap<Slot, account::Row>,
    inbounds: BTreeMap<InboundIndex, InboundNo>,
    reported: ReportedSums,
    running: Option<Running>,
}

struct Running {
    since_ns: u64,
    reply: Reply<Committed>,
    rows: Vec<account::Row>,
    reported: Option<Reported>,
    events: Vec<NewEvent>,
}

impl Commits {
    pub fn new(ledger: Ledger) -> Self {
        Commits {
            ledger,
            waiting: BTreeMap::new(),
            inbounds: BTreeMap::new(),
            reported: ReportedSums::new(rand::random()),
            running: None,
        }
    }

    /// The ledger's numbers of the kernel's inbounds. Those that are gone keep theirs: their last
    /// bytes are still to be committed.
    pub fn set_inbounds(&mut self, records: &[InboundRecord], tags: &BTreeMap<InboundIndex, Arc<str>>) {
        for (&index, tag) in tags {
            if let Some(record) = records.iter().find(|record| record.tag == *tag) {
                self.inbounds.insert(index, record.no);
            }
        }
    }

    /// For how long one has been under way.
    pub fn running_ns(&self, now: Now) -> u64 {
        self.running.as_ref().map_or(0, |running| now.mono_ns.saturating_sub(running.since_ns))
    }

    pub fn running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the ledger has everything that was read, as far as it can take it.
    pub fn is_current(&self) -> bool {
        !self.waiting.values().any(|row| self.inbounds.contains_key(&row.owner.inbound))
    }

    pub fn take(&mut self, tick: Tick) {
        for anomaly in &tick.anomalies {
            match anomaly {
                Anomaly::CountersFell { slot, .. } => {
                    tracing::error!(
                        slot = slot.0,
                        "the kernel's counters fell: the account is not counted on"
                    );
                }
                Anomaly::UnknownSlot { slot, .. } => {
                    tracing::error!(slot = slot.0, "the kernel has bytes in a slot that nobody has");
                }
            }
        }
        for row in tick.rows {
            self.waiting.insert(row.slot, row);
        }
        for told in tick.reported {
            self.reported.take(told);
        }
    }

    pub fn start(
        &mut self,
        epoch: [u8; 16],
        watched: Vec<(InboundIndex, Counters)>,
        events: Vec<NewEvent>,
        at: Now,
    ) {
        // A row whose inbound the ledger does not know yet waits until it does.
        let known = self.waiting.values().filter_map(|waiting| {
            let inbound = *self.inbounds.get(&waiting.owner.inbound)?;
            let row = Row {
                slot: waiting.slot.0,
                // Slots are never given to another pair within an epoch.
                generation: 0,
                user: waiting.owner.user,
                inbound,
                total: waiting.counters,
            };
            Some((*waiting, row))
        });
        let (rows, ledger_rows): (Vec<account::Row>, Vec<Row>) = known.unzip();
        let watched = watched
            .into_iter()
            .filter_map(|(index, counters)| Some((*self.inbounds.get(&index)?, counters)))
            .collect();
        let reported = self.reported.batch(&self.inbounds);
        let batch = Batch {
            epoch,
            at,
            rows: ledger_rows,
            watched,
            events: events.clone(),
            reported: reported.clone(),
        };
        let reply = self.ledger.commit(batch);
        self.running = Some(Running { since_ns: at.mono_ns, reply, rows, reported, events });
    }

    /// The end of the running commit; never, if none runs. On an error the events come back, and the
    /// rows wait for the next batch.
    pub async fn done(&mut self) -> Result<Committed, (CommitError, Vec<NewEvent>)> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = (&mut running.reply).await;
        let Some(running) = self.running.take() else { return std::future::pending().await };
        match result {
            Ok(committed) => {
                for written in running.rows {
                    let slot = written.slot;
                    if self.waiting.get(&slot) == Some(&written) {
                        self.waiting.remove(&slot);
                    }
                }
                if let Some(reported) = running.reported {
                    self.reported.committed(&reported, &self.inbounds);
                }
                Ok(committed)
            }
            Err(error) => Err((error, running.events)),
        }
    }
}
