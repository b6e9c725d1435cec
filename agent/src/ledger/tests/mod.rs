//! The ledger from outside: through the handle and the reader, on real files.

use std::{path::PathBuf, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use tempfile::TempDir;

use super::{query::level_sums, *};
use crate::core::{
    event::{Counters, Now, UserId},
    period::{Kept, Rule},
    terms::{GIB, Overrides, PeriodKind, Terms},
};

mod access;
mod accounts;
mod backups;
mod bench;
mod bench_year;
mod crash;
mod deliveries;
mod endings;
mod faults;
mod parked;
mod people;
mod ranges;
mod reported;
mod restore;
mod sharing;
mod space;
mod ticks;
mod versions;
mod wallet;

/// A ledger in a temporary directory with some users on one inbound.
struct Rig {
    directory: TempDir,
    ledger: Ledger,
    users: Vec<UserRecord>,
    inbound: InboundNo,
}

const EPOCH: [u8; 16] = [7; 16];

fn ms(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

fn start_ms() -> i64 {
    ms("2026-11-24T10:00:00Z")
}

fn at(wall_ms: i64) -> Now {
    Now { mono_ns: 0, wall_ms }
}

fn counters(n: u64) -> Counters {
    Counters { payload: [n, 10 * n], wire: [2 * n, 11 * n] }
}

fn options(zone: &str) -> Options {
    Options::new(TimeZone::get(zone).unwrap(), start_ms())
}

fn found(names: &[&str]) -> Vec<FoundUser> {
    names.iter().map(|name| FoundUser { name: Arc::from(*name), inbounds: vec![Arc::from("in")] }).collect()
}

fn sync(ledger: &Ledger, names: &[&str], now_ms: i64) -> (Vec<UserRecord>, InboundNo) {
    let inbound = FoundInbound { tag: Arc::from("in"), kind: "trojan".to_owned(), port: 443 };
    let inbounds = ledger.sync_inbounds(vec![inbound], now_ms).wait().unwrap();
    let users = ledger.sync_users(found(names), vec![], "unlimited".to_owned(), now_ms).wait().unwrap();
    (users, inbounds[0].no)
}

impl Rig {
    fn new(zone: &str, names: &[&str]) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger.db"), options(zone)).unwrap();
        let (users, inbound) = sync(&ledger, names, start_ms());
        Rig { directory, ledger, users, inbound }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    /// User 0 has slot 256, and so on; unattributed bytes have slot 1.
    fn row(&self, user: Option<usize>, total: u64) -> Row {
        let slot = user.map_or(1, |index| 256 + u32::try_from(index).unwrap());
        let user = user.map(|index| self.users[index].id);
        Row { slot, generation: 1, user, inbound: self.inbound, total: counters(total) }
    }

    fn batch(&self, wall_ms: i64, rows: &[(Option<usize>, u64)]) -> Batch {
        let rows = rows.iter().map(|(user, total)| self.row(*user, *total)).collect();
        Batch { epoch: EPOCH, at: at(wall_ms), rows, watched: vec![], events: vec![], reported: None }
    }

    fn commit(&self, wall_ms: i64, rows: &[(Option<usize>, u64)]) -> Committed {
        self.ledger.commit(self.batch(wall_ms, rows)).wait().unwrap()
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    /// All levels agree; returns the payload uploaded.
    fn checked_sum(&self) -> i64 {
        let sums = level_sums(self.reader().connection());
        for pair in sums.windows(2) {
            assert_eq!(pair[0].1, pair[1].1, "{} and {}", pair[0].0, pair[1].0);
        }
        sums[0].1[0]
    }
}

fn ask(by: By, zone: &str, now_ms: i64) -> UsageQuery {
    UsageQuery {
        user: None,
        from_ms: None,
        to_ms: None,
        by,
        zone: TimeZone::get(zone).unwrap(),
        now_ms,
        after: None,
        users_max: 1000,
    }
}

/// (name, start, end, upload payload) of each row, with a mark where it is not exact.
fn shown(answer: &UsageAnswer) -> Vec<String> {
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap().strftime("%m-%dT%H:%M").to_string();
    let rows = answer.rows.iter().map(|row| {
        let mark = if row.exact { "" } else { " ~" };
        format!("{} {} {} {}{mark}", row.name, time(row.start_ms), time(row.end_ms), row.usage.payload[0])
    });
    rows.collect()
}

/// Begins another account of a user, with nothing to book.
fn begin_account(rig: &Rig, user: UserId, to: AccountPeriod) {
    let from = rig.reader().standing(user, EPOCH).unwrap().unwrap().account;
    let turns = vec![turn_of(user, from, to)];
    let turned = rig.ledger.turn_accounts(turns, Box::new(|_| vec![]), to.start_ms).wait().unwrap();
    assert_eq!(turned, [true]);
}

/// For those who never bought anything.
fn nothing() -> Settle {
    Box::new(|_| vec![])
}

fn asked() -> Asked {
    Asked::new("root", start_ms())
}

/// With a key, which is its own request.
fn with_key(key: &str) -> Asked {
    let mut request = [0; 32];
    request[..key.len()].copy_from_slice(key.as_bytes());
    Asked { key: Some(IdempotencyKey { key: key.to_owned(), request }), ..asked() }
}

fn turn_of(user: UserId, from: AccountPeriod, to: AccountPeriod) -> Turn {
    let rule = Rule { kind: PeriodKind::Month, reset_day: 1, created_ms: 0 };
    Turn { user, from, to, kept: Kept::of(rule, &TimeZone::UTC) }
}

fn policy(rig: &Rig, name: &str) -> PolicyRecord {
    rig.reader().policies().unwrap().into_iter().find(|policy| &*policy.name == name).unwrap()
}

fn settings(rig: &Rig) -> Settings {
    Settings {
        policy: policy(rig, "basic").id,
        overrides: Overrides::default(),
        expires_ms: None,
        email: None,
        note: None,
    }
}

fn new_user(rig: &Rig, name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        settings: settings(rig),
        admin: AdminState::Enabled,
        created_ms: start_ms(),
        account_start_ms: start_ms(),
        entries: vec![],
    }
}

fn standing(rig: &Rig, user: UserId) -> Standing {
    let one = rig.reader().standing(user, EPOCH).unwrap().unwrap();
    // Read one by one or all at once, it is the same.
    let all = rig.reader().standings(EPOCH).unwrap();
    if one.tombstoned_ms.is_none() {
        assert_eq!(all.iter().find(|other| other.id == user), Some(&one));
    }
    one
}

/// Kinds of a user's events, oldest first.
fn kinds(rig: &Rig, user: UserId) -> Vec<String> {
    let events = rig.reader().events(Some(user), None, None, 1000).unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

fn refusal<T: std::fmt::Debug>(reply: Reply<T>) -> Refusal {
    reply.wait().unwrap_err().refusal().expect("a refusal").clone()
}

fn user(rig: &Rig, index: usize) -> UserId {
    rig.users[index].id
}
