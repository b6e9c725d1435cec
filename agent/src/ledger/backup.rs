//! Consistent copies of a ledger, whether an agent writes to it or not.
//!
//! A copy is read on a connection of its own, within one transaction: it shows one state of the ledger, and the
//! writer goes on beside it, since the write-ahead log keeps what the copy still has to read. It is made in
//! small steps, flushed as it grows, so that the writer's own flushes never wait for a gigabyte; read back and
//! checked; and only then it gets its name.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OptionalExtension,
    backup::{Backup, StepResult},
};
use tempfile::NamedTempFile;

use super::{
    error::{Cause, LedgerError, cause},
    open,
    reader::{self, Reader},
    schema,
};

/// Pages (4 KiB each) copied at a time.
const PAGES_PER_STEP: i32 = 256;
/// Between two steps, so that the disk is there for others.
const PAUSE: Duration = Duration::from_millis(2);
/// Steps after which what was copied is flushed: 16 MiB.
const STEPS_PER_FLUSH: u32 = 16;

/// How the name of a copy begins and ends that is not done: whoever dies on the way leaves it.
pub(super) const PARTIAL: [&str; 2] = [".boxmeter-", ".partial"];

/// A backup that was made and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    pub bytes: u64,
    /// The last commit that is in it; `None`: there was none yet.
    pub as_of_ms: Option<i64>,
}

/// Why there is no backup. Nothing of the attempt is left, and the ledger is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{path} is there already: choose another name, or overwrite it with --force")]
    Exists { path: PathBuf },
    #[error("{path} is the ledger itself: choose another name")]
    Itself { path: PathBuf },
    #[error("the directory {directory} does not exist: create it first")]
    NoDirectory { directory: PathBuf },
    #[error(
        "no space is left on the disk of {path}: the backup needs {bytes} bytes; free some, or choose another disk"
    )]
    DiskFull { path: PathBuf, bytes: u64 },
    #[error("no permission to write {path}: {detail}")]
    Permission { path: PathBuf, detail: String },
    #[error(
        "the copy that was to become {path} is damaged ({detail}), and was removed: the ledger or a disk is failing; \
         keep the backups that you have, and look at the kernel's log"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{path} was not written: the program is ending")]
    Ending { path: PathBuf },
    #[error("the backup {path} cannot be written: {detail}")]
    Other { path: PathBuf, detail: String },
}

impl BackupError {
    fn from_io(path: &Path, error: &io::Error, bytes: u64) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { path, bytes }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path, detail }
            }
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            _ => Self::Other { path, detail },
        }
    }

    fn from_sqlite(path: &Path, error: &rusqlite::Error, bytes: u64) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match cause(error) {
            Cause::DiskFull => Self::DiskFull { path, bytes },
            Cause::Damaged => Self::Damaged { path, detail },
            Cause::Permission => Self::Permission { path, detail },
            Cause::Locked | Cause::Io | Cause::Other => Self::Other { path, detail },
        }
    }
}

