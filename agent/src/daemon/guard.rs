//! Connections of which nobody tells the user, though they move much: where users are over their limits,
//! such a connection may be a way around them. It is told, and ended where `[kernel] guard` says so.
//!
//! Fails open: nothing is ended that was opened before the programs or while no source told owners, nor
//! before an owner had time to come. UDP peers are left alone: only sockets of their own can be ended, and
//! a QUIC inbound's users come from sing-box's API within milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use boxmeter_common::{
    TCP,
    flow::{FLOW_OLD, Flow},
};
use boxmeter_web::units::Size;
use serde_json::json;

use super::{agent::Agent, meter::Meter};
use crate::{
    core::event::{FlowId, FlowSeen, InboundIndex, Now},
    fault,
    ledger::InboundNo,
};

/// Less than this is not looked at, nor taken as a limit.
const BULK_BYTES: u64 = 4 << 20;
/// An owner that was not told in this time does not come any more: what a source has lost is told again when
/// its subscription is renewed, which is every 30 s.
const OWNER_COMES_NS: u64 = 35_000_000_000;
/// What was seen in this time counts for the warning.
const WINDOW_NS: u64 = 600_000_000_000;
/// So many in the window are no accident.
const WARN_AT: usize = 3;
/// The part of the status that warns.
const PART: &str = "guard";

/// Which source tells an inbound's owners: only of those whose users are known to anybody.
type Sources = BTreeMap<InboundIndex, usize>;

/// A TCP flow that moved much.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    pub flow: FlowSeen,
    pub bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Guard {
    limit: Option<u64>,
    /// By source: since when it tells owners.
    since_ns: BTreeMap<usize, u64>,
    /// Flows without an owner, and when they were seen first.
    seen: BTreeMap<FlowId, u64>,
    warned: bool,
}

impl Guard {
    pub fn new(limit: Option<u64>) -> Self {
        Guard { limit, ..Guard::default() }
    }

    /// From now on a source tells owners.
    pub fn source_connected(&mut self, source: usize, now_ns: u64) {
        self.since_ns.entry(source).or_insert(now_ns);
    }

    pub fn source_away(&mut self, source: usize) {
        self.since_ns.remove(&source);
    }

    /// The source has lost something: of what is open now, nobody knows.
    pub fn source_lost(&mut self, source: usize, now_ns: u64) {
        self.since_ns.entry(source).and_modify(|since_ns| *since_ns = now_ns);
    }

    /// Those of which an owner should have been told.
    fn owed(&self, bulk: Vec<Bulk>, sources: &Sources, now_ns: u64) -> Vec<Bulk> {
        let owed = |it: &Bulk| {
            let source = sources.get(&it.flow.inbound);
            let since_ns = source.and_then(|source| self.since_ns.get(source));
            since_ns.is_some_and(|since_ns| it.flow.opened_ns >= *since_ns)
                && now_ns.saturating_sub(it.flow.opened_ns) >= OWNER_COMES_NS / fault::hurry()
        };
        bulk.into_iter().filter(owed).collect()
    }

    /// Which are to be ended.
    fn look(
        &mut self,
        bulk: Vec<Bulk>,
        sources: &Sources,
        open: &BTreeSet<FlowId>,
        now_ns: u64,
    ) -> Vec<Bulk> {
        let owed = self.owed(bulk, sources, now_ns);
        for it in &owed {
            self.seen.entry(it.flow.id).or_insert(now_ns);
        }
        // One that goes on counts on.
        self.seen.retain(|id, at_ns| open.contains(id) || now_ns.saturating_sub(*at_ns) < WINDOW_NS);
        owed.into_iter().filter(|it| self.limit.is_some_and(|limit| it.bytes >= limit)).collect()
    }

    /// Whether there is anything to warn of, if somebody is out.
    fn sees_several(&self) -> bool {
        self.limit.is_none() && self.seen.len() >= WARN_AT
    }

    /// The warning, when it changes; `Some(None)` takes it away.
    fn warning(&mut self, somebody_is_out: bool) -> Option<Option<String>> {
        let warns = somebody_is_out && self.sees_several();
        if warns == self.warned {
            return None;
        }
        self.warned = warns;
        Some(warns.then(|| {
            format!(
                "{} connections moved much though nobody tells their user, while users are over their limits; \
                 `guard = \"64MiB\"` under [kernel] ends such connections",
                self.seen.len()
            )
        }))
    }
}

impl Meter {
    /// A walk found this flow; one that was there before the programs may never have an owner.
    pub(super) fn note_bulk(&mut self, flow: &Flow, seen: FlowSeen) {
        let bytes = flow.payload.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        if flow.key.network == TCP && flow.flags & FLOW_OLD == 0 && bytes >= BULK_BYTES {
            self.bulk.push(Bulk { flow: seen, bytes });
        }
    }

    /// Connections that moved much, whose user nobody has told by now.
    fn take_unowned_bulk(&mut self) -> Vec<Bulk> {
        let mut bulk = std::mem::take(&mut self.bulk);
        bulk.retain(|it| self.attributor.flow(it.flow.id).is_some_and(|view| view.user.is_none()));
        bulk
    }
}

