//! Scenarios and properties of attribution. Time in tests is in milliseconds since the agent began to
//! watch the clocks.

mod forwarded;
mod properties;
mod scenarios;
mod simulation;
mod udp;

use uuid::Uuid;

use super::*;
use crate::core::event::Slot;

pub(super) const TROJAN: InboundIndex = InboundIndex(1);
pub(super) const SHADOWSOCKS: InboundIndex = InboundIndex(2);
pub(super) const HYSTERIA: InboundIndex = InboundIndex(3);
pub(super) const WEBSOCKET: InboundIndex = InboundIndex(4);
pub(super) const MIXED: InboundIndex = InboundIndex(5);
pub(super) const SHADOWTLS: InboundIndex = InboundIndex(6);

const MS: u64 = 1_000_000;
const START_NS: u64 = 1_000_000 * MS;
const START_MS: i64 = 1_800_000_000_000;

pub(super) fn user(name: &str) -> UserId {
    UserId(Uuid::from_u128(name.bytes().fold(1, |id, byte| id * 256 + u128::from(byte))))
}

fn inbound(index: InboundIndex, tag: &str, networks: &[Network]) -> InboundInfo {
    InboundInfo {
        index,
        tag: tag.into(),
        networks: networks.iter().copied().collect(),
        forwarded: false,
        sighted_as: Vec::new(),
        reported_udp: false,
        loses_port: false,
    }
}

fn tag(index: InboundIndex) -> &'static str {
    ["", "trojan-in", "ss-in", "hy2-in", "ws-in", "mixed-in", "st-in"][index.0 as usize]
}

/// A reading of both clocks.
pub(super) fn at(ms: u64) -> Now {
    Now { mono_ns: START_NS + ms * MS, wall_ms: START_MS + i64::try_from(ms).expect("small") }
}

pub(super) fn flow(id: u64, inbound: InboundIndex, network: Network, peer: &str, opened_ms: u64) -> FlowSeen {
    FlowSeen {
        id: FlowId(id),
        inbound,
        network,
        peer: peer.parse().expect("an address"),
        opened_ns: START_NS + opened_ms * MS,
        owner: None,
    }
}

pub(super) fn sighting(id: &str, inbound: InboundIndex, peer: &str, name: &str, created_ms: u64) -> Sighting {
    Sighting {
        source: SourceKind::Api,
        connection: id.into(),
        inbound: tag(inbound).into(),
        network: Network::Tcp,
        peer: peer.parse().expect("an address"),
        user: name.into(),
        created_ms: Some(at(created_ms).wall_ms),
        or_inbounds: Arc::default(),
        within_ms: 0,
        closed: false,
        totals: None,
    }
}

/// The attributor with inbounds of each kind and the users alice, bob and carol.
pub(super) struct World {
    pub core: Attributor,
}

impl World {
    pub fn new() -> Self {
        use Network::{Tcp, Udp};
        let mut core = Attributor::default();
        core.tick(at(0));
        core.set_inbounds(&[
            inbound(TROJAN, "trojan-in", &[Tcp]),
            inbound(SHADOWSOCKS, "ss-in", &[Tcp, Udp]),
            inbound(HYSTERIA, "hy2-in", &[Udp]),
            InboundInfo { forwarded: true, ..inbound(WEBSOCKET, "ws-in", &[Tcp]) },
            InboundInfo {
                forwarded: true,
                reported_udp: true,
                loses_port: true,
                ..inbound(MIXED, "mixed-in", &[Tcp])
            },
            InboundInfo { sighted_as: vec!["ss-in".into()], ..inbound(SHADOWTLS, "st-in", &[Tcp]) },
        ]);
        core.set_users(names(&["alice", "bob", "carol"]), at(0));
        Self { core }
    }

    pub fn opens(&mut self, flow: FlowSeen, ms: u64) -> Vec<Effect> {
        self.core.flow_seen(flow, None, at(ms));
        self.effects()
    }

    pub fn closes(&mut self, id: u64, ms: u64) -> Vec<Effect> {
        self.core.flow_closed(FlowId(id), at(ms).mono_ns, at(ms));
        self.effects()
    }

    pub fn sights(&mut self, sighting: Sighting, ms: u64) -> Vec<Effect> {
        self.core.sighting(sighting, at(ms));
        self.effects()
    }

    pub fn ends(&mut self, connection: &str, ms: u64) -> Vec<Effect> {
        self.core.ended(SourceKind::Api, connection, None, at(ms));
        self.effects()
    }

    pub fn ticks(&mut self, ms: u64) -> Vec<Effect> {
        self.core.tick(at(ms));
        self.effects()
    }

    pub fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.core.poll_effect()).collect()
    }

    /// Every sighting has exactly one end, or waits.
    pub fn assert_balanced(&self) {
        let c = self.core.counters();
        let ends = c.sightings_owned
            + c.sightings_repeated
            + c.sightings_shared
            + c.sightings_handed_over
            + c.sightings_reported
            + c.sightings_without_totals
            + c.sightings_without_user
            + c.sightings_without_port
            + c.sightings_unknown_inbound
            + c.sightings_unknown_user
            + c.sightings_unmatched
            + c.sightings_ambiguous
            + c.sightings_late
            + c.sightings_waiting_full;
        assert_eq!(c.sightings, ends + self.core.waiting() as u64, "{c:?}");
    }
}

pub(super) fn names(names: &[&str]) -> BTreeMap<Arc<str>, UserId> {
    names.iter().map(|&name| (Arc::from(name), user(name))).collect()
}

pub(super) fn own(flow: FlowSeen, name: &str, by: OwnerBy) -> Vec<Effect> {
    vec![Effect::Own { flow, user: user(name), by }]
}

pub(super) fn slot(number: u32) -> Option<Slot> {
    Some(Slot(number))
}
