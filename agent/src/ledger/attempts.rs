//! How often somebody may try to sign in: a bucket per address and one for the account, kept over
//! restarts. A right password gives back what it cost.
//!
//! Codes of the second factor have a bucket of their own, for whoever tries them: it is short, and many
//! addresses would find it. Only who knows the password can empty it.
//!
//! When the account's bucket is empty, somebody tries from many addresses. Then an address has one
//! attempt where it had five before, but still one: the owner is never shut out from a place where
//! nobody failed.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    error::CommitError,
    writer::{Ledger, Reply},
};

/// Thousandths of an attempt.
const ONE: i64 = 1_000;
const ADDRESS: Bucket = Bucket { size: 5 * ONE, refill_ms: 30_000 };
const ACCOUNT: Bucket = Bucket { size: 30 * ONE, refill_ms: 10_000 };
const CODES: Bucket = Bucket { size: 10 * ONE, refill_ms: 60_000 };
/// Buckets that are kept; the oldest go first.
const ROWS_MAX: i64 = 20_000;
/// The account's buckets; no address has these names.
const ACCOUNT_KEY: &str = "account";
const CODES_KEY: &str = "codes";

struct Bucket {
    size: i64,
    /// Time for one attempt.
    refill_ms: i64,
}

/// Whether somebody may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// `crowded`: the account's bucket is empty.
    Granted { crowded: bool },
    /// Not before so many milliseconds.
    After(i64),
}

impl Bucket {
    fn left(&self, connection: &Connection, who: &str, now_ms: i64) -> rusqlite::Result<i64> {
        let found: Option<(i64, i64)> = connection
            .prepare_cached("SELECT left_milli, at_ms FROM panel_attempts WHERE who = ?1")?
            .query_row([who], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.map_or(self.size, |(left, at_ms)| {
            // A clock that was set back neither fills nor empties anything.
            let passed = now_ms.saturating_sub(at_ms).clamp(0, self.size / ONE * self.refill_ms);
            (left + passed * ONE / self.refill_ms).min(self.size)
        }))
    }

    fn put(&self, transaction: &Transaction<'_>, who: &str, left: i64, now_ms: i64) -> rusqlite::Result<()> {
        if left >= self.size {
            transaction.execute("DELETE FROM panel_attempts WHERE who = ?1", [who])?;
            return Ok(());
        }
        transaction.execute(
            "INSERT INTO panel_attempts VALUES (?1, ?2, ?3)
             ON CONFLICT (who) DO UPDATE SET left_milli = ?2, at_ms = ?3",
            params![who, left, now_ms],
        )?;
        Ok(())
    }
}

/// A clock that was set back: from here on time passes again.
fn set_back(transaction: &Transaction<'_>, who: &str, now_ms: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE panel_attempts SET at_ms = ?2 WHERE who = ?1 AND at_ms > ?2";
    transaction.execute(sql, params![who, now_ms]).map(drop)
}

fn take(transaction: &Transaction<'_>, address: &str, now_ms: i64) -> rusqlite::Result<Attempt> {
    let account = ACCOUNT.left(transaction, ACCOUNT_KEY, now_ms)?;
    let crowded = account < ONE;
    let cost = if crowded { ADDRESS.size } else { ONE };
    let own = ADDRESS.left(transaction, address, now_ms)?;
    if own < cost {
        set_back(transaction, address, now_ms)?;
        return Ok(Attempt::After((cost - own) * ADDRESS.refill_ms / ONE + 1));
    }
    transaction.execute(
        "DELETE FROM panel_attempts WHERE who IN
             (SELECT who FROM panel_attempts WHERE who NOT IN (?2, ?3) ORDER BY at_ms
              LIMIT max(0, (SELECT count(*) FROM panel_attempts) - ?1))",
        params![ROWS_MAX, ACCOUNT_KEY, CODES_KEY],
    )?;
    ADDRESS.put(transaction, address, own - cost, now_ms)?;
    if !crowded {
        ACCOUNT.put(transaction, ACCOUNT_KEY, account - ONE, now_ms)?;
    }
    Ok(Attempt::Granted { crowded })
}

/// A right password: the address has all its attempts again, the account the one that was taken.
pub(super) fn give_back(transaction: &Transaction<'_>, address: &str, now_ms: i64) -> rusqlite::Result<()> {
    ADDRESS.put(transaction, address, ADDRESS.size, now_ms)?;
    let account = ACCOUNT.left(transaction, ACCOUNT_KEY, now_ms)?;
    ACCOUNT.put(transaction, ACCOUNT_KEY, (account + ONE).min(ACCOUNT.size), now_ms)
}

fn take_code(transaction: &Transaction<'_>, now_ms: i64) -> rusqlite::Result<Attempt> {
    let left = CODES.left(transaction, CODES_KEY, now_ms)?;
    if left < ONE {
        set_back(transaction, CODES_KEY, now_ms)?;
        return Ok(Attempt::After((ONE - left) * CODES.refill_ms / ONE + 1));
    }
    CODES.put(transaction, CODES_KEY, left - ONE, now_ms)?;
    Ok(Attempt::Granted { crowded: false })
}

/// A right code gives back the one that was taken, and no more: others may be guessing meanwhile.
pub(super) fn give_back_code(transaction: &Transaction<'_>, now_ms: i64) -> rusqlite::Result<()> {
    let left = CODES.left(transaction, CODES_KEY, now_ms)?;
    CODES.put(transaction, CODES_KEY, (left + ONE).min(CODES.size), now_ms)
}

/// Another password: whoever guessed codes does not know it.
pub(super) fn forget_codes(transaction: &Transaction<'_>, now_ms: i64) -> rusqlite::Result<()> {
    CODES.put(transaction, CODES_KEY, CODES.size, now_ms)
}

impl Ledger {
    /// In a transaction of its own, which changes no revision.
    fn attempt<T: Send + 'static>(
        &self,
        of: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.send(move |writer| {
            let transaction = writer.connection.transaction().map_err(CommitError::from)?;
            let done = of(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
    }

    /// Takes an attempt before the password is looked at, so that many at once do not get more.
    pub fn take_attempt(&self, address: String, now_ms: i64) -> Reply<Attempt> {
        self.attempt(move |transaction| take(transaction, &address, now_ms))
    }

    /// Takes an attempt at a code, before it is looked at.
    pub fn take_code_attempt(&self, now_ms: i64) -> Reply<Attempt> {
        self.attempt(move |transaction| take_code(transaction, now_ms))
    }

    /// What an address was right about besides signing in.
    pub fn give_back_attempt(&self, address: String, now_ms: i64) -> Reply<()> {
        self.attempt(move |transaction| give_back(transaction, &address, now_ms))
    }
}
