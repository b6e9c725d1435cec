//! A ledger of a year with 10,000 users of whom 1,000 are active at a time: how large, how fast, and what a backup does
//! to ticks. `cargo xtask bench --only bench_year` or `bench_backup`.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::*;

const USERS: i64 = 10_000;
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
const MINUTE: i64 = 60_000;

/// Rows as a year of ticks would have left them: accounts of twelve months; days of all the year, hours of 60 days,
/// minutes of two. Within a minute 1,000 users are active, within an hour 2,000, within a day 6,000.
const YEAR: &str = "
    WITH RECURSIVE months(m) AS (SELECT 0 UNION ALL SELECT m + 1 FROM months WHERE m < 11)
    INSERT INTO usage_keys (user_id, inbound_no, account_start_ms, account_generation, rev)
    SELECT id, 1, :end - (12 - m) * 30 * 86400000, 0, 1 FROM months, (SELECT id FROM users ORDER BY id);
    INSERT INTO usage_totals
    SELECT no, 1, 1000000000, 9000000000, 1100000000, 9900000000, account_start_ms, account_start_ms, 1, 0, 0
    FROM usage_keys WHERE user_id IS NOT NULL;";

fn fill(connection: &Connection, table: &str, (from, step, count): (i64, i64, i64), active: i64, days: i64) {
    // Of each bucket other users, each with the account of its month.
    let sql = format!(
        "WITH RECURSIVE buckets(b) AS (SELECT 0 UNION ALL SELECT b + 1 FROM buckets WHERE b < ?3 - 1),
             who(w) AS (SELECT 0 UNION ALL SELECT w + 1 FROM who WHERE w < ?4 - 1)
         INSERT INTO {table}
         SELECT ?1 + b * ?2, key, 100000, 900000, 110000, 990000, b, 0, 0 FROM (
             SELECT b, 2 + min(11, (b * ?2 + ?5) / 2592000000) * 10000 + (w * 7 + b * 13) % 10000 AS key
             FROM buckets, who) GROUP BY b, key ORDER BY b, key"
    );
    connection.execute(&sql, params![from, step, count, active, days]).unwrap();
}

