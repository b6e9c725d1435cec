//! A backup in the ledger's place: nothing counted twice, nothing lost in silence, the old ledger kept.

use std::fs;

use super::*;
use crate::ledger::{access::NewToken, open};

/// A ledger that went on after its backup: more traffic, a reboot, a new user, one who is out, a token less.
fn gone_on() -> (Rig, PathBuf) {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    rig.commit(start_ms(), &[(Some(0), 5), (None, 1)]);
    let token = |name: &str, byte: u8| NewToken {
        name: name.to_owned(),
        scope: "read".to_owned(),
        secret_hash: [byte; 32],
        expires_ms: None,
    };
    rig.ledger.add_token(token("kept", 1), asked()).wait().unwrap();
    let deleted = rig.ledger.add_token(token("deleted", 2), asked()).wait().unwrap();
    let file = rig.directory.path().join("backup.db");
    backup(&rig.path(), &file, false, &|| true).unwrap();
    rig.commit(start_ms() + 1000, &[(Some(0), 9)]);
    let mut batch = rig.batch(start_ms() + 2000, &[(Some(0), 100)]);
    batch.epoch = [8; 16];
    rig.ledger.commit(batch).wait().unwrap();
    rig.ledger.delete_token(deleted.id, asked()).wait().unwrap();
    sync(&rig.ledger, &["alice", "bob", "carol"], start_ms() + 3000);
    let entry = ParkedEntry { inbound: "in".into(), nth: 0, entry: "{}".to_owned() };
    rig.ledger.park(vec![(user(&rig, 1), entry)], vec![], start_ms() + 4000).wait().unwrap();
    (rig, file)
}

#[test]
fn a_restored_ledger_counts_on_and_tells_what_is_not_in_it() {
    let (rig, file) = gone_on();
    let before = rig.ledger.info().wait().unwrap();
    let running = restore(&file, &rig.path(), None, start_ms() + 5000).unwrap_err();
    assert!(matches!(running, RestoreError::Running { .. }), "{running}");
    assert!(running.to_string().contains("systemctl stop boxmeter"));
    rig.ledger.close();
    let done = restore(&file, &rig.path(), Some([8; 16]), start_ms() + 5000).unwrap();
    // In the first epoch 4 more of alice, times 11 for both directions, are gone; the second is the kernel's.
    let since = done.since.clone().unwrap();
    assert_eq!((since.gone_bytes, since.in_kernel_bytes), (44, 1100));
    assert_eq!(since.unknown_users, ["carol"]);
    assert!(since.unknown_out.is_empty());
    let kept = done.kept.clone().unwrap();
    assert_eq!(kept, rig.directory.path().join("ledger.db.before-20261124T100005Z"));
    assert_eq!(Reader::open(&kept).unwrap().audit().unwrap().users, counters(109));
    let reader = rig.reader();
    let info = reader.info().unwrap();
    assert_eq!((info.node_id, info.ledger_id), (before.node_id, done.ledger_id));
    assert_ne!(info.ledger_id, before.ledger_id);
    assert!(reader.is_restored().unwrap());
    let events = reader.events(None, None, None, 100).unwrap();
    let told = events.last().unwrap();
    assert_eq!((told.kind.as_str(), &told.data["gone_bytes"]), ("ledger_restored", &serde_json::json!(44)));
    assert!(told.data["message"].as_str().unwrap().contains("44 bytes"), "{}", told.data);
    // Who is out of the file is not taken for deleted.
    let out: Vec<UserId> = reader.parked().unwrap().into_iter().map(|record| record.user).collect();
    assert_eq!(out, [user(&rig, 1)]);
    drop(reader);
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    let tokens = rig.reader().tokens().unwrap();
    assert_eq!(tokens.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    let (users, _) = sync(&ledger, &["alice"], start_ms() + 6000);
    let living = users.iter().filter(|user| user.tombstoned_ms.is_none()).map(|user| &*user.name);
    assert_eq!(living.collect::<Vec<_>>(), ["alice", "bob"]);
    // The kernel's absolute counters again: each byte once.
    let mut batch = rig.batch(start_ms() + 7000, &[(Some(0), 130)]);
    batch.epoch = [8; 16];
    assert_eq!(ledger.commit(batch.clone()).wait().unwrap().added, counters(130));
    assert_eq!(ledger.commit(batch).wait().unwrap().added, Counters::default());
    assert!(!rig.reader().is_restored().unwrap());
    assert_eq!(rig.reader().audit().unwrap().users, counters(135));
}

#[test]
fn a_damaged_ledger_is_replaced_with_its_log_and_a_damaged_backup_is_not_taken() {
    let (rig, file) = gone_on();
    let good = fs::read(&file).unwrap();
    let wal = open::beside(&rig.path(), "-wal");
    rig.ledger.close();
    // As after a power cut: the log has what the file has not.
    let writer = rusqlite::Connection::open(rig.path()).unwrap();
    writer.execute("UPDATE meta SET rev = rev + 1", []).unwrap();
    let (copy, log) = (fs::read(rig.path()).unwrap(), fs::read(&wal).unwrap());
    assert!(!log.is_empty());
    drop(writer);
    fs::write(rig.path(), &copy).unwrap();
    fs::write(&wal, &log).unwrap();
    let mut bad = good.clone();
    let page = bad.len() / 4096 - 1;
    bad[page * 4096..page * 4096 + 300].fill(0xa5);
    fs::write(&file, &bad).unwrap();
    let error = restore(&file, &rig.path(), None, start_ms()).unwrap_err();
    assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
    assert!(
        fs::read(rig.path()).unwrap() == copy && fs::read(&wal).unwrap() == log,
        "the ledger was touched"
    );
    fs::write(&file, &good).unwrap();
    // Now the ledger itself is beyond repair.
    fs::write(rig.path(), vec![0xa5; 10_000]).unwrap();
    let done = restore(&file, &rig.path(), None, start_ms()).unwrap();
    assert_eq!(done.since, None);
    let kept = done.kept.unwrap();
    assert!(fs::read(&kept).unwrap() == vec![0xa5; 10_000]);
    assert!(fs::read(open::beside(&kept, "-wal")).unwrap() == log, "the old log is kept too");
    assert_eq!(rig.checked_sum(), 6, "the old log is not taken for the new ledger's");
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    assert_eq!(ledger.check(), Check::Full);
    ledger.close();
    // A second one in the same second finds another name, and one without a ledger needs none.
    let again = restore(&file, &rig.path(), None, start_ms()).unwrap().kept.unwrap();
    assert!(again.to_str().unwrap().ends_with(".1"), "{}", again.display());
    fs::remove_file(rig.path()).unwrap();
    assert_eq!(restore(&file, &rig.path(), None, start_ms()).unwrap().kept, None);
    assert!(matches!(restore(&rig.path(), &rig.path(), None, 0), Err(RestoreError::Itself { .. })));
    let left = fs::read_dir(rig.directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("restoring"));
    assert_eq!(left.count(), 0);
}

/// The file is gone and its log is not: SQLite would read that log with whatever has the name.
#[test]
fn a_log_without_its_ledger_is_not_read_with_the_restored_one() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let file = rig.directory.path().join("backup.db");
    backup(&rig.path(), &file, false, &|| true).unwrap();
    rig.commit(start_ms() + 60_000, &[(Some(0), 70)]);
    let log = open::beside(&rig.path(), "-wal");
    let bytes = fs::read(&log).unwrap();
    assert!(!bytes.is_empty(), "the last commit is in the log");
    rig.ledger.close();
    fs::remove_file(rig.path()).unwrap();
    fs::write(&log, &bytes).unwrap();
    // Nor with a backup that is written over.
    let error = backup(&file, &rig.path(), true, &|| true).unwrap_err();
    assert!(error.to_string().contains("-wal"), "{error}");
    let before = start_ms() + 120_000;
    assert_eq!(restore(&file, &rig.path(), None, before).unwrap().kept, None);
    assert_eq!(rig.checked_sum(), 5);
    let kept = fs::read_dir(rig.directory.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().contains(".before-")
            && fs::read(entry.as_ref().unwrap().path()).unwrap() == bytes
    });
    assert_eq!(kept.count(), 1, "the log is kept aside");
}

