//! Services that keep totals themselves, on their way to the ledger. Owns how far each is, and what of that the
//! ledger does not have; knows whose names are whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    core::{
        counters::{Before, Progress, Reading, Taken, Tally, Whose},
        event::UserId,
    },
    ledger::{InboundNo, InboundRecord, ServiceProgress},
};

/// What the tag of a service's own account is called, after the service's name. No listener has it by accident.
pub const TAG: &str = "(reported)";

/// Users of one service, beyond which no more are taken in by themselves.
const ADOPTED_MAX: usize = 10_000;

struct One {
    /// `None` until the ledger has said what is known: before that nothing is taken.
    tally: Option<Tally>,
    /// The names that its counters have, since the agent's start.
    names: BTreeSet<Arc<str>>,
    inbound: Option<InboundNo>,
}

/// See the module.
#[derive(Default)]
pub struct Tallies {
    all: BTreeMap<Arc<str>, One>,
}

/// Is it the tag of a service's own account?
pub fn is_tag(tag: &str) -> bool {
    tag.rsplit_once('/').is_some_and(|(_, last)| last == TAG)
}

/// The tag of a service's own account.
pub fn tag(service: &str) -> Arc<str> {
    format!("{service}/{TAG}").into()
}

/// Whose own account a tag is.
pub fn service_of(tag: &str) -> Option<&str> {
    tag.rsplit_once('/').filter(|(_, last)| *last == TAG).map(|(service, _)| service)
}

impl Tallies {
    /// Names must be unique.
    pub fn new(services: impl IntoIterator<Item = Arc<str>>) -> Self {
        let one = |name| (name, One { tally: None, names: BTreeSet::new(), inbound: None });
        Tallies { all: services.into_iter().map(one).collect() }
    }

    /// Of which the ledger has not said yet what it knows.
    pub fn unknown(&self) -> Vec<Arc<str>> {
        self.all.iter().filter(|(_, one)| one.tally.is_none()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// What the ledger knows of a service.
    pub fn set_before(&mut self, service: &str, before: Option<Before>) {
        if let Some(one) = self.all.get_mut(service)
            && one.tally.is_none()
        {
            one.tally = Some(Tally::new(before));
        }
    }

    pub fn set_inbounds(&mut self, records: &[InboundRecord]) {
        for (name, one) in &mut self.all {
            let tag = tag(name);
            one.inbound = records.iter().find(|record| record.tag == tag).map(|record| record.no);
        }
    }

    /// Takes a reading; `None`: not yet. Names that `users` has are theirs; `may` says of others whether they are
    /// about to be taken in.
    pub fn take(
        &mut self,
        service: &str,
        reading: &Reading,
        users: &BTreeMap<Arc<str>, UserId>,
        may: impl Fn(&str) -> bool,
    ) -> Option<Taken> {
        let one = self.all.get_mut(service)?;
        // Bytes that nothing can be kept under would wait in memory, and those in the service are safe.
        one.inbound?;
        let tally = one.tally.as_mut()?;
        for counter in &reading.counters {
            if one.names.len() < ADOPTED_MAX && (users.contains_key(&counter.name) || may(&counter.name)) {
                one.names.insert(Arc::clone(&counter.name));
            }
        }
        let names = &one.names;
        Some(tally.take(reading, |name| match users.get(name) {
            Some(user) => Whose::User(*user),
            None if names.contains(name) && may(name) => Whose::Soon,
            None => Whose::Nobody,
        }))
    }

    /// The names that a service's counters had.
    pub fn names(&self, service: &str) -> impl Iterator<Item = &Arc<str>> {
        self.all.get(service).into_iter().flat_map(|one| &one.names)
    }

    /// What the ledger does not have.
    pub fn batch(&self) -> Vec<ServiceProgress> {
        let progress = self.all.iter().filter_map(|(service, one)| {
            let progress: Progress = one.tally.as_ref()?.progress()?;
            Some(ServiceProgress { service: Arc::clone(service), inbound: one.inbound?, progress })
        });
        progress.collect()
    }

    /// The ledger has this.
    pub fn committed(&mut self, batch: &[ServiceProgress]) {
        for done in batch {
            if let Some(tally) = self.all.get_mut(&done.service).and_then(|one| one.tally.as_mut()) {
                tally.committed(&done.progress);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::counters::Counter;

    const ALICE: UserId = UserId(Uuid::from_u128(1));

    fn reading(counters: &[(u8, &str, u64)]) -> Reading {
        let counter = |&(n, name, bytes): &(u8, &str, u64)| Counter {
            key: [n; 16],
            name: name.into(),
            bytes: [bytes, 0],
        };
        Reading { counters: counters.iter().map(counter).collect(), ..Reading::default() }
    }

    fn record(tag: &str) -> InboundRecord {
        InboundRecord {
            no: InboundNo(4),
            tag: tag.into(),
            kind: "nginx".to_owned(),
            port: 0,
            tombstoned_ms: None,
            rev: 1,
        }
    }

    #[test]
    fn nothing_is_taken_before_the_ledger_knows_where_to() {
        let users = BTreeMap::from([("alice".into(), ALICE)]);
        let mut tallies = Tallies::new(["web".into()]);
        let first = reading(&[(1, "alice", 5)]);
        assert_eq!(tallies.take("web", &first, &users, |_| false), None);
        tallies.set_before("web", Some(Before::default()));
        assert_eq!(tallies.take("web", &first, &users, |_| false), None);
        assert_eq!(tallies.unknown(), [""; 0].map(Arc::from));
        tallies.set_inbounds(&[record("web/(reported)")]);
        tallies.take("web", &first, &users, |_| false).unwrap();
        let batch = tallies.batch();
        assert_eq!((batch[0].inbound, &batch[0].progress.sums[..]), (InboundNo(4), &[(ALICE, [5, 0])][..]));
        // It is known already: the ledger's later answer changes nothing.
        tallies.set_before("web", None);
        assert_eq!(tallies.batch(), batch);
        tallies.committed(&batch);
        assert_eq!(tallies.batch(), []);
        assert_eq!(tallies.take("elsewhere", &first, &users, |_| false), None);
    }

    #[test]
    fn whoever_may_be_taken_in_is_named_and_his_bytes_wait() {
        let mut tallies = Tallies::new(["web".into()]);
        tallies.set_before("web", Some(Before::default()));
        tallies.set_inbounds(&[record("web/(reported)")]);
        let told = reading(&[(1, "alice", 5), (2, "nobody", 7)]);
        let may = |name: &str| name == "alice";
        let taken = tallies.take("web", &told, &BTreeMap::new(), may).unwrap();
        assert_eq!(taken.nobodys, [7, 0]);
        assert_eq!(tallies.names("web").map(|name| &**name).collect::<Vec<_>>(), ["alice"]);
        let users = BTreeMap::from([("alice".into(), ALICE)]);
        tallies.take("web", &told, &users, may).unwrap();
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [5, 0])]);
    }
}
