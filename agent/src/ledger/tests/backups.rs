//! Copies of a ledger in use: whole, checked, never in the way, and never more than is wanted.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use super::{
    faults::{Tmpfs, fill},
    *,
};

fn back_up(rig: &Rig, to: &Path, force: bool) -> Result<BackedUp, BackupError> {
    backup(&rig.path(), to, force, &|| true)
}

/// Names in a directory, but for those that SQLite makes beside the ledger when somebody reads.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["ledger.db-wal", "ledger.db-shm"].contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn a_backup_is_a_ledger_and_overwrites_only_when_told() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let file = rig.directory.path().join("backup.db");
    let done = back_up(&rig, &file, false).unwrap();
    assert_eq!((done.as_of_ms, done.bytes), (Some(start_ms()), fs::metadata(&file).unwrap().len()));
    rig.commit(start_ms() + 1000, &[(Some(0), 9)]);
    assert!(matches!(back_up(&rig, &file, false), Err(BackupError::Exists { .. })));
    assert_eq!(Reader::open(&file).unwrap().audit().unwrap().users, counters(5));
    // Counting on from the backup catches up from the kernel's absolute counters.
    let ledger = Ledger::open(&file, options("UTC")).unwrap();
    let committed = ledger.commit(rig.batch(start_ms() + 2000, &[(Some(0), 12)])).wait().unwrap();
    assert_eq!(committed.added, counters(7));
    ledger.close();
    back_up(&rig, &file, true).unwrap();
    assert_eq!(Reader::open(&file).unwrap().audit().unwrap().users, counters(9));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    rig.ledger.close();
    // Without an agent, from a ledger whose last commits are only in the log.
    let offline = rig.directory.path().join("offline.db");
    back_up(&rig, &offline, false).unwrap();
    assert_eq!(Reader::open(&offline).unwrap().audit().unwrap().users, counters(9));
}

#[test]
fn a_backup_never_takes_the_ledgers_own_place() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let link = rig.directory.path().join("link");
    std::os::unix::fs::symlink(rig.path(), &link).unwrap();
    let wal = open::beside(&rig.path(), "-wal");
    let journal = open::beside(&rig.path(), "-journal");
    for to in [&rig.path(), &link, &wal, &journal] {
        assert!(matches!(back_up(&rig, to, true), Err(BackupError::Itself { .. })), "{}", to.display());
    }
    let nowhere = rig.directory.path().join("missing/backup.db");
    assert!(matches!(back_up(&rig, &nowhere, false), Err(BackupError::NoDirectory { .. })));
    let absent = rig.directory.path().join("absent.db");
    let error = backup(&absent, &rig.directory.path().join("b"), false, &|| true).unwrap_err();
    assert!(matches!(error, BackupError::Ledger(LedgerError::NotFound { .. })), "{error}");
    assert_eq!(rig.checked_sum(), 5);
}

#[test]
fn what_fails_leaves_nothing_and_keeps_what_was_there() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    for tick in 0..200 {
        rig.commit(start_ms() + tick * 60_000, &[(Some(0), tick as u64 + 1), (None, tick as u64 + 1)]);
    }
    let file = rig.directory.path().join("backup.db");
    back_up(&rig, &file, false).unwrap();
    let good = fs::read(&file).unwrap();
    if let Some(disk) = Tmpfs::new("2m") {
        fill(&disk);
        let error = back_up(&rig, &disk.path().join("backup.db"), false).unwrap_err();
        assert!(matches!(error, BackupError::DiskFull { .. }), "{error}");
        assert_eq!(names(disk.path()), ["filler"]);
    }
    rig.ledger.close();
    // The ledger is damaged where no query of a copy looks.
    let mut bytes = fs::read(rig.path()).unwrap();
    let page = bytes.len() / 4096 - 2;
    bytes[page * 4096..page * 4096 + 200].fill(0xa5);
    fs::write(rig.path(), &bytes).unwrap();
    let before = names(rig.directory.path());
    let error = back_up(&rig, &file, true).unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
    assert!(fs::read(&file).unwrap() == good, "the good backup is gone");
    assert_eq!(names(rig.directory.path()), before);
    let stopped = backup(&rig.path(), &rig.directory.path().join("b"), false, &|| false);
    assert!(matches!(stopped, Err(BackupError::Ending { .. })));
    assert_eq!(names(rig.directory.path()), before);
}

