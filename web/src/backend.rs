//! The seam between the faces and whoever answers them: the agent, the client of another process,
//! or made-up data. Nothing here assumes that the answerer has the kernel.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Zoned;

use crate::access::Door;
pub use crate::api::error::{ApiError, ErrorKind};
use crate::api::{
    change::{Deleted, ImportReport, ImportRequest, NewUser, UserAdded, UserChange, UserChanged},
    live::LiveSnapshot,
    notify::{NotifyShow, NotifyTest, NotifyTested},
    order::Envelope,
    policies::{
        NewPackage, NewPolicy, PackageAdded, PackageList, PolicyChange, PolicyChanged, PolicyList, PolicyShow,
    },
    query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
    sharing::{SharingChange, SharingShow, Subscription, UserCredentials},
    types::{Audit, EventList, FlowList, Stats, Status, Usage, UserList, UserShow},
};

/// Full snapshots; a slow reader skips some and always gets the newest.
pub type LiveStream = BoxStream<'static, Result<Arc<LiveSnapshot>, ApiError>>;

/// Answers of the contract. Every method may be called by many tasks at once.
#[async_trait]
pub trait Backend: Door {
    /// The wall clock in the zone of billing: what `today` and `-7d` are relative to.
    fn now(&self) -> Zoned;

    async fn status(&self) -> Result<Status, ApiError>;

    /// Sorted by name; `page.after` is the `next` of the page before.
    async fn users(&self, filter: UserFilter, page: Page) -> Result<UserList, ApiError>;

    /// `NotFound` if nobody has the name.
    async fn user(&self, name: &str) -> Result<UserShow, ApiError>;

    /// Counts everything that the kernel has up to now. `NotFound` for an unknown user.
    async fn usage(&self, query: UsageQuery) -> Result<Usage, ApiError>;

    async fn flows(&self, filter: FlowFilter) -> Result<FlowList, ApiError>;

    async fn events(&self, query: EventQuery) -> Result<EventList, ApiError>;

    async fn audit(&self, query: AuditQuery) -> Result<Audit, ApiError>;

    async fn stats(&self) -> Result<Stats, ApiError>;

    /// Everything for Prometheus, in its text format.
    async fn metrics(&self) -> Result<String, ApiError> {
        Err(only_reads())
    }

    /// The stream begins with the state of now.
    async fn subscribe(&self) -> Result<LiveStream, ApiError>;

    // Changes. The router has checked what can be said without knowing the state (`check` of the
    // request's type), that the caller may change things, and runs each change to its end even if
    // the caller goes away. The answerer, in this order:
    //
    // 1. `envelope.key`: if the key is stored (per actor, for at least a day), `IdempotencyKey::check`
    //    its fingerprint and answer what was answered then. The key is stored with the change, in
    //    one transaction; an error is not stored, so that it can be tried again.
    // 2. Find the object: `NotFound`.
    // 3. `Envelope::check_rev` with the object's `rev`: `Stale`.
    // 4. What only the state can tell: `Conflict` for a name or credential that is there already,
    //    `Invalid` with the field for an unknown policy or inbound, `Terms::check` of the terms
    //    that result.
    // 5. Do it, with `envelope.actor` as the one who did it.

    /// Adds a user to the configuration. `Conflict` if the name is taken. The answer is the only
    /// place where credentials are told; one that is repeated for a key reads them from the
    /// configuration again, they are stored nowhere else.
    async fn add_user(&self, _envelope: Envelope, _new: NewUser) -> Result<UserAdded, ApiError> {
        Err(only_reads())
    }

    /// Raising a limit brings the user back within a tick; lowering cuts at once.
    async fn change_user(
        &self,
        _envelope: Envelope,
        _name: &str,
        _change: UserChange,
    ) -> Result<UserChanged, ApiError> {
        Err(only_reads())
    }

    /// Cuts the user and takes it out of the configuration. The history stays unless `purge`.
    async fn delete_user(&self, _envelope: Envelope, _name: &str, _purge: bool) -> Result<Deleted, ApiError> {
        Err(only_reads())
    }

