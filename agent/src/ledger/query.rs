//! The questions that the ledger answers. Each takes a connection on which it only reads.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{
    bucket::{self, Level, Span},
    commit::{id_bytes, to_counters, user_id},
    error::QueryError,
    intervals::{self, Interval, Kept, Piece},
    model::{
        AccountPeriod, By, EventRecord, EventsWanted, LedgerInfo, Matters, UsageAnswer, UsageQuery, UsageRow,
        UserRecord,
    },
    people, schema,
};
use crate::core::event::{Counters, UserId};

pub(super) fn info(connection: &Connection) -> rusqlite::Result<LedgerInfo> {
    connection.query_row(
        "SELECT node_id, ledger_id, rev, committed_ms, minutes_from_ms, hours_from_ms, zone, zone_since_ms,
                watched_from_ms FROM meta",
        [],
        |row| {
            Ok(LedgerInfo {
                node_id: Uuid::from_bytes(row.get(0)?),
                ledger_id: Uuid::from_bytes(row.get(1)?),
                rev: row.get(2)?,
                committed_ms: row.get(3)?,
                minutes_from_ms: row.get(4)?,
                hours_from_ms: row.get(5)?,
                zone: row.get(6)?,
                zone_since_ms: row.get(7)?,
                watched_from_ms: row.get(8)?,
            })
        },
    )
}

/// Four counts of the kernel, then what was reported up and down.
type Six = [i64; 6];

const SIX: &str =
    "upload_payload, download_payload, upload_wire, download_wire, reported_upload, reported_download";

fn six(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Six> {
    let mut sums = [0; 6];
    for (index, sum) in sums.iter_mut().enumerate() {
        *sum = row.get(first + index)?;
    }
    Ok(sums)
}

fn counted([a, b, c, d, ..]: Six) -> Counters {
    to_counters([a, b, c, d])
}

/// The users of one answer, and which usage keys are theirs.
struct Scope {
    users: Vec<UserRecord>,
    next: Option<UserId>,
    /// By key number: the index into `users`, `None` for unattributed.
    keys: HashMap<i64, Option<usize>>,
    /// Keys in the ledger, to judge whether scanning or looking up is cheaper.
    keys_all: usize,
}

pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<UsageAnswer, QueryError> {
    if let (Some(from), Some(to)) = (query.from_ms, query.to_ms)
        && from > to
    {
        return Err(QueryError::EmptyRange);
    }
    // One transaction: all statements see the same tick.
    let connection = connection.unchecked_transaction()?;
    let info = info(&connection)?;
    let scope = scope(&connection, query, users_max(&connection, query, &info)?)?;
    let open = query.to_ms.is_none_or(|to| to >= query.now_ms);
    let whole = query.from_ms.is_none() && open;
    let mut answer = match query.by {
        By::Range if whole => by_totals(&connection, query, &scope)?,
        By::Period => by_periods(&connection, query, &scope, &info, whole)?,
        _ => by_intervals(&connection, query, &scope, &info)?,
    };
    answer.as_of_ms = info.committed_ms;
    answer.next = scope.next;
    Ok(answer)
}

/// Rows of one answer, unless one user alone has more: a page is a few MiB, however long the range is.
const ROWS_MAX: usize = 20_000;

/// Users of one page: as many as asked for, or as their rows leave room for.
fn users_max(connection: &Connection, query: &UsageQuery, info: &LedgerInfo) -> Result<usize, QueryError> {
    let kept = kept(info)?;
    let rows = match range(connection, query, &kept)? {
        Some(range) => intervals::intervals(query.by, range, &query.zone, &kept)?.len(),
        None => 1,
    };
    Ok((ROWS_MAX / rows.max(1)).clamp(1, query.users_max.max(1)))
}

fn scope(connection: &Connection, query: &UsageQuery, users_max: usize) -> Result<Scope, QueryError> {
    let mut users = match &query.user {
        None => people::users(connection)?,
        Some(name) => match people::bearer(connection, name)? {
            Some(user) => vec![user],
            None => return Err(QueryError::NoSuchUser(name.clone())),
        },
    };
    users.retain(|user| query.after.is_none_or(|after| user.id > after));
    let more = users.len() > users_max;
    users.truncate(users_max);
    let next = if more { users.last().map(|user| user.id) } else { None };
    let index: HashMap<UserId, usize> =
        users.iter().enumerate().map(|(index, user)| (user.id, index)).collect();
    let keys_all: i64 =
        connection.query_row("SELECT coalesce(max(no), 0) FROM usage_keys", [], |row| row.get(0))?;
    let keys_all = usize::try_from(keys_all).unwrap_or(0);
    let keys = match (&query.user, users.first()) {
        (Some(_), user) => keys_of(connection, user)?,
        (None, _) => all_keys(connection, &index)?,
    };
    Ok(Scope { users, next, keys, keys_all })
}

/// Of one user, who is the first, and of nobody: a few of a hundred thousand.
fn keys_of(
    connection: &Connection,
    user: Option<&UserRecord>,
) -> rusqlite::Result<HashMap<i64, Option<usize>>> {
    let mut keys = HashMap::new();
    let mut statement =
        connection.prepare_cached("SELECT no FROM usage_keys WHERE coalesce(user_id, x'') = ?1")?;
    let whose = user.map(|user| (id_bytes(user.id).to_vec(), Some(0)));
    for (id, index) in whose.into_iter().chain([(Vec::new(), None)]) {
        for no in statement.query_map([id], |row| row.get(0))? {
            keys.insert(no?, index);
        }
    }
    Ok(keys)
}

fn all_keys(
    connection: &Connection,
    index: &HashMap<UserId, usize>,
) -> rusqlite::Result<HashMap<i64, Option<usize>>> {
    let mut keys = HashMap::new();
    let mut statement = connection.prepare_cached("SELECT no, user_id FROM usage_keys")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match row.get::<_, Option<[u8; 16]>>(1)?.map(user_id) {
            None => {
                keys.insert(row.get(0)?, None);
            }
            Some(user) => {
                if let Some(index) = index.get(&user) {
                    keys.insert(row.get(0)?, Some(*index));
                }
            }
        }
    }
    Ok(keys)
}

