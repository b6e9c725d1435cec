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
    /// The date of the last picture.
    today: Option<jiff::civil::Date>,
    pub events_dropped: u64,
}

struct Base {
    users: BTreeMap<UserId, Counters>,
    unattributed: Counters,
    before_today: Counters,
    before_month: Counters,
}

impl Totals {
    pub fn new(zone: TimeZone) -> Self {
        Totals { zone, base: None, today: None, events_dropped: 0 }
    }

    /// After a commit: reads the ledger once, when it holds exactly what the accounts show.
    pub fn committed(&mut self, ledger: &Ledger, accounts: &Accounts, now: Now) {
        if self.base.is_none() {
            match self.read(ledger.path(), accounts, now) {
                Ok(base) => self.base = Some(base),
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
        let mut totals = base.users.clone();
        for (user, live) in snapshot.users() {
            let sum = totals.entry(*user).or_default();
            *sum = plus(*sum, live.activity.totals);
        }
        let live = accounts.unattributed().fold(Counters::default(), |sum, (_, one)| plus(sum, one));
        let unattributed = plus(base.unattributed, live);
        let all = totals.values().fold(unattributed, |sum, one| plus(sum, *one));
        let here = answers::zoned(snapshot.as_of_ms, &self.zone);
        // At midnight everything counted so far is "before today".
        let date = *self.today.get_or_insert(here.date());
        if date != here.date() {
            base.before_today = all;
            if date.month() != here.month() || date.year() != here.year() {
                base.before_month = all;
            }
        }
        self.today = Some(here.date());
        Picture {
            snapshot,
            directory: directory.clone(),
            totals: Arc::new(totals),
            unattributed,
            before_today: base.before_today,
            before_month: base.before_month,
        }
    }
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
