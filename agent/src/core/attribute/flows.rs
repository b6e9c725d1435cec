//! The table of flows: what may become of one, and how many each user has.
//!
//! Owns the flows and the live counts per user and address. Knows nothing of sightings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::core::event::{FlowId, FlowSeen, InboundIndex, Network, OwnerBy};

use super::{limits::SAME_PORT_MAX, store::Store, users::UserNo};

/// Where a flow is: the order of the fields is the order in which people see flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub inbound: u16,
    pub port: u16,
    pub network: Network,
    /// IPv4 mapped.
    pub ip: [u8; 16],
}

impl Key {
    /// `None` for an inbound's index that no kernel map has.
    pub fn new(inbound: InboundIndex, network: Network, peer: SocketAddr) -> Option<Self> {
        let inbound = u16::try_from(inbound.0).ok()?;
        Some(Self { inbound, port: peer.port(), network, ip: octets(peer.ip()) })
    }

    pub fn inbound(self) -> InboundIndex {
        InboundIndex(u32::from(self.inbound))
    }

    /// The client's address, IPv4 not mapped.
    pub fn peer(self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }
}

pub(super) fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What counts as one address for limits: an IPv4 address, or the /64 that a provider gives a client.
fn address_group(ip: [u8; 16]) -> [u8; 16] {
    if Ipv6Addr::from(ip).to_ipv4_mapped().is_some() {
        return ip;
    }
    let mut group = ip;
    group[8..].fill(0);
    group
}

/// `Flow::closed_ns` of a flow that is open.
pub(super) const OPEN: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub opened_ns: u64,
    pub closed_ns: u64,
    pub owner: Option<UserNo>,
    pub shared_with: Option<UserNo>,
    /// Part of the hash of the connection that gave it its owner: tells a log's later lines of the
    /// same connection from those of the next.
    pub connection: u32,
    pub by: Option<OwnerBy>,
    /// The owner is known only by elimination among flows of one port.
    pub weak: bool,
    /// The kernel has an owner for it that is not known here.
    pub owned_elsewhere: bool,
    /// The daemon was asked to end it.
    pub handed_over: bool,
}

impl Flow {
    pub fn is_owned(&self) -> bool {
        self.owner.is_some() || self.owned_elsewhere
    }

    pub fn is_open(&self) -> bool {
        self.closed_ns == OPEN
    }
}

pub(super) type FlowRef = (Key, FlowId);

/// Live flows and distinct addresses of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub flows: u32,
    /// Distinct client addresses, IPv6 by /64.
    pub addresses: u32,
}

#[derive(Debug, Default)]
pub(super) struct FlowTable {
    flows: Store,
    live: BTreeMap<UserNo, Live>,
    /// Users whose live counts changed since [`FlowTable::take_changed`].
    changed: BTreeSet<UserNo>,
    addresses: BTreeMap<(UserNo, [u8; 16]), u32>,
}

impl FlowTable {
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn find(&self, id: FlowId) -> Option<FlowRef> {
        self.flows.find(id)
    }

    pub fn get(&self, at: FlowRef) -> Option<&Flow> {
        self.flows.get(at)
    }

    pub fn insert(&mut self, at: FlowRef, flow: Flow) {
        self.flows.insert(at, flow);
    }

    pub fn set_owner(&mut self, at: FlowRef, owner: UserNo, by: Option<OwnerBy>, connection: u32) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        if flow.owner.is_some() {
            return;
        }
        flow.owner = Some(owner);
        flow.by = by;
        flow.connection = connection;
        if flow.is_open() {
            self.enter(owner, at.0);
        }
    }

    /// Remembers how the owner is known, where only the kernel knew the owner.
    pub fn confirm(&mut self, at: FlowRef, by: OwnerBy, connection: u32) {
        if let Some(flow) = self.flows.get_mut(at)
            && flow.by.is_none()
        {
            flow.by = Some(by);
            flow.connection = connection;
        }
    }

    pub fn set_owned_elsewhere(&mut self, at: FlowRef) {
        if let Some(flow) = self.flows.get_mut(at) {
            flow.owned_elsewhere = true;
        }
    }

    pub fn set_weak(&mut self, at: FlowRef) {
        if let Some(flow) = self.flows.get_mut(at) {
            flow.weak = true;
        }
    }

    pub fn set_shared(&mut self, at: FlowRef, second: UserNo) {
        if let Some(flow) = self.flows.get_mut(at) {
            flow.shared_with = Some(second);
        }
    }

    pub fn set_handed_over(&mut self, at: FlowRef) {
        if let Some(flow) = self.flows.get_mut(at) {
            flow.handed_over = true;
        }
    }

    /// Whether it was open until now.
    pub fn close(&mut self, at: FlowRef, closed_ns: u64) -> bool {
        let Some(flow) = self.flows.get_mut(at) else { return false };
        if !flow.is_open() {
            return false;
        }
        flow.closed_ns = closed_ns.max(flow.opened_ns).min(OPEN - 1);
        if let Some(owner) = flow.owner {
            self.leave(owner, at.0);
        }
        true
    }

    pub fn remove(&mut self, at: FlowRef) -> Option<Flow> {
        self.close(at, OPEN - 1);
        self.flows.remove(at)
    }

    /// All flows of one address and port, by id.
    pub fn at(&self, key: Key) -> impl Iterator<Item = (FlowRef, &Flow)> {
        self.flows.at(key).into_iter()
    }

    /// All flows with one port, whatever their address; one more than [`SAME_PORT_MAX`] at most.
    pub fn at_port(
        &self,
        inbound: u16,
        network: Network,
        port: u16,
    ) -> impl Iterator<Item = (FlowRef, &Flow)> {
        let any = Key { inbound, port, network, ip: [0; 16] };
        self.flows.at_port(any, SAME_PORT_MAX + 1).into_iter()
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowRef, &Flow)> {
        self.flows.iter()
    }

    pub fn live(&self, user: UserNo) -> Live {
        self.live.get(&user).copied().unwrap_or_default()
    }

    pub fn all_live(&self) -> impl Iterator<Item = (UserNo, Live)> {
        self.live.iter().map(|(&user, &live)| (user, live))
    }

    /// The users whose live counts may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<UserNo> {
        std::mem::take(&mut self.changed)
    }

    fn enter(&mut self, user: UserNo, key: Key) {
        self.changed.insert(user);
        let count = self.addresses.entry((user, address_group(key.ip))).or_insert(0);
        *count += 1;
        let live = self.live.entry(user).or_default();
        live.flows += 1;
        live.addresses += u32::from(*count == 1);
    }

    fn leave(&mut self, user: UserNo, key: Key) {
        self.changed.insert(user);
        let group = (user, address_group(key.ip));
        let Some(count) = self.addresses.get_mut(&group) else { return };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.addresses.remove(&group);
        }
        if let Some(live) = self.live.get_mut(&user) {
            live.flows -= 1;
            live.addresses -= u32::from(last);
            if live.flows == 0 {
                self.live.remove(&user);
            }
        }
    }
}

pub(super) fn seen(at: FlowRef, flow: &Flow) -> FlowSeen {
    let (key, id) = at;
    FlowSeen {
        id,
        inbound: key.inbound(),
        network: key.network,
        peer: key.peer(),
        opened_ns: flow.opened_ns,
        owner: None,
    }
}
