//! Pages that nothing is in: given back to the disk when there are many, a few at a time.
//!
//! Retention frees about as much as ticks take, so that nothing is done in most years. After a time of much more
//! traffic, or of many users who are gone, the file is larger than it has to be.

use rusqlite::Connection;

use super::writer::{Ledger, Reply};

/// Less than this is not worth a write.
const WORTH_BYTES: i64 = 16 << 20;
/// Nor is less than this part of the file: it will be needed again.
const WORTH_PART: i64 = 4;
/// Pages that are given back at once: 1 MiB, some milliseconds.
const PAGES_AT_ONCE: u32 = 256;
/// A file of an older version that has no record of its free pages is made anew if it is at most so large (32 MiB),
/// which takes a fraction of a second.
const ANEW_PAGES_MAX: i64 = 8192;

/// How large the ledger's file is, and how much of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub page_bytes: i64,
    pub pages: i64,
    pub free: i64,
    /// Whether free pages can be given back a few at a time.
    pub in_steps: bool,
}

impl Space {
    /// Whether so much is free that the disk should have it.
    pub fn is_wasted(&self) -> bool {
        self.in_steps
            && self.free.saturating_mul(self.page_bytes) >= WORTH_BYTES
            && self.free.saturating_mul(WORTH_PART) >= self.pages
    }
}

fn space(connection: &Connection) -> rusqlite::Result<Space> {
    let ask = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok(Space {
        page_bytes: ask("page_size")?,
        pages: ask("page_count")?,
        free: ask("freelist_count")?,
        in_steps: ask("auto_vacuum")? == 2,
    })
}

/// Has free pages recorded in a file that was made before they were. Where that does not work, as on a full disk, the
/// file is as good as it was.
pub(super) fn prepare(connection: &Connection) {
    let done = space(connection).and_then(|now| match !now.in_steps && now.pages <= ANEW_PAGES_MAX {
        true => connection.execute_batch("VACUUM"),
        false => Ok(()),
    });
    if let Err(error) = done {
        tracing::warn!("free pages of the ledger cannot be given back: {error}");
    }
}

fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES_AT_ONCE})"))?;
    let mut rows = statement.query([])?;
    // Each row is a page.
    while rows.next()?.is_some() {}
    Ok(())
}

impl Ledger {
    pub fn space(&self) -> Reply<Space> {
        self.send(|writer| Ok(space(&writer.connection)?))
    }

    /// Gives a few free pages back, and tells what is left. The file becomes shorter with the next checkpoint.
    pub fn give_back(&self) -> Reply<Space> {
        self.send(|writer| {
            give_back(&writer.connection)?;
            Ok(space(&writer.connection)?)
        })
    }
}
