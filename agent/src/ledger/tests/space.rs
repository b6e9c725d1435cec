//! Free pages go back to the disk, a few at a time.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::ledger::open;

#[test]
fn what_a_time_of_much_traffic_left_is_given_back() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    rig.ledger.close();
    // Ten minutes of very many users, as the ticks would have written them.
    let many = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 800000)
        INSERT INTO usage_minutes SELECT ?1 + (n / 80000) * 60000, 1000 + n, 0, 0, 0, 0, 1, 0, 0 FROM n";
    Connection::open(rig.path()).unwrap().execute(many, [start_ms() + 60_000]).unwrap();
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    let rig = Rig { ledger, ..rig };
    assert!(!rig.ledger.space().wait().unwrap().is_wasted());
    // Retention takes the minutes away, a step with each tick.
    let later = start_ms() + 4 * 86_400_000;
    let mut ticks = 0;
    while !rig.ledger.space().wait().unwrap().is_wasted() {
        rig.commit(later + ticks, &[(Some(0), 6)]);
        ticks += 1;
        assert!(ticks < 200, "{:?}", rig.ledger.space().wait());
    }
    let before = rig.ledger.space().wait().unwrap();
    let after = rig.ledger.give_back().wait().unwrap();
    let freed = before.free - after.free;
    assert!((200..=256).contains(&freed), "{before:?} {after:?}");
    assert!(before.pages - after.pages >= freed);
    while rig.ledger.give_back().wait().unwrap().free > 0 {}
    rig.commit(later + 1000, &[(Some(0), 9)]);
    let sums = level_sums(rig.reader().connection());
    assert_eq!(sums[0].1, sums[1].1);
    rig.ledger.close();
    let bytes = i64::try_from(fs::metadata(rig.path()).unwrap().len()).unwrap();
    assert!(bytes < before.pages * before.page_bytes * 3 / 4, "{bytes} of {before:?}");
    assert_eq!(open::quick_check(&Connection::open(rig.path()).unwrap()).unwrap(), None);
}

#[test]
fn a_ledger_without_a_record_of_free_pages_gets_one() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    rig.ledger.close();
    let connection = Connection::open(rig.path()).unwrap();
    connection.execute_batch("PRAGMA auto_vacuum = NONE; PRAGMA journal_mode = DELETE; VACUUM").unwrap();
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
    assert_eq!(mode, 0);
    drop(connection);
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    assert!(ledger.space().wait().unwrap().in_steps);
    assert_eq!(
        ledger.commit(rig.batch(start_ms() + 1000, &[(Some(0), 9)])).wait().unwrap().added,
        counters(4)
    );
}