/// A page of the usage is broken; who is out of sing-box's files is still known.
#[test]
fn who_is_out_is_taken_over_from_a_damaged_ledger() {
    let (rig, file) = gone_on();
    rig.ledger.close();
    let page: u32 = rusqlite::Connection::open(rig.path())
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'usage_minutes'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(rig.path()).unwrap();
    let at = (page as usize - 1) * 4096;
    bytes[at..at + 200].fill(0xa5);
    fs::write(rig.path(), &bytes).unwrap();
    let done = restore(&file, &rig.path(), None, start_ms() + 5000).unwrap();
    assert!(done.kept.is_some() && done.since.is_none());
    let out: Vec<UserId> = rig.reader().parked().unwrap().into_iter().map(|record| record.user).collect();
    assert_eq!(out, [user(&rig, 1)]);
}

/// Whom somebody deleted after the backup, and who is only counted somewhere, is not taken in again after it.
#[test]
fn deletions_are_not_forgotten_over_a_restore() {
    let (rig, file) = gone_on();
    let of = |rig: &Rig, name: &str| rig.reader().user_by_name(name).unwrap().id;
    let (alice, carol) = (of(&rig, "alice"), of(&rig, "carol"));
    for user in [alice, carol] {
        rig.ledger.delete_user(user, None, asked()).wait().unwrap();
    }
    // Of one who is purged only the hash is left.
    rig.ledger.removed(carol, start_ms()).wait().unwrap();
    rig.ledger.purge_deleted("carol".to_owned(), asked()).wait().unwrap();
    rig.ledger.close();
    restore(&file, &rig.path(), None, start_ms() + 5000).unwrap();
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    let gone = ledger.gone().wait().unwrap();
    assert!(gone.has("carol") && !gone.has("bob"));
    assert!(!gone.has("alice"), "the backup has her as a user");
    ledger.close();
    // A backup of another ledger, with another salt: what both know as deleted stays so.
    let other = Rig::new("UTC", &["alice", "dave"]);
    other.ledger.delete_user(of(&other, "dave"), None, asked()).wait().unwrap();
    let theirs = other.directory.path().join("backup.db");
    backup(&other.path(), &theirs, false, &|| true).unwrap();
    restore(&theirs, &rig.path(), None, start_ms() + 9000).unwrap();
    let gone = Ledger::open(&rig.path(), options("UTC")).unwrap().gone().wait().unwrap();
    assert!(gone.has("carol") && gone.has("dave") && !gone.has("alice"));
}