impl Scope {
    /// Whether looking each key up is cheaper than reading everything.
    fn is_few(&self) -> bool {
        self.keys.len() * 8 < self.keys_all
    }

    /// The keys for `json_each`, if they are few.
    fn few(&self) -> Result<Option<String>, QueryError> {
        if !self.is_few() {
            return Ok(None);
        }
        let keys = serde_json::to_string(&self.keys.keys().collect::<Vec<_>>());
        keys.map(Some).map_err(|error| QueryError::Read(error.to_string()))
    }

    /// Which totals a question needs: `?1` is [`Scope::few`].
    fn of_totals(&self) -> &'static str {
        match self.is_few() {
            true => "WHERE key_no IN (SELECT value FROM json_each(?1))",
            false => "WHERE ?1 IS NULL",
        }
    }
}

fn add(sums: &mut Six, more: Six) -> Result<(), QueryError> {
    for (sum, value) in sums.iter_mut().zip(more) {
        *sum =
            sum.checked_add(value).ok_or_else(|| QueryError::Read("a sum is beyond 63 bits".to_owned()))?;
    }
    Ok(())
}

fn row_of(user: &UserRecord, span: Span, usage: Six, exact: bool) -> UsageRow {
    UsageRow {
        user: user.id,
        name: user.name.clone(),
        tombstoned: user.tombstoned_ms.is_some(),
        start_ms: span.start,
        end_ms: span.end,
        usage: counted(usage),
        // The columns hold no negative values (CHECK constraints).
        reported: [4, 5].map(|index| u64::try_from(usage[index]).unwrap_or(0)),
        exact,
    }
}

