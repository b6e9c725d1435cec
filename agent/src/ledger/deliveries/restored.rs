//! What becomes of messages when a backup takes the ledger's place, or a user's person goes.

use rusqlite::{Connection, Transaction, params_from_iter, types::Value};

use super::super::commit::id_bytes;
use crate::core::event::UserId;

/// With a user's person goes what was written about it.
pub(in crate::ledger) fn forget(transaction: &Transaction<'_>, user: UserId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM deliveries WHERE user_id = ?1", [id_bytes(user)])?;
    transaction.execute("DELETE FROM notices WHERE user_id = ?1", [id_bytes(user)])?;
    Ok(())
}

/// A restored ledger: what is still to be sent, and which reports were made, is what the replaced one
/// says. Where nobody can tell, what waits in the backup may have been sent long ago, and is not.
pub(in crate::ledger) fn take_over(
    transaction: &Transaction<'_>,
    before: Option<&Connection>,
) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "UPDATE notify_state SET events_no = coalesce((SELECT max(no) FROM events), 0);
         DELETE FROM deliveries WHERE done_ms IS NULL;
         DELETE FROM notify_reports;
         DELETE FROM notify_troubles;",
    )?;
    let Some(before) = before else { return Ok(()) };
    let mut statement = before.prepare(
        "SELECT id, channel, recipient, kind, topic, user_id, data, created_ms, state, attempts, next_ms, done_ms,
                error
         FROM deliveries ORDER BY no",
    )?;
    let mut insert = transaction.prepare(
        "INSERT OR IGNORE INTO deliveries (id, channel, recipient, kind, topic, user_id, data, created_ms, state,
                                           attempts, next_ms, done_ms, error)
         VALUES (?1, ?2, ?3, ?4, ?5, (SELECT id FROM users WHERE id = ?6), ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    copy::<13>(&mut statement, &mut insert)?;
    let mut reports = before.prepare("SELECT name, period, at_ms FROM notify_reports")?;
    copy::<3>(&mut reports, &mut transaction.prepare("INSERT INTO notify_reports VALUES (?1, ?2, ?3)")?)?;
    let mut troubles = before.prepare("SELECT part, since_ms FROM notify_troubles")?;
    copy::<2>(&mut troubles, &mut transaction.prepare("INSERT INTO notify_troubles VALUES (?1, ?2)")?)
}

fn copy<const N: usize>(
    from: &mut rusqlite::Statement<'_>,
    to: &mut rusqlite::Statement<'_>,
) -> rusqlite::Result<()> {
    let mut rows = from.query([])?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> = (0..N).map(|index| row.get(index)).collect::<rusqlite::Result<_>>()?;
        to.execute(params_from_iter(values))?;
    }
    Ok(())
}
