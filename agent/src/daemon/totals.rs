//! What each user has over all time, live: the ledger's figure at the start plus what the kernel has
//! counted since, and what services have reported since. Reading 10,000 users from the ledger each second would cost more than metering them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use jiff::{Zoned, tz::TimeZone};

use super::{
    answers,
    shared::{Directory, Picture},
};
use crate::{
    core::{
        account::Accounts,
        event::{Counters, Now, UserId},
        snapshot::Snapshot,
    },
    ledger::{By, Committed, Ledger, QueryError, Reader, UsageQuery},
};

/// Users in one page of the first reading.
const PAGE: usize = 10_000;

pub struct Totals {
    zone: TimeZone,
    /// The ledger's totals less what this epoch's kernel counters have: `None` before the first commit.
    base: Option<Base>,
    /// The wall clock jumped, or usage was imported: which day bytes are counted for is to be read again.
    stale: bool,
    /// The date of the last picture.
    today: Option<jiff::civil::Date>,
    pub events_dropped: u64,
    drawn: Option<Drawn>,
}

/// What was made for the last picture: most ticks change nothing about anybody.
struct Drawn {
    snapshot: Snapshot,
    totals: Arc<BTreeMap<UserId, Counters>>,
    sum: Counters,
}

struct Base {
    users: BTreeMap<UserId, Counters>,
    unattributed: Counters,
    /// What the kernel does not see, up to the last commit.
    reported: [u64; 2],
    before_today: Counters,
    before_month: Counters,
}

impl Totals {
    pub fn new(zone: TimeZone) -> Self {
        Totals { zone, base: None, stale: false, today: None, events_dropped: 0, drawn: None }
    }

    /// The next commit is followed by a reading of the ledger.
    pub fn read_again(&mut self) {
        self.stale = true;
    }

    /// What a commit added of bytes that the kernel does not see. It may have begun before midnight.
    pub fn reported(&mut self, committed: &Committed) {
        let Some(base) = &mut self.base else { return };
        let more = committed.reported;
        base.reported = [0, 1].map(|direction| base.reported[direction].saturating_add(more[direction]));
        let at = answers::zoned(committed.at_ms, &self.zone).date();
        let Some(today) = self.today.filter(|today| at < *today) else { return };
        let more = either_meter(more);
        base.before_today = plus(base.before_today, more);
        if at.first_of_month() < today.first_of_month() {
            base.before_month = plus(base.before_month, more);
        }
    }

    /// After a commit with which the ledger holds exactly what the accounts show: reads the ledger once,
    /// and again when the clock jumped.
    pub fn committed(&mut self, ledger: &Ledger, accounts: &Accounts, now: Now) {
        if self.base.is_none() || self.stale {
            match self.read(ledger.path(), accounts, now) {
                Ok(base) => {
                    self.base = Some(base);
                    self.drawn = None;
                    self.stale = false;
                    self.today = Some(answers::zoned(now.wall_ms, &self.zone).date());
                }
                Err(error) => tracing::warn!("reading the totals: {error:#}"),
            }
        }
    }

    fn read(&self, path: &Path, accounts: &Accounts, now: Now) -> anyhow::Result<Base> {
        let reader = Reader::open(path)?;
        let mut users: BTreeMap<UserId, Counters> = BTreeMap::new();
        let all = self.ask(&reader, None, now)?;
        for row in &all.rows {
            let sum = users.entry(row.user).or_default();
            *sum = plus(*sum, row.usage);
        }
        for (user, total) in &mut users {
            *total = minus(*total, accounts.activity(*user).totals);
        }
        let live = accounts.unattributed().fold(Counters::default(), |sum, (_, one)| plus(sum, one));
        let here = answers::zoned(now.wall_ms, &self.zone);
        let midnight = here.start_of_day().unwrap_or_else(|_| here.clone());
        let month = first_of_month(&here);
        let total = sum(&all);
        let reported = all.rows.iter().fold([0_u64; 2], |sum, row| {
            [0, 1].map(|direction| sum[direction].saturating_add(row.reported[direction]))
        });
        let today = sum(&self.ask(&reader, Some(midnight.timestamp().as_millisecond()), now)?);
        let this_month = sum(&self.ask(&reader, Some(month.timestamp().as_millisecond()), now)?);
        Ok(Base {
            unattributed: minus(all.unattributed, live),
            users,
            reported,
            before_today: minus(total, today),
            before_month: minus(total, this_month),
        })
    }

