//! Users of a service that counts itself and is not in the configuration any more: it may only be called otherwise,
//! or come back. No file says that they are gone, so they stay, with their limits, until somebody deletes them.

use std::collections::HashSet;

use rusqlite::{Connection, Transaction, params};
use serde_json::json;

use super::{
    commit::{id_bytes, insert_event},
    model::{InboundNo, InboundRecord, NewEvent},
};
use crate::core::{counters, event::UserId};

/// The accounts of such services on which the user is.
pub(super) fn accounts(connection: &Connection, user: UserId) -> rusqlite::Result<HashSet<InboundNo>> {
    let mut statement = connection.prepare_cached(
        "SELECT i.no FROM user_inbounds m JOIN inbounds i ON i.no = m.inbound_no
         WHERE m.user_id = ?1 AND m.tombstoned_ms IS NULL AND i.tombstoned_ms IS NOT NULL
             AND i.tag LIKE '%/' || ?2",
    )?;
    let rows =
        statement.query_map(params![id_bytes(user), counters::TAG], |row| Ok(InboundNo(row.get(0)?)))?;
    rows.collect()
}

/// Tells that users stay though the configuration does not have their inbound any more, where that is the account of
/// such a service.
pub(super) fn tell(
    transaction: &Transaction<'_>,
    inbound: &InboundRecord,
    (now_ms, rev): (i64, i64),
) -> rusqlite::Result<()> {
    let users: i64 = transaction
        .prepare_cached("SELECT count(*) FROM user_inbounds WHERE inbound_no = ?1 AND tombstoned_ms IS NULL")?
        .query_row([inbound.no.0], |row| row.get(0))?;
    if users == 0 || !counters::is_tag(&inbound.tag) {
        return Ok(());
    }
    let data = json!({
        "service": inbound.tag.rsplit_once('/').map(|(service, _)| service),
        "users": users,
        "message": "the service is not in the configuration any more; its users stay until somebody deletes them",
    });
    let new = |kind: &str| NewEvent {
        at_ms: now_ms,
        kind: kind.to_owned(),
        user: None,
        actor: "agent".to_owned(),
        data,
    };
    insert_event(transaction, &new("service_users_kept"), rev)
}