/// What SQLite keeps beside a database and reads with it.
pub(super) const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Copies a ledger into a file of mode 0600, which gets its name when it is whole and checked. `go_on` is asked
/// between steps: a copy that is not wanted any more is given up.
///
/// # Errors
/// See [`BackupError`]; a file that is there already stays unless `overwrite`.
pub fn backup(
    ledger: &Path,
    to: &Path,
    overwrite: bool,
    go_on: &dyn Fn() -> bool,
) -> Result<BackedUp, BackupError> {
    let directory = directory_of(to);
    if !directory.is_dir() {
        return Err(BackupError::NoDirectory { directory: directory.to_owned() });
    }
    if is_the_ledger(ledger, to) {
        return Err(BackupError::Itself { path: to.to_owned() });
    }
    if !overwrite && fs::symlink_metadata(to).is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    for suffix in BESIDE {
        let beside = super::open::beside(to, suffix);
        if fs::symlink_metadata(&beside).is_ok() {
            let detail =
                format!("{} would be taken for a part of it: move that away first", beside.display());
            return Err(BackupError::Other { path: to.to_owned(), detail });
        }
    }
    let (source, _) = Reader::open_any(ledger)?;
    let bytes = size(source.connection()).map_err(|error| LedgerError::from_sqlite(ledger, &error))?;
    let io = |error: &io::Error| BackupError::from_io(to, error, bytes);
    let copy = partial(directory).map_err(|error| io(&error))?;
    copy_pages(source.connection(), &copy, (to, bytes), go_on)?;
    let as_of_ms = verify(copy.path()).map_err(|error| match error {
        LedgerError::Damaged { detail, .. } => BackupError::Damaged { path: to.to_owned(), detail },
        other => BackupError::Ledger(other),
    })?;
    let bytes = copy.as_file().metadata().map_err(|error| io(&error))?.len();
    copy.as_file().sync_all().map_err(|error| io(&error))?;
    let named = if overwrite { copy.persist(to) } else { copy.persist_noclobber(to) };
    named.map_err(|error| io(&error.error))?;
    sync_directory(directory).map_err(|error| io(&error))?;
    Ok(BackedUp { bytes, as_of_ms })
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A new file of mode 0600, gone again unless it gets a name.
pub(super) fn partial(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(PARTIAL[0]).suffix(PARTIAL[1]).tempfile_in(directory)
}

/// Whether the file, by whatever name, is one that SQLite has of the ledger.
pub(super) fn is_the_ledger(ledger: &Path, file: &Path) -> bool {
    let Ok(file_meta) = fs::metadata(file) else {
        // A log that is not there yet would be taken for the ledger's.
        let same_name = |suffix| open::beside(ledger, suffix).file_name() == file.file_name();
        let same_place = directory_of(ledger).canonicalize().ok() == directory_of(file).canonicalize().ok();
        return same_place && ["", "-wal", "-shm", "-lock", "-journal"].into_iter().any(same_name);
    };
    ["", "-wal", "-shm", "-lock", "-journal"].into_iter().any(|suffix| {
        fs::metadata(open::beside(ledger, suffix))
            .is_ok_and(|own| (own.dev(), own.ino()) == (file_meta.dev(), file_meta.ino()))
    })
}

/// Bytes that a copy which nobody has asked for leaves on its disk, for what else is written there, the ledger's own
/// log among it.
pub(super) const LEFT_FREE: u64 = 32 << 20;

/// Refuses early what would leave less than `left` bytes: a disk filled to the brim hurts everybody else on it, and
/// the ledger itself.
pub(super) fn room(ledger: &Path, copy: &Path, left: u64) -> Result<(), BackupError> {
    let io = |error: std::io::Error| BackupError::Other { path: copy.to_owned(), detail: error.to_string() };
    let length = |suffix: &str| std::fs::metadata(open::beside(ledger, suffix)).map_or(0, |meta| meta.len());
    // The log may hold pages that the file does not have yet.
    let bytes = length("") + length("-wal") + left;
    let disk = rustix::fs::statvfs(directory_of(copy)).map_err(|error| io(error.into()))?;
    match disk.f_bavail.saturating_mul(disk.f_frsize) < bytes {
        true => Err(BackupError::DiskFull { path: copy.to_owned(), bytes }),
        false => Ok(()),
    }
}

fn size(connection: &Connection) -> rusqlite::Result<u64> {
    let ask = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok(u64::try_from(ask("page_count")?.saturating_mul(ask("page_size")?)).unwrap_or(0))
}

/// Copies every page of one state of `source`.
pub(super) fn copy_pages(
    source: &Connection,
    copy: &NamedTempFile,
    (to, bytes): (&Path, u64),
    go_on: &dyn Fn() -> bool,
) -> Result<(), BackupError> {
    let sqlite = |error: rusqlite::Error| BackupError::from_sqlite(to, &error, bytes);
    // Held until the end: were each step to read on its own, every commit would begin the copy anew.
    let state = source.unchecked_transaction().map_err(sqlite)?;
    state.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(sqlite)?;
    let mut target = Connection::open(copy.path()).map_err(sqlite)?;
    // Flushed here, and worth nothing until it is whole.
    target.pragma_update(None, "synchronous", "OFF").map_err(sqlite)?;
    let running = Backup::new(&state, &mut target).map_err(sqlite)?;
    let mut steps = 0;
    loop {
        if !go_on() {
            return Err(BackupError::Ending { path: to.to_owned() });
        }
        match running.step(PAGES_PER_STEP).map_err(sqlite)? {
            StepResult::Done => break,
            _ => std::thread::sleep(PAUSE),
        }
        steps += 1;
        if steps % STEPS_PER_FLUSH == 0 {
            copy.as_file().sync_data().map_err(|error| BackupError::from_io(to, &error, bytes))?;
        }
    }
    drop(running);
    // A copy is one file: readable anywhere without side files, also from a read-only directory.
    target.pragma_update(None, "journal_mode", "DELETE").map_err(sqlite)?;
    Ok(())
}

/// Reads a copy back; the time of its last commit.
pub(super) fn verify(copy: &Path) -> Result<Option<i64>, LedgerError> {
    let sqlite = |error: rusqlite::Error| LedgerError::from_sqlite(copy, &error);
    let connection = reader::connect(copy, "mode=ro&immutable=1").map_err(sqlite)?;
    schema::check_identity(&connection, copy)?;
    if let Some(detail) = open::quick_check(&connection).map_err(sqlite)? {
        return Err(LedgerError::Damaged { path: copy.to_owned(), detail });
    }
    let as_of: Option<Option<i64>> = connection
        .query_row("SELECT committed_ms FROM meta", [], |row| row.get(0))
        .optional()
        .map_err(sqlite)?;
    Ok(as_of.flatten())
}