    fn ask(
        &self,
        reader: &Reader,
        from_ms: Option<i64>,
        now: Now,
    ) -> Result<crate::ledger::UsageAnswer, QueryError> {
        let query = UsageQuery {
            user: None,
            from_ms,
            to_ms: None,
            by: By::Range,
            zone: self.zone.clone(),
            now_ms: now.wall_ms,
            after: None,
            users_max: PAGE,
        };
        answers::every_page(reader, query)
    }

    pub fn picture(&mut self, snapshot: Snapshot, directory: &Directory, accounts: &Accounts) -> Picture {
        let Some(base) = &mut self.base else {
            return Picture { snapshot, directory: directory.clone(), ..Picture::default() };
        };
        let known = self.drawn.take().filter(|drawn| drawn.snapshot.same_users(&snapshot));
        let drawn = self.drawn.insert(known.unwrap_or_else(|| draw(base, &snapshot)));
        let live = accounts.unattributed().fold(Counters::default(), |sum, (_, one)| plus(sum, one));
        let unattributed = plus(base.unattributed, live);
        let all = plus(plus(unattributed, drawn.sum), either_meter(base.reported));
        let here = answers::zoned(snapshot.as_of_ms, &self.zone);
        // At midnight everything counted so far is "before today". At any other change of the date the
        // clock jumped, and only the ledger knows what it counted for which day.
        let date = *self.today.get_or_insert(here.date());
        if date != here.date() {
            if date.tomorrow().is_ok_and(|tomorrow| tomorrow == here.date()) {
                base.before_today = all;
                if date.month() != here.month() {
                    base.before_month = all;
                }
            } else {
                self.stale = true;
            }
        }
        self.today = Some(here.date());
        Picture {
            snapshot,
            directory: directory.clone(),
            totals: Arc::clone(&drawn.totals),
            unattributed,
            reported: base.reported,
            before_today: base.before_today,
            before_month: base.before_month,
        }
    }
}

fn draw(base: &Base, snapshot: &Snapshot) -> Drawn {
    let mut totals = base.users.clone();
    for (user, live) in snapshot.users() {
        let sum = totals.entry(*user).or_default();
        *sum = plus(*sum, live.activity.totals);
    }
    let sum = totals.values().fold(Counters::default(), |sum, one| plus(sum, *one));
    Drawn { snapshot: snapshot.clone(), totals: Arc::new(totals), sum }
}

/// Reported bytes as both meters have them: what carried them is not known.
pub fn either_meter(reported: [u64; 2]) -> Counters {
    Counters { payload: reported, wire: reported }
}

fn first_of_month(here: &Zoned) -> Zoned {
    here.first_of_month().and_then(|day| day.start_of_day()).unwrap_or_else(|_| here.clone())
}

fn sum(answer: &crate::ledger::UsageAnswer) -> Counters {
    answer
        .rows
        .iter()
        .fold(answer.unattributed, |sum, row| plus(plus(sum, row.usage), either_meter(row.reported)))
}

fn plus(a: Counters, b: Counters) -> Counters {
    each(a, b, u64::saturating_add)
}

fn minus(a: Counters, b: Counters) -> Counters {
    each(a, b, u64::saturating_sub)
}

fn each(a: Counters, b: Counters, f: impl Fn(u64, u64) -> u64) -> Counters {
    let pair = |a: [u64; 2], b: [u64; 2]| [f(a[0], b[0]), f(a[1], b[1])];
    Counters { payload: pair(a.payload, b.payload), wire: pair(a.wire, b.wire) }
}

