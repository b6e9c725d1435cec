//! Everything that can go wrong with the ledger, by what a person can do about it.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;

use super::records::Refusal;

/// Why the ledger could not be opened. The file is untouched whenever this is returned, except for
/// migrations that were committed before the error.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "the ledger {path} is damaged ({detail}). Nothing was changed. Keep a copy of the file, then \
         restore the latest backup: boxmeter restore BACKUP"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{path} is not a ledger of boxmeter; set [ledger] path to another file")]
    NotALedger { path: PathBuf },
    #[error(
        "the ledger {path} was written by a newer boxmeter (schema {found}, this program knows {known}); \
         install the newer version again, or restore a backup made by this one"
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the ledger {path} has schema {found} and must be brought to {known}; the copy of it that is kept before \
         that could not be made: {source}. Nothing was changed, and counting goes on in the kernel; mend that and \
         start again"
    )]
    NotKept { path: PathBuf, found: i64, known: i64, source: Box<super::backup::BackupError> },
    #[error("another boxmeter has the ledger {path} open; stop it first, or set another [ledger] path")]
    InUse { path: PathBuf },
    #[error("the ledger {path} is locked by another program; close it and start again")]
    Locked { path: PathBuf },
    #[error("no space is left on the disk of the ledger {path}; free some and start again")]
    DiskFull { path: PathBuf },
    #[error(
        "no permission for the ledger {path}: {detail}; run as root, or check the owner of the directory"
    )]
    Permission { path: PathBuf, detail: String },
    #[error(
        "the directory {directory} of the ledger does not exist; create it, or set another [ledger] path"
    )]
    NoDirectory { directory: PathBuf },
    #[error("there is no ledger {path}; has `boxmeter run` been started on this machine?")]
    NotFound { path: PathBuf },
    #[error("the ledger {path} cannot be opened: {detail}")]
    Other { path: PathBuf, detail: String },
}

/// Why a command was not carried out. Nothing of the command is in the ledger then. Usage is not
/// lost: the kernel keeps counting, and a later batch has the newer absolute counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error(
        "no space is left on the ledger's disk: nothing was changed, and counting goes on in the kernel; free \
         some space"
    )]
    DiskFull,
    #[error(
        "the ledger is locked by another program: nothing was changed, and counting goes on in the kernel; \
         close that program"
    )]
    Locked,
    #[error(
        "the ledger is damaged ({0}); counting goes on in the kernel, stop the agent and restore a backup: \
         boxmeter restore BACKUP"
    )]
    Damaged(String),
    #[error(
        "the ledger cannot be written: {0}; counting goes on in the kernel, check the disk and its mount"
    )]
    Io(String),
    #[error("the ledger's queue of {0} commands is full; its disk is too slow")]
    Busy(usize),
    #[error("the ledger's writer has ended; restart the agent")]
    Closed,
    #[error("refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error("unexpected error of the ledger: {0}; please report it")]
    Other(String),
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("there is no user {0:?} in the ledger")]
    NoSuchUser(String),
    #[error("the range has more than {0} intervals; ask for a shorter range or longer intervals")]
    TooLong(usize),
    #[error("the range ends before it begins")]
    EmptyRange,
    #[error("the time is outside the calendar: {0}")]
    Calendar(String),
    #[error("the ledger is damaged ({0}); restore a backup: boxmeter restore BACKUP")]
    Damaged(String),
    #[error("the ledger cannot be read: {0}")]
    Read(String),
}

/// SQLite's errors by what they mean here. One place, so that opening, writing and reading agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    DiskFull,
    Locked,
    Damaged,
    Permission,
    Io,
    Other,
}

pub(super) fn cause(error: &rusqlite::Error) -> Cause {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return Cause::Other };
    match failure.code {
        // tmpfs and some file systems refuse to grow the -shm file before SQLite sees a short write.
        ErrorCode::DiskFull => Cause::DiskFull,
        ErrorCode::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
            Cause::DiskFull
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Cause::Locked,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Cause::Damaged,
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen => Cause::Permission,
        ErrorCode::SystemIoFailure => Cause::Io,
        _ => Cause::Other,
    }
}

impl LedgerError {
    pub(super) fn from_sqlite(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match cause(error) {
            Cause::DiskFull => Self::DiskFull { path },
            Cause::Locked => Self::Locked { path },
            Cause::Damaged => Self::Damaged { path, detail },
            Cause::Permission => Self::Permission { path, detail },
            Cause::Io | Cause::Other => Self::Other { path, detail },
        }
    }

    pub(super) fn from_io(path: &std::path::Path, error: &io::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path, detail }
            }
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Other { path, detail },
        }
    }
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        match cause(&error) {
            Cause::DiskFull => Self::DiskFull,
            Cause::Locked => Self::Locked,
            Cause::Damaged => Self::Damaged(error.to_string()),
            Cause::Permission | Cause::Io => Self::Io(error.to_string()),
            Cause::Other => Self::Other(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        match cause(&error) {
            Cause::Damaged => Self::Damaged(error.to_string()),
            _ => Self::Read(error.to_string()),
        }
    }
}
