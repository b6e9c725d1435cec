//! What the agent's task and those who answer questions share: the newest picture, and the way to ask
//! the task.

use std::{collections::BTreeMap, sync::Arc};

use boxmeter_web::api::types::{InboundStatus, KernelStatus, ServiceStatus, SingboxStatus, SourceKind};
use tokio::sync::{oneshot, watch};

use super::{gate::Rows, hands::HandsStatus, meter::ListedFlow};
use crate::{
    core::{
        event::{Counters, InboundIndex, PolicyId, UserId},
        snapshot::Snapshot,
        terms::Terms,
    },
    kernel::Audit,
    ledger::{InboundRecord, PolicyRecord, SettingsChange, Standing, UserRecord},
};

/// Questions that wait for the agent's task. More are answered with "busy".
pub const QUESTIONS_MAX: usize = 64;

/// What only the agent's task can answer.
pub enum Question {
    /// Commit everything up to now. The answer is the reason where that was not possible.
    Flush(oneshot::Sender<Result<(), String>>),
    /// The open flows.
    Flows(oneshot::Sender<Result<Vec<ListedFlow>, String>>),
    /// The kernel's sums between two readings of the watched totals.
    Audit(oneshot::Sender<Result<Audit, String>>),
    /// Counters and cost of the kernel programs.
    Kernel(oneshot::Sender<KernelStatus>),
    /// The same, and everything seen of each inbound.
    Watched(oneshot::Sender<(KernelStatus, Vec<(InboundIndex, Counters)>)>),
    /// The ledger has users changed: answered when the kernel holds what follows.
    UsersChanged(Vec<UserNow>, oneshot::Sender<()>),
    /// As `UsersChanged`, of everybody: after a change of policies.
    Everybody(Vec<PolicyRecord>, Vec<Standing>, oneshot::Sender<()>),
    /// The ledger could not be asked for what was changed: the agent's task is to ask until it answers.
    /// `None`: for everybody.
    Again(Option<Vec<UserId>>, oneshot::Sender<()>),
    /// A change is about to be made that may lower a limit: the kernel holds it from the answer on.
    Tighten(Tighter, oneshot::Sender<()>),
}

/// A user as the ledger has it after a change.
pub struct UserNow {
    pub record: UserRecord,
    /// `None`: it is gone.
    pub standing: Option<Standing>,
}

/// What is about to change.
#[derive(Clone, Debug)]
pub enum Tighter {
    Settings(UserId, Box<SettingsChange>),
    /// Disabled or deleted.
    Out(UserId),
    /// Of all its users.
    Policy(PolicyId, Box<Terms>),
}

/// Users as the ledger has them. Each by itself: a change of one copies references, and the map's nodes,
/// which are half empty, are small.
pub type UserRecords = BTreeMap<UserId, Arc<UserRecord>>;

/// Everything that readers need and that changes slowly; replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub users: Arc<UserRecords>,
    pub inbounds: Arc<Vec<InboundRecord>>,
    /// Tags by the kernel's index.
    pub tags: Arc<BTreeMap<InboundIndex, Arc<str>>>,
    pub listeners: Arc<Vec<InboundStatus>>,
    pub singbox: SingboxStatus,
    /// The other proxies.
    pub services: Arc<Vec<ServiceStatus>>,
    pub source: Option<SourceKind>,
    pub source_connected: bool,
    /// What was decided about each user.
    pub gate: Rows,
    pub enforcement: HandsStatus,
    pub committed_ms: Option<i64>,
    pub rev: i64,
}

/// The picture after a tick.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub snapshot: Snapshot,
    pub directory: Directory,
    /// Payload and wire over all time as the ledger has them, by user, plus what this epoch added.
    pub totals: Arc<BTreeMap<UserId, Counters>>,
    pub unattributed: Counters,
    /// Everything counted before midnight, and before this month, in the zone of billing.
    pub before_today: Counters,
    pub before_month: Counters,
}

pub type PictureSender = watch::Sender<Arc<Picture>>;
pub type PictureReceiver = watch::Receiver<Arc<Picture>>;
