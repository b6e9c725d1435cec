//! The seam between the faces and whoever answers them: the agent, the client of another process,
//! or made-up data. Nothing here assumes that the answerer has the kernel.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Zoned;

pub use crate::api::error::{ApiError, ErrorKind};
use crate::api::{
    live::LiveSnapshot,
    query::{AuditQuery, EventQuery, FlowFilter, Page, UsageQuery, UserFilter},
    types::{Audit, EventList, FlowList, Stats, Status, Usage, UserList, UserShow},
};

/// Full snapshots; a slow reader skips some and always gets the newest.
pub type LiveStream = BoxStream<'static, Result<Arc<LiveSnapshot>, ApiError>>;

/// Answers of the contract. Every method may be called by many tasks at once.
#[async_trait]
pub trait Backend: Send + Sync {
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

    /// The stream begins with the state of now.
    async fn subscribe(&self) -> Result<LiveStream, ApiError>;
}