fn by_totals(connection: &Connection, query: &UsageQuery, scope: &Scope) -> Result<UsageAnswer, QueryError> {
    let mut users = vec![[0; 6]; scope.users.len()];
    let mut unattributed = [0; 6];
    let sql = format!("SELECT key_no, {SIX} FROM usage_totals {}", scope.of_totals());
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([scope.few()?])?;
    while let Some(row) = rows.next()? {
        let sums = six(row, 1)?;
        match scope.keys.get(&row.get(0)?) {
            Some(Some(index)) => add(&mut users[*index], sums)?,
            Some(None) => add(&mut unattributed, sums)?,
            None => {}
        }
    }
    let rows = scope.users.iter().zip(users).filter(|(user, sums)| is_shown(user, sums, query)).map(
        |(user, sums)| {
            let end = query.now_ms.max(user.created_ms);
            row_of(user, Span { start: user.created_ms, end }, sums, true)
        },
    );
    Ok(UsageAnswer { rows: rows.collect(), unattributed: counted(unattributed), ..UsageAnswer::default() })
}

/// Over a whole range every user is shown, but for those long gone who used nothing in it.
fn is_shown(user: &UserRecord, sums: &Six, query: &UsageQuery) -> bool {
    user.tombstoned_ms.is_none() || *sums != [0; 6] || query.user.is_some()
}

fn by_intervals(
    connection: &Connection,
    query: &UsageQuery,
    scope: &Scope,
    info: &LedgerInfo,
) -> Result<UsageAnswer, QueryError> {
    let kept = kept(info)?;
    let range = match range(connection, query, &kept)? {
        Some(range) => range,
        // The users are shown all the same, with nothing used.
        None if query.by == By::Range => Span { start: query.now_ms, end: query.now_ms },
        None => return Ok(UsageAnswer::default()),
    };
    let spans = intervals::intervals(query.by, range, &query.zone, &kept)?;
    let (intervals, pieces) = intervals::pieces(&spans, &kept)?;
    let mut sums: BTreeMap<(Option<usize>, usize), Six> = BTreeMap::new();
    for run in pieces.chunk_by(|a, b| a.level == b.level) {
        read_run(connection, scope, run, &mut sums)?;
    }
    let mut answer = UsageAnswer::default();
    let mut unattributed = [0; 6];
    if query.by == By::Range {
        for index in 0..scope.users.len() {
            sums.entry((Some(index), 0)).or_default();
        }
    }
    for ((user, interval), usage) in sums {
        match user {
            None => add(&mut unattributed, usage)?,
            Some(index) => {
                let user = &scope.users[index];
                if query.by != By::Range || is_shown(user, &usage, query) {
                    let Interval { span, exact } = shown(intervals[interval], query, user)?;
                    answer.rows.push(row_of(user, span, usage, exact));
                }
            }
        }
    }
    answer.unattributed = counted(unattributed);
    Ok(answer)
}

/// An interval that was only cut off by the beginning of the data or by now is shown as the
/// calendar has it; one cut off by what was asked for is shown as asked.
fn shown(interval: Interval, query: &UsageQuery, user: &UserRecord) -> Result<Interval, QueryError> {
    let mut span = interval.span;
    let to = query.to_ms.filter(|to| *to < query.now_ms).map(bucket::floor_minute);
    if matches!(query.by, By::Range | By::Period) {
        span.start = query.from_ms.map_or(user.created_ms, bucket::floor_minute);
        span.end = to.unwrap_or(query.now_ms).max(span.start);
        return Ok(Interval { span, exact: interval.exact });
    }
    let calendar = bucket::span(query.by, span.start, &query.zone)?;
    // Not where a coarser interval stands for finer ones that are not kept any more.
    if span.end <= calendar.end {
        span.end = to.map_or(calendar.end, |to| to.min(calendar.end));
    }
    if matches!(query.by, By::Day | By::Month) {
        span.start =
            query.from_ms.map_or(calendar.start, |from| bucket::floor_minute(from).max(calendar.start));
    }
    Ok(Interval { span, exact: interval.exact })
}

pub(super) fn kept(info: &LedgerInfo) -> Result<Kept, QueryError> {
    let zone = schema::zone_of(&info.zone);
    // The day in which the zone changed has buckets of both.
    let zone_from = match info.zone_since_ms {
        i64::MIN => i64::MIN,
        since => bucket::level_span(Level::Day, since, &zone)?.end,
    };
    Ok(Kept { zone, minutes_from: info.minutes_from_ms, hours_from: info.hours_from_ms, zone_from })
}

