//! Rates of users and blocked flows. Both are in pinned maps and hold without an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
};

use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    rate::{BLOCKED_MAX, Lane, Rate},
    user::{LIMIT_BLOCKED, LIMIT_RATE},
};

use super::{
    accounts::UserSlot,
    error::KernelError,
    load::Kernel,
    shared::{self, Shared},
    sys,
};
use crate::core::event::FlowId;

/// Smaller rates are set to this: below it a TCP connection dies of its own timers.
pub const RATE_MIN: u64 = 1_000;

impl Kernel {
    /// Sets how fast a user may go, over all its flows: payload bytes per second by direction
    /// (upload, download), 0 for no limit; what is below 1,000 is taken for 1,000. Of effect at once,
    /// for open flows too: UDP with the next packet, TCP within a round trip.
    ///
    /// Sockets that were open before the programs are reached by `walk_sockets` only.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn set_rates(&mut self, slot: UserSlot, rates: [u64; 2]) {
        let entry = self.rates.at(slot.0);
        for direction in [UPLOAD, DOWNLOAD] {
            let wanted = if rates[direction] == 0 { 0 } else { rates[direction].max(RATE_MIN) };
            // SAFETY: fields of a mapped value, here and below.
            let old = unsafe { set_lane(&raw mut (*entry).lanes[direction], wanted) };
            match (old, wanted) {
                (0, 0) => {}
                (0, _) => self.rated[direction] += 1,
                (_, 0) => self.rated[direction] -= 1,
                _ => {}
            }
            let anybody = self.rates.at(0);
            // SAFETY: as above.
            unsafe { shared::store(&raw mut (*anybody).lanes[direction].rate, self.rated[direction]) };
        }
        let limited = rates != [0, 0];
        self.set_limit(slot, LIMIT_RATE, limited);
    }

    /// The rates that hold for a user, as `set_rates` takes them.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn rates(&self, slot: UserSlot) -> [u64; 2] {
        let entry = self.rates.at(slot.0);
        // SAFETY: see `set_rates`.
        [UPLOAD, DOWNLOAD].map(|way| unsafe { shared::load(&raw const (*entry).lanes[way].rate) })
    }

    fn set_limit(&self, slot: UserSlot, bit: u32, on: bool) {
        let user = self.users.at(slot.0);
        // SAFETY: see `set_rates`.
        unsafe {
            if on {
                shared::set32(&raw mut (*user).limits, bit);
            } else {
                shared::clear32(&raw mut (*user).limits, bit);
            }
        }
    }

    /// Drops every packet of one flow of a user from now on, TCP or UDP, until `unblock` or its end.
    /// The flow must have an owner, and `slot` must be its user's.
    ///
    /// # Errors
    /// `Full`, or the map cannot be written.
    pub fn block(&mut self, flow: FlowId, slot: UserSlot) -> Result<(), KernelError> {
        sys::update(self.blocked.as_fd(), &flow.0, &slot.0).map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM) => KernelError::Full { what: "blocked flows", max: BLOCKED_MAX },
            _ => KernelError::io("bpf: blocking a flow")(error),
        })?;
        self.set_limit(slot, LIMIT_BLOCKED, true);
        Ok(())
    }

    /// Lets a flow go on. Nothing happens if it was not blocked.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn unblock(&mut self, flow: FlowId) -> Result<(), KernelError> {
        sys::delete(self.blocked.as_fd(), &flow.0).map_err(KernelError::io("bpf: unblocking a flow"))?;
        Ok(())
    }

    /// The flows that are blocked, with the users they belong to.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn blocked(&self) -> Result<BTreeMap<FlowId, UserSlot>, KernelError> {
        let mut found = BTreeMap::new();
        let mut cursor = Some(sys::Cursor::default());
        while let Some(at) = cursor {
            let (some, next) = sys::lookup_batch::<u64, u32>(self.blocked.as_fd(), at, 4_096)
                .map_err(KernelError::io("bpf: reading BLOCKED"))?;
            found.extend(some.into_iter().map(|(id, slot)| (FlowId(id), UserSlot(slot))));
            cursor = next;
        }
        Ok(found)
    }

    /// Forgets blocks of flows that are not among `live`, which must have been read after the last
    /// `block`, and takes users without a blocked flow back to the shorter way. Once in a while.
    ///
    /// # Errors
    /// The map cannot be read or changed.
    pub fn sweep_blocked(&mut self, live: &BTreeSet<u64>) -> Result<(), KernelError> {
        let mut users = BTreeSet::new();
        for (flow, slot) in self.blocked()? {
            if live.contains(&flow.0) {
                users.insert(slot);
            } else {
                self.unblock(flow)?;
            }
        }
        let unused = |user: &UserSlot| !users.contains(user);
        for slot in self.users().map(|user| user.slot).filter(unused) {
            self.set_limit(slot, LIMIT_BLOCKED, false);
        }
        Ok(())
    }

    /// What budgets of the user are measured on from now on (`METER_*`). `billed`, which is
    /// returned, goes on from where it is: it then counts bytes of the new meter on top of what was
    /// counted of the old one. Both thresholds are absolute values of it and must be set anew, to
    /// what is returned plus what the user may still have.
    ///
    /// # Panics
    /// The slot is not one of the map's.
    pub fn set_meter(&self, slot: UserSlot, meter: u32) -> u64 {
        let user = self.users.at(slot.0);
        // SAFETY: see `set_rates`.
        unsafe {
            shared::store32(&raw mut (*user).meter, meter);
            shared::load(&raw const (*user).billed)
        }
    }
}

/// Returns the old rate.
///
/// # Safety
/// `lane` is part of a mapped value.
unsafe fn set_lane(lane: *mut Lane, rate: u64) -> u64 {
    // SAFETY: as the caller says.
    unsafe {
        let old = shared::load(&raw const (*lane).rate);
        if old == rate {
            return old;
        }
        let grant = shared::load(&raw const (*lane).grant);
        shared::store(&raw mut (*lane).rate, rate);
        // As many flows are active as a moment ago. Where nothing is known it is found out anew.
        let scaled = if old == 0 { 0 } else { u128::from(grant) * u128::from(rate) / u128::from(old) };
        shared::store(&raw mut (*lane).grant, u64::try_from(scaled).unwrap_or(rate));
        if old == 0 {
            shared::store(&raw mut (*lane).clock_ns, 0);
            shared::store(&raw mut (*lane).until_ns, 0);
        }
        old
    }
}

/// How many users have a rate, by direction: what a new agent finds.
pub(super) fn count_rated(rates: &Shared<Rate>, users_next: u32) -> [u64; 2] {
    let mut rated = [0; 2];
    for slot in 1..users_next {
        for (direction, count) in rated.iter_mut().enumerate() {
            // SAFETY: a field of a mapped value.
            let rate = unsafe { shared::load(&raw const (*rates.at(slot)).lanes[direction].rate) };
            *count += u64::from(rate != 0);
        }
    }
    rated
}