fn year(hours_active: i64, minutes_active: i64) -> Rig {
    let names: Vec<String> = (0..USERS).map(|n| format!("user{n}")).collect();
    let rig = Rig::new("Asia/Shanghai", &names.iter().map(String::as_str).collect::<Vec<_>>());
    rig.commit(start_ms(), &[(None, 1)]);
    rig.ledger.close();
    let connection = Connection::open(rig.path()).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; BEGIN").unwrap();
    connection.execute_batch(&YEAR.replace(":end", &start_ms().to_string())).unwrap();
    let day_start = start_ms() - start_ms().rem_euclid(DAY) - 8 * HOUR;
    fill(&connection, "usage_days", (day_start - 360 * DAY, DAY, 360), 6_000, 0);
    fill(&connection, "usage_hours", (day_start - 60 * DAY, HOUR, 60 * 24), hours_active, 300 * DAY);
    fill(&connection, "usage_minutes", (day_start - 2 * DAY, MINUTE, 2 * 1440), minutes_active, 358 * DAY);
    connection.execute("UPDATE meta SET minutes_from_ms = ?1", [day_start - 2 * DAY]).unwrap();
    connection.execute("UPDATE meta SET hours_from_ms = ?1", [day_start - 60 * DAY]).unwrap();
    connection.execute_batch("COMMIT").unwrap();
    drop(connection);
    let ledger = Ledger::open(&rig.path(), options("Asia/Shanghai")).unwrap();
    Rig { ledger, ..rig }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// The median of some runs.
fn median(mut ask: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..11)
        .map(|_| {
            let began = crate::clock::instant();
            ask();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn bench_year_of_ten_thousand_users() {
    let rig = year(2_000, 1_000);
    let bytes = std::fs::metadata(rig.path()).unwrap().len();
    println!(
        "\nFIGURE\tledger of a year with 10,000 users\t{} MiB\t1,000 active within a minute, 2,000 within an hour, 6,000 \
         within a day",
        mib(bytes)
    );
    let reader = rig.reader();
    let now = start_ms() + 1000;
    let month = UsageQuery {
        user: Some("user77".to_owned()),
        from_ms: Some(start_ms() - 30 * DAY),
        ..ask(By::Day, "Asia/Shanghai", now)
    };
    assert!(reader.usage(&month).unwrap().rows.len() > 10);
    let took = median(|| drop(reader.usage(&month).unwrap()));
    println!("FIGURE\tledger of a year: one user's month by day\t{:.1} ms", took.as_secs_f64() * 1e3);
    let mut total = 0;
    let took = median(|| {
        total += 1_000_000;
        let rows: Vec<_> = (0..1_000).map(|user| (Some(user), total)).collect();
        rig.commit(start_ms() + 1000, &rows);
    });
    println!(
        "FIGURE\tledger of a year: overview\t{:.1} ms\ta tick of 1,000 users is committed, the rest is in memory",
        took.as_secs_f64() * 1e3
    );
    let alone = UsageQuery { user: Some("user77".to_owned()), ..ask(By::Range, "Asia/Shanghai", now) };
    println!("one user's total: {:?}", median(|| drop(reader.usage(&alone).unwrap())));
    let periods = UsageQuery { user: Some("user77".to_owned()), ..ask(By::Period, "Asia/Shanghai", now) };
    assert!(reader.usage(&periods).unwrap().rows.len() >= 12);
    println!("one user's periods: {:?}", median(|| drop(reader.usage(&periods).unwrap())));
    let all = UsageQuery { users_max: 10_000, ..ask(By::Range, "Asia/Shanghai", now) };
    assert_eq!(reader.usage(&all).unwrap().rows.len(), 10_000);
    let took = median(|| drop(reader.usage(&all).unwrap()));
    println!("totals of all users: {took:?}");
    let today = UsageQuery { from_ms: Some(start_ms() - 10 * HOUR), ..all.clone() };
    println!("today of all users: {:?}", median(|| drop(reader.usage(&today).unwrap())));
    println!("standings: {:?}", median(|| drop(reader.standings(EPOCH).unwrap())));
    println!("audit: {:?}", median(|| assert!(reader.audit().is_ok())));
}

#[test]
#[ignore = "a measurement"]
fn bench_backup_of_a_gigabyte() {
    let rig = year(9_000, 4_000);
    let bytes = std::fs::metadata(rig.path()).unwrap().len();
    let file = rig.directory.path().join("backup.db");
    let (ledger, mut slowest, mut ticks, mut wal) = (rig.path(), Duration::ZERO, 0_u64, 0);
    let began = crate::clock::instant();
    let took = std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            backup(&ledger, &file, false, &|| true).unwrap();
            began.elapsed()
        });
        while !copying.is_finished() {
            ticks += 1;
            let rows: Vec<_> = (0..1_000)
                .map(|n| (Some(((n * 7 + ticks * 13) % USERS as u64) as usize), ticks * 1_000_000))
                .collect();
            let tick = crate::clock::instant();
            rig.commit(start_ms() + ticks as i64 * 1000, &rows);
            slowest = slowest.max(tick.elapsed());
            wal = wal.max(std::fs::metadata(open::beside(&ledger, "-wal")).unwrap().len());
            std::thread::sleep(Duration::from_secs(1).saturating_sub(tick.elapsed()));
        }
        copying.join().unwrap()
    });
    println!(
        "\nFIGURE\tbackup of a 1 GB ledger: longest tick meanwhile\t{} ms\t{} MiB, {ticks} ticks of 1,000 users a second \
         apart; log at most {} MiB",
        slowest.as_millis(),
        mib(bytes),
        mib(wal)
    );
    println!("FIGURE\tbackup of a 1 GB ledger: time\t{:.1} s\twith the check", took.as_secs_f64());
}