/// Whole minutes, clipped to where there are data. An open end reaches past now if the clock was
/// once ahead.
fn range(connection: &Connection, query: &UsageQuery, kept: &Kept) -> Result<Option<Span>, QueryError> {
    let first: Option<i64> =
        connection.query_row("SELECT min(start_ms) FROM usage_days", [], |row| row.get(0))?;
    let Some(first) = first else { return Ok(None) };
    let start = query.from_ms.map_or(first, |from| bucket::floor_minute(from).max(first));
    let end = match query.to_ms {
        Some(to) if to < query.now_ms => bucket::floor_minute(to),
        _ => {
            let day: i64 =
                connection.query_row("SELECT max(start_ms) FROM usage_days", [], |row| row.get(0))?;
            let minute: Option<i64> =
                connection.query_row("SELECT max(start_ms) FROM usage_minutes", [], |row| row.get(0))?;
            // Days past now are taken whole; the present one ends with its last minute or now.
            let ahead =
                if day > query.now_ms { bucket::level_span(Level::Day, day, &kept.zone)?.end } else { day };
            let minute = minute.map_or(first, |minute| minute + bucket::MINUTE_MS);
            bucket::ceil_minute(query.now_ms.saturating_add(1)).max(minute).max(ahead)
        }
    };
    Ok((start < end).then_some(Span { start, end }))
}

/// Reads adjoining pieces of one level with one statement.
fn read_run(
    connection: &Connection,
    scope: &Scope,
    run: &[Piece],
    sums: &mut BTreeMap<(Option<usize>, usize), Six>,
) -> Result<(), QueryError> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let (from, to) = (first.span.start, last.span.end);
    let table = first.level.table();
    // Few keys: hop from one bucket to the next and look each key up. Many: read everything between.
    let few = scope.is_few();
    let keys = scope.few()?.unwrap_or_default();
    let columns = format!("start_ms, key_no, {SIX}");
    let sql = if few {
        format!(
            "WITH RECURSIVE starts(s) AS (
                 SELECT (SELECT min(start_ms) FROM {table} WHERE start_ms >= ?1)
                 UNION ALL
                 SELECT (SELECT min(start_ms) FROM {table} WHERE start_ms > s) FROM starts WHERE s < ?2
             )
             SELECT {columns} FROM starts CROSS JOIN json_each(?3) AS wanted CROSS JOIN {table}
             WHERE s < ?2 AND start_ms = s AND key_no = wanted.value"
        )
    } else {
        format!("SELECT {columns} FROM {table} WHERE start_ms >= ?1 AND start_ms < ?2 AND ?3 IS NOT NULL")
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![from, to, keys])?;
    while let Some(row) = rows.next()? {
        let start: i64 = row.get(0)?;
        let Some(owner) = scope.keys.get(&row.get(1)?) else { continue };
        let piece = &run[run.partition_point(|piece| piece.span.end <= start)];
        let more = six(row, 2)?;
        add(sums.entry((*owner, piece.interval)).or_default(), more)?;
    }
    Ok(())
}