impl Agent {
    /// Inbounds of which anybody could be told, and by which source.
    fn inbounds_with_users(&self) -> Sources {
        let of_living = self.directory.users.values().filter(|user| user.tombstoned_ms.is_none());
        let members: BTreeSet<InboundNo> = of_living.flat_map(|user| user.inbounds.iter().copied()).collect();
        let known = self.directory.inbounds.iter().filter(|inbound| members.contains(&inbound.no));
        let tags: BTreeSet<&str> = known.map(|inbound| &*inbound.tag).collect();
        let indexes = self.directory.tags.iter().filter(|(_, tag)| tags.contains(&***tag));
        indexes.filter_map(|(index, tag)| Some((*index, self.proxies.of_tag(tag)?))).collect()
    }

    /// After a walk over all sockets.
    pub(super) fn look_at_unowned(&mut self, open: &BTreeSet<FlowId>, now: Now, ended: &mut Vec<FlowSeen>) {
        let mut bulk = self.meter.take_unowned_bulk();
        let sources = if bulk.is_empty() { Sources::new() } else { self.inbounds_with_users() };
        bulk.retain(|it| sources.contains_key(&it.flow.inbound));
        let over = self.guard.look(bulk, &sources, open, now.mono_ns);
        if let Some(first) = over.first() {
            let tag = self.directory.tags.get(&first.flow.inbound).map(ToString::to_string);
            let message = format!(
                "{} connection(s) moved more than {} without a user that anybody tells: ended by the guard",
                over.len(),
                Size(self.guard.limit.unwrap_or_default())
            );
            let data = json!({
                "connections": over.len(), "inbound": tag, "peer": first.flow.peer.to_string(), "bytes": first.bytes,
                "severity": "warning", "message": message,
            });
            self.event("unowned_ended", None, data);
        }
        ended.extend(over.iter().map(|it| it.flow));
        // Everybody is looked at only if it matters.
        let somebody_is_out =
            self.guard.sees_several() && self.gate.kept_out().is_some_and(|out| !out.is_empty());
        match self.guard.warning(somebody_is_out) {
            Some(Some(reason)) => self.meter.publisher.degrade(PART, reason, now),
            Some(None) => self.meter.publisher.restore(PART),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::Network;

    const SECOND: u64 = 1_000_000_000;

    fn bulk(id: u64, opened_s: u64, bytes: u64) -> Bulk {
        let flow = FlowSeen {
            id: FlowId(id),
            inbound: InboundIndex(1),
            network: Network::Tcp,
            peer: "192.0.2.1:1000".parse().unwrap(),
            opened_ns: opened_s * SECOND,
            owner: None,
        };
        Bulk { flow, bytes }
    }

    fn sources() -> Sources {
        Sources::from([(InboundIndex(1), 0), (InboundIndex(2), 1)])
    }

    fn ids(found: &[Bulk]) -> Vec<u64> {
        found.iter().map(|it| it.flow.id.0).collect()
    }

    #[test]
    fn only_what_should_have_an_owner_and_moved_more_is_ended() {
        let mut guard = Guard::new(Some(64 << 20));
        let all = vec![
            bulk(1, 50, 65 << 20),
            bulk(2, 101, 65 << 20),
            bulk(3, 101, 63 << 20),
            bulk(4, 138, 65 << 20),
        ];
        let open = all.iter().map(|it| it.flow.id).collect();
        assert!(guard.look(all.clone(), &sources(), &open, 140 * SECOND).is_empty(), "nobody tells owners");
        guard.source_connected(0, 100 * SECOND);
        guard.source_connected(0, 110 * SECOND);
        assert_eq!(
            ids(&guard.look(all.clone(), &sources(), &open, 140 * SECOND)),
            [2],
            "old, small and new ones go on"
        );
        guard.source_away(0);
        assert!(guard.look(all.clone(), &sources(), &open, 145 * SECOND).is_empty());
        // Another service's source says nothing of these, and this one's nothing of its own.
        guard.source_connected(1, 100 * SECOND);
        assert!(guard.look(all.clone(), &sources(), &open, 145 * SECOND).is_empty());
        let mut other = bulk(5, 101, 65 << 20);
        other.flow.inbound = InboundIndex(2);
        assert_eq!(ids(&guard.look(vec![other], &sources(), &open, 145 * SECOND)), [5]);
        let mut off = Guard::new(None);
        off.source_connected(0, 0);
        assert!(off.look(all, &sources(), &open, 145 * SECOND).is_empty());
    }

    #[test]
    fn several_while_somebody_is_out_are_told_until_they_are_long_gone() {
        let mut guard = Guard::new(None);
        guard.source_connected(0, 0);
        let open: BTreeSet<FlowId> = (1..=3).map(FlowId).collect();
        for id in 1..=2 {
            guard.look(vec![bulk(id, 1, 5 << 20)], &sources(), &open, 40 * SECOND);
        }
        assert_eq!(guard.warning(true), None);
        guard.look(vec![bulk(3, 1, 5 << 20)], &sources(), &open, 40 * SECOND);
        assert_eq!(guard.warning(false), None, "nobody is out");
        let told = guard.warning(true).flatten().unwrap();
        assert!(told.contains("guard"), "{told}");
        assert_eq!(guard.warning(true), None, "told once");
        guard.look(Vec::new(), &sources(), &BTreeSet::new(), 50 * SECOND);
        assert_eq!(guard.warning(true), None, "it is not long ago");
        guard.look(Vec::new(), &sources(), &BTreeSet::new(), 50 * SECOND + WINDOW_NS);
        assert_eq!(guard.warning(true), Some(None));
    }
}
