//! A backup takes the ledger's place; what was there is kept beside it.
//!
//! A backup is older than the kernel's counters, and its cursors say how far it had taken them over: in the kernel's
//! present epoch the next tick counts everything since, once. What was counted in epochs that are over is only in
//! the ledger that is replaced: how much is told, in the answer and in an event.
//!
//! What the ledger says about sing-box's files as they are now (entries that boxmeter has taken out of them) is no
//! history: it is taken over from the ledger that is replaced, or users who are out would be taken for deleted.
//! Sessions of the panel are not restored, and tokens that were deleted since are not either.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use serde_json::json;
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::{
    backup::{self, BackupError},
    commit::insert_event,
    deliveries,
    error::{CommitError, LedgerError},
    gone,
    model::{LedgerInfo, NewEvent},
    open, query,
    reader::Reader,
    schema,
};

/// The event of a restore.
pub(super) const EVENT: &str = "ledger_restored";

/// Names in the event; more are counted.
const NAMES_MAX: usize = 100;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The last commit of the backup.
    pub as_of_ms: Option<i64>,
    pub ledger_id: Uuid,
    /// Where the ledger is that was replaced; `None`: there was none.
    pub kept: Option<PathBuf>,
    /// What that one has and the backup does not. `None`: it cannot be read.
    pub since: Option<Since>,
}

/// What happened after the backup, as the replaced ledger has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    pub as_of_ms: Option<i64>,
    /// Payload that the kernel still has: the next tick counts it again.
    pub in_kernel_bytes: i64,
    /// Payload that only the replaced ledger has.
    pub gone_bytes: i64,
    /// Users that the backup does not know. If sing-box's files have them, they are adopted as new ones.
    pub unknown_users: Vec<String>,
    /// Those of them who are out of sing-box's files: their entries are only in the replaced ledger.
    pub unknown_out: Vec<String>,
}

/// Why nothing was restored. The ledger is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "the agent is running with the ledger {path}: stop it (`systemctl stop boxmeter`), restore, and start it again"
    )]
    Running { path: PathBuf },
    #[error("{path} is the ledger itself, and no backup of it")]
    Itself { path: PathBuf },
    #[error("the backup {path} is damaged ({detail}): take another one")]
    Damaged { path: PathBuf, detail: String },
    #[error("there is no file {path}")]
    NoBackup { path: PathBuf },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Copy(#[from] BackupError),
    #[error("the ledger {path} cannot be replaced: {detail}")]
    Other { path: PathBuf, detail: String },
}

/// Puts a backup into the ledger's place. `epoch` is the kernel's, if its programs are loaded.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(
    file: &Path,
    ledger: &Path,
    epoch: Option<[u8; 16]>,
    now_ms: i64,
) -> Result<Restored, RestoreError> {
    // Held until the end: no agent may begin meanwhile.
    let _lock = lock(ledger)?;
    // The file itself, where its name leads elsewhere.
    let ledger = &ledger.canonicalize().unwrap_or_else(|_| ledger.to_owned());
    if backup::is_the_ledger(ledger, file) {
        return Err(RestoreError::Itself { path: file.to_owned() });
    }
    let new = copy(file, ledger)?;
    let other = |error: io::Error| RestoreError::Other { path: ledger.to_owned(), detail: error.to_string() };
    let mut done = Restored { ledger_id: Uuid::now_v7(), ..Restored::default() };
    let mut old = None;
    if fs::symlink_metadata(ledger).is_ok() {
        done.kept = Some(kept_path(ledger, now_ms).map_err(other)?);
        // One that cannot be read is why there are backups.
        old = Old::read(ledger).ok();
    }
    amend(&new, (file, ledger), old.as_ref(), epoch, now_ms, &mut done)?;
    // Before its file moves: closing looks for files by their names.
    drop(old);
    backup::verify(new.path())?;
    let aside = match &done.kept {
        Some(kept) => kept.clone(),
        None => kept_path(ledger, now_ms).map_err(other)?,
    };
    swap(new, ledger, &aside).map_err(other)?;
    Ok(done)
}

fn lock(ledger: &Path) -> Result<fs::File, RestoreError> {
    open::prepare_directory(ledger)?;
    open::lock(ledger).map_err(|error| match error {
        LedgerError::InUse { path } => RestoreError::Running { path },
        other => other.into(),
    })
}

