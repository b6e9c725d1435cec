//! Services that keep totals themselves, on their way to the ledger. Owns how far each is, and what of that the
//! ledger does not have; knows whose names are whose.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use boxmeter_web::api::names::check_name;

use crate::{
    core::{
        counters::{Before, Progress, Reading, TAG, Taken, Tally, Whose},
        event::UserId,
    },
    ledger::{Gone, InboundNo, InboundRecord, Origin, ServiceProgress},
};

/// Users of one service, beyond which no more are taken in by themselves: clients may choose what is counted.
pub const ADOPTED_MAX: usize = 10_000;

/// Syncs after which a configuration that was read after something was seen is what the users are from: the first of
/// them may have begun before.
const SYNCS_WAITED: u64 = 2;

struct One {
    origin: Origin,
    /// `None` until the ledger has said what is known: before that nothing is taken.
    tally: Option<Tally>,
    /// The names of users that its counters have, since the agent's start: those who are there, and those who are
    /// about to be taken in.
    names: BTreeSet<Arc<str>>,
    /// Names that its configuration may have, and how many syncs there were when each was seen first.
    waited: BTreeMap<Arc<str>, u64>,
    /// The names of deleted users that it counted last; `None`: it was not read yet.
    gone: Option<BTreeSet<Arc<str>>>,
    inbound: Option<InboundNo>,
}

/// Who is who, for the counters of one service.
pub struct People<'a> {
    pub users: &'a BTreeMap<Arc<str>, UserId>,
    pub gone: &'a Gone,
    /// Whom the service has as users; empty: whoever it counts.
    pub listed: &'a BTreeSet<Arc<str>>,
    /// How many users it has; `None`: they come by its configuration alone.
    pub members: Option<usize>,
}

