//! What the ledger is told and what it answers: plain values, no SQL.

use std::sync::Arc;

use jiff::tz::TimeZone;
use uuid::Uuid;

use super::records::{AdminRecord, FileState, Settings, StateRecord};
use crate::core::event::{Counters, Now, UserId};
pub use crate::core::period::{AccountPeriod, Kept};

/// An inbound's number in this ledger; it never leaves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundNo(pub i64);

/// The reading of one account slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub slot: u32,
    /// The slot's generation: counters are absolute within (epoch, slot, generation), beginning at 0.
    pub generation: u32,
    /// `None`: unattributed bytes of the inbound.
    pub user: Option<UserId>,
    pub inbound: InboundNo,
    pub total: Counters,
}

/// Everything of one tick. It is committed as a whole or not at all, and applying it again (or an
/// older one after it) changes no usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub epoch: [u8; 16],
    pub at: Now,
    pub rows: Vec<Row>,
    /// Absolute totals of everything seen of each inbound.
    pub watched: Vec<(InboundNo, Counters)>,
    pub events: Vec<NewEvent>,
    /// What the proxy told of bytes that the kernel does not see.
    pub reported: Option<Reported>,
}

/// Counters of one reporter, as absolute readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Random, new at each start of the agent: counters begin at 0 with it and only grow.
    pub reporter: [u8; 16],
    /// Those that grew since the last batch, or more.
    pub rows: Vec<ReportedRow>,
    /// How far each connection is of which bytes are in `rows`: the next start counts on from there.
    pub connections: Vec<ReportedConnection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedRow {
    pub user: UserId,
    pub inbound: InboundNo,
    /// Upload and download.
    pub total: [u64; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedConnection {
    /// The proxy's own id of the connection.
    pub id: Arc<str>,
    pub total: [u64; 2],
    pub ended: bool,
}

/// What a batch changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The ledger's revision after the batch.
    pub rev: i64,
    /// The batch's wall time.
    pub at_ms: i64,
    /// Rows whose counters had grown.
    pub rows_grown: usize,
    /// The bytes that were added, over all rows.
    pub added: Counters,
    /// Readings that were refused: their bytes are not in the ledger, but for those of unknown users, which
    /// are unattributed. Each kind is recorded as an event once per slot and start of the agent.
    pub anomalies: Vec<Anomaly>,
}

/// A reading that cannot be right. The stored counts stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomaly {
    pub kind: AnomalyKind,
    /// The account slot; for watched and reported totals the inbound's number.
    pub slot: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnomalyKind {
    /// A counter is lower than the ledger has seen it.
    Fell,
    /// A counter is beyond anything that can have been carried (2^58 bytes).
    TooBig,
    /// The slot belonged to another user or inbound within the same generation.
    OwnerChanged,
    /// The ledger does not know the user: a backup was restored. The bytes are taken as nobody's.
    UnknownUser,
    /// The ledger does not know the inbound.
    UnknownInbound,
    /// As `Fell` and `TooBig`, of an inbound's watched totals.
    Watched,
    /// As `Fell` and `TooBig`, of what the proxy told.
    Reported,
}

impl AnomalyKind {
    pub fn name(self) -> &'static str {
        match self {
            AnomalyKind::Fell => "counter_fell",
            AnomalyKind::TooBig => "counter_too_big",
            AnomalyKind::OwnerChanged => "slot_owner_changed",
            AnomalyKind::UnknownUser => "unknown_user",
            AnomalyKind::UnknownInbound => "unknown_inbound",
            AnomalyKind::Watched => "watched_counter_fell",
            AnomalyKind::Reported => "reported_counter_fell",
        }
    }
}

/// Something that happened, to be kept with who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub at_ms: i64,
    /// A stable word, as `user_adopted`.
    pub kind: String,
    pub user: Option<UserId>,
    /// `agent`, or who asked for it.
    pub actor: String,
    pub data: serde_json::Value,
}

/// Which events are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventsWanted {
    pub user: Option<UserId>,
    pub since_ms: Option<i64>,
    pub least: Matters,
    /// Only what a person did.
    pub by_people: bool,
    pub newest: bool,
}

/// The least that an event must matter, as its data say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matters {
    #[default]
    Any,
    Warning,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The order in this ledger; the cursor for paging.
    pub no: i64,
    pub id: Uuid,
    pub at_ms: i64,
    pub kind: String,
    pub user: Option<UserId>,
    /// The user's name now.
    pub user_name: Option<String>,
    pub actor: String,
    pub data: serde_json::Value,
}

