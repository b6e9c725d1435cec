//! Files as people have them, and files that mean harm.

use super::*;
use crate::import::ImportedCredentials;

const GIB: u64 = 1 << 30;

/// The tutorial's own tables.
const TUTORIAL: &str = "
    CREATE TABLE users (username TEXT PRIMARY KEY, password TEXT NOT NULL, email TEXT,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, status TEXT DEFAULT 'active',
        monthly_quota INTEGER DEFAULT 100, total_quota INTEGER DEFAULT 0, reset_day INTEGER DEFAULT 1);
    CREATE TABLE traffic_logs (id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL,
        upload_bytes INTEGER DEFAULT 0, download_bytes INTEGER DEFAULT 0,
        timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY (username) REFERENCES users (username));
    CREATE TABLE monthly_stats (username TEXT NOT NULL, month TEXT NOT NULL, upload_bytes INTEGER DEFAULT 0,
        download_bytes INTEGER DEFAULT 0, PRIMARY KEY (username, month));";

pub(super) fn file(sql: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("traffic.db");
    let connection = Connection::open(&path).unwrap();
    // As the scripts that wrote such files had it.
    connection.pragma_update(None, "foreign_keys", "OFF").unwrap();
    connection.execute_batch(sql).unwrap();
    (directory, path)
}

fn imported(sql: &str) -> Imported {
    let (_directory, path) = file(sql);
    let before = fs::read(&path).unwrap();
    let imported = read_sqlite(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "the file was changed");
    imported
}

fn password(word: &str) -> ImportedCredentials {
    ImportedCredentials { password: Some(word.to_owned()), ..ImportedCredentials::default() }
}

