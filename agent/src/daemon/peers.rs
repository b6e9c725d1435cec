//! The UDP peers that the kernel has, and their end, which takes two commands and some time between.
//!
//! Owns the peers' keys and the queue of those to be forgotten. Pure: commands come out, results go in.

use std::collections::{BTreeSet, VecDeque};

use boxmeter_common::{
    command::{self, Command},
    flow::{FLOW_CLOSING, Flow, FlowKey, PEERS_MAX},
};

use hashbrown::{HashMap, HashSet};

use crate::core::event::FlowId;

/// Peers read at once for people: what a walk takes is some MiB for a moment.
pub const PEERS_PER_TICK: u32 = 10_000;

/// Ticks in which all peers are walked: half of the shortest silence that means something.
const WALK_TICKS: u32 = 15;

/// … in parts of this size, so that what a walk takes is some hundred KiB for a moment and not megabytes.
pub const PEERS_AT_ONCE: u32 = 2_048;

/// A UDP peer without an owner is forgotten after this silence: probes and spoofed addresses must
/// not fill the table.
const IDLE_UNOWNED_NS: u64 = 60_000_000_000;

/// … and after this one when the table is half full: a flood of spoofed addresses fills it within
/// seconds, and who finds no room is counted for nobody. A real client has an owner long before.
const IDLE_CROWDED_NS: u64 = 5_000_000_000;

/// As sing-box's own default for UDP sessions.
const IDLE_OWNED_NS: u64 = 300_000_000_000;

/// From marking a peer to forgetting it; no program run lasts nearly as long.
const FORGET_NS: u64 = 200_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Peers {
    keys: HashMap<FlowId, FlowKey>,
    forget: VecDeque<(u64, FlowId)>,
    forgetting: HashSet<FlowId>,
}

impl Peers {
    pub fn opened(&mut self, id: FlowId, key: FlowKey) {
        self.keys.insert(id, key);
    }

    pub fn key(&self, id: FlowId) -> Option<FlowKey> {
        self.keys.get(&id).copied()
    }

    pub fn ids(&self) -> BTreeSet<FlowId> {
        self.keys.keys().copied().collect()
    }

    fn crowded(&self) -> bool {
        self.keys.len() > PEERS_MAX as usize / 2
    }

    /// How many peers are to be walked in one tick.
    pub fn walk_max(&self) -> u32 {
        let known = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        if self.crowded() { 4 * PEERS_PER_TICK } else { (known / WALK_TICKS).max(PEERS_AT_ONCE) }
    }

    /// Ends the peer if it was silent since `before_ns`.
    pub fn close(&self, id: FlowId, before_ns: u64) -> Option<Command> {
        let key = self.key(id)?;
        Some(Command { op: command::OP_CLOSE_PEER, id: id.0, key, before_ns, ..Command::default() })
    }

    /// A walk found this peer open: the command that ends it if it has been silent for too long.
    pub fn close_if_idle(&self, flow: &Flow, now_ns: u64) -> Option<Command> {
        let idle_ns = match (flow.owner, self.crowded()) {
            (0, true) => IDLE_CROWDED_NS,
            (0, false) => IDLE_UNOWNED_NS,
            _ => IDLE_OWNED_NS,
        };
        let idle = flow.last_ns.saturating_add(idle_ns) < now_ns;
        if idle { self.close(FlowId(flow.id), now_ns - idle_ns) } else { None }
    }

    /// A walk found this peer marked: by this agent, or by one that died before it forgot it.
    pub fn marked(&mut self, flow: &Flow, now_ns: u64) {
        debug_assert!(flow.flags & FLOW_CLOSING != 0, "a marked peer");
        self.keys.insert(FlowId(flow.id), flow.key);
        self.forget_later(FlowId(flow.id), now_ns);
    }

    fn forget_later(&mut self, id: FlowId, now_ns: u64) {
        if self.forgetting.insert(id) {
            self.forget.push_back((now_ns.saturating_add(FORGET_NS), id));
        }
    }

    /// The commands for those whose time has come.
    pub fn forget_due(&mut self, now_ns: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some((_, id)) = self.forget.pop_front_if(|&mut (due, _)| due <= now_ns) {
            self.forgetting.remove(&id);
            if let Some(key) = self.key(id) {
                commands.push(Command { op: command::OP_FORGET_PEER, id: id.0, key, ..Command::default() });
            }
        }
        commands
    }