/// A checked copy of the backup, beside the ledger.
fn copy(file: &Path, ledger: &Path) -> Result<NamedTempFile, RestoreError> {
    let damaged = |detail: String| RestoreError::Damaged { path: file.to_owned(), detail };
    let of_backup = |error: LedgerError| match error {
        LedgerError::Damaged { detail, .. } => damaged(detail),
        LedgerError::NotFound { path } => RestoreError::NoBackup { path },
        other => other.into(),
    };
    let (source, _) = Reader::open_any(file).map_err(of_backup)?;
    match open::quick_check(source.connection()) {
        Ok(None) => {}
        Ok(Some(detail)) => return Err(damaged(detail)),
        Err(error) => return Err(of_backup(LedgerError::from_sqlite(file, &error))),
    }
    // Should somebody die between the two last steps, this is the name of the ledger that was replaced.
    let mut name = ledger.file_name().unwrap_or_default().to_owned();
    name.push(".restoring-");
    let new = tempfile::Builder::new().prefix(&name).tempfile_in(backup::directory_of(ledger));
    let new = new.map_err(|error| LedgerError::from_io(ledger, &error))?;
    let bytes = fs::metadata(file).map_or(0, |meta| meta.len());
    backup::copy_pages(source.connection(), &new, (ledger, bytes), &|| true)?;
    Ok(new)
}

/// What is asked of the ledger that is replaced.
struct Old {
    reader: Reader,
    current: bool,
    info: Option<LedgerInfo>,
}

impl Old {
    /// First moves what is only in its log into the file, so that the file is whole by itself.
    fn read(ledger: &Path) -> Result<Old, LedgerError> {
        let sqlite = |error: rusqlite::Error| LedgerError::from_sqlite(ledger, &error);
        let (reader, version) = Reader::open_any(ledger)?;
        if let Some(detail) = open::quick_check(reader.connection()).map_err(sqlite)? {
            return Err(LedgerError::Damaged { path: ledger.to_owned(), detail });
        }
        let writer = Connection::open(ledger).map_err(sqlite)?;
        writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .map_err(sqlite)?;
        let current = version == schema::SCHEMA;
        let info = if current { reader.info().ok() } else { None };
        Ok(Old { reader, current, info })
    }
}

/// Makes the copy what the ledger is from now on.
fn amend(
    new: &NamedTempFile,
    (file, ledger): (&Path, &Path),
    old: Option<&Old>,
    epoch: Option<[u8; 16]>,
    now_ms: i64,
    done: &mut Restored,
) -> Result<(), RestoreError> {
    let path = new.path();
    let sqlite = |error: rusqlite::Error| LedgerError::from_sqlite(path, &error);
    let mut connection = Connection::open(path).map_err(sqlite)?;
    schema::migrate(&mut connection, path)?;
    done.as_of_ms =
        connection.query_row("SELECT committed_ms FROM meta", [], |row| row.get(0)).map_err(sqlite)?;
    let mut change = |transaction: &Transaction<'_>| -> Result<(), CommitError> {
        transaction.execute("DELETE FROM panel_sessions", [])?;
        match old.filter(|old| old.current) {
            Some(old) => done.since = Some(take_over(transaction, old, epoch)?),
            None if done.kept.is_some() => rescue(transaction, ledger)?,
            None => {}
        }
        let before = old.filter(|old| old.current).map(|old| old.reader.connection());
        deliveries::take_over(transaction, before)?;
        let id = done.ledger_id.into_bytes();
        transaction.execute("UPDATE meta SET ledger_id = ?1, rev = rev + 1", [id])?;
        let rev = transaction.query_row("SELECT rev FROM meta", [], |row| row.get(0))?;
        Ok(insert_event(transaction, &event(file, done, now_ms), rev)?)
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    change(&transaction)
        .map_err(|error| RestoreError::Other { path: ledger.to_owned(), detail: error.to_string() })?;
    transaction.commit().map_err(sqlite)?;
    Ok(())
}

