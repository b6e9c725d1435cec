//! Removing fine buckets when they are old enough. Every byte is in minutes, hours, days and totals
//! from the transaction that counted it, so that nothing is lost but detail.

use std::time::Duration;

use rusqlite::{OptionalExtension, Transaction};

use super::bucket::{HOUR_MS, MINUTE_MS};

/// For how long buckets are kept. Days and totals are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub minutes: Duration,
    pub hours: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Retention { minutes: 2 * day, hours: 60 * day }
    }
}

/// One tick removes at most so much, so that no tick is slow: after a long pause of the agent the
/// rest follows with the next ticks, and a clock that is wrong for a moment costs little detail.
const MINUTES_STEP_MS: i64 = 5 * MINUTE_MS;
const HOURS_STEP_MS: i64 = HOUR_MS;

/// Removes one step's worth, as part of a tick's transaction.
pub(super) fn step(transaction: &Transaction<'_>, retention: Retention, now_ms: i64) -> rusqlite::Result<()> {
    one(transaction, "minutes", cutoff(now_ms, retention.minutes), MINUTES_STEP_MS)?;
    one(transaction, "hours", cutoff(now_ms, retention.hours), HOURS_STEP_MS)
}

fn cutoff(now_ms: i64, keep: Duration) -> i64 {
    now_ms.saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}

/// Usage and watched bytes of a level go together, so that an audit finds both or neither.
fn one(transaction: &Transaction<'_>, level: &str, cutoff_ms: i64, step_ms: i64) -> rusqlite::Result<()> {
    let first: Option<i64> = transaction
        .prepare_cached(&format!("SELECT start_ms FROM usage_{level} ORDER BY start_ms LIMIT 1"))?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(first) = first.filter(|first| *first < cutoff_ms) else { return Ok(()) };
    let end = cutoff_ms.min(first.saturating_add(step_ms));
    for table in ["usage", "watched"] {
        transaction
            .prepare_cached(&format!("DELETE FROM {table}_{level} WHERE start_ms < ?1"))?
            .execute([end])?;
    }
    let mark = format!("UPDATE meta SET {level}_from_ms = max({level}_from_ms, ?1)");
    transaction.prepare_cached(&mark)?.execute([end])?;
    Ok(())
}
