//! What each user has over all time, live: the ledger's figure at the start plus what the kernel has
//! counted since. Reading 10,000 users from the ledger each second would cost more than metering them.

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
    ledger::{By, Ledger, QueryError, Reader, UsageQuery},
};

/// Users in one page of the first reading.
const PAGE: usize = 10_000;

pub struct Totals {
    zone: TimeZone,
    /// The ledger's totals less what this epoch's kernel counters have: `None` before the first commit.
    base: Option<Base>,
    /// The wall clock jumped: which day bytes are counted for is to be read again.
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
    before_today: Counters,
    before_month: Counters,
}

impl Totals {
    pub fn new(zone: TimeZone) -> Self {
        Totals { zone, base: None, stale: false, today: None, events_dropped: 0, drawn: None }
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
        let today = sum(&self.ask(&reader, Some(midnight.timestamp().as_millisecond()), now)?);
        let this_month = sum(&self.ask(&reader, Some(month.timestamp().as_millisecond()), now)?);
        Ok(Base {
            unattributed: minus(all.unattributed, live),
            users,
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
        let all = plus(unattributed, drawn.sum);
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

fn first_of_month(here: &Zoned) -> Zoned {
    here.first_of_month().and_then(|day| day.start_of_day()).unwrap_or_else(|_| here.clone())
}

fn sum(answer: &crate::ledger::UsageAnswer) -> Counters {
    answer.rows.iter().fold(answer.unattributed, |sum, row| plus(sum, row.usage))
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
    use uuid::Uuid;

    use super::*;
    use crate::{
        core::{
            attribute::Attributor,
            event::{InboundIndex, Slot},
            snapshot::Publisher,
        },
        ledger::{Batch, FoundInbound, Options, Row},
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
        bytes: u64,
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
            let mut accounts = Accounts::default();
            accounts.set_inbounds([InboundIndex(1)]);
            Rig {
                ledger,
                accounts,
                totals: Totals::new(TimeZone::UTC),
                publisher: Publisher::default(),
                bytes: 0,
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
            let no = self.ledger.inbounds().wait().expect("inbounds")[0].no;
            let row = Row { slot: 1, generation: 0, user: None, inbound: no, total };
            let epoch = *Uuid::from_u128(7).as_bytes();
            let (watched, events) = (Vec::new(), Vec::new());
            let batch = Batch { epoch, at: now, rows: vec![row], watched, events, reported: None };
            self.picture(now);
            self.ledger.commit(batch).wait().expect("a commit");
            self.totals.committed(&self.ledger, &self.accounts, now);
            self.picture(now)
        }

        fn picture(&mut self, now: Now) -> [u64; 2] {
            let snapshot = self.publisher.publish(&mut Attributor::default(), &self.accounts, now);
            let picture = self.totals.picture(snapshot, &Directory::default(), &self.accounts);
            let all = picture.unattributed.payload[0];
            [all - picture.before_today.payload[0], all - picture.before_month.payload[0]]
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
}