fn event(file: &Path, done: &Restored, now_ms: i64) -> NewEvent {
    let since = done.since.as_ref();
    let names = |names: &[String]| names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
    NewEvent {
        at_ms: now_ms,
        kind: EVENT.to_owned(),
        user: None,
        actor: "uid:0".to_owned(),
        data: json!({
            "severity": "warning",
            "message": sentence(done),
            "file": file.display().to_string(),
            "backup_of_ms": done.as_of_ms,
            "replaced_of_ms": since.and_then(|since| since.as_of_ms),
            "kept": done.kept.as_ref().map(|kept| kept.display().to_string()),
            "in_kernel_bytes": since.map(|since| since.in_kernel_bytes),
            "gone_bytes": since.map(|since| since.gone_bytes),
            "unknown_users": since.map(|since| names(&since.unknown_users)),
            "unknown_out": since.map(|since| names(&since.unknown_out)),
        }),
    }
}

/// What the event says.
fn sentence(done: &Restored) -> String {
    let time = |ms: Option<i64>| {
        let at = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.map_or_else(|| "its beginning".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
    };
    let mut text = format!("a backup of {} took the ledger's place", time(done.as_of_ms));
    match (&done.since, &done.kept) {
        (_, None) => text.push_str("; there was no ledger before"),
        (None, Some(kept)) => text.push_str(&format!(
            "; the one before cannot be read and is kept as {}: what only it had is not known",
            kept.display()
        )),
        (Some(since), Some(kept)) => text.push_str(&format!(
            "; of the payload since, {} bytes are counted again from the kernel, and {} bytes, with all changes of users \
             and policies since, are only in the ledger before, kept as {}",
            since.in_kernel_bytes,
            since.gone_bytes,
            kept.display()
        )),
    }
    text
}

/// Takes over from the replaced ledger what is no history, and tells what else it has.
fn take_over(
    transaction: &Transaction<'_>,
    old: &Old,
    epoch: Option<[u8; 16]>,
) -> Result<Since, CommitError> {
    let before = old.reader.connection();
    let mut since =
        Since { as_of_ms: old.info.as_ref().and_then(|info| info.committed_ms), ..Since::default() };
    let known = ids(transaction, "SELECT id FROM users")?;
    let out = ids(before, "SELECT user_id FROM parked WHERE stage IN ('leaving', 'out')")?;
    let mut users = before.prepare("SELECT id, name FROM users WHERE tombstoned_ms IS NULL ORDER BY name")?;
    let mut rows = users.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name): ([u8; 16], String) = (row.get(0)?, row.get(1)?);
        if known.contains(&id) {
            continue;
        }
        if out.contains(&id) {
            since.unknown_out.push(name.clone());
        }
        since.unknown_users.push(name);
    }
    parked(transaction, before, &known)?;
    gone::take_over(transaction, before)?;
    // A deletion that was still to be carried out then, and is over by now, would take out who has the name since.
    let removing = "SELECT id FROM users WHERE file_state = 'removing'";
    for id in ids(transaction, removing)?.difference(&ids(before, removing)?) {
        transaction.execute("UPDATE users SET file_state = 'settled' WHERE id = ?1", [id])?;
    }
    let tokens = ids(before, "SELECT id FROM panel_tokens")?;
    for id in ids(transaction, "SELECT id FROM panel_tokens")?.difference(&tokens) {
        transaction.execute("DELETE FROM panel_tokens WHERE id = ?1", [id])?;
    }
    let (ours, theirs) = (payload_by_epoch(transaction)?, payload_by_epoch(before)?);
    for (of, bytes) in theirs {
        let more = bytes.saturating_sub(ours.get(&of).copied().unwrap_or(0)).max(0);
        match epoch == Some(of) {
            true => since.in_kernel_bytes = more,
            false => since.gone_bytes = since.gone_bytes.saturating_add(more),
        }
    }
    Ok(since)
}

fn ids(connection: &Connection, sql: &str) -> rusqlite::Result<HashSet<[u8; 16]>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// What of whom is out of sing-box's files now.
fn parked(
    transaction: &Transaction<'_>,
    before: &Connection,
    known: &HashSet<[u8; 16]>,
) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM parked", [])?;
    let rev: i64 = transaction.query_row("SELECT rev + 1 FROM meta", [], |row| row.get(0))?;
    let mut statement =
        before.prepare("SELECT user_id, inbound_tag, nth, stage, entry, at_ms FROM parked")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let user: [u8; 16] = row.get(0)?;
        if known.contains(&user) {
            let (tag, nth): (String, i64) = (row.get(1)?, row.get(2)?);
            let (stage, entry, at_ms): (String, String, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            transaction.execute(
                "INSERT INTO parked VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![user, tag, nth, stage, entry, at_ms, rev],
            )?;
        }
    }
    Ok(())
}

