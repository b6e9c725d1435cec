//! One nginx at two addresses is counted once, by the service that the configuration names first: whose process has
//! another's is not counted. A service named later waits until those before it were heard, since after a start or a
//! restart nobody knows yet whose process it is. Pure.

use std::sync::Arc;

use crate::core::counters::Life;

struct One {
    service: Arc<str>,
    /// How often it was asked, with an answer or without.
    asked: u64,
    life: Option<Life>,
    /// Since when it has that: how often those before it had been asked then.
    since: Option<(Life, Vec<u64>)>,
}

/// The services that may be one.
#[derive(Default)]
pub struct Twins(Vec<One>);

/// What becomes of a reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Counts,
    /// It may be another's: the next one is looked at.
    Wait,
    /// It is this one's.
    Twin(Arc<str>),
}

impl Twins {
    /// In the order of the configuration.
    pub fn add(&mut self, service: Arc<str>) {
        self.0.push(One { service, asked: 0, life: None, since: None });
    }

    /// It gave no answer.
    pub fn failed(&mut self, service: &str) {
        if let Some(one) = self.0.iter_mut().find(|one| *one.service == *service) {
            one.asked += 1;
        }
    }

    /// It has answered, from this process if it is known.
    pub fn heard(&mut self, service: &str, life: Option<Life>) -> Verdict {
        let Some(at) = self.0.iter().position(|one| *one.service == *service) else { return Verdict::Counts };
        let (before, rest) = self.0.split_at_mut(at);
        let one = &mut rest[0];
        one.asked += 1;
        one.life = life.filter(|life| life.pid != 0);
        // What answers elsewhere says nothing of its process.
        let Some(life) = one.life else { return Verdict::Counts };
        let same = |other: &&One| other.life.is_some_and(|theirs| theirs.is(&life));
        if let Some(twin) = before.iter().find(same) {
            return Verdict::Twin(Arc::clone(&twin.service));
        }
        let now = || before.iter().map(|other| other.asked).collect::<Vec<_>>();
        if !one.since.as_ref().is_some_and(|(since, _)| since.is(&life)) {
            one.since = Some((life, now()));
        }
        let asked = one.since.as_ref().map(|(_, asked)| asked.iter()).into_iter().flatten();
        if now().iter().zip(asked).any(|(now, then)| now <= then) { Verdict::Wait } else { Verdict::Counts }
    }
}

/// Why one is not counted.
pub fn reason(other: &str) -> String {
    format!(
        "it is the same nginx as {other:?}, which counts its bytes already; take one of the two [[service]] out"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(pid: u32) -> Option<Life> {
        Some(Life { boot: [1; 16], pid, started_ms: 1_000 })
    }

    #[test]
    fn one_nginx_at_two_addresses_is_counted_by_the_first() {
        let mut twins = Twins::default();
        twins.add("a".into());
        twins.add("b".into());
        let twin = || Verdict::Twin("a".into());
        // The second one is heard first, as may be after every start.
        assert_eq!(twins.heard("b", life(7)), Verdict::Wait);
        assert_eq!(twins.heard("b", life(7)), Verdict::Wait);
        assert_eq!(twins.heard("a", life(7)), Verdict::Counts);
        assert_eq!(twins.heard("b", life(7)), twin());
        // nginx was restarted.
        assert_eq!(twins.heard("b", life(8)), Verdict::Wait);
        assert_eq!(twins.heard("a", life(8)), Verdict::Counts);
        assert_eq!(twins.heard("b", life(8)), twin());
    }

    #[test]
    fn two_nginx_are_two() {
        let mut twins = Twins::default();
        twins.add("a".into());
        twins.add("b".into());
        assert_eq!(twins.heard("b", life(8)), Verdict::Wait);
        twins.failed("a");
        assert_eq!(twins.heard("b", life(8)), Verdict::Counts, "the first one is not there");
        assert_eq!(twins.heard("a", life(7)), Verdict::Counts);
        assert_eq!(twins.heard("b", life(8)), Verdict::Counts);
        // Of others nothing is known.
        for elsewhere in [None, life(0)] {
            assert_eq!(twins.heard("a", elsewhere), Verdict::Counts);
            assert_eq!(twins.heard("b", elsewhere), Verdict::Counts);
        }
    }
}