    /// Starts the period's usage anew; deletes nothing.
    async fn reset_user(&self, _envelope: Envelope, _name: &str) -> Result<UserChanged, ApiError> {
        Err(only_reads())
    }

    /// By an admin: what was disabled so stays disabled over every turn of a period.
    async fn set_enabled(
        &self,
        _envelope: Envelope,
        _name: &str,
        _enabled: bool,
    ) -> Result<UserChanged, ApiError> {
        Err(only_reads())
    }

    /// The purchase history, oldest first.
    async fn packages(&self, _name: &str, _page: Page) -> Result<PackageList, ApiError> {
        Err(only_reads())
    }

    async fn add_package(
        &self,
        _envelope: Envelope,
        _name: &str,
        _new: NewPackage,
    ) -> Result<PackageAdded, ApiError> {
        Err(only_reads())
    }

    /// By name.
    async fn policies(&self, _page: Page) -> Result<PolicyList, ApiError> {
        Err(only_reads())
    }

    async fn policy(&self, _name: &str) -> Result<PolicyShow, ApiError> {
        Err(only_reads())
    }

    async fn add_policy(&self, _envelope: Envelope, _new: NewPolicy) -> Result<PolicyChanged, ApiError> {
        Err(only_reads())
    }

    /// Changes what every user of the policy may do who has no own value. `PolicyChange::check`
    /// gives the new terms. `Conflict` for `unlimited`, which stays what its name says.
    async fn change_policy(
        &self,
        _envelope: Envelope,
        _name: &str,
        _change: PolicyChange,
    ) -> Result<PolicyChanged, ApiError> {
        Err(only_reads())
    }

    /// `Conflict` while a user has it, and for the default policy.
    async fn delete_policy(&self, _envelope: Envelope, _name: &str) -> Result<Deleted, ApiError> {
        Err(only_reads())
    }

    /// Users of another program; each is added, changed or refused on its own.
    async fn import(&self, _envelope: Envelope, _request: ImportRequest) -> Result<ImportReport, ApiError> {
        Err(only_reads())
    }

    // What lets somebody in. The router has checked that the caller may see it; nothing of it goes into
    // a log, an event or a stored answer.

    /// A user's ways in, with links, and the secret of the subscription, which is made when it is first
    /// asked for.
    async fn credentials(&self, _name: &str) -> Result<UserCredentials, ApiError> {
        Err(only_reads())
    }

    /// A new secret; the old one is dead at once. The credentials stay.
    async fn rotate_subscription(
        &self,
        _envelope: Envelope,
        _name: &str,
    ) -> Result<UserCredentials, ApiError> {
        Err(only_reads())
    }

    /// The subscription of a secret. `NotFound` for one that nobody has, or whose user is deleted: the
    /// two look the same.
    async fn subscription(&self, _token: &str) -> Result<Subscription, ApiError> {
        Err(only_reads())
    }

    // What people are told. The router has checked that the caller may see addresses.

    /// What is set up, and the newest messages.
    async fn notify(&self) -> Result<NotifyShow, ApiError> {
        Err(only_reads())
    }

    /// Sends a test message to the admin at once, past the queue, and says what came of it. `Conflict` where
    /// the channel is not set up, `Unavailable` while another test runs.
    async fn test_notify(&self, _envelope: Envelope, _test: NotifyTest) -> Result<NotifyTested, ApiError> {
        Err(only_reads())
    }

    /// The settings of links and subscriptions.
    async fn sharing(&self) -> Result<SharingShow, ApiError> {
        Err(only_reads())
    }

    /// `Sharing::changed` gives the new settings.
    async fn change_sharing(
        &self,
        _envelope: Envelope,
        _change: SharingChange,
    ) -> Result<SharingShow, ApiError> {
        Err(only_reads())
    }
}

pub(crate) fn only_reads() -> ApiError {
    ApiError::unsupported(
        "whoever answers here only meters: it cannot do this; update the agent and start it again",
    )
}
