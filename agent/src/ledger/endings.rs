//! How the agent before this one ended.

use rusqlite::{Connection, OptionalExtension as _};

use super::query;

/// When the last commit was, if the machine went down under an agent: then nobody took over what the kernel had
/// counted since. `epoch` is the kernel's now. A killed agent alone loses nothing, its counters go on.
pub(super) fn cut_off(connection: &Connection, epoch: [u8; 16]) -> rusqlite::Result<Option<i64>> {
    let last = "SELECT kind FROM events WHERE kind IN ('agent_started', 'agent_stopped', 'detached', 'ledger_restored')
                ORDER BY no DESC LIMIT 1";
    let last: Option<String> = connection.query_row(last, [], |row| row.get(0)).optional()?;
    let known = "SELECT epoch FROM epochs ORDER BY no DESC LIMIT 1";
    let known: Option<[u8; 16]> = connection.query_row(known, [], |row| row.get(0)).optional()?;
    match last.as_deref() == Some("agent_started") && known.is_some_and(|known| known != epoch) {
        true => Ok(query::info(connection)?.committed_ms),
        false => Ok(None),
    }
}