/// The ledger that is replaced cannot be read as a whole. The entries that are out of sing-box's files, and whose
/// names were deleted, are in no other place, so they are read if their part of it can be; else those of the backup
/// stay.
fn rescue(transaction: &Transaction<'_>, ledger: &Path) -> rusqlite::Result<()> {
    let known = ids(transaction, "SELECT id FROM users")?;
    let try_it = |what: &str, read: &dyn Fn(&Connection) -> rusqlite::Result<()>| {
        transaction.execute_batch("SAVEPOINT rescue")?;
        let done = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|before| read(&before));
        if let Err(error) = done {
            tracing::warn!("{what} is not known any more but by the backup: {error}");
            transaction.execute_batch("ROLLBACK TO rescue")?;
        }
        transaction.execute_batch("RELEASE rescue")
    };
    try_it("who is out of sing-box's files", &|before| parked(transaction, before, &known))?;
    try_it("who was deleted", &|before| gone::take_over(transaction, before))
}

fn payload_by_epoch(connection: &Connection) -> rusqlite::Result<HashMap<[u8; 16], i64>> {
    let mut statement = connection.prepare(
        "SELECT e.epoch, sum(t.upload_payload + t.download_payload + t.reported_upload + t.reported_download)
         FROM usage_totals t JOIN epochs e ON e.no = t.epoch_no GROUP BY e.epoch",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// A name beside the ledger that nothing has yet.
fn kept_path(ledger: &Path, now_ms: i64) -> io::Result<PathBuf> {
    let at = Timestamp::from_millisecond(now_ms).map_err(io::Error::other)?.to_zoned(TimeZone::UTC);
    let name = format!(".before-{}", at.strftime("%Y%m%dT%H%M%SZ"));
    let paths = (0..1000).map(|n| match n {
        0 => open::beside(ledger, &name),
        n => open::beside(ledger, &format!("{name}.{n}")),
    });
    let free = paths.into_iter().find(|path| fs::symlink_metadata(path).is_err());
    free.ok_or_else(|| io::Error::other("too many ledgers are kept beside it"))
}

/// The new ledger takes the place of the old one, if there is one, in one step, and the old one is at `kept`.
///
/// The old one's log goes first, also where its file is gone already: a log beside another database would be
/// taken for its own. What was only in it is in the file by then, or the file is damaged; a crash after this
/// leaves the log under the name where the file is to come.
fn swap(new: NamedTempFile, ledger: &Path, kept: &Path) -> io::Result<()> {
    new.as_file().sync_all()?;
    let directory = backup::directory_of(ledger);
    for suffix in backup::BESIDE {
        match fs::rename(open::beside(ledger, suffix), open::beside(kept, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    backup::sync_directory(directory)?;
    let owner = match fs::metadata(ledger) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            new.persist_noclobber(ledger)?;
            return backup::sync_directory(directory);
        }
        owner => owner?,
    };
    std::os::unix::fs::fchown(new.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    let place = new.into_temp_path();
    let exchanged = rustix::fs::renameat_with(
        rustix::fs::CWD,
        &*place,
        rustix::fs::CWD,
        ledger,
        rustix::fs::RenameFlags::EXCHANGE,
    );
    match exchanged {
        // The old one has the temporary name now, and must not go with it.
        Ok(()) => {
            let place = place.keep()?;
            crate::fault::point("exchanged");
            fs::rename(place, kept)?;
        }
        // Few file systems cannot exchange names.
        Err(_) => {
            fs::hard_link(ledger, kept)?;
            place.persist(ledger)?;
        }
    }
    backup::sync_directory(directory)
}

/// Whether a backup was restored that nothing was committed to since.
pub(super) fn untouched_since(connection: &Connection) -> rusqlite::Result<bool> {
    let info = query::info(connection)?;
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM events WHERE kind = ?1 AND at_ms > ?2)",
        params![EVENT, info.committed_ms.unwrap_or(i64::MIN)],
        |row| row.get(0),
    )
}
