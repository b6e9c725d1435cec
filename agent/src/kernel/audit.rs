//! Totals: what was watched, where it went, what the programs cost.

use std::{fs, os::fd::AsRawFd};

use boxmeter_common::{
    stats::{STAT_NAMES, Stat},
    user::Counters,
    watch::WATCHED_SHARDS,
};

use super::{error::KernelError, load::Kernel, shared};
use crate::core::event::InboundIndex;

/// Watched bytes and where they are. With no traffic between the two readings of `watched`,
/// `watched_before` = `users` + `unattributed` + `pending` = `watched_after`, per field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub watched_before: Counters,
    pub watched_after: Counters,
    pub users: Counters,
    pub unattributed: Counters,
    /// Of flows whose owner is not known yet.
    pub pending: Counters,
    /// Monotonic nanoseconds of the two readings.
    pub before_ns: u64,
    pub after_ns: u64,
}

fn add(sum: &mut Counters, more: &Counters) {
    for direction in 0..2 {
        sum.payload[direction] = sum.payload[direction].wrapping_add(more.payload[direction]);
        sum.wire[direction] = sum.wire[direction].wrapping_add(more.wire[direction]);
    }
}

fn subtract(from: &mut Counters, less: &Counters) {
    for direction in 0..2 {
        from.payload[direction] = from.payload[direction].wrapping_sub(less.payload[direction]);
        from.wire[direction] = from.wire[direction].wrapping_sub(less.wire[direction]);
    }
}

fn fields(counters: &Counters) -> [u64; 4] {
    [counters.payload[0], counters.payload[1], counters.wire[0], counters.wire[1]]
}

impl Audit {
    /// By how much the sums lie outside the two readings: the largest of the four fields, 0 when
    /// every field lies between them.
    pub fn difference_bytes(&self) -> u64 {
        let mut sums = self.users;
        add(&mut sums, &self.unattributed);
        add(&mut sums, &self.pending);
        let outside = fields(&self.watched_before)
            .into_iter()
            .zip(fields(&sums))
            .zip(fields(&self.watched_after))
            .map(|((before, sum), after)| before.saturating_sub(sum).max(sum.saturating_sub(after)));
        outside.max().unwrap_or(0)
    }
}

impl Kernel {
    /// Totals of one inbound, owned or not.
    ///
    /// # Panics
    /// The index is not one of the map's.
    pub fn watched(&self, inbound: InboundIndex) -> Counters {
        let mut totals = Counters::default();
        for shard in 0..WATCHED_SHARDS {
            let watched = self.watched.at(inbound.0 * WATCHED_SHARDS + shard);
            // SAFETY: fields of a mapped value.
            add(&mut totals, &unsafe { shared::counters(&raw const (*watched).counters) });
        }
        totals
    }

    /// Bytes of one inbound that flows without an owner hold.
    ///
    /// # Panics
    /// The index is not one of the map's.
    pub fn pending(&self, inbound: InboundIndex) -> Counters {
        let entry = self.inbounds.at(inbound.0);
        // SAFETY: fields of a mapped value. What went out is read first, so that the difference is
        // never negative.
        unsafe {
            let out = shared::counters(&raw const (*entry).pending_out);
            let mut pending = shared::counters(&raw const (*entry).pending_in);
            subtract(&mut pending, &out);
            pending
        }
    }

    /// Compares all that was watched with where it went, from memory, without a call.
    pub fn audit(&self) -> Audit {
        let inbounds: Vec<InboundIndex> = self.inbounds().into_iter().map(|i| i.index).collect();
        let watched = || {
            let mut sum = Counters::default();
            for inbound in &inbounds {
                add(&mut sum, &self.watched(*inbound));
            }
            sum
        };
        let mut audit =
            Audit { before_ns: crate::clock::mono_ns(), watched_before: watched(), ..Audit::default() };
        for inbound in &inbounds {
            add(&mut audit.pending, &self.pending(*inbound));
        }
        for account in self.accounts() {
            let sum = if account.user.is_some() { &mut audit.users } else { &mut audit.unattributed };
            add(sum, &account.counters);
        }
        audit.watched_after = watched();
        audit.after_ns = crate::clock::mono_ns();
        audit
    }

    /// The programs' own counters, by name.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let read = |(index, name): (usize, &&'static str)| {
            // SAFETY: a mapped word.
            (*name, unsafe { shared::load(self.stats.at(index as u32)) })
        };
        STAT_NAMES.iter().enumerate().map(read).collect()
    }

    /// One of the programs' own counters.
    pub fn stat(&self, stat: Stat) -> u64 {
        // SAFETY: a mapped word.
        unsafe { shared::load(self.stats.at(stat as u32)) }
    }

    /// Lets the kernel time the programs as long as the result lives. It costs some 30 ns per run.
    ///
    /// # Errors
    /// No permission.
    pub fn measure(&self) -> Result<std::os::fd::OwnedFd, KernelError> {
        aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .map_err(|_| KernelError::Permission { what: "timing BPF programs" })
    }

    /// Nanoseconds and runs of the ingress and the egress program since they were loaded, counted
    /// while somebody measured.
    pub fn run_time(&self) -> [(u64, u64); 2] {
        [&self.programs.ingress, &self.programs.egress].map(|program| {
            let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
            };
            (value("run_time_ns:"), value("run_cnt:"))
        })
    }

    /// Mean nanoseconds per packet, ingress and egress; 0 where nothing was measured.
    pub fn ns_per_packet(&self) -> [u64; 2] {
        self.run_time().map(|(ns, runs)| ns.checked_div(runs).unwrap_or(0))
    }
}
