//! Feeds the core's view of how many flows and addresses a user has, from what the meter sees.

use std::collections::{BTreeSet, HashMap};

use boxmeter_common::{DOWNLOAD, UPLOAD};

use crate::core::{
    crowd::{Active, Crowd, CrowdCounters, Effect, Limits as UserLimits, Opened, Timing},
    event::{FlowId, FlowSeen, Network, UserId},
};
use crate::fault;

/// So many bytes to a TCP client cannot be on their way unacknowledged for a whole walk: the client
/// lives, though it sends no payload.
const ACKNOWLEDGED_BYTES: u64 = 256 << 10;

/// What the meter tells about a flow.
#[derive(Clone, Copy, Debug)]
pub enum FlowNews {
    Owned(FlowSeen, UserId),
    Ended(FlowId),
    /// Payload so far, by direction.
    Moved(FlowId, Network, [u64; 2]),
}

/// See the module.
#[derive(Default)]
pub struct Limits {
    crowd: Crowd,
    /// Owned flows with their payload as last seen.
    known: HashMap<FlowId, [u64; 2]>,
    effects: Vec<Effect>,
}

impl Limits {
    pub fn new() -> Self {
        let Timing { silent_ns, grace_ns, moved_ns, refused_ns } = Timing::default();
        let times = fault::hurry();
        let timing = Timing {
            silent_ns: silent_ns / times,
            grace_ns: grace_ns / times,
            moved_ns: moved_ns / times,
            refused_ns: refused_ns / times,
        };
        Limits { crowd: Crowd::new(timing), ..Limits::default() }
    }

    pub fn set(&mut self, user: UserId, limits: UserLimits, now_ns: u64) {
        self.crowd.set_limits(user, limits, now_ns, &mut self.effects);
    }

    pub fn forget(&mut self, user: UserId) {
        self.crowd.forget(user);
    }

    pub fn news(&mut self, news: FlowNews, now_ns: u64) {
        match news {
            FlowNews::Owned(flow, user) => {
                self.known.entry(flow.id).or_default();
                let peer = flow.peer.ip();
                // Behind a proxy of the same machine everybody has its address.
                let opened = Opened { flow: flow.id, user, peer, address_known: !peer.is_loopback() };
                self.crowd.opened(opened, now_ns, &mut self.effects);
            }
            FlowNews::Ended(flow) => self.ended(flow, now_ns),
            FlowNews::Moved(flow, network, payload) => self.moved(flow, network, payload, now_ns),
        }
    }

    fn ended(&mut self, flow: FlowId, now_ns: u64) {
        if self.known.remove(&flow).is_some() {
            self.crowd.ended(flow, now_ns, &mut self.effects);
        }
    }

    fn moved(&mut self, flow: FlowId, network: Network, payload: [u64; 2], now_ns: u64) {
        let Some(before) = self.known.get_mut(&flow) else { return };
        let [mut upload, download] =
            [UPLOAD, DOWNLOAD].map(|direction| payload[direction].saturating_sub(before[direction]));
        *before = payload;
        if network == Network::Tcp && download >= ACKNOWLEDGED_BYTES {
            upload = upload.max(1);
        }
        if upload > 0 || download > 0 {
            self.crowd.active(Active { flow, upload, download }, now_ns);
        }
    }

    /// A complete walk found these flows open: others have ended, though nobody told.
    pub fn walked(&mut self, open: &BTreeSet<FlowId>, now_ns: u64) {
        let gone: Vec<FlowId> = self.known.keys().filter(|id| !open.contains(id)).copied().collect();
        for flow in gone {
            self.ended(flow, now_ns);
        }
    }

    /// Time has passed; what is to be done since the last call.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Effect> {
        self.crowd.tick(now_ns, &mut self.effects);
        std::mem::take(&mut self.effects)
    }

    pub fn is_blocked(&self, flow: FlowId) -> bool {
        self.crowd.is_blocked(flow)
    }

    /// Flows that are to be blocked, with their users.
    pub fn blocked(&self) -> Vec<(FlowId, UserId)> {
        self.crowd.blocked().collect()
    }

    pub fn counters(&self) -> CrowdCounters {
        self.crowd.counters()
    }
}
