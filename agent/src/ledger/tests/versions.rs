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

fn beside(ledger: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(ledger.parent().unwrap()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.contains(".schema-"));
    names.sort();
    names
}

fn opened(path: &std::path::Path) {
    Ledger::open(path, options("Asia/Kolkata")).unwrap().close();
}

#[test]
fn what_a_ledger_was_is_kept_before_its_schema_changes() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, path) = frozen(FROZEN[0].0, "");
    let before = std::fs::read(&path).unwrap();
    opened(&path);
    assert_eq!(beside(&path), ["ledger.db.schema-1"]);
    let copy = directory.path().join("ledger.db.schema-1");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o600);
    let kept = Connection::open(&copy).unwrap();
    let version: i64 = kept.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    let sums = level_sums(&kept);
    assert!(sums.iter().all(|(_, sums)| sums[0] == i64::try_from(7 * FROZEN[0].1).unwrap()), "{sums:?}");
    drop(kept);
    // Up to date: nothing more to keep.
    opened(&path);
    assert_eq!(beside(&path), ["ledger.db.schema-1"]);
    // Killed after the copy and before the change: the copy is found again.
    std::fs::write(&path, &before).unwrap();
    opened(&path);
    assert_eq!(beside(&path), ["ledger.db.schema-1"]);
    // The older version was installed again, and counted on: that is another state.
    std::fs::write(&path, &before).unwrap();
    Connection::open(&path).unwrap().execute("UPDATE meta SET rev = rev + 1", []).unwrap();
    opened(&path);
    assert_eq!(beside(&path), ["ledger.db.schema-1", "ledger.db.schema-1.1"]);
    // A new ledger has nothing to keep.
    assert_eq!(beside(&Rig::new("UTC", &[]).path()), [""; 0]);
}

#[test]
fn without_room_for_the_copy_the_schema_stays() {
    use std::io::Write as _;
    let (_directory, frozen) = frozen(FROZEN[0].0, "");
    let Some(disk) = super::faults::Tmpfs::new("2m") else { return };
    let path = disk.path().join("ledger.db");
    std::fs::copy(frozen, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    // Room for SQLite's own side files.
    while rustix::fs::statvfs(disk.path()).unwrap().f_bavail * 4096 > 64 << 10 {
        file.write_all(&[1; 4096]).unwrap();
    }
    drop(file);
    let error = Ledger::open(&path, options("UTC")).map(|_| ()).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, LedgerError::NotKept { found: 1, known: schema::SCHEMA, .. }), "{said}");
    assert!(said.contains("no space") && said.contains("Nothing was changed"), "{said}");
    assert!(std::fs::read(&path).unwrap() == before, "the ledger was changed");
    assert_eq!(beside(&path), [""; 0], "no half of a copy");
    std::fs::remove_file(&filler).unwrap();
    opened(&path);
    assert_eq!(beside(&path), ["ledger.db.schema-1"]);
}