#[cfg(test)]
mod tests {
    use boxmeter_web::api::types::Meter;
    use uuid::Uuid;

    use super::*;
    use crate::{
        core::{
            attribute::Attributor,
            event::{InboundIndex, Slot},
            snapshot::Publisher,
        },
        ledger::{
            AccountPeriod, Asked, Batch, FoundInbound, FoundUser, ImportedBytes, Options, Reported,
            ReportedRow, Row, Settle, UsedElsewhere,
        },
    };

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    /// Noon of 1 March 2026, UTC.
    const NOON: i64 = 1_772_366_400_000;

    struct Rig {
        ledger: Ledger,
        accounts: Accounts,
        totals: Totals,
        publisher: Publisher,
        alice: UserId,
        bytes: u64,
        /// Of alice, by a service.
        told: [u64; 2],
        /// What the overview says of all time.
        all: u64,
        mono_ns: u64,
        _folder: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let options = Options::new(TimeZone::UTC, NOON);
            let ledger = Ledger::open(&folder.path().join("ledger.db"), options).expect("a ledger");
            let inbound = FoundInbound { tag: "in".into(), kind: "trojan".into(), port: 1 };
            ledger.sync_inbounds(vec![inbound], NOON).wait().expect("an inbound");
            let alice = FoundUser { name: "alice".into(), inbounds: vec!["in".into()] };
            let users = ledger.sync_users(vec![alice], vec![], "unlimited".to_owned(), NOON).wait();
            let alice = users.expect("a user")[0].id;
            let mut accounts = Accounts::default();
            accounts.set_inbounds([InboundIndex(1)]);
            Rig {
                ledger,
                accounts,
                totals: Totals::new(TimeZone::UTC),
                publisher: Publisher::default(),
                alice,
                bytes: 0,
                told: [0; 2],
                all: 0,
                mono_ns: 0,
                _folder: folder,
            }
        }

        /// Some bytes at a time of the wall clock, committed, as the agent does it. Gives what was
        /// counted today and this month.
        fn tick(&mut self, bytes: u64, wall_ms: i64) -> [u64; 2] {
            self.bytes += bytes;
            self.mono_ns += 1_000_000_000;
            let now = Now { mono_ns: self.mono_ns, wall_ms };
            let total = Counters { payload: [self.bytes, 0], wire: [0, 0] };
            self.accounts.read(&[(Slot(1), total)], now);
            self.commit(total, now, now)
        }

        /// More that a service has told of alice, in a batch that began at one time and is done at another.
        fn told(&mut self, [up, down]: [u64; 2], began_ms: i64, done_ms: i64) -> [u64; 2] {
            self.told = [self.told[0] + up, self.told[1] + down];
            self.mono_ns += 1_000_000_000;
            let at = |wall_ms| Now { mono_ns: self.mono_ns, wall_ms };
            let total = Counters { payload: [self.bytes, 0], wire: [0, 0] };
            self.commit(total, at(began_ms), at(done_ms))
        }

        fn commit(&mut self, total: Counters, began: Now, now: Now) -> [u64; 2] {
            let no = self.ledger.inbounds().wait().expect("inbounds")[0].no;
            let row = Row { slot: 1, generation: 0, user: None, inbound: no, total };
            let epoch = *Uuid::from_u128(7).as_bytes();
            let (watched, events) = (Vec::new(), Vec::new());
            let of_alice = ReportedRow { user: self.alice, inbound: no, total: self.told };
            let (rows, connections, services) = (vec![of_alice], Vec::new(), Vec::new());
            let reported = Some(Reported { reporter: [7; 16], rows, connections, services });
            let batch = Batch { epoch, at: began, rows: vec![row], watched, events, reported };
            self.picture(now);
            let committed = self.ledger.commit(batch).wait().expect("a commit");
            self.totals.reported(&committed);
            self.totals.committed(&self.ledger, &self.accounts, now);
            self.picture(now)
        }

