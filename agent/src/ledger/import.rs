//! Reading another system's SQLite file: the tutorial's `users`, `traffic_logs` and `monthly_stats`,
//! and what people made of them; and the panels' databases (`panels`). The file is only read, and nothing in it is trusted: it may be of any
//! origin, damaged, or made to do harm.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, config::DbConfig, types::ValueRef};

use super::{open, reader::connect};
use crate::import::{Findings, Imported, ImportedStatus, ImportedUsage, ImportedUser, UsedIn, quoted};

mod panels;
mod tables;
mod values;

use tables::{Table, Tables};

/// Users that a file may have.
pub(super) const USERS_MAX: usize = 100_000;
/// How long reading may take, whatever the file's schema makes of it.
const READING_MAX: Duration = Duration::from_secs(60);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path} cannot be read: {detail}")]
    Unreadable { path: PathBuf, detail: String },
    #[error("{0} is no SQLite database; CSV and JSON files need the ending .csv or .json")]
    NotSqlite(PathBuf),
    #[error("{0} is damaged; make a copy with `sqlite3 FILE .recover` and import that")]
    Damaged(PathBuf),
    #[error("{0} has no table `users` with a column of names; its tables are: {1}")]
    NoUsers(PathBuf, String),
    #[error(
        "{0} is a database of Marzban, which is not read: write its users as CSV or JSON and import that (see moving.md)"
    )]
    Marzban(PathBuf),
    #[error(
        "{0} is a database of S-UI before 1.2, which is not read: update S-UI first, which changes its tables"
    )]
    OldSui(PathBuf),
    #[error("{0} has more than {USERS_MAX} users")]
    TooMany(PathBuf),
    #[error("reading {path} took more than {} s; import a smaller file", READING_MAX.as_secs())]
    TooLong { path: PathBuf },
}

/// Reads users with credentials, quotas (the script's in GB, which people mean as GiB), status and usage.
/// Whose file it is its tables tell.
///
/// # Errors
/// See [`ImportError`]; the file is never changed.
pub fn read_sqlite(path: &Path) -> Result<Imported, ImportError> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(ImportError::NotSqlite(path.to_owned()));
    }
    let mut findings = Findings::default();
    let connection = connect_foreign(path, &mut findings).map_err(|error| sqlite(path, &error))?;
    let (done, wait) = mpsc::channel::<()>();
    let interrupt = connection.get_interrupt_handle();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(READING_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let imported = read(&connection, path, &mut findings);
    drop(done);
    // It only sleeps; it cannot fail.
    let _ = watchdog.join();
    Ok(Imported { not_understood: findings.finish(), ..imported? })
}

/// A connection that can neither write nor run anything that the file brings along.
fn connect_foreign(path: &Path, findings: &mut Findings) -> rusqlite::Result<Connection> {
    let connection = match connect(path, "mode=ro") {
        Ok(connection) => connection,
        // Where SQLite may not make its side files, the file is read without them.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => return Err(error),
        Err(_) => {
            for suffix in ["-wal", "-journal"] {
                if fs::metadata(open::beside(path, suffix)).map_or(0, |file| file.len()) > 0 {
                    findings.add(format!(
                        "the file beside it that ends in {suffix} could not be read: the last changes are missing"
                    ));
                }
            }
            connect(path, "mode=ro&immutable=1")?
        }
    };
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    connection.pragma_update(None, "cell_size_check", "ON")?;
    Ok(connection)
}

fn read(connection: &Connection, path: &Path, findings: &mut Findings) -> Result<Imported, ImportError> {
    let failed = |error: rusqlite::Error| sqlite(path, &error);
    match open::quick_check(connection) {
        Ok(None) => {}
        Ok(Some(_)) => return Err(ImportError::Damaged(path.to_owned())),
        Err(error) => return Err(failed(error)),
    }
    let tables = Tables::of(connection).map_err(failed)?;
    match panels::whose(&tables) {
        Some(panels::Whose::Read(panel)) => {
            let read = panels::read(connection, &tables, panel, findings).map_err(failed)?;
            return read.ok_or_else(|| ImportError::TooMany(path.to_owned()));
        }
        Some(panels::Whose::Marzban) => return Err(ImportError::Marzban(path.to_owned())),
        Some(panels::Whose::OldSui) => return Err(ImportError::OldSui(path.to_owned())),
        None => {}
    }
    let users = read_script(connection, path, &tables, findings)?;
    Ok(Imported { users, ..Imported::default() })
}

