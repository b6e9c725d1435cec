//! Killed at any instant, the ledger has every tick it said it had, whole ticks only, and counts on.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rand::RngExt;

use super::*;

const USERS: usize = 40;

fn names() -> Vec<String> {
    (0..USERS).map(|n| format!("user{n}")).collect()
}

/// The kernel's counters at tick `n`: every user's grow, each at a different pace.
fn batch_at(n: u64, users: &[UserRecord], inbound: InboundNo) -> Batch {
    let mut rows: Vec<Row> = users
        .iter()
        .enumerate()
        .map(|(index, user)| Row {
            slot: 256 + u32::try_from(index).unwrap(),
            generation: 1,
            user: Some(user.id),
            inbound,
            total: counters(n * (index as u64 + 1)),
        })
        .collect();
    rows.push(Row { slot: 1, generation: 1, user: None, inbound, total: counters(n) });
    let wall = start_ms() + i64::try_from(n).unwrap() * 7_000;
    Batch {
        epoch: EPOCH,
        at: at(wall),
        rows,
        watched: vec![(inbound, counters(truth(n)))],
        events: vec![],
        reported: None,
    }
}

fn truth(n: u64) -> u64 {
    let users = USERS as u64;
    n * (users * (users + 1) / 2 + 1)
}

#[test]
#[ignore = "run by killed_at_random_points in a process of its own"]
fn committing_child() {
    let (Some(path), Ok(from)) =
        (std::env::var_os("BOXMETER_TEST_LEDGER"), std::env::var("BOXMETER_TEST_FROM"))
    else {
        return;
    };
    let ledger = Ledger::open(path.as_ref(), options("Asia/Kolkata")).unwrap();
    let names = names();
    let (users, inbound) = sync(&ledger, &names.iter().map(String::as_str).collect::<Vec<_>>(), start_ms());
    println!();
    let mut n: u64 = from.parse().unwrap();
    loop {
        ledger.commit(batch_at(n, &users, inbound)).wait().unwrap();
        println!("committed {n}");
        n += 1;
    }
}

fn package(bytes: i64) -> NewEntry {
    NewEntry { kind: EntryKind::Package, bytes, expires_ms: None, package: None, account: None, note: None }
}

/// Each end of an account takes one byte of the first package.
fn one_byte() -> Settle {
    Box::new(|closing| {
        let spent = |entry: &WalletEntry| NewEntry {
            kind: EntryKind::Spent,
            package: Some(entry.id),
            account: Some(closing.account),
            ..package(-1)
        };
        closing.wallet.first().filter(|_| closing.next.is_some()).map(spent).into_iter().collect()
    })
}

#[test]
#[ignore = "run by changes_are_whole_wherever_the_agent_is_killed in a process of its own"]
fn changing_child() {
    let (Some(path), Ok(from)) =
        (std::env::var_os("BOXMETER_TEST_LEDGER"), std::env::var("BOXMETER_TEST_FROM"))
    else {
        return;
    };
    let ledger = Ledger::open(path.as_ref(), options("UTC")).unwrap();
    let (users, _) = sync(&ledger, &["buyer", "turner"], start_ms());
    let (buyer, turner) = (users[0].id, users[1].id);
    let once = |user, bytes, key: String| {
        let answer = ledger.add_entry(user, package(bytes), one_byte(), with_key(&key)).wait();
        assert!(
            answer.as_ref().err().is_none_or(|error| matches!(error.refusal(), Some(Refusal::DoneBefore(_))))
        );
    };
    once(turner, 1 << 40, "first".to_owned());
    println!();
    let mut n: u64 = from.parse().unwrap();
    loop {
        once(buyer, i64::try_from(n).unwrap(), format!("k{n}"));
        let account = ledger.standing(turner, EPOCH).wait().unwrap().unwrap().account;
        let to = AccountPeriod { start_ms: account.start_ms + 60_000, generation: 0 };
        let turns = vec![turn_of(turner, account, to)];
        assert_eq!(ledger.turn_accounts(turns, one_byte(), start_ms()).wait().unwrap(), [true]);
        println!("committed {n}");
        n += 1;
    }
}

#[test]
fn changes_are_whole_wherever_the_agent_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut n = 1;
    for round in 0..15 {
        let said = run_and_kill("changing_child", &path, n, round % 5);
        assert!(said >= n, "the child never changed anything");
        let reader = Reader::open(&path).unwrap();
        let users = reader.users().unwrap();
        let kinds = |user: &UserRecord, kind: &str| {
            let events = reader.events(Some(user.id), None, None, usize::MAX).unwrap();
            events.iter().filter(|event| event.kind == kind).count()
        };
        // Each package once, though the last one is asked for again by the next process.
        let bought: Vec<i64> = reader.wallet(users[0].id).unwrap().iter().map(|entry| entry.bytes).collect();
        assert_eq!(bought, (1..=i64::try_from(bought.len()).unwrap()).collect::<Vec<_>>(), "round {round}");
        assert!((said..=said + 1).contains(&(bought.len() as u64)), "said {said}, has {}", bought.len());
        assert_eq!(kinds(&users[0], "package_added"), bought.len());
        // As many accounts as entries and events.
        let turned = usize::try_from((users[1].account.start_ms - users[1].created_ms) / 60_000).unwrap();
        let spent = reader.wallet(users[1].id).unwrap().len() - 1;
        assert_eq!((spent, kinds(&users[1], "period_turned")), (turned, turned), "round {round}");
        let keys: i64 = reader
            .connection()
            .query_row("SELECT count(*) FROM idempotency_keys", [], |row| row.get(0))
            .unwrap();
        assert_eq!(keys, i64::try_from(bought.len()).unwrap() + 1);
        n = said;
    }
}

/// Runs the child until it has said `ticks` commits, then kills it a random moment later; returns
/// the last tick that it said to be committed.
fn run_and_kill(child: &str, path: &std::path::Path, from: u64, ticks: u64) -> u64 {
    let child = format!("ledger::tests::crash::{child}");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([child.as_str(), "--exact", "--ignored", "--nocapture"])
        .env("BOXMETER_TEST_LEDGER", path)
        .env("BOXMETER_TEST_FROM", from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let committed = |line: String| line.strip_prefix("committed ").and_then(|n| n.parse::<u64>().ok());
    let mut said = 0;
    for n in lines.by_ref().filter_map(committed) {
        said = n;
        if n >= from + ticks {
            break;
        }
    }
    std::thread::sleep(std::time::Duration::from_micros(rand::rng().random_range(0..8000)));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(committed).fold(said, u64::max)
}

#[test]
fn killed_at_random_points() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let mut n = 1;
    for round in 0..25 {
        let said = run_and_kill("committing_child", &path, n, round % 5);
        assert!(said >= n, "the child never committed");
        let reader = Reader::open(&path).unwrap();
        let sums = level_sums(reader.connection());
        let has = u64::try_from(sums[0].1[0]).unwrap();
        assert!(sums.iter().all(|(_, sums)| *sums == sums_of(has)), "round {round}: {sums:?}");
        // At least what was said, at most one tick more: the one killed before it could be said.
        assert!(has == truth(said) || has == truth(said + 1), "round {round}: said {said}, has {has}");
        assert_eq!(reader.audit().unwrap().watched.payload[0], has);
        // The next process sends the last tick again.
        n = said;
    }
}

fn sums_of(has: u64) -> [i64; 4] {
    let counters = counters(has);
    [counters.payload[0], counters.payload[1], counters.wire[0], counters.wire[1]]
        .map(|n| i64::try_from(n).unwrap())
}