fn by_periods(
    connection: &Connection,
    query: &UsageQuery,
    scope: &Scope,
    info: &LedgerInfo,
    whole: bool,
) -> Result<UsageAnswer, QueryError> {
    let mut accounts: BTreeMap<(usize, AccountPeriod), Six> = BTreeMap::new();
    let mut unattributed = [0; 6];
    let mut statement = connection.prepare_cached(&format!(
        "SELECT key_no, {SIX}, account_start_ms, account_generation
         FROM usage_totals JOIN usage_keys ON no = key_no {}",
        scope.of_totals()
    ))?;
    let mut rows = statement.query([scope.few()?])?;
    while let Some(row) = rows.next()? {
        let sums = six(row, 1)?;
        match scope.keys.get(&row.get(0)?) {
            Some(Some(index)) => {
                let account = AccountPeriod { start_ms: row.get(7)?, generation: row.get(8)? };
                add(accounts.entry((*index, account)).or_default(), sums)?;
            }
            Some(None) => add(&mut unattributed, sums)?,
            None => {}
        }
    }
    let mut answer = UsageAnswer { unattributed: counted(unattributed), ..UsageAnswer::default() };
    if !whole {
        let range = UsageQuery { by: By::Range, ..query.clone() };
        answer.unattributed = by_intervals(connection, &range, scope, info)?.unattributed;
    }
    let (from, to) = (query.from_ms.unwrap_or(i64::MIN), query.to_ms.unwrap_or(i64::MAX));
    let mut accounts = accounts.into_iter().peekable();
    while let Some(((index, account), usage)) = accounts.next() {
        let user = &scope.users[index];
        let next =
            accounts.peek().filter(|((next, _), _)| *next == index).map(|((_, next), _)| next.start_ms);
        let end = next.unwrap_or(query.now_ms).max(account.start_ms);
        if account.start_ms < to && (end > from || end == account.start_ms) {
            answer.rows.push(row_of(user, Span { start: account.start_ms, end }, usage, true));
        }
    }
    Ok(answer)
}

/// When each user's bytes were last counted, UTC milliseconds.
pub(super) fn last_traffic(connection: &Connection) -> Result<HashMap<UserId, i64>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT user_id, max(last_ms) FROM usage_totals JOIN usage_keys ON no = key_no
         WHERE user_id IS NOT NULL GROUP BY user_id",
    )?;
    let rows = statement.query_map([], |row| Ok((user_id(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// In the order that is wanted, after the event number `after`.
pub(super) fn events(
    connection: &Connection,
    wanted: &EventsWanted,
    after: Option<i64>,
    limit: usize,
) -> Result<Vec<EventRecord>, QueryError> {
    let severity = match wanted.least {
        Matters::Any => "1",
        Matters::Warning => "json_extract(e.data, '$.severity') IN ('warning', 'error')",
        Matters::Error => "json_extract(e.data, '$.severity') = 'error'",
    };
    let sql = format!(
        "SELECT e.no, e.id, e.at_ms, e.kind, e.user_id, u.name, e.actor, e.data
         FROM events e LEFT JOIN users u ON u.id = e.user_id
         WHERE e.no {} ?1 AND e.at_ms >= ?2 AND {} AND {severity} AND {} ORDER BY e.no {} LIMIT ?4",
        if wanted.newest { "<" } else { ">" },
        if wanted.user.is_some() { "e.user_id = ?3" } else { "?3 IS NULL" },
        if wanted.by_people { "e.actor <> 'agent'" } else { "1" },
        if wanted.newest { "DESC" } else { "ASC" },
    );
    let start = if wanted.newest { i64::MAX } else { 0 };
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(
        params![
            after.unwrap_or(start),
            wanted.since_ms.unwrap_or(i64::MIN),
            wanted.user.map(id_bytes),
            limit
        ],
        |row| {
            let data: String = row.get(7)?;
            Ok(EventRecord {
                no: row.get(0)?,
                id: Uuid::from_bytes(row.get(1)?),
                at_ms: row.get(2)?,
                kind: row.get(3)?,
                user: row.get::<_, Option<[u8; 16]>>(4)?.map(user_id),
                user_name: row.get(5)?,
                actor: row.get(6)?,
                // The column only takes valid JSON.
                data: serde_json::from_str(&data).unwrap_or(serde_json::Value::String(data)),
            })
        },
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The sums of everything that must agree, for tests: cursors, totals, days, hours, minutes.
#[cfg(test)]
pub(super) fn level_sums(connection: &Connection) -> Vec<(&'static str, [i64; 4])> {
    ["cursors", "usage_totals", "usage_days", "usage_hours", "usage_minutes"]
        .into_iter()
        .map(|table| {
            let sums = connection
                .query_row(&format!("SELECT {} FROM {table}", super::audit::SUM_OF), [], |row| {
                    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
                })
                .unwrap();
            (table, sums)
        })
        .collect()
}
