//! What the gate keeps: policies, a user's own settings, the wallet, parked entries. Plain values.

use std::sync::Arc;

use uuid::Uuid;

use super::model::{AccountPeriod, InboundNo};
use crate::core::{
    event::{Counters, PolicyId, UserId},
    period::Kept,
    terms::{Overrides, Terms},
};

/// Who asks for a change, when, and by which key they may ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `agent`, `root`, a token's name: kept with everything that the change writes.
    pub actor: String,
    /// UTC milliseconds.
    pub at_ms: i64,
    pub key: Option<IdempotencyKey>,
}

impl Asked {
    /// The agent itself, or somebody without a key.
    pub fn new(actor: impl Into<String>, at_ms: i64) -> Self {
        Asked { actor: actor.into(), at_ms, key: None }
    }
}

/// The same key with the same request is the same change: it is made once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: String,
    /// A hash of everything that was asked for.
    pub request: [u8; 32],
}

/// What was answered to a change with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    pub at_ms: i64,
    /// `None`: the change was made, and the agent died before it had answered.
    pub answer: Option<(u16, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    pub id: PolicyId,
    pub name: Arc<str>,
    pub terms: Terms,
    /// Made by boxmeter: it keeps its name and is not deleted.
    pub built_in: bool,
    pub tombstoned_ms: Option<i64>,
    /// Users with this policy.
    pub users: u64,
    pub rev: i64,
}

/// What people decided about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    Enabled,
    Disabled,
    /// For sharing the account, until an admin enables the user.
    Suspended,
}

/// As it stands, with since when and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRecord {
    pub state: AdminState,
    pub since_ms: i64,
    pub actor: String,
    pub why: Option<String>,
    /// Of a suspension: when it ends by itself, and what was seen.
    pub until_ms: Option<i64>,
    pub evidence: Option<serde_json::Value>,
}

/// What to make of a user's admin state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminChange {
    pub to: AdminState,
    /// For people.
    pub why: Option<String>,
    pub until_ms: Option<i64>,
    pub evidence: Option<serde_json::Value>,
    /// Nothing changes if somebody has switched the user off meanwhile.
    pub if_enabled: bool,
}

impl AdminChange {
    pub fn to(to: AdminState) -> Self {
        AdminChange { to, why: None, until_ms: None, evidence: None, if_enabled: false }
    }
}

/// As last decided: stable words, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    pub state: String,
    pub cause: String,
    pub since_ms: i64,
}

/// An edit of the proxy's configuration that was decided and is not seen in the file yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Made here, and not in the file yet: being absent from it is no sign of being removed.
    Adding,
    Settled,
    /// Deleted here, and still in the file: an entry of the name is not adopted as a new user.
    Removing,
}

/// A user's settings, as of the last change by people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub policy: PolicyId,
    pub overrides: Overrides,
    pub expires_ms: Option<i64>,
    pub email: Option<String>,
    pub note: Option<String>,
}

/// A user to be made, before the file has the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    pub name: String,
    pub settings: Settings,
    pub admin: AdminState,
    /// Periods of so many days are counted from it.
    pub created_ms: i64,
    /// The start of the first account: the beginning of the period.
    pub account_start_ms: i64,
    /// The entries that are to be put in the file, if they are to survive a crash before that.
    pub entries: Vec<ParkedEntry>,
}

/// What to change; an absent field stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    pub policy: Option<PolicyId>,
    pub overrides: Option<Overrides>,
    pub expires_ms: Option<Option<i64>>,
    pub email: Option<Option<String>>,
    pub note: Option<Option<String>>,
    /// A validity from the first use on begins anew.
    pub forget_first_use: bool,
}

/// What was bought, given, adjusted or spent. Never changed, never deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletEntry {
    pub id: Uuid,
    pub user: UserId,
    pub at_ms: i64,
    pub kind: EntryKind,
    /// What the entry adds to the user's rights; negative for what was spent. Of `Settled` it is no
    /// money but the base.
    pub bytes: i64,
    /// UTC milliseconds, of packages and rollovers.
    pub expires_ms: Option<i64>,
    /// Of `Spent`: from which package, rollover or adjustment.
    pub package: Option<Uuid>,
    /// Of `Spent`, `Settled` and `Rollover`: the account that it is about.
    pub account: Option<AccountPeriod>,
    pub actor: String,
    pub note: Option<String>,
    pub rev: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Package,
    /// What was left of an account's quota, to be used in the next ones.
    Rollover,
    /// An admin's correction: more is a package that never expires, less is taken from what is there.
    Adjustment,
    /// What an account used of a package, booked when that became final.
    Spent,
    /// No package pays for bytes of the account below this base.
    Settled,
}

/// An entry to be written. Id, user, instant and actor are the ledger's to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub kind: EntryKind,
    pub bytes: i64,
    pub expires_ms: Option<i64>,
    pub package: Option<Uuid>,
    pub account: Option<AccountPeriod>,
    pub note: Option<String>,
}

