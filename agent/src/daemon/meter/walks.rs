//! Walks over all sockets, ended flows and UDP peers: what idle ones have pending is settled, lost news are made
//! up for, and people who list flows see what each has.

use std::collections::{BTreeSet, HashMap};

use boxmeter_common::flow::{FLOW_CLOSING, FLOW_OLD, Flow};

use super::{
    super::peers::{PEERS_AT_ONCE, PEERS_PER_TICK},
    ListedFlow, Meter,
};
use crate::{
    clock,
    core::event::{FlowId, Now},
    daemon::gate::FlowNews,
    kernel::{KernelError, PeerCursor, seen},
};

impl Meter {
    pub(super) fn walk_sockets(&mut self) -> Result<(), KernelError> {
        self.bulk.clear();
        let began_ns = clock::mono_ns();
        let flows = if self.walks_are_complete {
            self.kernel.walk_sockets_and_sweep()?
        } else {
            self.kernel.walk_sockets()?
        };
        let now = clock::now();
        let mut open: BTreeSet<FlowId> = self.peers.ids();
        for flow in &flows {
            open.insert(FlowId(flow.id));
            self.found(flow, now);
        }
        self.attributor.reconcile_walk(&open, began_ns, now);
        self.walked = Some(open);
        Ok(())
    }

    fn found(&mut self, flow: &Flow, now: Now) {
        let mut flow_seen = seen(flow);
        if flow.flags & FLOW_OLD != 0 {
            flow_seen.opened_ns = 0;
        }
        self.opened(flow_seen, flow.key, now);
        self.note_bulk(flow, flow_seen);
        self.flow_news.push(FlowNews::Moved(flow_seen.id, flow_seen.network, flow.payload));
    }

    /// Ended flows that wait for an owner: all of them, whether or not their events arrived.
    pub(super) fn take_closed(&mut self) -> Result<(), KernelError> {
        for flow in self.kernel.closed()? {
            let now = clock::now();
            self.found(&flow, now);
            self.attributor.flow_closed(FlowId(flow.id), flow.last_ns, now);
        }
        Ok(())
    }

    pub(super) fn walk_peers(&mut self, now: Now) -> Result<(), KernelError> {
        self.commands.extend(self.peers.forget_due(now.mono_ns));
        // Now, so that the walk does not find them again.
        self.run()?;
        let mut left = self.peers.walk_max();
        while left > 0 {
            let (flows, cursor) = self.kernel.walk_peers(self.peers_cursor, left.min(PEERS_AT_ONCE))?;
            self.peers_cursor = cursor.unwrap_or_default();
            self.peers_walked |= cursor.is_none();
            let some = u32::try_from(flows.len()).unwrap_or(u32::MAX).max(1);
            left = if cursor.is_some() { left.saturating_sub(some) } else { 0 };
            for flow in &flows {
                if flow.flags & FLOW_CLOSING != 0 {
                    self.peers.marked(flow, now.mono_ns);
                    continue;
                }
                self.found(flow, now);
                self.commands.extend(self.peers.close_if_idle(flow, now.mono_ns));
            }
        }
        self.run()
    }

    /// The open flows with their payload so far, for people.
    ///
    /// # Errors
    /// As [`Meter::tick`].
    pub fn flows(&mut self) -> Result<Vec<ListedFlow>, KernelError> {
        let mut found: HashMap<FlowId, Flow> = HashMap::new();
        for flow in self.kernel.walk_sockets()? {
            self.found(&flow, clock::now());
            found.insert(FlowId(flow.id), flow);
        }
        let mut cursor = Some(PeerCursor::default());
        while let Some(at) = cursor {
            let (flows, next) = self.kernel.walk_peers(at, PEERS_PER_TICK)?;
            for flow in flows {
                if flow.flags & FLOW_CLOSING == 0 {
                    self.found(&flow, clock::now());
                    found.insert(FlowId(flow.id), flow);
                }
            }
            cursor = next;
        }
        self.carry_out()?;
        let now_ns = clock::mono_ns();
        let flows = self.attributor.flows().filter_map(|view| {
            let flow = *found.get(&view.id)?;
            Some(ListedFlow { view, flow, rates: self.flow_rates.of(&flow, now_ns) })
        });
        let flows: Vec<ListedFlow> = flows.collect();
        self.flow_rates.listed(found.into_values(), now_ns);
        Ok(flows)
    }
}
