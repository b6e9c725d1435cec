//! Ledgers of every older version: brought up to date without changing a byte of usage.

use rusqlite::Connection;

use super::*;
use crate::{core::terms, ledger::schema};

/// (dump, tick up to which it counted), one per version: user 0 had one byte per tick, user 1 two,
/// user 2 three, and one was unattributed.
const FROZEN: &[(&str, u64)] = &[(include_str!("fixtures/v1.sql"), 45)];

fn frozen(dump: &str, more: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(dump).unwrap();
    connection.execute_batch(more).unwrap();
    (directory, path)
}

#[test]
fn every_older_version_is_brought_up_to_date() {
    for (dump, ticks) in FROZEN {
        let (_directory, path) = frozen(dump, "");
        let ledger = Ledger::open(&path, options("Asia/Kolkata")).unwrap();
        let users = ledger.users().wait().unwrap();
        assert_eq!(users.iter().map(|user| &*user.name).collect::<Vec<_>>(), ["user0", "user1", "user2"]);
        assert!(
            users.iter().all(|user| user.policy == "unlimited" && user.admin.state == AdminState::Enabled)
        );
        let reader = Reader::open(&path).unwrap();
        let sums = level_sums(reader.connection());
        assert!(sums.iter().all(|(_, sums)| sums[0] == i64::try_from(7 * ticks).unwrap()), "{sums:?}");
        let version: i64 =
            reader.connection().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, schema::SCHEMA);
        // The tables are those of a new ledger, to the letter of their columns.
        let fresh = Rig::new("UTC", &[]);
        assert_eq!(columns(reader.connection()), columns(fresh.reader().connection()));
        // And it counts on from its cursors: user 0 has slot 256.
        let inbound = ledger.inbounds().wait().unwrap()[0].no;
        let row = Row { slot: 256, generation: 1, user: Some(users[0].id), inbound, total: counters(1000) };
        let batch = Batch {
            epoch: EPOCH,
            at: at(start_ms()),
            rows: vec![row],
            watched: vec![],
            events: vec![],
            reported: None,
        };
        let added = ledger.commit(batch).wait().unwrap().added.payload[0];
        assert_eq!(added, 1000 - ticks);
        let standing = ledger.standing(users[0].id, EPOCH).wait().unwrap().unwrap();
        assert_eq!((standing.used.counted, standing.taken_over), (counters(1000), counters(1000)));
    }
}

fn columns(connection: &Connection) -> Vec<String> {
    let mut statement = connection
        .prepare(
            "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.pk || ' ' || c.\"notnull\"
             FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'
             UNION ALL SELECT name || ' on ' || tbl_name FROM sqlite_schema WHERE type <> 'table' ORDER BY 1",
        )
        .unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn names_of_policies_become_policies() {
    let (_directory, path) = frozen(
        FROZEN[0].0,
        "UPDATE users SET policy = 'basic', email = 'a@example.org', expires_ms = 7 WHERE name = 'user0';
         UPDATE users SET policy = 'golden' WHERE name = 'user1';",
    );
    let ledger = Ledger::open(&path, options("Asia/Kolkata")).unwrap();
    let users = ledger.users().wait().unwrap();
    let policies: Vec<_> = users.iter().map(|user| user.policy.as_str()).collect();
    assert_eq!(policies, ["basic", "unlimited", "unlimited"]);
    let kept = &users[0].settings;
    assert_eq!((kept.email.as_deref(), kept.expires_ms), (Some("a@example.org"), Some(7)));
    let events = Reader::open(&path).unwrap().events(Some(users[1].id), None, None, 10).unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.kind.as_str(), &last.data["policy"]), ("policy_unknown", &serde_json::json!("golden")));
    // The built-in policies say what the program says; a revision tells that users changed.
    let policies = ledger.policies().wait().unwrap();
    for ((name, terms), policy) in terms::built_in().into_iter().zip(&policies) {
        assert_eq!((&*policy.name, &policy.terms, policy.built_in), (name, &terms, true));
    }
    assert_eq!(ledger.info().wait().unwrap().rev, 48);
    assert!(users.iter().all(|user| user.rev == 48));
    // Opened again, nothing happens.
    ledger.close();
    let again = Ledger::open(&path, options("Asia/Kolkata")).unwrap();
    assert_eq!(again.users().wait().unwrap(), users);
}

#[test]
fn an_audit_of_a_range_begins_where_there_are_buckets() {
    let (_directory, path) = frozen(FROZEN[0].0, "");
    let ledger = Ledger::open(&path, options("Asia/Kolkata")).unwrap();
    let reader = Reader::open(&path).unwrap();
    let from = ledger.info().wait().unwrap().watched_from_ms;
    assert!(from > i64::MIN);
    let range = reader.audit_range(Some(0), None).unwrap();
    assert!(range.start_ms >= from, "{range:?}");
    assert_eq!(range.sums, AuditSums::default());
}
