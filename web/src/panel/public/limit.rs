//! How often secrets may be looked up: a bucket per address, IPv6 by /64, and a bounded number of them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Look-ups at once, and how soon one more is allowed: clients look every few hours, and many of them
/// may be behind one address.
const BURST: u32 = 60;
const EVERY: Duration = Duration::from_secs(1);

/// Addresses that are told apart; beyond, strangers share one bucket.
const ADDRESSES_MAX: usize = 10_000;

#[derive(Clone, Copy)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Bucket { left: BURST, since: now }
    }

    /// What came since it was last looked at.
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_millis() / EVERY.as_millis()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.since += EVERY * more.min(BURST);
            if self.left == BURST {
                self.since = now;
            }
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Limit {
    buckets: Mutex<HashMap<Option<IpAddr>, Bucket>>,
}

impl Limit {
    /// May this address look one up now?
    pub fn take(&self, visitor: Option<IpAddr>, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = visitor.map(network);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST
            });
            if buckets.len() >= ADDRESSES_MAX {
                key = None;
            }
        }
        buckets.entry(key).or_insert_with(|| Bucket::full(now)).take(now)
    }
}

/// A household has a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(it) => {
            let [a, b, c, d, ..] = it.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_asks_too_often_waits_and_others_do_not() {
        let (limit, start) = (Limit::default(), tokio::time::Instant::now().into_std());
        let one: IpAddr = "203.0.113.7".parse().unwrap();
        let taken = (0..BURST + 5).filter(|_| limit.take(Some(one), start)).count();
        assert_eq!(taken, BURST as usize);
        assert!(limit.take(Some("203.0.113.8".parse().unwrap()), start));
        assert!(
            !limit.take(Some("::ffff:203.0.113.7".parse().unwrap()), start),
            "the same in IPv6's clothes"
        );
        assert!(limit.take(Some(one), start + EVERY));
        assert!(!limit.take(Some(one), start + EVERY));
        let rested = start + EVERY * 10 * BURST;
        assert_eq!((0..2 * BURST).filter(|_| limit.take(Some(one), rested)).count(), BURST as usize);
    }

    #[test]
    fn a_household_is_one_address() {
        let (limit, now) = (Limit::default(), tokio::time::Instant::now().into_std());
        let host = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n));
        assert_eq!((0..500).filter(|n| limit.take(Some(host(*n)), now)).count(), BURST as usize);
        assert!(limit.take(Some("2001:db8:0:2::1".parse().unwrap()), now));
    }

    #[test]
    fn a_crowd_does_not_fill_the_memory() {
        let (limit, now) = (Limit::default(), tokio::time::Instant::now().into_std());
        for n in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 1_000 {
            limit.take(Some(IpAddr::V4(n.into())), now);
        }
        assert!(limit.buckets.lock().unwrap().len() <= ADDRESSES_MAX + 1);
        // Those who rest make room.
        let later = now + EVERY * 2 * BURST;
        assert!(limit.take(Some("255.0.0.1".parse().unwrap()), later));
        assert_eq!(limit.buckets.lock().unwrap().len(), 1);
    }
}
