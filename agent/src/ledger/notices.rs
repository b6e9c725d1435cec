//! What is told of a user once: percentages of the quota over all time, and an expiry that is near.

use rusqlite::{Transaction, params};
use serde_json::Value;

use super::{
    commit::{Stale, id_bytes},
    error::CommitError,
    records::Asked,
    writer::{Ledger, Reply},
};
use crate::core::event::UserId;

/// What a notice is about. Another quota or expiry is told anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeOf {
    /// So many bytes.
    TotalQuota(u64),
    /// UTC milliseconds.
    Expiry(i64),
}

/// Something to be told, once.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub user: UserId,
    pub of: NoticeOf,
    /// Which of several: a percentage, or milliseconds before.
    pub mark: i64,
    /// For the event.
    pub data: Value,
    pub at_ms: i64,
}

/// True if it is the first time. The event is written then, so that it is once, whatever is killed.
fn notice(transaction: &Transaction<'_>, notice: &Notice, rev: i64) -> Result<bool, CommitError> {
    let (what, of) = match notice.of {
        NoticeOf::TotalQuota(bytes) => ("total_quota", i64::try_from(bytes).unwrap_or(i64::MAX)),
        NoticeOf::Expiry(at_ms) => ("expiry", at_ms),
    };
    let user = id_bytes(notice.user);
    let living: bool = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM users WHERE id = ?1 AND tombstoned_ms IS NULL)")?
        .query_row([user], |row| row.get(0))?;
    if !living {
        return Ok(false);
    }
    let new = transaction
        .prepare_cached("INSERT OR IGNORE INTO notices VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![user, what, of, notice.mark, notice.at_ms])?;
    if new == 0 {
        return Ok(false);
    }
    transaction
        .prepare_cached("DELETE FROM notices WHERE user_id = ?1 AND what = ?2 AND of <> ?3")?
        .execute(params![user, what, of])?;
    let asked = Asked::new("agent", notice.at_ms);
    let (user, data) = (Some(notice.user), notice.data.clone());
    match notice.of {
        NoticeOf::TotalQuota(_) => asked.event(transaction, "total_quota_warning", user, data, rev)?,
        NoticeOf::Expiry(_) => asked.event(transaction, "expiry_near", user, data, rev)?,
    }
    Ok(true)
}

impl Ledger {
    /// Tells what was not told yet; true for each. All or none.
    pub fn notice(&self, notices: Vec<Notice>) -> Reply<Vec<bool>> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                notices.iter().map(|one| notice(transaction, one, rev)).collect()
            })
        })
    }
}
