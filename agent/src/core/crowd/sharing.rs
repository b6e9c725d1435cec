//! Is one account used from many places at the same time?
//!
//! The window is cut into up to 60 slots; per address it is kept in which slots it had real traffic. An
//! account is suspected when in at least [`OVERLAP_SLOTS`] slots more addresses had real traffic than are
//! allowed. A client that hops from address to address shares a slot or two with itself, never three, so
//! that many addresses one after the other are no sharing. Addresses are counted, as the tutorials of this
//! field do (more than 3 within 5 minutes), not wider networks: neighbours of one provider share as well.
//! How many wider networks there are makes the suspicion stronger.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Effect, network, person::Place};
use crate::core::{event::UserId, few::Few, terms::Sharing};

/// Bytes, both directions, that make traffic of a slot real: more than keepalives.
pub const REAL_BYTES: u64 = 4096;

/// How many slots have to have too many addresses.
pub const OVERLAP_SLOTS: u32 = 3;

/// Addresses in an evidence, those with the most bytes; the counts are of all.
pub const EVIDENCE_MAX: usize = 16;

const SLOTS: u32 = 60;
const SECOND_NS: u64 = 1_000_000_000;

/// Why somebody is suspected. Kept in the ledger as JSON: fields may be added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// 0–100: 40, and 10 for each address more than one too many (up to 30), up to 20 for the share of
    /// the window, and 10 if the addresses of the peak could lie in as many networks (/24, /48).
    pub score: u8,
    /// The most addresses that had real traffic at the same time.
    pub peak: u32,
    pub allowed: u32,
    /// Seconds of the window with more addresses than allowed.
    pub overlap_s: u32,
    pub window_s: u32,
    /// Distinct networks (IPv4 /24, IPv6 /48) with real traffic in the window.
    pub networks: u32,
    /// By falling bytes.
    pub addresses: Vec<SeenAddress>,
}

/// An address with real traffic in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAddress {
    /// IPv6: the /64.
    pub address: IpAddr,
    /// Wire bytes, both directions, since it appeared in the window.
    pub bytes: u64,
    /// Seconds with real traffic.
    pub active_s: u32,
}

/// The traffic of one address in the window.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    slot_s: u32,
    slots: u32,
    /// The present slot's number since the clock's begin.
    present: u64,
    present_bytes: u64,
    /// One bit per slot with real traffic, the present one lowest.
    real: u64,
    bytes: u64,
}

impl Traffic {
    pub fn new(window_s: u32) -> Self {
        let mut traffic = Traffic::default();
        traffic.set_window(window_s);
        traffic
    }

    /// Slots of another length begin anew.
    pub fn set_window(&mut self, window_s: u32) {
        let slot_s = slot_s(window_s);
        let slots = window_s.div_ceil(slot_s);
        if (slot_s, slots) != (self.slot_s, self.slots) {
            *self = Traffic { slot_s, slots, ..Traffic::default() };
        }
    }

    pub fn add(&mut self, bytes: u64, now_ns: u64) {
        self.forward(now_ns);
        self.bytes = self.bytes.saturating_add(bytes);
        self.present_bytes = self.present_bytes.saturating_add(bytes);
        self.real |= u64::from(self.present_bytes >= REAL_BYTES && self.slots > 0);
    }

    /// Nothing real within the window.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.shifted(self.slot(now_ns)) == 0
    }

    fn slot(&self, now_ns: u64) -> u64 {
        now_ns / (u64::from(self.slot_s.max(1)) * SECOND_NS)
    }

    fn shifted(&self, slot: u64) -> u64 {
        let by = u32::try_from(slot.saturating_sub(self.present)).unwrap_or(u32::MAX);
        let window = 1_u64.checked_shl(self.slots).map_or(u64::MAX, |bit| bit - 1);
        self.real.checked_shl(by).unwrap_or(0) & window
    }

    fn forward(&mut self, now_ns: u64) {
        let slot = self.slot(now_ns);
        if slot <= self.present {
            return;
        }
        self.real = self.shifted(slot);
        self.present = slot;
        self.present_bytes = 0;
        if self.real == 0 {
            self.bytes = 0;
        }
    }
}

