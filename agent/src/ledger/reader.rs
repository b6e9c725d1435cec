//! Reading beside the writer, or without one. Never changes a file, and never waits for a writer.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::{
    audit, endings,
    error::{LedgerError, QueryError},
    model::{
        AuditRange, AuditSums, EventRecord, EventsWanted, InboundRecord, LedgerInfo, UsageAnswer, UsageQuery,
        UserRecord,
    },
    open, parking, people, policies, query,
    records::{ParkedRecord, PolicyRecord, Standing, WalletEntry},
    restore, schema, shares, standing, wallet,
};
use crate::core::event::{Counters, UserId};

/// Waits for the moments in which even a reader needs a lock: recovery of the write-ahead log.
const BUSY: Duration = Duration::from_secs(2);

/// A read-only connection. Blocks; not shared between threads, but may be sent to one.
pub struct Reader {
    connection: Connection,
    /// Where a copy was needed.
    _copy: Option<TempDir>,
}

impl Reader {
    /// Opens a ledger or a backup for reading, whether an agent runs or not.
    ///
    /// SQLite needs to write its side files even to read a write-ahead log. Where it may not (another
    /// user's file, a read-only disk), a file without a log is read as immutable, and one with a log
    /// is copied to a private temporary directory first.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn open(path: &Path) -> Result<Reader, LedgerError> {
        let (reader, version) = Self::open_any(path)?;
        if version < schema::SCHEMA {
            return Err(LedgerError::Other {
                path: path.to_owned(),
                detail: "it is of an older version; start the agent once to bring it up to date".to_owned(),
            });
        }
        Ok(reader)
    }

    /// As [`Reader::open`], of any version that this program knows, which is told. Only what every version
    /// has may be asked of an older one.
    pub(super) fn open_any(path: &Path) -> Result<(Reader, i64), LedgerError> {
        let metadata = fs::metadata(path).map_err(|error| LedgerError::from_io(path, &error))?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(LedgerError::NotALedger { path: path.to_owned() });
        }
        match connect(path, "mode=ro") {
            Ok(connection) => Self::checked(connection, path, None),
            Err(error)
                if !matches!(LedgerError::from_sqlite(path, &error), LedgerError::Permission { .. }) =>
            {
                Err(LedgerError::from_sqlite(path, &error))
            }
            Err(_) => {
                let wal = open::beside(path, "-wal");
                if fs::metadata(&wal).map_or(0, |wal| wal.len()) == 0 {
                    let connection = connect(path, "mode=ro&immutable=1")
                        .map_err(|error| LedgerError::from_sqlite(path, &error))?;
                    return Self::checked(connection, path, None);
                }
                Self::open_copy(path, &wal)
            }
        }
    }

    fn open_copy(path: &Path, wal: &Path) -> Result<(Reader, i64), LedgerError> {
        let io = |error: std::io::Error| LedgerError::from_io(path, &error);
        // The directory is mode 0700.
        let directory = tempfile::Builder::new().prefix("boxmeter-").tempdir().map_err(io)?;
        let copy = directory.path().join("ledger.db");
        copy_file(path, &copy).map_err(io)?;
        copy_file(wal, &open::beside(&copy, "-wal")).map_err(io)?;
        let connection = connect(&copy, "mode=ro").map_err(|error| LedgerError::from_sqlite(path, &error))?;
        // A running agent may have moved pages between the two copies.
        match open::quick_check(&connection) {
            Ok(None) => Self::checked(connection, path, Some(directory)),
            Ok(Some(detail)) => Err(LedgerError::Damaged { path: path.to_owned(), detail }),
            Err(error) => Err(LedgerError::from_sqlite(path, &error)),
        }
    }

    fn checked(
        connection: Connection,
        path: &Path,
        copy: Option<TempDir>,
    ) -> Result<(Reader, i64), LedgerError> {
        let version = schema::check_identity(&connection, path)?;
        if version == 0 {
            return Err(LedgerError::NotALedger { path: path.to_owned() });
        }
        Ok((Reader { connection, _copy: copy }, version))
    }

    /// # Errors
    /// See [`QueryError`].
    pub fn usage(&self, query: &UsageQuery) -> Result<UsageAnswer, QueryError> {
        query::usage(&self.connection, query)
    }

    /// Everything that the ledger has, over all kernel epochs.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn audit(&self) -> Result<AuditSums, QueryError> {
        audit::all(&self.connection)
    }

    /// Over a range of whole minutes: `from_ms` and `to_ms` are rounded down, `None` is the beginning
    /// and the end of what is kept.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn audit_range(&self, from_ms: Option<i64>, to_ms: Option<i64>) -> Result<AuditRange, QueryError> {
        audit::range(&self.connection, from_ms, to_ms)
    }

    /// See [`super::Ledger::standings`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn standings(&self, epoch: [u8; 16]) -> Result<Vec<Standing>, QueryError> {
        Ok(standing::all(&self.connection, epoch)?)
    }

    /// See [`super::Ledger::standing`].
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn standing(&self, user: UserId, epoch: [u8; 16]) -> Result<Option<Standing>, QueryError> {
        Ok(standing::of_user(&self.connection, user, epoch)?)
    }

    /// All living policies, the built-in ones first.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn policies(&self) -> Result<Vec<PolicyRecord>, QueryError> {
        Ok(policies::all(&self.connection)?)
    }

    /// All wallet entries of a user, oldest first; the packages among them are the purchase history.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn wallet(&self, user: UserId) -> Result<Vec<WalletEntry>, QueryError> {
        Ok(wallet::of_user(&self.connection, user)?)
    }

    /// Entries that are taken out of the file, or about to be put there.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn parked(&self) -> Result<Vec<ParkedRecord>, QueryError> {
        Ok(parking::all(&self.connection, None)?)
    }

    /// At most `limit` events, oldest first; the last one's `no` is the next page's `after`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn events(
        &self,
        user: Option<UserId>,
        since_ms: Option<i64>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, QueryError> {
        self.events_wanted(&EventsWanted { user, since_ms, ..EventsWanted::default() }, after, limit)
    }

    /// [`Reader::events`] with every filter, and in either order.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn events_wanted(
        &self,
        wanted: &EventsWanted,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, QueryError> {
        query::events(&self.connection, wanted, after, limit)
    }

    /// All users, tombstones included, by id.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn users(&self) -> Result<Vec<UserRecord>, QueryError> {
        Ok(people::users(&self.connection)?)
    }

    /// The present bearer of the name, else the last one who had it.
    ///
    /// # Errors
    /// [`QueryError::NoSuchUser`], or see [`QueryError`].
    pub fn user_by_name(&self, name: &str) -> Result<UserRecord, QueryError> {
        people::bearer(&self.connection, name)?.ok_or_else(|| QueryError::NoSuchUser(name.to_owned()))
    }

    /// All inbounds, tombstones included, by number.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn inbounds(&self) -> Result<Vec<InboundRecord>, QueryError> {
        Ok(people::inbounds(&self.connection)?)
    }

    /// When each user's bytes were last counted, UTC milliseconds.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn last_traffic(&self) -> Result<HashMap<UserId, i64>, QueryError> {
        query::last_traffic(&self.connection)
    }

    /// What a user moved on each inbound, by tag, over all time.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn by_inbound(&self, user: UserId) -> Result<Vec<(Arc<str>, Counters)>, QueryError> {
        shares::by_inbound(&self.connection, user)
    }

    /// # Errors
    /// See [`QueryError`].
    pub fn info(&self) -> Result<LedgerInfo, QueryError> {
        Ok(query::info(&self.connection)?)
    }

    /// Whether a backup was restored, and nothing was committed since.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn is_restored(&self) -> Result<bool, QueryError> {
        Ok(restore::untouched_since(&self.connection)?)
    }

    /// When the last commit was, if the machine went down under the agent before: what was counted between the two is
    /// lost.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn cut_off(&self, epoch: [u8; 16]) -> Result<Option<i64>, QueryError> {
        Ok(endings::cut_off(&self.connection, epoch)?)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut target)?;
    Ok(())
}

pub(super) fn connect(path: &Path, parameters: &str) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?{parameters}", escaped(path));
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "query_only", "ON")?;
    // The first read, so that what the file or its directory do not permit shows here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// A path within a URI: everything but plain characters as %XX.
fn escaped(path: &Path) -> String {
    use std::{fmt::Write, os::unix::ffi::OsStrExt};
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