/// The tutorial's script.
fn read_script(
    connection: &Connection,
    path: &Path,
    tables: &Tables,
    findings: &mut Findings,
) -> Result<Vec<ImportedUser>, ImportError> {
    let failed = |error: rusqlite::Error| sqlite(path, &error);
    let Some(users) = tables.get("users").filter(|table| table.find(NAMES).is_some()) else {
        return Err(ImportError::NoUsers(path.to_owned(), tables.names()));
    };
    tables.unused(&["users", "traffic_logs", "monthly_stats"], findings);
    let Some(mut people) = read_users(connection, users, findings).map_err(failed)? else {
        return Err(ImportError::TooMany(path.to_owned()));
    };
    let usage = read_usage(connection, tables, findings).map_err(failed)?;
    let strangers = usage.keys().any(|name| !people.contains_key(name));
    for (name, usage) in usage {
        if let Some((user, _)) = people.get_mut(&name) {
            user.used = usage.months();
            usage.doubt(&name, findings);
        }
    }
    if strangers {
        findings.add("there is usage of users who are not in the table users: it was left out".to_owned());
    }
    // The month in which the file was made, as far as it tells.
    let present = people.values().flat_map(|(user, _)| &user.used).map(|used| used.when).max();
    let mut users: Vec<(usize, ImportedUser)> = people
        .into_values()
        .map(|(mut user, order)| {
            judge_status(&mut user, present, findings);
            (order, user)
        })
        .collect();
    users.sort_by_key(|(order, _)| *order);
    Ok(users.into_iter().map(|(_, user)| user).collect())
}

const NAMES: &[&str] = &["username", "name", "user", "user_name"];

/// By name, with the place in the file.
type People = BTreeMap<String, (ImportedUser, usize)>;

fn read_users(
    connection: &Connection,
    table: &Table,
    findings: &mut Findings,
) -> rusqlite::Result<Option<People>> {
    let columns = values::Columns::of(table, findings);
    let mut statement = connection.prepare(&table.select_all())?;
    let mut rows = statement.query([])?;
    let mut people = People::new();
    let mut order = 0;
    while let Some(row) = rows.next()? {
        order += 1;
        if order > USERS_MAX {
            return Ok(None);
        }
        let Some(user) = columns.user(row, order, findings)? else { continue };
        if people.contains_key(&user.name) {
            findings.add(format!("{}: the name is there twice; the first one was taken", quoted(&user.name)));
            continue;
        }
        people.insert(user.name.clone(), (user, order));
    }
    Ok(Some(people))
}

/// The script switches users off for their quota and for nothing else, but people do too. Whoever has
/// used the quota of the present month up is left to the quota, which ends by itself at the period's turn.
/// Both are told: only the one who runs the import knows who was switched off why.
fn judge_status(user: &mut ImportedUser, present: Option<UsedIn>, findings: &mut Findings) {
    let name = quoted(&user.name);
    if user.status == ImportedStatus::Expired && user.expires_ms.is_none() {
        user.status = ImportedStatus::Disabled;
        findings.add(format!("{name}: expired, without a date; it comes over disabled"));
    }
    if user.status != ImportedStatus::Disabled {
        return;
    }
    let bytes = |usage: &ImportedUsage| usage.upload_bytes.saturating_add(usage.download_bytes);
    let total = user.used.iter().map(bytes).fold(0, u64::saturating_add);
    let month = user.used.iter().find(|usage| Some(usage.when) == present && present > Some(UsedIn::Earlier));
    let over = |quota: Option<Option<u64>>, used| quota.flatten().is_some_and(|quota| used >= quota);
    let of_quota = |used: u64| over(user.quota_bytes, used);
    if month.is_some_and(|month| of_quota(bytes(month))) || over(user.total_quota_bytes, total) {
        user.status = ImportedStatus::OverQuota;
        findings.add(format!(
            "{name}: switched off, and its quota is used up; it comes over enabled, and the quota decides"
        ));
    } else if user.used.iter().any(|month| month.when > UsedIn::Earlier && of_quota(bytes(month))) {
        findings.add(format!(
            "{name}: switched off, and a quota of an earlier month was used up; it comes over disabled: `boxmeter \
             users enable` lets it in"
        ));
    }
}

/// One user's usage, from both tables.
#[derive(Default)]
struct Usage {
    months: BTreeMap<(i16, i8), [u64; 2]>,
    from_stats: bool,
    /// By the log, and its months where there are no statistics.
    log: [u64; 2],
    log_months: BTreeMap<(i16, i8), [u64; 2]>,
    readings: u64,
    falls: u64,
    last: [u64; 2],
}

impl Usage {
    /// Statistics of months are what the script compared with the quota. What the log has beyond
    /// them was "reset": it counts for the total only.
    fn months(&self) -> Vec<ImportedUsage> {
        let months = if self.from_stats { &self.months } else { &self.log_months };
        let mut used: Vec<ImportedUsage> = months
            .iter()
            .map(|(month, bytes)| ImportedUsage {
                when: UsedIn::Month(month.0, month.1),
                upload_bytes: bytes[0],
                download_bytes: bytes[1],
            })
            .collect();
        let sum = |index: usize| months.values().map(|bytes| bytes[index]).fold(0, u64::saturating_add);
        let rest = [0, 1].map(|index| self.log[index].saturating_sub(sum(index)));
        if rest != [0; 2] {
            used.insert(
                0,
                ImportedUsage { when: UsedIn::Earlier, upload_bytes: rest[0], download_bytes: rest[1] },
            );
        }
        used
    }

