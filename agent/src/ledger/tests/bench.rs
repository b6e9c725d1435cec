//! What a tick costs: `cargo test --release -p boxmeter --lib ledger::tests::bench -- --ignored --nocapture`

use super::*;

const USERS: usize = 10_000;
const ACTIVE: usize = 1_000;

fn cpu_ms() -> f64 {
    // SAFETY: the struct is plain numbers, and the call only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

#[test]
#[ignore = "a measurement"]
fn tick_of_ten_thousand_users() {
    let names: Vec<String> = (0..USERS).map(|n| format!("user{n}")).collect();
    let began = crate::clock::instant();
    let rig = Rig::new("Asia/Shanghai", &names.iter().map(String::as_str).collect::<Vec<_>>());
    println!("adopting {USERS} users: {:?}", began.elapsed());
    let all: Vec<_> = (0..USERS).map(|user| (Some(user), 1)).collect();
    let began = crate::clock::instant();
    rig.commit(start_ms(), &all);
    println!("first tick, all users: {:?}", began.elapsed());
    let ticks = 300;
    let mut totals = vec![1; USERS];
    let (mut cpu, mut wal_max) = (vec![], 0);
    for tick in 1..=ticks {
        for n in 0..ACTIVE {
            totals[(n * 7919 + tick * 13) % USERS] += 100_000 + n as u64;
        }
        let rows: Vec<_> = totals.iter().enumerate().map(|(user, total)| (Some(user), *total)).collect();
        let batch = rig.batch(start_ms() + tick as i64 * 1000, &rows);
        let (before, began) = (cpu_ms(), crate::clock::instant());
        rig.ledger.commit(batch).wait().unwrap();
        cpu.push((cpu_ms() - before, began.elapsed().as_secs_f64() * 1e3));
        let wal = std::fs::metadata(crate::ledger::open::beside(&rig.path(), "-wal")).unwrap().len();
        wal_max = wal_max.max(wal);
    }
    cpu.sort_by(|a, b| a.0.total_cmp(&b.0));
    let walls: f64 = cpu.iter().map(|pair| pair.1).sum::<f64>() / ticks as f64;
    println!(
        "tick with {ACTIVE} of {USERS} active: CPU median {:.1} ms, p99 {:.1} ms; wall mean {walls:.1} ms; WAL at most {} KiB",
        cpu[ticks / 2].0,
        cpu[ticks * 99 / 100].0,
        wal_max / 1024
    );
    let reader = rig.reader();
    for table in ["usage_minutes", "usage_hours", "usage_days", "usage_totals", "cursors", "users"] {
        let (rows, bytes): (i64, i64) = reader
            .connection()
            .query_row(
                &format!("SELECT (SELECT count(*) FROM {table}), (SELECT sum(pgsize) FROM dbstat WHERE name = '{table}')"),
                [],
                |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0))),
            )
            .unwrap_or((0, 0));
        println!("{table}: {rows} rows, {:.1} bytes each", bytes as f64 / rows.max(1) as f64);
    }
    let began = crate::clock::instant();
    let query = UsageQuery { users_max: usize::MAX, ..ask(By::Range, "UTC", start_ms() + 400_000) };
    assert_eq!(reader.usage(&query).unwrap().rows.len(), USERS);
    println!("totals of all users: {:?}", began.elapsed());
    let began = crate::clock::instant();
    let query = UsageQuery {
        user: Some("user77".to_owned()),
        from_ms: Some(start_ms()),
        ..ask(By::Minute, "UTC", start_ms() + 400_000)
    };
    reader.usage(&query).unwrap();
    println!("one user by minute: {:?}", began.elapsed());
    gate(&rig, &reader);
}

/// What the gate asks at its start, after a change, and at the first of a month.
fn gate(rig: &Rig, reader: &Reader) {
    let began = crate::clock::instant();
    assert_eq!(reader.standings(EPOCH).unwrap().len(), USERS);
    println!("standings of all users: {:?}", began.elapsed());
    let began = crate::clock::instant();
    reader.standing(user(rig, 77), EPOCH).unwrap().unwrap();
    println!("standing of one user: {:?}", began.elapsed());
    let turns: Vec<Turn> = rig
        .users
        .iter()
        .map(|user| {
            let to = AccountPeriod { start_ms: start_ms() + 86_400_000, generation: 0 };
            turn_of(user.id, user.account, to)
        })
        .collect();
    let began = crate::clock::instant();
    rig.ledger.turn_accounts(turns, nothing(), start_ms() + 86_400_000).wait().unwrap();
    println!("all users' periods turn at once: {:?}", began.elapsed());
}