        fn picture(&mut self, now: Now) -> [u64; 2] {
            let snapshot = self.publisher.publish(&mut Attributor::default(), &self.accounts, now);
            let picture = self.totals.picture(snapshot, &Directory::default(), &self.accounts);
            let head = answers::stats(&picture, Meter::Payload, &TimeZone::UTC);
            self.all = head.total_traffic_bytes + head.unattributed_bytes;
            [head.today_bytes, head.month_bytes]
        }
    }

    #[test]
    fn midnight_and_the_end_of_the_month_begin_anew() {
        let mut rig = Rig::new();
        assert_eq!(rig.tick(1_000, NOON - DAY), [1_000, 1_000]);
        assert_eq!(rig.tick(0, NOON), [0, 0], "a month has begun as well");
        assert_eq!(rig.tick(20, NOON + HOUR), [20, 20]);
        assert_eq!(rig.tick(0, NOON + DAY), [0, 20]);
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_takes_nothing_from_today() {
        let mut rig = Rig::new();
        assert_eq!(rig.tick(1_000, NOON), [1_000, 1_000]);
        for away in [-3 * DAY, 40 * DAY, -400 * DAY] {
            rig.tick(0, NOON + away);
            assert_eq!(rig.tick(0, NOON + HOUR), [1_000, 1_000], "{away}");
        }
        // What was counted at the wrong time stays at that time, as the ledger has it.
        rig.tick(500, NOON - 3 * DAY);
        assert_eq!(rig.tick(30, NOON + HOUR), [1_030, 1_030]);
    }
    #[test]
    fn what_services_report_is_in_every_sum_of_its_day() {
        let mut rig = Rig::new();
        assert_eq!(rig.told([30, 70], NOON, NOON), [100, 100]);
        assert_eq!(rig.tick(5, NOON + HOUR), [105, 105], "beside what the kernel counts");
        assert_eq!(rig.told([0, 10], NOON + HOUR, NOON + HOUR), [115, 115]);
        assert_eq!((rig.told([0; 2], NOON + DAY, NOON + DAY), rig.all), ([0, 115], 115));
        // Begun before midnight and done after it: it is the ledger's yesterday.
        let midnight = NOON + 12 * HOUR + DAY;
        assert_eq!(rig.tick(0, midnight + 1), [0, 115]);
        assert_eq!(rig.told([1, 1], midnight - 1, midnight + 2), [0, 117]);
        assert_eq!(rig.tick(0, NOON + 31 * DAY), [0, 0]);
        assert_eq!(rig.told([4, 4], NOON + 31 * DAY - 12 * HOUR - 1, NOON + 31 * DAY + 1), [0, 0]);
        assert_eq!(rig.all, 125);
        // An agent that begins here reads the same.
        rig.totals = Totals::new(TimeZone::UTC);
        assert_eq!((rig.tick(1, NOON + 31 * DAY + 2), rig.all), ([1, 1], 126));
    }

    #[test]
    fn what_was_imported_is_there_after_the_next_commit() {
        let mut rig = Rig::new();
        assert_eq!(rig.told([1, 1], NOON, NOON), [2, 2]);
        let account = AccountPeriod { start_ms: NOON - DAY, generation: 0 };
        let usage = vec![ImportedBytes { at_ms: NOON - DAY, account, bytes: [300, 700] }];
        let used = UsedElsewhere { user: rig.alice, reporter: [9; 16], usage, package: None };
        let nothing: Settle = Box::new(|_| Vec::new());
        rig.ledger.import_usage(vec![used], nothing, Asked::new("uid:0", NOON)).wait().expect("an import");
        rig.totals.read_again();
        assert_eq!((rig.tick(1, NOON + 1), rig.all), ([3, 3], 1_003));
    }
}
