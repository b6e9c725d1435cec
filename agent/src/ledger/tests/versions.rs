//! Ledgers of every older version: brought up to date without changing a byte of usage.

use rusqlite::Connection;

use super::*;

/// (dump, tick up to which it counted), one per version: user 0 had one byte per tick, user 1 two,
/// user 2 three, and one was unattributed.
const FROZEN: &[(&str, u64)] = &[(include_str!("fixtures/v1.sql"), 45)];

#[test]
fn every_older_version_is_brought_up_to_date() {
    for (dump, ticks) in FROZEN {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        Connection::open(&path).unwrap().execute_batch(dump).unwrap();
        let ledger = Ledger::open(&path, options("Asia/Kolkata")).unwrap();
        let users = ledger.users().wait().unwrap();
        assert_eq!(users.iter().map(|user| &*user.name).collect::<Vec<_>>(), ["user0", "user1", "user2"]);
        let sums = level_sums(Reader::open(&path).unwrap().connection());
        assert!(sums.iter().all(|(_, sums)| sums[0] == i64::try_from(7 * ticks).unwrap()), "{sums:?}");
        // And it counts on from its cursors: user 0 has slot 256.
        let inbound = ledger.inbounds().wait().unwrap()[0].no;
        let row = Row { slot: 256, generation: 1, user: Some(users[0].id), inbound, total: counters(1000) };
        let batch =
            Batch { epoch: EPOCH, at: at(start_ms()), rows: vec![row], watched: vec![], events: vec![] };
        let added = ledger.commit(batch).wait().unwrap().added.payload[0];
        assert_eq!(added, 1000 - ticks);
    }
}
