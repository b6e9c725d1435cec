//! Feeds the core's view of how many flows and addresses a user has, from what the meter sees.

use std::collections::BTreeSet;

use boxmeter_common::{DOWNLOAD, UPLOAD};
use boxmeter_web::panel::options::Network as Addresses;
use hashbrown::HashMap;

use crate::core::{
    crowd::{Active, Crowd, CrowdCounters, Effect, Limits as UserLimits, Opened, Timing},
    event::{FlowId, FlowSeen, Network, UserId},
};
use crate::fault;

/// A TCP client that took so many bytes more has acknowledged some of them: it lives, though it sends no
/// payload.
const ACKNOWLEDGED_BYTES: u64 = 256 << 10;

/// What the meter tells about a flow.
#[derive(Clone, Copy, Debug)]
pub enum FlowNews {
    Owned(FlowSeen, UserId),
    Ended(FlowId),
    /// Payload so far, by direction.
    Moved(FlowId, Network, [u64; 2]),
}

/// An owned flow as last seen.
#[derive(Default)]
struct Known {
    payload: [u64; 2],
    /// Downloaded since the last sign of life. It is kept over looks, which come every few milliseconds
    /// when somebody asks often.
    unproven: u64,
}

/// See the module.
#[derive(Default)]
pub struct Limits {
    crowd: Crowd,
    known: HashMap<FlowId, Known>,
    effects: Vec<Effect>,
    /// `[singbox] proxies`.
    proxies: Vec<Addresses>,
}

impl Limits {
    pub fn new(proxies: Vec<Addresses>) -> Self {
        let Timing { silent_ns, grace_ns, moved_ns, refused_ns } = Timing::default();
        let times = fault::hurry();
        let timing = Timing {
            silent_ns: silent_ns / times,
            grace_ns: grace_ns / times,
            moved_ns: moved_ns / times,
            refused_ns: refused_ns / times,
        };
        Limits { crowd: Crowd::new(timing), proxies, ..Limits::default() }
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
                // Behind a proxy everybody has its address.
                let proxy = peer.is_loopback() || self.proxies.iter().any(|it| it.contains(peer));
                let opened = Opened { flow: flow.id, user, peer, address_known: !proxy };
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
        let Some(known) = self.known.get_mut(&flow) else { return };
        let [mut upload, download] =
            [UPLOAD, DOWNLOAD].map(|direction| payload[direction].saturating_sub(known.payload[direction]));
        known.payload = payload;
        known.unproven += download;
        if network == Network::Tcp && known.unproven >= ACKNOWLEDGED_BYTES {
            upload = upload.max(1);
        }
        if upload > 0 {
            known.unproven = 0;
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

    /// How often what flows did is to be told.
    pub fn looks_within_ns(&self) -> u64 {
        self.crowd.looks_within_ns()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{event::InboundIndex, terms::Wins};

    const SECOND: u64 = 1_000_000_000;
    const USER: UserId = UserId(uuid::Uuid::from_u128(1));

    fn opened(id: u64, peer: &str) -> FlowNews {
        let flow = FlowSeen {
            id: FlowId(id),
            inbound: InboundIndex(0),
            network: Network::Tcp,
            peer: peer.parse().unwrap(),
            opened_ns: 0,
            owner: None,
        };
        FlowNews::Owned(flow, USER)
    }

    /// Everybody behind a proxy has its address, or one of several.
    #[test]
    fn the_addresses_of_proxies_are_nobodys() {
        let limits = |proxies: &[&str]| {
            let mut limits = Limits::new(proxies.iter().map(|text| text.parse().unwrap()).collect());
            let one = UserLimits { max_addresses: Some(1), wins: Wins::Newest, ..UserLimits::NONE };
            limits.set(USER, one, 0);
            let mut blocked = 0;
            for (id, peer) in [(1, "10.1.0.1:1000"), (2, "10.1.0.2:1000")] {
                limits.news(opened(id, peer), 0);
            }
            for now in 1..120 {
                for id in [1, 2] {
                    let bytes = [now * 1000, now * 1000];
                    limits.news(FlowNews::Moved(FlowId(id), Network::Tcp, bytes), now * SECOND);
                }
                let effects = limits.tick(now * SECOND);
                blocked += effects.iter().filter(|effect| matches!(effect, Effect::Block { .. })).count();
            }
            blocked
        };
        assert_eq!(limits(&[]), 1, "two addresses are one too many");
        assert_eq!(limits(&["10.1.0.0/16"]), 0);
        assert_eq!(limits(&["10.2.0.0/16", "10.1.0.1"]), 0, "one proxy and one client");
    }

    /// However often somebody looks, two addresses that only download are two addresses in use.
    #[test]
    fn downloads_are_signs_of_life_at_any_rate_of_looks() {
        for look_ns in [SECOND / 50, SECOND, 10 * SECOND] {
            let mut limits = Limits::new(Vec::new());
            let one = UserLimits { max_addresses: Some(1), wins: Wins::Newest, ..UserLimits::NONE };
            limits.set(USER, one, 0);
            limits.news(opened(1, "192.0.2.1:1000"), 0);
            limits.news(opened(2, "192.0.2.2:1000"), SECOND);
            let (mut now_ns, mut effects) = (SECOND, Vec::new());
            while effects.is_empty() && now_ns < 120 * SECOND {
                now_ns += look_ns;
                // 1 MB/s each.
                let download = now_ns / 1000;
                for id in [1, 2] {
                    limits.news(FlowNews::Moved(FlowId(id), Network::Tcp, [0, download]), now_ns);
                }
                effects = limits.tick(now_ns);
            }
            assert!(
                matches!(effects[..], [Effect::Block { flow: FlowId(1), .. }]),
                "{look_ns}: {effects:?} after {} s",
                now_ns / SECOND
            );
        }
    }
}
