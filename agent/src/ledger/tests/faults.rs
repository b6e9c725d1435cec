//! Full disks, locks, damage, foreign files: typed errors, nothing lost, nothing touched.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rusqlite::Connection;

use super::*;

/// A small file system of its own, unmounted when dropped.
pub(super) struct Tmpfs(TempDir);

impl Tmpfs {
    /// `None` without the right to mount.
    pub(super) fn new(size: &str) -> Option<Tmpfs> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        match mount(
            Some("boxmeter-test"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        ) {
            Ok(()) => Some(Tmpfs(directory)),
            Err(error) => {
                eprintln!("skipped: needs root to mount a tmpfs ({error})");
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_only(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, self.path(), None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_reported_and_caught_up_with() {
    let Some(disk) = Tmpfs::new("3m") else { return };
    let path = disk.path().join("ledger.db");
    let ledger = Ledger::open(&path, options("UTC")).unwrap();
    let names: Vec<String> = (0..500).map(|n| format!("user{n}")).collect();
    let (users, inbound) = sync(&ledger, &names.iter().map(String::as_str).collect::<Vec<_>>(), start_ms());
    let rig = Rig { directory: tempfile::tempdir().unwrap(), ledger, users, inbound };
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let rows = |total: u64| (0..500).map(|user| (Some(user), total)).collect::<Vec<_>>();
    let mut failed = 0;
    for tick in 1..=50_u64 {
        match rig.ledger.commit(rig.batch(start_ms() + tick as i64 * 60_000, &rows(tick))).wait() {
            Ok(_) => {}
            Err(CommitError::DiskFull) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed > 0, "the disk was never full");
    fs::remove_file(&filler).unwrap();
    rig.commit(start_ms() + 51 * 60_000, &rows(51));
    let sums = level_sums(Reader::open(&path).unwrap().connection());
    assert!(sums.iter().all(|(_, sums)| sums[0] == 500 * 51), "{sums:?}");
    rig.ledger.close();
}

/// Fills the disk to the last byte; the file to remove for room.
pub(super) fn fill(disk: &Tmpfs) -> PathBuf {
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    for block in [4096, 512, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    filler
}

#[test]
fn a_change_on_a_full_disk_is_refused_whole() {
    let Some(disk) = Tmpfs::new("3m") else { return };
    let path = disk.path().join("ledger.db");
    let ledger = Ledger::open(&path, options("UTC")).unwrap();
    let (users, _) = sync(&ledger, &["alice"], start_ms());
    let alice = users[0].id;
    let filler = fill(&disk);
    let package = NewEntry {
        kind: EntryKind::Package,
        bytes: 5,
        expires_ms: None,
        package: None,
        account: None,
        note: Some("x".repeat(900)),
    };
    let (mut done, mut failed) = (0, 0);
    for n in 0..400 {
        let key = with_key(&format!("k{n}"));
        match ledger.add_entry(alice, package.clone(), nothing(), key).wait() {
            Ok(_) => done += 1,
            Err(CommitError::DiskFull) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed > 0, "the disk was never full");
    let reader = Reader::open(&path).unwrap();
    let whole = |done: usize| {
        let events = reader.events(Some(alice), None, None, 1000).unwrap();
        let keys: i64 = reader
            .connection()
            .query_row("SELECT count(*) FROM idempotency_keys", [], |row| row.get(0))
            .unwrap();
        assert_eq!(reader.wallet(alice).unwrap().len(), done);
        assert_eq!(events.iter().filter(|event| event.kind == "package_added").count(), done);
        assert_eq!(keys, done as i64);
    };
    whole(done);
    fs::remove_file(&filler).unwrap();
    // The key of a change that was not made is free.
    ledger.add_entry(alice, package, nothing(), with_key("k399")).wait().unwrap();
    whole(done + 1);
    ledger.close();
}

/// A process of its own that holds the database's lock; see `lock_holder`.
fn hold_lock(path: &Path) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["ledger::tests::faults::lock_holder", "--exact", "--ignored", "--nocapture"])
        .env("BOXMETER_TEST_LOCK", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("lock is held")), "the other process failed");
    (child, lines)
}

#[test]
#[ignore = "run by a_lock_of_another_process_is_waited_out in a process of its own"]
fn lock_holder() {
    let Some(path) = std::env::var_os("BOXMETER_TEST_LOCK") else { return };
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE; UPDATE meta SET rev = rev + 1000").unwrap();
    println!("\nlock is held");
    // Until the test closes our standard input.
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_lock_of_another_process_is_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let options = Options { busy: std::time::Duration::from_millis(50), ..options("UTC") };
    let ledger = Ledger::open(&path, options).unwrap();
    let (users, inbound) = sync(&ledger, &["alice"], start_ms());
    let rig = Rig { directory, ledger, users, inbound };
    rig.commit(start_ms(), &[(Some(0), 1)]);
    let (mut holder, output) = hold_lock(&path);
    let refused = rig.ledger.commit(rig.batch(start_ms() + 1000, &[(Some(0), 2)])).wait();
    assert_eq!(refused, Err(CommitError::Locked));
    let off = AdminChange::to(AdminState::Disabled);
    let refused = rig.ledger.set_admin_state(user(&rig, 0), off.clone(), None, asked()).wait();
    assert_eq!(refused.map(|user| user.admin.state), Err(CommitError::Locked));
    // Readers do not mind.
    assert_eq!(rig.checked_sum(), 1);
    drop(holder.stdin.take());
    output.for_each(drop);
    assert!(holder.wait().unwrap().success());
    assert_eq!(rig.commit(start_ms() + 2000, &[(Some(0), 3)]).added, counters(2));
    assert_eq!(rig.checked_sum(), 3);
    rig.ledger.set_admin_state(user(&rig, 0), off, None, asked()).wait().unwrap();
}

#[test]
fn a_second_agent_is_refused() {
    let rig = Rig::new("UTC", &["alice"]);
    let second = Ledger::open(&rig.path(), options("UTC"));
    assert!(matches!(second, Err(LedgerError::InUse { .. })));
    rig.ledger.close();
    assert!(matches!(rig.ledger.commit(rig.batch(0, &[])).wait(), Err(CommitError::Closed)));
    Ledger::open(&rig.path(), options("UTC")).unwrap();
}

#[test]
fn damage_is_found_and_the_file_left_alone() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    for tick in 0..200 {
        rig.commit(start_ms() + tick * 60_000, &[(Some(0), tick as u64 + 1), (None, tick as u64 + 1)]);
    }
    rig.ledger.close();
    let good = fs::read(rig.path()).unwrap();
    assert!(good.len() > 20 * 4096);
    for page in [0, 3, 10, good.len() / 4096 - 1] {
        let mut bad = good.clone();
        for byte in &mut bad[page * 4096..page * 4096 + 200] {
            *byte ^= 0xa5;
        }
        fs::write(rig.path(), &bad).unwrap();
        let error = Ledger::open(&rig.path(), options("UTC")).err();
        assert!(matches!(error, Some(LedgerError::Damaged { .. })), "page {page}: {error:?}");
        assert!(error.unwrap().to_string().contains("boxmeter restore"));
        assert!(fs::read(rig.path()).unwrap() == bad, "page {page}: the file was changed");
    }
    fs::write(rig.path(), &good[..good.len() / 2]).unwrap();
    assert!(matches!(Ledger::open(&rig.path(), options("UTC")), Err(LedgerError::Damaged { .. })));
    fs::write(rig.path(), &good).unwrap();
    assert_eq!(Ledger::open(&rig.path(), options("UTC")).unwrap().check(), Check::Full);
}

#[test]
fn newer_and_foreign_files_are_refused() {
    let rig = Rig::new("UTC", &[]);
    rig.ledger.close();
    let connection = Connection::open(rig.path()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Ledger::open(&rig.path(), options("UTC")).err().unwrap();
    assert!(matches!(error, LedgerError::NewerSchema { found: 99, known: schema::SCHEMA, .. }), "{error}");
    assert!(matches!(Reader::open(&rig.path()), Err(LedgerError::NewerSchema { .. })));

    let other = rig.directory.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let before = fs::read(&other).unwrap();
    assert!(matches!(Ledger::open(&other, options("UTC")), Err(LedgerError::NotALedger { .. })));
    assert!(matches!(Reader::open(&other), Err(LedgerError::NotALedger { .. })));
    assert_eq!(fs::read(&other).unwrap(), before);

    let nowhere = rig.directory.path().join("missing/ledger.db");
    assert!(matches!(Ledger::open(&nowhere, options("UTC")), Err(LedgerError::NoDirectory { .. })));
    assert!(matches!(Reader::open(&nowhere), Err(LedgerError::NotFound { .. })));
    let folder = rig.directory.path().join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(matches!(Ledger::open(&folder, options("UTC")), Err(LedgerError::NotALedger { .. })));
}

#[test]
fn files_are_readable_by_their_owner_only() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 1)]);
    let backup = rig.directory.path().join("backup.db");
    super::super::backup(&rig.path(), &backup, false, &|| true).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(rig.directory.path()).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        count += 1;
    }
    assert_eq!(count, 5, "database, log, shared memory, lock and backup");
    rig.ledger.close();
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o644)).unwrap();
    Ledger::open(&rig.path(), options("UTC")).unwrap();
    assert_eq!(fs::metadata(rig.path()).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_ledger_on_a_read_only_disk_can_be_read_with_and_without_its_log() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let Some(disk) = Tmpfs::new("8m") else { return };
    let wal = |path: &Path| crate::ledger::open::beside(path, "-wal");
    let logged = disk.path().join("with log?#%.db");
    // As after a power cut: the last commits are only in the log.
    let plain = disk.path().join("plain.db");
    fs::copy(rig.path(), disk.path().join("copy")).unwrap();
    fs::copy(wal(&rig.path()), wal(&logged)).unwrap();
    fs::rename(disk.path().join("copy"), &logged).unwrap();
    rig.ledger.close();
    fs::copy(rig.path(), &plain).unwrap();
    disk.read_only();
    for path in [logged, plain] {
        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.audit().unwrap().users, counters(5), "{}", path.display());
    }
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let rig = Rig::new("UTC", &["alice"]);
    // Holds the writer up for as long as the lock is held.
    let blocker = Connection::open(rig.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut replies = vec![];
    for n in 0..2 * COMMANDS_MAX {
        replies.push(rig.ledger.commit(rig.batch(start_ms(), &[(Some(0), n as u64)])));
    }
    blocker.execute_batch("ROLLBACK").unwrap();
    drop(blocker);
    let busy = replies
        .into_iter()
        .filter_map(|reply| reply.wait().err())
        .filter(|error| matches!(error, CommitError::Busy(_)));
    assert_eq!(busy.count() as u64, rig.ledger.refused());
    assert!(rig.ledger.refused() > 0);
    rig.commit(start_ms(), &[(Some(0), 1000)]);
    assert_eq!(rig.checked_sum(), 1000);
}
