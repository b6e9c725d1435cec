//! Does Σ users + unattributed equal the watched bytes: over everything, or over a range.

use rusqlite::{Connection, params};

use super::{
    bucket::{self, Level, Span},
    commit::{Sums, to_counters},
    error::QueryError,
    intervals::{self, Piece},
    model::{AuditRange, AuditSums, By},
    query,
};
use crate::core::event::Counters;

pub(super) const SUM_OF: &str =
    "coalesce(sum(upload_payload), 0), coalesce(sum(download_payload), 0), coalesce(sum(upload_wire), 0),
     coalesce(sum(download_wire), 0)";

pub(super) fn all(connection: &Connection) -> Result<AuditSums, QueryError> {
    let connection = connection.unchecked_transaction()?;
    let sum = |from: &str| -> Result<Counters, QueryError> {
        Ok(connection.query_row(&format!("SELECT {SUM_OF} FROM {from}"), [], |row| {
            Ok(to_counters([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
        })?)
    };
    Ok(AuditSums {
        users: sum("usage_totals JOIN usage_keys ON no = key_no WHERE user_id IS NOT NULL")?,
        unattributed: sum("usage_totals JOIN usage_keys ON no = key_no WHERE user_id IS NULL")?,
        watched: sum("watched")?,
    })
}

/// Over a range, rounded down to whole minutes; without an end, up to the end of the buckets.
pub(super) fn range(
    connection: &Connection,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<AuditRange, QueryError> {
    if let (Some(from), Some(to)) = (from_ms, to_ms)
        && from > to
    {
        return Err(QueryError::EmptyRange);
    }
    let connection = connection.unchecked_transaction()?;
    let info = query::info(&connection)?;
    let kept = query::kept(&info)?;
    let ends: (Option<i64>, Option<i64>) = connection.query_row(
        "SELECT min(start_ms), max(start_ms) FROM
             (SELECT start_ms FROM watched_days UNION ALL SELECT start_ms FROM usage_days)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (Some(first), Some(last)) = ends else {
        let at = bucket::floor_minute(from_ms.or(to_ms).unwrap_or(0));
        return Ok(AuditRange { sums: AuditSums::default(), start_ms: at, end_ms: at, exact: true });
    };
    let first = first.max(bucket::ceil_minute(info.watched_from_ms));
    let last = bucket::level_span(Level::Day, last, &kept.zone)?.end;
    let start = from_ms.map_or(first, |from| bucket::floor_minute(from).max(first));
    let end = to_ms.map_or(last, |to| bucket::floor_minute(to).min(last)).max(start);
    let range = Span { start, end };
    let spans = intervals::intervals(By::Range, range, &kept.zone, &kept)?;
    let (intervals, pieces) = intervals::pieces(&spans, &kept)?;
    let sums = AuditSums {
        users: over(&connection, &pieces, Subject::Users)?,
        unattributed: over(&connection, &pieces, Subject::Unattributed)?,
        watched: over(&connection, &pieces, Subject::Watched)?,
    };
    Ok(AuditRange {
        sums,
        start_ms: start,
        end_ms: end,
        exact: intervals.iter().all(|interval| interval.exact),
    })
}

#[derive(Clone, Copy)]
enum Subject {
    Users,
    Unattributed,
    Watched,
}

fn over(connection: &Connection, pieces: &[Piece], subject: Subject) -> Result<Counters, QueryError> {
    let mut sums: Sums = [0; 4];
    for piece in pieces {
        let usage = piece.level.table();
        let from = match subject {
            Subject::Users => format!("{usage} JOIN usage_keys ON no = key_no AND user_id IS NOT NULL"),
            Subject::Unattributed => format!("{usage} JOIN usage_keys ON no = key_no AND user_id IS NULL"),
            Subject::Watched => piece.level.watched_table().to_owned(),
        };
        let sql = format!("SELECT {SUM_OF} FROM {from} WHERE start_ms >= ?1 AND start_ms < ?2");
        let more: Sums =
            connection.prepare_cached(&sql)?.query_row(params![piece.span.start, piece.span.end], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
            })?;
        for (sum, value) in sums.iter_mut().zip(more) {
            *sum = sum
                .checked_add(value)
                .ok_or_else(|| QueryError::Read("a sum is beyond 63 bits".to_owned()))?;
        }
    }
    Ok(to_counters(sums))
}