#[test]
fn the_tutorials_file_comes_over() {
    let sql = format!(
        "{TUTORIAL}
        INSERT INTO users VALUES ('zoe', 'pw-zoe', '', '2026-10-01 12:00:00', 'active', 100, 0, 15);
        INSERT INTO users VALUES ('小明', 'pw-ming', 'm@example.org', '2026-10-01 12:00:00', 'disabled', 10, 500, 31);
        INSERT INTO users VALUES ('eve', 'pw-eve', NULL, NULL, 'disabled', 0, 0, 1);
        INSERT INTO users VALUES ('old', 'pw-old', NULL, NULL, 'disabled', 10, 0, 1);
        INSERT INTO users VALUES ('gone', 'pw-gone', NULL, NULL, 'expired', 10, 0, 1);
        INSERT INTO monthly_stats VALUES ('old', '2026-10', {GIB}, 9 * {GIB});
        INSERT INTO monthly_stats VALUES ('小明', '2026-10', 5, 6);
        INSERT INTO monthly_stats VALUES ('小明', '2026-11', {GIB}, 9 * {GIB});
        INSERT INTO monthly_stats VALUES ('zoe', '2026-11', 7, 8);
        INSERT INTO traffic_logs (username, upload_bytes, download_bytes, timestamp) VALUES
            ('zoe', 4, 8, '2026-10-31 23:59:59'), ('zoe', 10, 0, '2026-11-02 00:00:00'),
            ('ghost', 1, 1, '2026-11-02 00:00:00');"
    );
    let Imported { users, not_understood, .. } = imported(&sql);
    let zoe = ImportedUser {
        name: "zoe".to_owned(),
        credentials: password("pw-zoe"),
        quota_bytes: Some(Some(100 * GIB)),
        total_quota_bytes: Some(None),
        reset_day: Some(15),
        created_ms: Some("2026-10-01T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond()),
        // 14 up by the log, 7 of them in the month's statistics: the rest was reset.
        used: vec![
            ImportedUsage { when: UsedIn::Earlier, upload_bytes: 7, download_bytes: 0 },
            ImportedUsage { when: UsedIn::Month(2026, 11), upload_bytes: 7, download_bytes: 8 },
        ],
        ..ImportedUser::default()
    };
    assert_eq!(users[0], zoe);
    let ming = &users[1];
    assert_eq!((&*ming.name, ming.email.as_deref()), ("小明", Some("m@example.org")));
    assert_eq!((ming.total_quota_bytes, ming.reset_day), (Some(Some(500 * GIB)), Some(31)));
    assert_eq!(ming.status, ImportedStatus::OverQuota, "10 of 10 GiB: the quota decides, not a person");
    assert_eq!((users[2].status, users[2].quota_bytes), (ImportedStatus::Disabled, Some(None)));
    assert_eq!(users[3].status, ImportedStatus::Disabled, "not the quota of this month, so perhaps a person");
    assert_eq!(users[4].status, ImportedStatus::Disabled, "nobody knows since when");
    let told = not_understood.join("\n");
    for (name, words) in [
        ("there is usage of users", "it was left out"),
        ("小明", "comes over enabled, and the quota decides"),
        ("old", "`boxmeter users enable` lets it in"),
        ("gone", "expired, without a date"),
    ] {
        assert!(told.lines().any(|line| line.contains(name) && line.contains(words)), "{name}: {told}");
    }
    assert_eq!(not_understood.len(), 4, "{told}");
}

#[test]
fn what_people_added_comes_over_or_is_told() {
    let sql = "
        CREATE TABLE USERS (id INTEGER PRIMARY KEY, UserName TEXT, Password TEXT, uuid TEXT, quota_gb REAL,
            bonus_traffic INTEGER, plan TEXT, expire_date TEXT, enabled INTEGER, note TEXT, colour TEXT,
            reset_day TEXT, status TEXT);
        INSERT INTO users VALUES (1, 'a', 'p1', 'b831381d-6324-4d53-ad4f-8cda48b30811', 1.5, 4096, 'basic',
            '2027-01-31', 1, 'n', 'red', '7', NULL);
        INSERT INTO users VALUES (2, 'b', x'00ff', 'no uuid', -1, NULL, NULL, 'soon', 0, '', '', 99, NULL);
        INSERT INTO users VALUES (3, 'c', 'p3', NULL, 'NaN', NULL, NULL, NULL, 1, NULL, NULL, NULL, 'frozen');
        INSERT INTO users VALUES (4, 'a', 'p4', NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL);
        INSERT INTO users VALUES (5, NULL, 'p5', NULL, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL);
        CREATE TABLE purchase_history (username TEXT, package_gb INTEGER);";
    let Imported { users, not_understood, .. } = imported(sql);
    let a = &users[0];
    assert_eq!((a.quota_bytes, a.package_bytes), (Some(Some(3 * GIB / 2)), 4096));
    assert_eq!((a.policy.as_deref(), a.reset_day, a.note.as_deref()), (Some("basic"), Some(7), Some("n")));
    assert_eq!(a.credentials.uuid.as_deref(), Some("b831381d-6324-4d53-ad4f-8cda48b30811"));
    assert_eq!(
        a.expires_ms,
        Some("2027-01-31T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond())
    );
    let statuses: Vec<_> = users.iter().map(|user| user.status).collect();
    assert_eq!(statuses, [ImportedStatus::Active, ImportedStatus::Disabled, ImportedStatus::Disabled]);
    assert_eq!((users[1].quota_bytes, users[1].reset_day, users[2].quota_bytes), (None, None, None));
    insta::assert_snapshot!(not_understood.join("\n"), @r#"
    the table "purchase_history" was not taken over
    the column users."colour" was not taken over
    "b": the value of "Password" is not understood
    "b": the value of "uuid" is not understood
    "b": the value of "quota_gb" is not understood
    "b": the value of "expire_date" is not understood
    "b": the value of "reset_day" is not understood
    "c": the value of "quota_gb" is not understood
    "c": the value of "status" is not understood
    "a": the name is there twice; the first one was taken
    row 5 of users has no name
    "#);
}

#[test]
fn a_counter_that_was_added_again_and_again_is_told() {
    let rows: Vec<String> = (1..=6).map(|n| format!("('a', {n}, {})", 10 * n)).collect();
    let sql = format!(
        "{TUTORIAL} INSERT INTO users (username, password) VALUES ('a', 'p');
         INSERT INTO traffic_logs (username, upload_bytes, download_bytes) VALUES {}",
        rows.join(",")
    );
    let Imported { users, not_understood, .. } = imported(&sql);
    assert_eq!(users[0].used.len(), 1, "the log's own month, where there are no statistics");
    assert_eq!(users[0].used[0].upload_bytes, 21);
    assert!(not_understood[0].contains("231 bytes were taken over, 66 may be true"), "{not_understood:?}");
}

#[test]
fn credentials_are_never_shown() {
    let sql = format!("{TUTORIAL} INSERT INTO users (username, password) VALUES ('a', 'topsecret')");
    let imported = imported(&sql);
    assert_eq!(imported.users[0].credentials, password("topsecret"));
    assert!(!format!("{imported:?}").contains("topsecret"));
}

#[test]
fn views_and_triggers_of_a_hostile_file_do_not_run() {
    // A view in place of the table: it would count for ever.
    let endless = "CREATE VIEW users AS WITH RECURSIVE n(username) AS (VALUES (1) UNION ALL
        SELECT username + 1 FROM n) SELECT username, username AS password FROM n";
    let (_directory, path) = file(endless);
    assert!(matches!(read_sqlite(&path), Err(ImportError::NoUsers(..))));
    let odd = format!(
        "{TUTORIAL} CREATE TABLE \"x\"\"; DROP TABLE users; --\" (\"a\"\"b\" TEXT);
         ALTER TABLE users ADD COLUMN \"x\"\", (SELECT 1) --\" TEXT;
         INSERT INTO users (username, password) VALUES ('a' || char(27) || '[31m', 'p');"
    );
    let Imported { users, not_understood, .. } = imported(&odd);
    assert_eq!(users[0].name, "a\u{1b}[31m", "whoever adds users refuses it");
    assert!(not_understood.iter().all(|text| !text.contains('\u{1b}')), "{not_understood:?}");
}

#[test]
fn what_is_no_such_file_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    assert!(matches!(read_sqlite(&path), Err(ImportError::Unreadable { .. })));
    for text in ["", "name,password\nalice,x\n"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(read_sqlite(&path), Err(ImportError::NotSqlite(_))), "{text:?}");
    }
    let (_directory, path) = file("CREATE TABLE t (x)");
    let error = read_sqlite(&path).unwrap_err();
    assert!(matches!(&error, ImportError::NoUsers(_, tables) if tables == "\"t\""), "{error}");
    let rows: Vec<String> = (0..2000).map(|n| format!("('user{n}', 'p')")).collect();
    let (_directory, path) =
        file(&format!("{TUTORIAL} INSERT INTO users (username, password) VALUES {}", rows.join(",")));
    let good = fs::read(&path).unwrap();
    assert_eq!(read_sqlite(&path).unwrap().users.len(), 2000);
    for page in 1..good.len() / 4096 {
        let mut bad = good.clone();
        bad[page * 4096..page * 4096 + 64].fill(0xa5);
        fs::write(&path, &bad).unwrap();
        // Never a panic, never half of it taken for all.
        match read_sqlite(&path) {
            Err(_) => {}
            Ok(read) => assert_eq!(read.users.len(), 2000, "page {page}"),
        }
    }
}