/// A user as found in the proxy's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    pub name: Arc<str>,
    /// Tags. Those that the ledger does not know are ignored: call `sync_inbounds` before.
    pub inbounds: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    pub id: UserId,
    pub name: Arc<str>,
    pub created_ms: i64,
    /// When it vanished from the configuration or was deleted.
    pub tombstoned_ms: Option<i64>,
    /// Name and personal data are gone; what is left is anonymous usage.
    pub purged_ms: Option<i64>,
    pub file_state: FileState,
    /// The policy's name.
    pub policy: String,
    pub settings: Settings,
    pub admin: AdminRecord,
    pub account: AccountPeriod,
    /// The rule that is kept with it.
    pub kept: Option<Kept>,
    /// Percentages at which a warning was given in this account.
    pub warned: Vec<u16>,
    pub first_use_ms: Option<i64>,
    pub state: StateRecord,
    /// In the order of their numbers; those where the entry is parked included.
    pub inbounds: Vec<InboundNo>,
    /// Of the last change by people: what `if_rev` is compared with.
    pub settings_rev: i64,
    pub rev: i64,
}

/// An inbound as found in the proxy's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundInbound {
    pub tag: Arc<str>,
    /// sing-box's type.
    pub kind: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRecord {
    pub no: InboundNo,
    pub tag: Arc<str>,
    pub kind: String,
    pub port: u16,
    pub tombstoned_ms: Option<i64>,
    pub rev: i64,
}

/// What `usage` is asked for.
///
/// Both ends are rounded down to whole minutes, so that adjoining ranges neither overlap nor leave a
/// gap; a `to_ms` at or after `now_ms` (and none) means everything up to now. `from_ms` of `None`
/// is the beginning. With neither end nor `by`, totals are read, which are exact whatever the clock did.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Only this user: the present bearer of the name, else the last one who had it.
    pub user: Option<String>,
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub by: By,
    /// Whose hours, days and months.
    pub zone: TimeZone,
    pub now_ms: i64,
    /// Only users after this one in the order of ids.
    pub after: Option<UserId>,
    /// At most this many users in one answer.
    pub users_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One row per user over the whole range.
    Range,
    Minute,
    Hour,
    Day,
    Month,
    /// One row per billing account that overlaps the range, with all of its usage.
    Period,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub user: UserId,
    pub name: Arc<str>,
    pub tombstoned: bool,
    pub start_ms: i64,
    /// Not included.
    pub end_ms: i64,
    pub usage: Counters,
    /// Upload and download that the kernel did not see, as the proxy told them; no audit counts them.
    pub reported: [u64; 2],
    /// False where an end of the row lies within a bucket of which no finer parts are kept: the
    /// bucket is in the row in which it began.
    pub exact: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageAnswer {
    /// By user id, then start.
    pub rows: Vec<UsageRow>,
    /// Over the whole range.
    pub unattributed: Counters,
    /// Wall time of the last commit that is in the figures.
    pub as_of_ms: Option<i64>,
    /// The `after` of the next page, if there is one.
    pub next: Option<UserId>,
}

/// Sums over everything that the ledger has, or over a range, for the audit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSums {
    pub users: Counters,
    pub unattributed: Counters,
    pub watched: Counters,
}

/// An audit of a range. Bytes that waited for their owner are watched in the minute in which they
/// came, and a user's in the one in which the owner was known: at the ends of a range with traffic
/// the two differ by what was waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRange {
    pub sums: AuditSums,
    /// Whole minutes, not before the first one of which watched bytes are kept.
    pub start_ms: i64,
    /// Not included.
    pub end_ms: i64,
    /// False where an end lies within an hour or day of which no finer parts are kept: the whole of
    /// it is in the sums if it began in the range.
    pub exact: bool,
}

/// What the ledger says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerInfo {
    pub node_id: Uuid,
    pub ledger_id: Uuid,
    pub rev: i64,
    pub committed_ms: Option<i64>,
    pub minutes_from_ms: i64,
    pub hours_from_ms: i64,
    pub zone: String,
    pub zone_since_ms: i64,
    /// Since when watched bytes are kept by time.
    pub watched_from_ms: i64,
}