/// What a reading said, of bytes and of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub taken: Taken,
    /// There are names that it had not before, of users or of those who are to be taken in.
    pub new_names: bool,
    /// Names that are nobody's because there are too many.
    pub too_many: usize,
    /// Other deleted users are counted than before.
    pub gone_changed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Tallies {
    all: BTreeMap<Arc<str>, One>,
    /// How often users were taken from configurations.
    syncs: u64,
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
    pub fn new(services: impl IntoIterator<Item = (Arc<str>, Origin)>) -> Self {
        let one = |(name, origin)| {
            let (names, waited) = (BTreeSet::new(), BTreeMap::new());
            (name, One { origin, tally: None, names, waited, gone: None, inbound: None })
        };
        Tallies { all: services.into_iter().map(one).collect(), syncs: 0 }
    }

    /// Of which the ledger has not said yet what it knows.
    pub fn unknown(&self) -> Vec<(Arc<str>, Origin)> {
        let unknown = self.all.iter().filter(|(_, one)| one.tally.is_none());
        unknown.map(|(name, one)| (Arc::clone(name), one.origin.clone())).collect()
    }

    /// What the ledger knows of a service.
    pub fn set_before(&mut self, service: &str, before: Option<Before>) {
        if let Some(one) = self.all.get_mut(service)
            && one.tally.is_none()
        {
            one.tally = Some(Tally::new(before));
        }
    }

    /// Users and these inbounds are as configurations say.
    pub fn set_inbounds(&mut self, records: &[InboundRecord]) {
        self.syncs += 1;
        for (name, one) in &mut self.all {
            let tag = tag(name);
            one.inbound = records.iter().find(|record| record.tag == tag).map(|record| record.no);
        }
    }

    /// Takes a reading; `None`: not yet.
    pub fn take(&mut self, service: &str, reading: &Reading, people: &People<'_>) -> Option<Read> {
        let one = self.all.get_mut(service)?;
        // Bytes that nothing can be kept under would wait in memory, and those in the service are safe.
        one.inbound?;
        let tally = one.tally.as_mut()?;
        let mut names = Names {
            known: &mut one.names,
            waited: BTreeMap::new(),
            waited_before: &one.waited,
            syncs: self.syncs,
            unsure: &reading.unsure,
            gone: BTreeSet::new(),
            read: Read::default(),
            room: 0,
        };
        names.room = people.room(names.known);
        let mut owners: HashMap<&str, Whose> = HashMap::new();
        for counter in &reading.counters {
            if !owners.contains_key(&*counter.name) {
                owners.insert(&counter.name, names.whose(&counter.name, people));
            }
        }
        let Names { gone, mut read, waited, .. } = names;
        one.waited = waited;
        read.taken = tally.take(reading, |name| owners.get(name).copied().unwrap_or(Whose::Nobody));
        read.gone_changed = one.gone.as_ref() != Some(&gone);
        one.gone = Some(gone);
        Some(read)
    }

    /// The names of deleted users that a service counted last; `None`: it was not read yet.
    pub fn gone(&self, service: &str) -> Option<&BTreeSet<Arc<str>>> {
        self.all.get(service)?.gone.as_ref()
    }

    /// The names that a service's counters had.
    pub fn names(&self, service: &str) -> impl Iterator<Item = &Arc<str>> {
        self.all.get(service).into_iter().flat_map(|one| &one.names)
    }

    /// What the ledger does not have.
    pub fn batch(&self) -> Vec<ServiceProgress> {
        let progress = self.all.iter().filter_map(|(service, one)| {
            let progress: Progress = one.tally.as_ref()?.progress()?;
            let (service, origin) = (Arc::clone(service), one.origin.clone());
            Some(ServiceProgress { service, origin, inbound: one.inbound?, progress })
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

impl People<'_> {
    /// How many more may be taken in beside those who are about to be.
    fn room(&self, known: &BTreeSet<Arc<str>>) -> usize {
        let coming = known.iter().filter(|name| !self.users.contains_key(*name)).count();
        ADOPTED_MAX.saturating_sub(self.members.unwrap_or_default().saturating_add(coming))
    }
}

/// Names while a reading is looked at, each once.
struct Names<'a> {
    known: &'a mut BTreeSet<Arc<str>>,
    waited: BTreeMap<Arc<str>, u64>,
    waited_before: &'a BTreeMap<Arc<str>, u64>,
    syncs: u64,
    unsure: &'a HashSet<Arc<str>>,
    gone: BTreeSet<Arc<str>>,
    read: Read,
    room: usize,
}

impl Names<'_> {
    fn whose(&mut self, name: &Arc<str>, people: &People<'_>) -> Whose {
        if !people.listed.is_empty() && !people.listed.contains(name) {
            return Whose::Nobody;
        }
        let user = people.users.get(name).copied();
        if people.gone.has(name) {
            self.known.remove(name);
            self.gone.insert(Arc::clone(name));
            // His last bytes are his, as long as it is known who he was.
            return user.map_or(Whose::Nobody, Whose::User);
        }
        match user {
            Some(user) => {
                self.read.new_names |= self.known.insert(Arc::clone(name)) && people.members.is_some();
                Whose::User(user)
            }
            None if check_name(name).is_err() => Whose::Nobody,
            None if self.unsure.contains(name) && !people.listed.contains(name) => Whose::Nobody,
            None if people.members.is_none() => self.of_configuration(name),
            None if self.known.contains(name) => Whose::Soon,
            None if self.room == 0 => {
                self.read.too_many += 1;
                Whose::Nobody
            }
            None => {
                self.room -= 1;
                self.known.insert(Arc::clone(name));
                self.read.new_names = true;
                Whose::Soon
            }
        }
    }

    /// Its configuration has him, and was not read yet: his bytes wait until it was. If it has nobody of this name
    /// then, as where somebody was added by the API alone, they are nobody's: whoever gets the name later has not
    /// moved them.
    fn of_configuration(&mut self, name: &Arc<str>) -> Whose {
        let first = self.waited_before.get(name).copied().unwrap_or(self.syncs);
        self.waited.insert(Arc::clone(name), first);
        if self.syncs >= first + SYNCS_WAITED {
            return Whose::Nobody;
        }
        self.read.new_names = true;
        Whose::Soon
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

    fn take(tallies: &mut Tallies, told: &Reading, people: &People<'_>) -> Option<Read> {
        tallies.take("web", told, people)
    }

    /// Someone of these names, in a service that takes in whom it counts, or one that does not.
    struct World {
        users: BTreeMap<Arc<str>, UserId>,
        gone: Gone,
        listed: BTreeSet<Arc<str>>,
        members: Option<usize>,
    }

    impl World {
        fn new(users: &[&str]) -> World {
            let users = users.iter().map(|name| (Arc::from(*name), ALICE)).collect();
            World { users, gone: Gone::default(), listed: BTreeSet::new(), members: Some(0) }
        }

        fn people(&self) -> People<'_> {
            let World { users, gone, listed, members } = self;
            People { users, gone, listed, members: *members }
        }
    }

    fn ready() -> Tallies {
        let mut tallies = Tallies::new([("web".into(), Origin::default())]);
        tallies.set_before("web", Some(Before::default()));
        tallies.set_inbounds(&[record("web/(reported)")]);
        tallies
    }

    fn names(tallies: &Tallies) -> Vec<&str> {
        tallies.names("web").map(|name| &**name).collect()
    }

    #[test]
    fn nothing_is_taken_before_the_ledger_knows_where_to() {
        let world = World::new(&["alice"]);
        let mut tallies = Tallies::new([("web".into(), Origin::default())]);
        let first = reading(&[(1, "alice", 5)]);
        assert_eq!(take(&mut tallies, &first, &world.people()), None);
        tallies.set_before("web", Some(Before::default()));
        assert_eq!(take(&mut tallies, &first, &world.people()), None);
        assert!(tallies.unknown().is_empty());
        tallies.set_inbounds(&[record("web/(reported)")]);
        take(&mut tallies, &first, &world.people()).unwrap();
        let batch = tallies.batch();
        assert_eq!((batch[0].inbound, &batch[0].progress.sums[..]), (InboundNo(4), &[(ALICE, [5, 0])][..]));
        // It is known already: the ledger's later answer changes nothing.
        tallies.set_before("web", None);
        assert_eq!(tallies.batch(), batch);
        tallies.committed(&batch);
        assert_eq!(tallies.batch(), []);
        assert_eq!(tallies.take("elsewhere", &first, &world.people()), None);
    }

    #[test]
    fn whoever_may_be_taken_in_is_named_and_his_bytes_wait() {
        let mut tallies = ready();
        let told = reading(&[(1, "alice", 5), (2, "no\nname", 7)]);
        let read = take(&mut tallies, &told, &World::new(&[]).people()).unwrap();
        assert_eq!((read.taken.nobodys, read.new_names), ([7, 0], true));
        assert_eq!(names(&tallies), ["alice"]);
        // He is asked for once.
        assert!(!take(&mut tallies, &told, &World::new(&[]).people()).unwrap().new_names);
        take(&mut tallies, &told, &World::new(&["alice"]).people()).unwrap();
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [5, 0])]);
    }

    /// V2Ray counts a user before its configuration was read anew: nothing of him is lost.
    #[test]
    fn a_user_whom_the_configuration_brings_later_is_waited_for() {
        let mut tallies = ready();
        let world = |users| World { members: None, ..World::new(users) };
        let read = take(&mut tallies, &reading(&[(1, "alice", 5)]), &world(&[]).people()).unwrap();
        // Its configuration is asked for.
        assert_eq!((read.taken.nobodys, read.new_names, read.too_many), ([0; 2], true, 0));
        assert_eq!(names(&tallies), [""; 0], "he is not taken in from here");
        take(&mut tallies, &reading(&[(1, "alice", 9)]), &world(&["alice"]).people()).unwrap();
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [9, 0])]);
    }

    /// One whom somebody added by V2Ray's API, and who is in no file.
    #[test]
    fn a_name_that_no_configuration_has_waits_until_it_was_read_and_then_is_nobodys() {
        let mut tallies = ready();
        let world = |users| World { members: None, ..World::new(users) };
        let told = |bytes| reading(&[(1, "alice", bytes)]);
        for _ in 0..SYNCS_WAITED {
            // Asked for as long as it waits, however often it is seen.
            for _ in 0..3 {
                let read = take(&mut tallies, &told(50), &world(&[]).people()).unwrap();
                assert_eq!((read.taken.nobodys, read.new_names), ([0; 2], true));
            }
            tallies.set_inbounds(&[record("web/(reported)")]);
        }
        let read = take(&mut tallies, &told(60), &world(&[]).people()).unwrap();
        assert_eq!((read.taken.nobodys, read.new_names), ([60, 0], false));
        tallies.set_inbounds(&[record("web/(reported)")]);
        take(&mut tallies, &told(70), &world(&["alice"]).people()).unwrap();
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [10, 0])], "what was before is not hers");
        // Gone from V2Ray and back, it waits again.
        take(&mut tallies, &reading(&[]), &world(&[]).people()).unwrap();
        let read = take(&mut tallies, &told(5), &world(&[]).people()).unwrap();
        assert_eq!((read.taken.nobodys, read.new_names), ([0; 2], true));
    }

    #[test]
    fn a_name_that_may_be_anything_is_a_users_only_where_somebody_says_so() {
        let mut tallies = ready();
        let told = |bytes| Reading {
            unsure: HashSet::from(["alice".into(), "agent".into()]),
            ..reading(&[(1, "alice", bytes), (2, "agent", bytes)])
        };
        let read = take(&mut tallies, &told(5), &World::new(&[]).people()).unwrap();
        assert_eq!((read.taken.nobodys, read.new_names), ([10, 0], false));
        take(&mut tallies, &told(8), &World::new(&["alice"]).people()).unwrap();
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [3, 0])]);
        // Listed, he is taken in.
        let listed = World { listed: BTreeSet::from(["agent".into()]), ..World::new(&[]) };
        assert!(take(&mut tallies, &told(9), &listed.people()).unwrap().new_names);
        assert_eq!(names(&tallies), ["agent", "alice"]);
    }

    #[test]
    fn whoever_was_deleted_is_nobody_until_somebody_has_the_name() {
        let mut tallies = ready();
        let mut world = World::new(&[]);
        let told = |bytes| reading(&[(1, "alice", bytes)]);
        take(&mut tallies, &told(5), &world.people()).unwrap();
        world.gone.add(&"alice".into(), ["web/(reported)".into()]);
        for changed in [true, false] {
            let read = take(&mut tallies, &told(5), &world.people()).unwrap();
            assert_eq!((read.new_names, read.gone_changed), (false, changed));
        }
        assert_eq!(names(&tallies), [""; 0]);
        assert_eq!(tallies.gone("web").unwrap(), &BTreeSet::from(["alice".into()]));
        world.gone.remove("alice");
        world.users = World::new(&["alice"]).users;
        assert!(take(&mut tallies, &told(7), &world.people()).unwrap().gone_changed);
        assert_eq!(
            tallies.batch()[0].progress.sums,
            [(ALICE, [2, 0])],
            "what he moved meanwhile is nobody's"
        );
    }

    #[test]
    fn a_list_of_users_is_all_there_are() {
        let mut tallies = ready();
        let world = World { listed: BTreeSet::from(["bob".into()]), ..World::new(&["alice", "bob"]) };
        let told = reading(&[(1, "alice", 5), (2, "bob", 3), (3, "carol", 2)]);
        let read = take(&mut tallies, &told, &world.people()).unwrap();
        assert_eq!((read.taken.nobodys, names(&tallies)), ([7, 0], vec!["bob"]));
        assert_eq!(tallies.batch()[0].progress.sums, [(ALICE, [3, 0])]);
    }

    #[test]
    fn more_names_than_are_taken_in_are_nobodys_and_ask_for_nothing() {
        let mut tallies = ready();
        let counter = |n: usize| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(n as u64).to_le_bytes());
            Counter { key, name: format!("user{n}").into(), bytes: [1, 0] }
        };
        let told = Reading { counters: (0..50_000).map(counter).collect(), ..Reading::default() };
        let mut world = World { members: Some(10), ..World::new(&[]) };
        for first in [true, false] {
            let read = take(&mut tallies, &told, &world.people()).unwrap();
            assert_eq!((read.new_names, read.too_many), (first, 40_010));
            assert_eq!(tallies.names("web").count(), ADOPTED_MAX - 10);
        }
        // Taken in: they are members, and there is room for nobody else.
        world.users = tallies.names("web").map(|name| (Arc::clone(name), ALICE)).collect();
        world.members = Some(ADOPTED_MAX);
        let read = take(&mut tallies, &told, &world.people()).unwrap();
        assert_eq!((read.new_names, read.too_many), (false, 40_010));
    }
}
