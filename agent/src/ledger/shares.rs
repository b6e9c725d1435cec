//! What a user moved on each inbound, over all time and accounts.

use std::sync::Arc;

use rusqlite::Connection;

use super::error::QueryError;
use crate::core::event::{Counters, UserId};

/// By tag; inbounds without a byte are not there.
pub(super) fn by_inbound(
    connection: &Connection,
    user: UserId,
) -> Result<Vec<(Arc<str>, Counters)>, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT i.tag, sum(t.upload_payload), sum(t.download_payload), sum(t.upload_wire), sum(t.download_wire)
         FROM usage_keys k JOIN usage_totals t ON t.key_no = k.no JOIN inbounds i ON i.no = k.inbound_no
         WHERE k.user_id = ?1 GROUP BY i.no ORDER BY i.tag",
    )?;
    let rows = statement.query_map([user.0.as_bytes()], |row| {
        let tag: String = row.get(0)?;
        let bytes = |at| row.get::<_, i64>(at).map(|bytes| u64::try_from(bytes).unwrap_or(0));
        let counters = Counters { payload: [bytes(1)?, bytes(2)?], wire: [bytes(3)?, bytes(4)?] };
        Ok((Arc::from(tag), counters))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
