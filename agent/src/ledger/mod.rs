//! The ledger: who used how much, kept exactly once, in SQLite. The only place that knows SQL.
//!
//! [`Ledger`] is the handle on the one thread that writes; [`Reader`] reads beside it, or without
//! an agent at all. Counts come as absolute readings of the kernel's counters ([`Batch`]); usage and
//! the cursors it was computed from are one transaction. The ledger reads no clock and decides
//! nothing about limits: usage is a fact, recorded past any limit.
//!
//! Usage counts for the minute, hour and day of the tick that committed it, whatever the clock did
//! before: a clock that jumps moves bytes between buckets and never changes their sum.

mod access;
mod attempts;
mod audit;
mod backup;
mod backups;
mod before;
mod bucket;
mod cache;
mod columns;
mod commit;
mod deleting;
mod deliveries;
mod endings;
mod entries;
mod error;
mod forgetting;
mod gate;
mod idempotency;
pub mod import;
mod intervals;
mod model;
mod notices;
mod open;
mod parking;
mod people;
mod policies;
mod query;
mod reader;
mod records;
mod reported;
mod restore;
mod retention;
mod schema;
mod schema_gate;
mod settings;
mod shares;
mod sharing;
mod space;
mod standing;
mod statements;
mod wallet;
mod writer;

#[cfg(test)]
mod tests;

pub use access::{Ended, IDLE_MS, NewSession, NewToken, PanelAdmin, SessionRecord, TokenRecord};
pub use attempts::Attempt;
pub use backup::{BackedUp, BackupError, backup};
pub use backups::{Backups, Made};
pub use deliveries::{
    Alerts, ChannelCounts, Delivery, Happened, NewDelivery, NotifyWanted, Outcome, Stage, WAIT_MS_MAX,
};
pub use error::{CommitError, LedgerError, QueryError};
pub use model::{
    AccountPeriod, Anomaly, AnomalyKind, AuditRange, AuditSums, Batch, By, Committed, EventRecord,
    EventsWanted, FoundInbound, FoundUser, InboundNo, InboundRecord, LedgerInfo, Matters, NewEvent, Reported,
    ReportedConnection, ReportedRow, Row, UsageAnswer, UsageQuery, UsageRow, UserRecord,
};
pub use notices::{Notice, NoticeOf};
pub use open::Check;
pub use people::Removing;
pub use reader::Reader;
pub use records::{
    AdminChange, AdminRecord, AdminState, Asked, Closing, EntryKind, FileState, IdempotencyKey, Keep,
    NewEntry, NewUser, ParkedEntry, ParkedKey, ParkedRecord, ParkedStage, PolicyRecord, Refusal, Settings,
    SettingsChange, Settle, Standing, StateChange, StateRecord, StoredAnswer, Turn, Used, WalletEntry,
    Warning,
};
pub use reported::{ImportedBytes, UsedElsewhere};
pub use restore::{RestoreError, Restored, Since, restore};
pub use retention::Retention;
pub use sharing::SharingRecord;
pub use space::Space;
pub use writer::{COMMANDS_MAX, Ledger, Options, Reply};
