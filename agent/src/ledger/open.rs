//! Opening: the checks that come before the first write, in the order in which they protect the file.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{before, error::LedgerError, schema};

/// The only directory that opening creates: elsewhere a missing directory is more likely a typing
/// error or a missing mount.
const OWN_DIRECTORY: &str = "/var/lib/boxmeter";

/// Whether the whole file was checked at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Full,
    /// The time was up before the end of a big file; what was read was sound.
    Partial,
}

/// A file that was checked and is ours to write, with the lock that makes it so.
pub(super) struct Claimed {
    pub connection: Connection,
    /// Held as long as the connection; other programs that only read do not need it.
    pub lock: File,
    pub check: Check,
}

pub(super) fn claim(path: &Path, busy: Duration, check_max: Duration) -> Result<Claimed, LedgerError> {
    prepare_directory(path)?;
    let lock = lock(path)?;
    let mut check = Check::Full;
    if prepare_file(path)? {
        let (read, version) = inspect(path, busy, check_max)?;
        check = read;
        before::keep(path, version)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| LedgerError::from_sqlite(path, &error))?;
    schema::configure_writer(&connection, busy).map_err(|error| LedgerError::from_sqlite(path, &error))?;
    Ok(Claimed { connection, lock, check })
}

pub(super) fn prepare_directory(path: &Path) -> Result<(), LedgerError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if directory.is_dir() {
        return Ok(());
    }
    if directory != Path::new(OWN_DIRECTORY) {
        return Err(LedgerError::NoDirectory { directory: directory.to_owned() });
    }
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
        .map_err(|error| LedgerError::from_io(directory, &error))
}

/// SQLite's own locks only last for a transaction; this one keeps a second agent from interleaving
/// its batches with ours. The file stays: removing it would open a race.
pub(super) fn lock(path: &Path) -> Result<File, LedgerError> {
    let lock_path = beside(path, "-lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| LedgerError::from_io(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LedgerError::from_io(path, &error)),
    }
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the file if there is none, readable by its owner only; SQLite gives its side files the same
/// mode. True if there was one already.
///
/// This must come before any connection of this process: closing another descriptor of a database
/// drops SQLite's locks on it.
fn prepare_file(path: &Path) -> Result<bool, LedgerError> {
    let io = |error: std::io::Error| LedgerError::from_io(path, &error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(LedgerError::NotALedger { path: path.to_owned() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io)?;
    }
    Ok(true)
}

/// Looks at an existing file through a connection that cannot write, so that a damaged or foreign
/// file is left as it is.
fn inspect(path: &Path, busy: Duration, check_max: Duration) -> Result<(Check, i64), LedgerError> {
    let sqlite = |error: rusqlite::Error| LedgerError::from_sqlite(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(busy).map_err(sqlite)?;
    let version = schema::check_identity(&connection, path)?;
    let (done, wait) = mpsc::channel::<()>();
    let interrupt = connection.get_interrupt_handle();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(check_max) == Err(mpsc::RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let result = quick_check(&connection);
    drop(done);
    if watchdog.join().is_err() {
        return Err(LedgerError::Other {
            path: path.to_owned(),
            detail: "the check was not watched".to_owned(),
        });
    }
    match result {
        Ok(None) => Ok((Check::Full, version)),
        Ok(Some(detail)) => Err(LedgerError::Damaged { path: path.to_owned(), detail }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok((Check::Partial, version))
        }
        Err(error) => Err(sqlite(error)),
    }
}

/// The first finding, if any.
pub(super) fn quick_check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(if finding == "ok" { None } else { Some(finding) })
}