    /// The result of a command. Gives the flow that has ended by it, if one has.
    pub fn done(&mut self, command: &Command, now_ns: u64) -> Option<FlowId> {
        let id = FlowId(command.id);
        match (command.op, command.result) {
            (command::OP_CLOSE_PEER, command::RESULT_ENDED) => {
                self.forget_later(id, now_ns);
                Some(id)
            }
            // The kernel has it no more.
            (command::OP_CLOSE_PEER, command::RESULT_NOT_FOUND) => {
                self.keys.remove(&id);
                Some(id)
            }
            (command::OP_FORGET_PEER, command::RESULT_ENDED | command::RESULT_NOT_FOUND) => {
                self.keys.remove(&id);
                None
            }
            // A packet came meanwhile: it lives on.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    fn peer(id: u64, owner: u32, last_ns: u64) -> Flow {
        let key = FlowKey { peer_port: 7, inbound: 1, network: 17, ..FlowKey::default() };
        Flow { key, id, owner, last_ns, ..Flow::default() }
    }

    fn known(flow: &Flow) -> Peers {
        let mut peers = Peers::default();
        peers.opened(FlowId(flow.id), flow.key);
        peers
    }

    fn answered(command: Command, result: u32) -> Command {
        Command { result, ..command }
    }

    #[test]
    fn an_idle_peer_ends_and_is_forgotten_after_a_while() {
        let flow = peer(5, 0, NOW - 61 * SECOND);
        let mut peers = known(&flow);
        let close = peers.close_if_idle(&flow, NOW).expect("it is idle");
        assert_eq!((close.op, close.before_ns), (command::OP_CLOSE_PEER, NOW - 60 * SECOND));
        assert_eq!(peers.done(&answered(close, command::RESULT_ENDED), NOW), Some(FlowId(5)));
        assert_eq!(peers.forget_due(NOW + FORGET_NS - 1), []);
        // Walks that find it marked meanwhile do not queue it again.
        peers.marked(&Flow { flags: FLOW_CLOSING, ..flow }, NOW);
        let forget = peers.forget_due(NOW + FORGET_NS);
        assert_eq!(forget.iter().map(|c| (c.op, c.id)).collect::<Vec<_>>(), [(command::OP_FORGET_PEER, 5)]);
        assert_eq!(peers.done(&answered(forget[0], command::RESULT_ENDED), NOW), None);
        assert!(peers.ids().is_empty());
        assert_eq!(peers.forget_due(u64::MAX), []);
    }

    #[test]
    fn a_peer_that_sent_meanwhile_lives_on() {
        let flow = peer(5, 9, NOW - 301 * SECOND);
        let mut peers = known(&flow);
        let close = peers.close_if_idle(&flow, NOW).expect("it is idle");
        assert_eq!(peers.done(&answered(close, command::RESULT_LIVE), NOW), None);
        assert_eq!(peers.forget_due(u64::MAX), []);
        let forget = Command { op: command::OP_FORGET_PEER, ..close };
        assert_eq!(peers.done(&answered(forget, command::RESULT_LIVE), NOW), None);
        assert!(peers.ids().contains(&FlowId(5)));
    }

    #[test]
    fn what_an_agent_marked_before_it_died_is_forgotten() {
        let mut peers = Peers::default();
        peers.marked(&Flow { flags: FLOW_CLOSING, ..peer(5, 9, 0) }, NOW);
        assert_eq!(peers.forget_due(NOW + FORGET_NS).len(), 1);
    }

    #[test]
    fn a_crowd_of_strangers_ends_sooner_and_owners_do_not() {
        let (stranger, user) = (peer(1, 0, NOW - 6 * SECOND), peer(2, 9, NOW - 6 * SECOND));
        let mut peers = Peers::default();
        for id in 1..=u64::from(PEERS_MAX / 2) {
            peers.opened(FlowId(id), stranger.key);
        }
        assert_eq!(peers.close_if_idle(&stranger, NOW), None);
        let all = peers.walk_max() * WALK_TICKS;
        assert!(all + WALK_TICKS > PEERS_MAX / 2, "all are walked in time: {all}");
        peers.opened(FlowId(u64::MAX), stranger.key);
        assert!(peers.close_if_idle(&stranger, NOW).is_some());
        assert_eq!(peers.close_if_idle(&user, NOW), None);
        assert_eq!(peers.walk_max(), 4 * PEERS_PER_TICK);
    }
}