/// Seconds in one slot of a window.
pub(super) fn slot_s(window_s: u32) -> u32 {
    window_s.div_ceil(SLOTS).max(1)
}

/// What was told of a user.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Told, and not over.
    lasts: bool,
    told_ns: Option<u64>,
}

impl Suspicion {
    pub fn lasts(&self) -> bool {
        self.lasts
    }

    /// Looks at the window that ends now.
    pub fn look(
        &mut self,
        user: UserId,
        sharing: &Sharing,
        places: &mut Few<IpAddr, Place>,
        now_ns: u64,
        out: &mut Vec<Effect>,
    ) {
        let evidence = (sharing.networks > 0).then(|| gather(sharing, places, now_ns)).flatten();
        let Some(evidence) = evidence else {
            if std::mem::take(&mut self.lasts) {
                out.push(Effect::SharingOver { user });
            }
            return;
        };
        let window_ns = u64::from(sharing.window_s) * SECOND_NS;
        if self.told_ns.is_none_or(|told| now_ns.saturating_sub(told) >= window_ns) {
            self.told_ns = Some(now_ns);
            self.lasts = true;
            out.push(Effect::SharingSuspected { user, evidence, action: sharing.action });
        }
    }
}

/// The evidence, if it suffices.
fn gather(sharing: &Sharing, places: &mut Few<IpAddr, Place>, now_ns: u64) -> Option<Evidence> {
    if places.len() <= sharing.networks as usize {
        return None;
    }
    for place in places.values_mut() {
        place.traffic.forward(now_ns);
    }
    let seen: Vec<(IpAddr, &Traffic)> = places
        .iter()
        .map(|(&address, place)| (address, &place.traffic))
        .filter(|(_, traffic)| traffic.real != 0)
        .collect();
    if seen.len() <= sharing.networks as usize {
        return None;
    }
    let (slot_s, slots) = seen.first().map(|(_, traffic)| (traffic.slot_s, traffic.slots))?;
    let at_once = |slot: u32| seen.iter().filter(|(_, traffic)| traffic.real >> slot & 1 == 1).count();
    let counts: Vec<usize> = (0..slots).map(at_once).collect();
    let overlap = counts.iter().filter(|&&count| count > sharing.networks as usize).count() as u32;
    if overlap < OVERLAP_SLOTS.min(slots) {
        return None;
    }
    let peak = counts.into_iter().max().unwrap_or(0) as u32;
    let mut networks: Vec<IpAddr> = seen.iter().map(|&(address, _)| network(address, 24, 48)).collect();
    networks.sort_unstable();
    networks.dedup();
    let networks = networks.len() as u32;
    let mut addresses: Vec<SeenAddress> = seen
        .iter()
        .map(|&(address, traffic)| SeenAddress {
            address,
            bytes: traffic.bytes,
            active_s: traffic.real.count_ones() * slot_s,
        })
        .collect();
    addresses.sort_by_key(|seen| (std::cmp::Reverse(seen.bytes), seen.address));
    addresses.truncate(EVIDENCE_MAX);
    Some(Evidence {
        score: score(peak - sharing.networks, overlap, slots, networks >= peak),
        peak,
        allowed: sharing.networks,
        overlap_s: overlap * slot_s,
        window_s: sharing.window_s,
        networks,
        addresses,
    })
}

fn score(too_many: u32, overlap: u32, slots: u32, spread: bool) -> u8 {
    let more = too_many.saturating_sub(1).saturating_mul(10).min(30);
    let long = 20 * overlap / slots.max(1);
    let score = 40 + more + long + if spread { 10 } else { 0 };
    u8::try_from(score).unwrap_or(100)
}
