//! Events that nobody looks at any more. What people did stays for ever; what the agent told goes when it is old, or
//! when there is very much of it: a client that tries again and again must not fill a disk.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{
    commit::Stale,
    writer::{Ledger, Reply},
};

/// Longer than a year, so that the same month of last year can be looked at.
const KEPT_MS: i64 = 400 * 24 * 3_600_000;
/// Some 200 MB.
const KEPT_MAX: i64 = 500_000;
/// Of one transaction: a tick waits no longer.
const STEP: i64 = 1_000;

impl Ledger {
    /// Forgets some events that are old enough, or too many; how many it were. What is not told yet stays.
    pub fn forget_events(&self, now_ms: i64) -> Reply<usize> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| Ok(step(transaction, now_ms, KEPT_MAX)?))
        })
    }
}

fn step(transaction: &Transaction<'_>, now_ms: i64, kept_max: i64) -> rusqlite::Result<usize> {
    // What people are told is made of events: those that were not looked at for that are needed still.
    let looked_at: Option<i64> =
        transaction.query_row("SELECT events_no FROM notify_state", [], |row| row.get(0)).optional()?;
    let looked_at = looked_at.unwrap_or(i64::MAX);
    let count: i64 = transaction.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
    let too_many = count.saturating_sub(kept_max).clamp(0, STEP);
    let old = "DELETE FROM events WHERE no IN
                   (SELECT no FROM events WHERE at_ms < ?1 AND actor = 'agent' AND no <= ?2 ORDER BY at_ms LIMIT ?3)";
    let mut gone = transaction.execute(old, params![now_ms.saturating_sub(KEPT_MS), looked_at, STEP])?;
    let many = "DELETE FROM events WHERE no IN
                    (SELECT no FROM events WHERE actor = 'agent' AND no <= ?1 ORDER BY no LIMIT ?2)";
    gone += transaction
        .execute(many, params![looked_at, too_many.saturating_sub_unsigned(gone as u64).max(0)])?;
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(connection: &rusqlite::Connection) -> Vec<(i64, String)> {
        let mut statement = connection.prepare("SELECT at_ms, actor FROM events ORDER BY no").unwrap();
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    fn rig(events: &[(i64, &str)]) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("migrations/0001_meter.sql")).unwrap();
        connection.execute_batch(include_str!("migrations/0006_notify.sql")).unwrap();
        for (at_ms, actor) in events {
            let id = uuid::Uuid::now_v7().into_bytes();
            let sql =
                "INSERT INTO events (id, at_ms, kind, actor, data, rev) VALUES (?1, ?2, 'x', ?3, '{}', 1)";
            connection.execute(sql, params![id, at_ms, actor]).unwrap();
        }
        connection
    }

    fn forget(connection: &mut rusqlite::Connection, now_ms: i64, kept_max: i64) -> usize {
        let transaction = connection.transaction().unwrap();
        let gone = step(&transaction, now_ms, kept_max).unwrap();
        transaction.commit().unwrap();
        gone
    }

    #[test]
    fn what_the_agent_told_long_ago_goes_and_what_people_did_stays() {
        let mut connection = rig(&[(1, "agent"), (2, "admin@::1"), (3, "agent"), (KEPT_MS, "agent")]);
        assert_eq!(forget(&mut connection, KEPT_MS, 100), 0);
        assert_eq!(forget(&mut connection, KEPT_MS + 3, 100), 1);
        assert_eq!(forget(&mut connection, KEPT_MS + 4, 100), 1);
        let left = [(2, "admin@::1".to_owned()), (KEPT_MS, "agent".to_owned())];
        assert_eq!(events(&connection), left);
    }

    #[test]
    fn many_are_too_many_and_what_is_not_told_yet_stays() {
        let all: Vec<(i64, &str)> =
            (0..3_000).map(|at| (at, if at == 5 { "root" } else { "agent" })).collect();
        let mut connection = rig(&all);
        connection.execute("INSERT INTO notify_state VALUES (1, 1500, 0)", []).unwrap();
        assert_eq!(forget(&mut connection, 0, 1_000), 1_000);
        assert_eq!(forget(&mut connection, 0, 1_000), 499, "no further than what was looked at");
        let left = events(&connection);
        assert_eq!((left.len(), &left[0]), (1_501, &(5, "root".to_owned())));
        assert_eq!(forget(&mut connection, 0, 1_501), 0);
    }
}
