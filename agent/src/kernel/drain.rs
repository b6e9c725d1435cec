//! Reads what the programs know about flows: news from the ring buffer, and walks that find again
//! what the news may have lost.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{Map, MapData, RingBuf};
use boxmeter_common::{
    TCP, UDP,
    event::{EVENT_FLOW_CLOSED, EVENT_FLOW_OPENED, EVENT_USER_CUT, EVENT_USER_WARN, Event},
    flow::{Flow, FlowKey, OWNERS_MAX},
    maps,
    user::ACCOUNT_NONE,
};

use super::{accounts::UserSlot, error::KernelError, load::Kernel, netns::Namespace, sys};
use crate::core::event::{FlowId, FlowSeen, InboundIndex, Network, Slot};

/// News from the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    Opened(FlowSeen),
    /// A TCP flow ended. Without an owner it waits among the closed ones.
    Closed {
        flow: FlowSeen,
        at_ns: u64,
        payload: [u64; 2],
    },
    Warned {
        user: UserSlot,
        billed: u64,
        at_ns: u64,
    },
    Cut {
        user: UserSlot,
        billed: u64,
        at_ns: u64,
    },
}

/// A flow of the kernel in the core's words.
pub fn seen(flow: &Flow) -> FlowSeen {
    flow_seen(&flow.key, flow.id, flow.opened_ns, flow.owner)
}

fn flow_seen(key: &FlowKey, id: u64, opened_ns: u64, owner: u32) -> FlowSeen {
    FlowSeen {
        id: FlowId(id),
        inbound: InboundIndex(key.inbound),
        network: if key.network == TCP { Network::Tcp } else { Network::Udp },
        peer: SocketAddr::new(address(key), key.peer_port),
        opened_ns,
        owner: owner_slot(owner),
    }
}

/// The kernel's key of a flow.
pub fn key(flow: &FlowSeen) -> FlowKey {
    let peer = match flow.peer.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    FlowKey {
        peer: peer.octets(),
        inbound: flow.inbound.0,
        peer_port: flow.peer.port(),
        network: match flow.network {
            Network::Tcp => TCP,
            Network::Udp => UDP,
        },
        pad: 0,
    }
}

fn address(key: &FlowKey) -> IpAddr {
    Ipv6Addr::from(key.peer).to_canonical()
}

fn owner_slot(owner: u32) -> Option<Slot> {
    (owner != ACCOUNT_NONE).then_some(Slot(owner))
}

/// The reading end of the ring buffer. Readable (poll, epoll) when there is news.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer owns the descriptor and lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Events {
    /// The next record, if there is one. Never waits.
    pub fn poll(&mut self) -> Option<KernelEvent> {
        loop {
            let event = {
                let item = self.ring.next()?;
                let bytes: &[u8] = &item;
                if bytes.len() < size_of::<Event>() {
                    continue;
                }
                // SAFETY: long enough, and every bit pattern is an `Event`.
                unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() }
            };
            if let Some(event) = translate(&event) {
                return Some(event);
            }
        }
    }
}

fn translate(event: &Event) -> Option<KernelEvent> {
    let Event { id, slot, at_ns, billed, .. } = *event;
    match event.kind {
        EVENT_FLOW_OPENED => Some(KernelEvent::Opened(flow_seen(&event.key, id, event.opened_ns, slot))),
        EVENT_FLOW_CLOSED => Some(KernelEvent::Closed {
            flow: flow_seen(&event.key, id, event.opened_ns, slot),
            at_ns,
            payload: event.payload,
        }),
        EVENT_USER_WARN => Some(KernelEvent::Warned { user: UserSlot(slot), billed, at_ns }),
        EVENT_USER_CUT => Some(KernelEvent::Cut { user: UserSlot(slot), billed, at_ns }),
        _ => None,
    }
}

/// Where a walk over UDP peers goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCursor(sys::Cursor);

/// Entries that one batched read asks for.
const BATCH: u32 = 8_192;

impl Kernel {
    /// Opens the ring buffer. There is one reading position: open it once.
    ///
    /// # Errors
    /// The map cannot be opened or mapped.
    pub fn events(&self) -> Result<Events, KernelError> {
        let other = |error: aya::maps::MapError| KernelError::Refused(error.to_string());
        let data = MapData::from_pin(self.pins.at(maps::EVENTS)).map_err(other)?;
        let map = Map::from_map_data(data).map_err(other)?;
        Ok(Events { ring: RingBuf::try_from(map).map_err(other)? })
    }

