//! The rates of single flows, for people who list them: what a flow moved since an earlier listing.
//!
//! Owns what was listed. Two people who look at the same time must not shorten each other's view to
//! milliseconds, so that the listing before the last one is kept as well.

use std::collections::HashMap;

use boxmeter_common::flow::Flow;

/// A shorter view says more about single packets than about a rate.
const SINCE_MIN_NS: u64 = 1_000_000_000;

/// A longer one is no news; the flow's whole life is taken then.
const SINCE_MAX_NS: u64 = 30_000_000_000;

#[derive(Debug, Default)]
struct Listing {
    at_ns: u64,
    payload: HashMap<u64, [u64; 2]>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FlowRates {
    last: Listing,
    before: Listing,
}

impl FlowRates {
    /// Payload bytes per second, by direction.
    pub fn of(&self, flow: &Flow, now_ns: u64) -> [u64; 2] {
        let age = |listing: &&Listing| now_ns.saturating_sub(listing.at_ns);
        let listing = [&self.last, &self.before]
            .into_iter()
            .find(|listing| (SINCE_MIN_NS..SINCE_MAX_NS).contains(&age(listing)));
        let since = listing.and_then(|listing| Some((*listing.payload.get(&flow.id)?, age(&listing))));
        let (before, elapsed_ns) = since.unwrap_or(([0; 2], now_ns.saturating_sub(flow.opened_ns)));
        [0, 1].map(|direction| {
            let bytes = u128::from(flow.payload[direction].saturating_sub(before[direction]));
            u64::try_from(bytes * 1_000_000_000 / u128::from(elapsed_ns.max(1))).unwrap_or(u64::MAX)
        })
    }

    /// These flows were listed now.
    pub fn listed(&mut self, flows: impl Iterator<Item = Flow>, now_ns: u64) {
        if now_ns.saturating_sub(self.last.at_ns) >= SINCE_MIN_NS {
            let payload = flows.map(|flow| (flow.id, flow.payload)).collect();
            self.before = std::mem::replace(&mut self.last, Listing { at_ns: now_ns, payload });
        }
    }

    /// Nobody looks any more: 100,000 flows are megabytes.
    pub fn forget_old(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.last.at_ns) >= SINCE_MAX_NS && !self.last.payload.is_empty() {
            *self = FlowRates::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn flow(bytes: u64) -> Flow {
        Flow { id: 7, opened_ns: 100 * SECOND, payload: [bytes, 2 * bytes], ..Flow::default() }
    }

    #[test]
    fn two_who_look_at_once_see_the_same_rate() {
        let mut rates = FlowRates::default();
        assert_eq!(rates.of(&flow(1_000), 110 * SECOND), [100, 200], "over its life");
        rates.listed([flow(1_000)].into_iter(), 110 * SECOND);
        assert_eq!(rates.of(&flow(3_000), 112 * SECOND), [1_000, 2_000]);
        rates.listed([flow(3_000)].into_iter(), 112 * SECOND);
        // The other one, a millisecond later.
        let now_ns = 112 * SECOND + SECOND / 1_000;
        assert_eq!(rates.of(&flow(3_001), now_ns), [1_000, 2_000]);
        rates.listed([flow(3_001)].into_iter(), now_ns);
        assert_eq!(rates.of(&flow(5_000), 114 * SECOND), [1_000, 2_000], "since the first of the two");
    }

    #[test]
    fn what_was_listed_long_ago_is_forgotten() {
        let mut rates = FlowRates::default();
        rates.listed([flow(1_000)].into_iter(), 110 * SECOND);
        rates.forget_old(139 * SECOND);
        assert!(!rates.last.payload.is_empty());
        rates.forget_old(140 * SECOND);
        assert!(rates.last.payload.is_empty());
        assert_eq!(rates.of(&flow(4_000), 140 * SECOND), [100, 200]);
    }
}