    /// The script adds the counter that it reads, each time in full: a log that only ever grows is
    /// such a counter, and the sum of it is no usage.
    fn doubt(&self, name: &str, findings: &mut Findings) {
        if self.readings >= 5 && self.falls == 0 && self.last != [0; 2] {
            let last = self.last[0].saturating_add(self.last[1]);
            let sum = self.log[0].saturating_add(self.log[1]);
            findings.add(format!(
                "{}: the traffic log only ever grows, as if one counter had been added {} times: {sum} bytes were \
                 taken over, {last} may be true",
                quoted(name),
                self.readings
            ));
        }
    }
}

fn read_usage(
    connection: &Connection,
    tables: &Tables,
    findings: &mut Findings,
) -> rusqlite::Result<BTreeMap<String, Usage>> {
    let mut usage: BTreeMap<String, Usage> = BTreeMap::new();
    if let Some((table, columns)) = traffic(tables, "monthly_stats", findings) {
        each_reading(connection, table, &columns, findings, |name, month, bytes| {
            let Some(user) = place(&mut usage, name) else { return };
            user.from_stats = true;
            if let Some(month) = month {
                plus(user.months.entry(month).or_default(), bytes);
            }
        })?;
    }
    if let Some((table, columns)) = traffic(tables, "traffic_logs", findings) {
        each_reading(connection, table, &columns, findings, |name, month, bytes| {
            let Some(user) = place(&mut usage, name) else { return };
            plus(&mut user.log, bytes);
            if let Some(month) = month {
                plus(user.log_months.entry(month).or_default(), bytes);
            }
            user.readings += 1;
            user.falls += u64::from(bytes[0] < user.last[0] || bytes[1] < user.last[1]);
            user.last = bytes;
        })?;
    }
    Ok(usage)
}

/// Bounded as the users are: a log may name anybody.
fn place(usage: &mut BTreeMap<String, Usage>, name: String) -> Option<&mut Usage> {
    if usage.len() >= USERS_MAX && !usage.contains_key(&name) {
        return None;
    }
    Some(usage.entry(name).or_default())
}

fn plus(sum: &mut [u64; 2], bytes: [u64; 2]) {
    for (sum, bytes) in sum.iter_mut().zip(bytes) {
        *sum = sum.saturating_add(bytes);
    }
}

/// A table of readings, and its columns: name, upload, download, month or instant.
fn traffic<'a>(tables: &'a Tables, name: &str, findings: &mut Findings) -> Option<(&'a Table, [String; 4])> {
    let table = tables.get(name)?;
    let find = |names: &[&str]| table.find(names).map(str::to_owned);
    let columns = (
        find(NAMES),
        find(&["upload_bytes", "upload", "up", "uplink"]),
        find(&["download_bytes", "download", "down", "downlink"]),
        find(&["month", "year_month", "timestamp", "created_at", "time", "date"]),
    );
    let (Some(user), Some(up), Some(down), Some(when)) = columns else {
        findings.add(format!("the table {name} has other columns than user, upload, download and time"));
        return None;
    };
    Some((table, [user, up, down, when]))
}

fn each_reading(
    connection: &Connection,
    table: &Table,
    columns: &[String; 4],
    findings: &mut Findings,
    mut take: impl FnMut(String, Option<(i16, i8)>, [u64; 2]),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&table.select(columns))?;
    let mut rows = statement.query([])?;
    let mut odd = 0_u64;
    while let Some(row) = rows.next()? {
        let bytes = |value: ValueRef<'_>| match value {
            ValueRef::Null => Some(0),
            ValueRef::Integer(value) => u64::try_from(value).ok(),
            _ => None,
        };
        let name = values::text(row.get_ref(0)?);
        match (name, bytes(row.get_ref(1)?), bytes(row.get_ref(2)?)) {
            (Some(name), Some(up), Some(down)) => {
                take(name, values::month(row.get_ref(3)?), [up, down]);
            }
            _ => odd += 1,
        }
    }
    if odd > 0 {
        findings.add(format!("{odd} rows of {} have no name or no whole numbers of bytes", table.name));
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> ImportError {
    ImportError::Unreadable { path: path.to_owned(), detail: error.to_string() }
}

fn sqlite(path: &Path, error: &rusqlite::Error) -> ImportError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => ImportError::NotSqlite(path),
        Some(ErrorCode::DatabaseCorrupt) => ImportError::Damaged(path),
        Some(ErrorCode::OperationInterrupted) => ImportError::TooLong { path },
        _ => ImportError::Unreadable { path, detail: error.to_string() },
    }
}

#[cfg(test)]
mod panel_tests;
#[cfg(test)]
mod tests;