    /// Says in which namespaces sockets are walked; at first that is the agent's own.
    pub fn set_namespaces(&mut self, namespaces: Vec<Namespace>) {
        self.namespaces = namespaces;
    }

    /// Every TCP flow whose socket lives in one of the namespaces. On its way the kernel gives
    /// noted owners to silent sockets and settles what is pending for a known owner.
    ///
    /// # Errors
    /// The iterator failed, or a namespace cannot be entered.
    pub fn walk_sockets(&self) -> Result<Vec<Flow>, KernelError> {
        let failed = || KernelError::io("bpf: walking the sockets");
        let mut bytes = Vec::new();
        for namespace in &self.namespaces {
            // The walk is bound to the namespace of the thread that creates it, and read from here.
            let walk = namespace.run(|| sys::iter_create(self.walk.as_fd())).map_err(failed())?;
            File::from(walk).read_to_end(&mut bytes).map_err(failed())?;
        }
        let flows = bytes.chunks_exact(size_of::<Flow>());
        // SAFETY: long enough, and every bit pattern is a `Flow`.
        Ok(flows.map(|flow| unsafe { flow.as_ptr().cast::<Flow>().read_unaligned() }).collect())
    }

    /// Some `max` UDP peers from `cursor` on (the default: from the beginning), and where to go on;
    /// `None`: that was the end. Peers that come and go meanwhile may be missing.
    ///
    /// # Errors
    /// The batched read failed.
    pub fn walk_peers(
        &self,
        cursor: PeerCursor,
        max: u32,
    ) -> Result<(Vec<Flow>, Option<PeerCursor>), KernelError> {
        self.wind_clock();
        let (found, next) = sys::lookup_batch::<FlowKey, Flow>(self.peers.as_fd(), cursor.0, max)
            .map_err(KernelError::io("bpf: walking the UDP peers"))?;
        let mut flows: Vec<Flow> = found.into_iter().map(|(_, flow)| flow).collect();
        for flow in &mut flows {
            self.complete(flow);
        }
        Ok((flows, next.map(PeerCursor)))
    }

    /// Every TCP flow that ended without an owner and still waits for one.
    ///
    /// # Errors
    /// The batched read failed.
    pub fn closed(&self) -> Result<Vec<Flow>, KernelError> {
        let mut all = Vec::new();
        let mut cursor = Some(sys::Cursor::default());
        while let Some(at) = cursor {
            let (found, next) = sys::lookup_batch::<u64, Flow>(self.closed.as_fd(), at, BATCH)
                .map_err(KernelError::io("bpf: reading the ended flows"))?;
            all.extend(found.into_iter().map(|(_, flow)| flow));
            cursor = next;
        }
        Ok(all)
    }

    /// [`Self::walk_sockets`], and forgets the notes about owners of sockets that it did not find: they
    /// ended without telling, as sockets do that are older than the programs. Notes that are made
    /// meanwhile are left alone. Every socket must live in one of the namespaces.
    ///
    /// # Errors
    /// As [`Self::walk_sockets`], or the map cannot be read.
    pub fn walk_sockets_and_sweep(&self) -> Result<Vec<Flow>, KernelError> {
        let mut noted = self.noted_owners()?;
        let flows = self.walk_sockets()?;
        for flow in &flows {
            noted.remove(&flow.id);
        }
        for id in noted {
            sys::delete(self.owners.as_fd(), &id).map_err(KernelError::io("bpf: sweeping OWNERS"))?;
        }
        Ok(flows)
    }

    /// The ids of flows whose owner is noted and not yet picked up.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn noted_owners(&self) -> Result<BTreeSet<u64>, KernelError> {
        let mut ids = BTreeSet::new();
        let mut cursor = Some(sys::Cursor::default());
        while let Some(at) = cursor {
            let (found, next) = sys::lookup_batch::<u64, u32>(self.owners.as_fd(), at, BATCH.min(OWNERS_MAX))
                .map_err(KernelError::io("bpf: reading OWNERS"))?;
            ids.extend(found.into_iter().map(|(id, _)| id));
            cursor = next;
        }
        Ok(ids)
    }
}