/// The copy is one state of the ledger, however much is committed beside it, and it comes to an end.
#[test]
fn a_backup_under_ticks_is_one_state_of_the_ledger() {
    let users: Vec<String> = (0..400).map(|n| format!("user{n}")).collect();
    let rig = Rig::new("UTC", &users.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = |total: u64| (0..400).map(|user| (Some(user), total)).collect::<Vec<_>>();
    for minute in 0..60_u64 {
        rig.commit(start_ms() + minute as i64 * 60_000, &rows(minute + 1));
    }
    // Some dozen steps of a copy.
    let many = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
        INSERT INTO panel_attempts SELECT hex(randomblob(64)), 0, 0 FROM n";
    rusqlite::Connection::open(rig.path()).unwrap().execute(many, []).unwrap();
    let file = rig.directory.path().join("backup.db");
    let (ledger, mut tick) = (rig.path(), 61_u64);
    let copied = std::thread::scope(|scope| {
        let copying = scope.spawn(|| backup(&ledger, &file, false, &|| true));
        // As fast as they come: each would begin the copy anew, were it not of one state.
        while !copying.is_finished() || tick < 70 {
            rig.commit(start_ms() + tick as i64 * 60_000, &rows(tick));
            tick += 1;
            assert!(tick < 1000, "the copy begins anew with every commit");
        }
        copying.join().unwrap().unwrap()
    });
    let sums = level_sums(Reader::open(&file).unwrap().connection());
    assert!(sums.windows(2).all(|pair| pair[0].1 == pair[1].1), "{sums:?}");
    let minutes = (copied.as_of_ms.unwrap() - start_ms()) / 60_000;
    assert!(minutes >= 59 && u64::try_from(minutes).unwrap() < tick, "{minutes} of {tick}");
    rig.checked_sum();
}

const DAY: i64 = 86_400_000;

fn scheduled(rig: &Rig) -> Backups {
    Backups {
        directory: rig.directory.path().join("backups"),
        every: Duration::from_secs(86_400),
        keep: 3,
        keep_for: Duration::from_secs(10 * 86_400),
    }
}

#[test]
fn backups_are_due_by_their_names_and_old_ones_go() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let backups = scheduled(&rig);
    let make = |at_ms: i64| {
        let (made, pruned) = backups.make(&rig.path(), at_ms, &|| true).unwrap();
        pruned.unwrap();
        made
    };
    assert_eq!(backups.due_ms(start_ms()).unwrap(), start_ms(), "the first one");
    let first = make(start_ms());
    assert_eq!(first.path.file_name().unwrap(), "ledger-20261124T100000Z.db");
    assert_eq!(fs::metadata(&backups.directory).unwrap().mode() & 0o777, 0o700);
    assert_eq!(backups.due_ms(start_ms() + 1).unwrap(), start_ms() + DAY);
    // What others have there stays, whatever it is called.
    let foreign = [
        "config.json.0123456789ab",
        "ledger-20200101T000000Z.db.bak",
        "ledger-2020.db",
        "my ledger-20200101T000000Z.db",
        ".boxmeter-abc",
    ];
    for name in foreign {
        fs::write(backups.directory.join(name), "mine").unwrap();
    }
    fs::create_dir(backups.directory.join("ledger-20200101T000000Z.db")).unwrap();
    // A copy that somebody left who died, and one that is being made.
    for name in [".boxmeter-old.partial", ".boxmeter-new.partial"] {
        fs::write(backups.directory.join(name), "half").unwrap();
    }
    let old = fs::File::options().write(true).open(backups.directory.join(".boxmeter-old.partial")).unwrap();
    let day = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(start_ms() as u64);
    old.set_modified(day - Duration::from_secs(3 * 86_400)).unwrap();
    for day in 1..=4 {
        assert_eq!(make(start_ms() + day * DAY).removed, usize::from(day > 2));
    }
    let left: Vec<String> = names(&backups.directory);
    let kept = left.iter().filter(|name| name.starts_with("ledger-202611")).count();
    assert_eq!(kept, 3, "{left:?}");
    assert!(foreign.iter().all(|name| left.contains(&(*name).to_owned())), "{left:?}");
    assert!(left.contains(&"ledger-20200101T000000Z.db".to_owned()));
    assert!(left.contains(&".boxmeter-new.partial".to_owned()));
    assert!(!left.contains(&".boxmeter-old.partial".to_owned()));
    // After a long pause: one too many, and one that is too old.
    assert_eq!(make(start_ms() + 40 * DAY).removed, 2);
    // A clock that was far ahead for a while costs one backup, and keeps none from being made.
    make(start_ms() + 4000 * DAY);
    assert_eq!(backups.due_ms(start_ms() + 42 * DAY).unwrap(), start_ms() + 41 * DAY);
}

/// Whatever the clock says, the backup that was just made stays, and so does the newest one that is right.
#[test]
fn a_wrong_clock_takes_no_good_backup_away() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let backups = Backups { keep: 1, ..scheduled(&rig) };
    let make = |at_ms: i64| {
        let (made, pruned) = backups.make(&rig.path(), at_ms, &|| true).unwrap();
        pruned.unwrap();
        made.path
    };
    let ahead = make(start_ms() + 400 * DAY);
    let right = make(start_ms());
    assert!(ahead.exists() && right.exists());
    assert_eq!(backups.due_ms(start_ms() + 1).unwrap(), start_ms() + DAY, "not once more at once");
    let next = make(start_ms() + DAY);
    assert!(next.exists() && !right.exists());
    let behind = make(start_ms() - 1000 * DAY);
    assert!(behind.exists() && next.exists());
    assert_eq!(backups.due_ms(start_ms() - 1000 * DAY + 1).unwrap(), start_ms() - 999 * DAY);
}
