//! Which ports are watched, and which index their inbound has.

use std::os::fd::AsFd;

use boxmeter_common::{
    TCP, UDP,
    watch::{INBOUND_TAG_MAX, INBOUNDS_MAX, NETWORK_TCP, NETWORK_UDP, PORTS_WORDS, WatchKey},
};

use super::{error::KernelError, load::Kernel, shared, sys};
use crate::core::event::{InboundIndex, Network};

/// A port that sing-box listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchPort {
    /// See [`super::Namespace::cookie`]. Without effect where the kernel is not `netns_aware`.
    pub netns: u64,
    pub port: u16,
    pub network: Network,
    /// The inbound's tag: with port and namespace it names the inbound across restarts.
    pub tag: String,
}

/// An inbound that has an index, watched now or earlier in this epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundInfo {
    pub index: InboundIndex,
    pub tag: String,
    pub port: u16,
    pub netns: u64,
    pub tcp: bool,
    pub udp: bool,
}

impl Kernel {
    /// Watches exactly these ports, and returns the index of each, in the same order. An inbound of
    /// the same tag and port keeps its index, over restarts too, and takes it along into another
    /// namespace: a container gets a new one at each start. One that listens with TCP and UDP has one
    /// index. Existing flows of ports that are not watched any more stay until they end.
    ///
    /// # Errors
    /// `Full` with more inbounds in one epoch than there are indexes; or the map refuses a change.
    pub fn watch(&mut self, ports: &[WatchPort]) -> Result<Vec<InboundIndex>, KernelError> {
        let mut indexes = Vec::with_capacity(ports.len());
        let mut wanted = Vec::with_capacity(ports.len());
        let netns_of = |port: &WatchPort| if self.netns_aware { port.netns } else { 0 };
        let places: Vec<(u64, u16)> = ports.iter().map(|port| (netns_of(port), port.port)).collect();
        for port in ports {
            let netns = netns_of(port);
            let index = self.inbound_index(port, netns, &places)?;
            let network = match port.network {
                Network::Tcp => TCP,
                Network::Udp => UDP,
            };
            wanted.push((WatchKey { netns, port: port.port, network, pad: [0; 5] }, index.0));
            indexes.push(index);
        }
        // On: entry of the inbound (above), then the exact map, then the table of ports. Off: the
        // other way round. A packet in between is counted fully or not at all.
        for (key, index) in &wanted {
            sys::update(self.watch.as_fd(), key, index).map_err(KernelError::io("bpf: watching a port"))?;
        }
        self.fill_ports(&wanted);
        let known: Vec<WatchKey> =
            sys::keys(self.watch.as_fd()).map_err(KernelError::io("bpf: reading WATCH"))?;
        for key in known {
            if !wanted.iter().any(|(wanted, _)| *wanted == key) {
                sys::delete(self.watch.as_fd(), &key)
                    .map_err(KernelError::io("bpf: no longer watching a port"))?;
            }
        }
        Ok(indexes)
    }

    /// The table of ports holds one inbound per port, the first one; `WATCH` knows the others.
    fn fill_ports(&self, wanted: &[(WatchKey, u32)]) {
        let bytes = PORTS_WORDS * 8;
        for at in 0..bytes {
            let (network, port) = if at < bytes / 2 { (TCP, at) } else { (UDP, at - bytes / 2) };
            let index = wanted
                .iter()
                .find(|(key, _)| u32::from(key.port) == port && key.network == network)
                .map_or(0, |(_, index)| *index as u8);
            // SAFETY: a byte of a mapped word. The programs read the word in little-endian order.
            unsafe {
                let byte = self.ports.at(at / 8).cast::<u8>().add(at as usize % 8);
                if byte.read_volatile() != index {
                    shared::store8(byte, index);
                }
            }
        }
    }

    /// `places`: where something listens now, by namespace and port.
    fn inbound_index(
        &self,
        port: &WatchPort,
        netns: u64,
        places: &[(u64, u16)],
    ) -> Result<InboundIndex, KernelError> {
        let tag = cut(&port.tag);
        let bit = match port.network {
            Network::Tcp => NETWORK_TCP,
            Network::Udp => NETWORK_UDP,
        };
        let known = self.inbounds();
        let same = |i: &&InboundInfo| i.tag == tag && i.port == port.port;
        let here = known.iter().filter(same).find(|i| i.netns == netns);
        let moved = || known.iter().filter(same).find(|i| !places.contains(&(i.netns, i.port)));
        let index = match here.or_else(moved) {
            Some(inbound) => inbound.index.0,
            None => known.iter().map(|inbound| inbound.index.0).max().unwrap_or(0) + 1,
        };
        if index >= INBOUNDS_MAX {
            return Err(KernelError::Full { what: "inbound indexes", max: INBOUNDS_MAX - 1 });
        }
        let entry = self.inbounds.at(index);
        // SAFETY: fields of a mapped value that only the agent writes; `in_use` last.
        unsafe {
            let networks = (&raw const (*entry).networks).read_volatile();
            if (&raw const (*entry).in_use).read_volatile() == 0 {
                let mut bytes = [0u8; INBOUND_TAG_MAX];
                bytes[..tag.len()].copy_from_slice(tag.as_bytes());
                (&raw mut (*entry).tag).write_volatile(bytes);
                shared::store32(&raw mut (*entry).tag_len, tag.len() as u32);
                (&raw mut (*entry).port).write_volatile(port.port);
                let account = self.accounts.at(index);
                shared::store32(&raw mut (*account).inbound, index);
                shared::store32(&raw mut (*account).in_use, 1);
            }
            // Packets of the namespace that it had before find their way through `WATCH` until that
            // forgets them.
            shared::store(&raw mut (*entry).netns, netns);
            shared::store8(&raw mut (*entry).networks, networks | bit);
            shared::store8(&raw mut (*entry).in_use, 1);
        }
        Ok(InboundIndex(index))
    }

    /// Every inbound that has an index in this epoch.
    pub fn inbounds(&self) -> Vec<InboundInfo> {
        (1..INBOUNDS_MAX).map_while(|index| self.inbound(index)).collect()
    }

    fn inbound(&self, index: u32) -> Option<InboundInfo> {
        let entry = self.inbounds.at(index);
        // SAFETY: see `inbound_index`.
        unsafe {
            if (&raw const (*entry).in_use).read_volatile() == 0 {
                return None;
            }
            let tag = (&raw const (*entry).tag).read_volatile();
            let length = (shared::load32(&raw const (*entry).tag_len) as usize).min(INBOUND_TAG_MAX);
            let networks = (&raw const (*entry).networks).read_volatile();
            Some(InboundInfo {
                index: InboundIndex(index),
                tag: String::from_utf8_lossy(&tag[..length]).into_owned(),
                port: (&raw const (*entry).port).read_volatile(),
                netns: shared::load(&raw const (*entry).netns),
                tcp: networks & NETWORK_TCP != 0,
                udp: networks & NETWORK_UDP != 0,
            })
        }
    }
}

/// A tag as the map keeps it: cut at a character.
pub fn cut(tag: &str) -> &str {
    let mut end = tag.len().min(INBOUND_TAG_MAX);
    while !tag.is_char_boundary(end) {
        end -= 1;
    }
    &tag[..end]
}