/// What an account comes to when something makes its spending final: it ends, a package is added or
/// expires, its quota changes. Read in the transaction that books it, before the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    pub user: UserId,
    pub name: Arc<str>,
    pub created_ms: i64,
    pub account: AccountPeriod,
    /// The rule that is kept with it.
    pub kept: Option<Kept>,
    /// The account that begins; `None` if this one goes on.
    pub next: Option<AccountPeriod>,
    pub policy: PolicyId,
    pub terms: Terms,
    pub overrides: Overrides,
    /// All that was committed of the account.
    pub used: Used,
    /// All entries of the user, oldest first.
    pub wallet: Vec<WalletEntry>,
    /// The last expiry of a package that was booked, also where there was nothing to book.
    pub expired_ms: Option<i64>,
}

/// A percentage of the quota that was reached: kept once per account.
#[derive(Clone, Debug)]
pub struct Warning {
    pub user: UserId,
    pub account: AccountPeriod,
    pub percent: u16,
    /// For the event.
    pub data: serde_json::Value,
    pub at_ms: i64,
}

/// Says what is to be booked: pure.
pub type Settle = Box<dyn FnMut(&Closing) -> Vec<NewEntry> + Send>;

/// One account that ends. It is left alone if `from` is not in force any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub user: UserId,
    pub from: AccountPeriod,
    pub to: AccountPeriod,
    /// The rule that the new account goes by.
    pub kept: Kept,
}

/// The rule that an account goes by from now on. It is left alone if it is not in force any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub user: UserId,
    pub account: AccountPeriod,
    pub kept: Kept,
}

/// Bytes by the kernel's counters, and bytes that the kernel did not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub counted: Counters,
    /// Upload and download, as the proxy told.
    pub reported: [u64; 2],
}

/// An entry that is taken out of the proxy's configuration, or about to be put there.
#[derive(Clone, PartialEq, Eq)]
pub struct ParkedEntry {
    pub inbound: Arc<str>,
    /// From 0, where one name stands several times in one inbound.
    pub nth: u32,
    /// The enforcer's own record as JSON, with credentials.
    pub entry: String,
}

impl std::fmt::Debug for ParkedEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParkedEntry")
            .field("inbound", &self.inbound)
            .field("nth", &self.nth)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    pub user: UserId,
    pub entry: ParkedEntry,
    pub stage: ParkedStage,
    pub at_ms: i64,
}

/// Names a parked entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParkedKey {
    pub user: UserId,
    pub inbound: Arc<str>,
    pub nth: u32,
}

/// How far the edit of the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkedStage {
    /// Committed before the file is written: the entry may still be there.
    Leaving,
    Out,
    /// To be put back: the entry may be there already.
    Returning,
    /// Somebody else put it back; the user is still cut in the kernel.
    Back,
}

/// A user's state as decided, with since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    pub user: UserId,
    /// Stable words, as `limited` and `period_quota`.
    pub state: String,
    pub cause: String,
    pub since_ms: i64,
    /// Why, for the event `state_changed`.
    pub data: serde_json::Value,
}

/// Everything that the gate has to know about one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub id: UserId,
    pub name: Arc<str>,
    pub created_ms: i64,
    pub tombstoned_ms: Option<i64>,
    pub file_state: FileState,
    pub settings: Settings,
    pub admin: AdminRecord,
    pub account: AccountPeriod,
    /// The rule that is kept with it.
    pub kept: Option<Kept>,
    /// Percentages at which a warning was given in this account.
    pub warned: Vec<u16>,
    pub first_use_ms: Option<i64>,
    pub state: StateRecord,
    /// In the account in force, and over all time.
    pub used: Used,
    pub total: Used,
    /// The kernel's counters of the epoch that was asked about, over all of the user's slots, as far
    /// as they are in `used` and `total`: what the kernel has beyond them is not in these figures yet.
    pub taken_over: Counters,
    /// All entries, oldest first.
    pub wallet: Vec<WalletEntry>,
    pub parked: Vec<(ParkedStage, ParkedEntry)>,
    pub inbounds: Vec<InboundNo>,
    pub settings_rev: i64,
    pub rev: i64,
    /// The ledger's revision when this was read: tells the newer one of two readings.
    pub as_of: i64,
}

/// Why a change was not made though the ledger works. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such user")]
    NoSuchUser,
    #[error("there is no policy {0:?}; see `boxmeter policies list`")]
    NoSuchPolicy(String),
    #[error("there is a {0} {1:?} already; choose another name")]
    NameTaken(&'static str, String),
    #[error("somebody else changed this user meanwhile (revision {} now): look again", .now.settings_rev)]
    UserChanged { now: Box<super::UserRecord> },
    #[error("somebody else changed this policy meanwhile (revision {} now): look again", .now.rev)]
    PolicyChanged { now: Box<PolicyRecord> },
    #[error("{users} users have the policy {name:?}: give them another one first")]
    PolicyInUse { name: String, users: u64 },
    #[error("the policy {0:?} belongs to boxmeter: {1}")]
    BuiltIn(String, &'static str),
    #[error("the account has turned meanwhile")]
    AccountTurned,
    #[error("the package has {left} bytes left, and {asked} were to be spent")]
    Overspent { left: i64, asked: i64 },
    #[error("this was done before, by the same key")]
    DoneBefore(StoredAnswer),
    #[error("the key was used for another request")]
    KeyReused,
    #[error("{0}")]
    Invalid(String),
}
