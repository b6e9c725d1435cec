//! Whole lists from the client, page by page, and lists that look like one answer.

use super::{
    client::Client,
    error::ApiError,
    query::{EventQuery, FlowFilter, LIMIT_MAX, Page, UsageQuery, UserFilter},
    types::{Event, EventList, Flow, FlowList, PackageList, PolicyList, Usage, User, UserList},
};
use crate::backend::Backend;

impl Client {
    /// All users, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn users_all(&self, filter: UserFilter) -> Result<UserList, ApiError> {
        let mut page = Page { after: None, limit: LIMIT_MAX };
        let mut all: Vec<User> = Vec::new();
        loop {
            let answer = self.users(filter.clone(), page.clone()).await?;
            all.extend(answer.users);
            match next(&page, answer.next) {
                Some(after) => page.after = Some(after),
                None => return Ok(UserList { users: all, next: None, ..answer_rev(answer.rev) }),
            }
        }
    }

    /// All rows of usage, page by page. Everything but the rows is of the last page, the newest.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn usage_all(&self, mut query: UsageQuery) -> Result<Usage, ApiError> {
        query.page = Page { after: None, limit: LIMIT_MAX };
        let mut rows = Vec::new();
        loop {
            let mut answer = self.usage(query.clone()).await?;
            rows.append(&mut answer.rows);
            match next(&query.page, answer.next.take()) {
                Some(after) => query.page.after = Some(after),
                None => return Ok(Usage { rows, ..answer }),
            }
        }
    }

    /// All live flows, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn flows_all(&self, mut filter: FlowFilter) -> Result<FlowList, ApiError> {
        filter.page = Page { after: None, limit: LIMIT_MAX };
        let mut flows: Vec<Flow> = Vec::new();
        loop {
            let mut answer = self.flows(filter.clone()).await?;
            flows.append(&mut answer.flows);
            match next(&filter.page, answer.next.take()) {
                Some(after) => filter.page.after = Some(after),
                None => return Ok(FlowList { flows, ..answer }),
            }
        }
    }

    /// All events since `query.since`, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn events_all(&self, mut query: EventQuery) -> Result<EventList, ApiError> {
        query.page = Page { after: None, limit: LIMIT_MAX };
        let mut events: Vec<Event> = Vec::new();
        loop {
            let mut answer = self.events(query.clone()).await?;
            events.append(&mut answer.events);
            match next(&query.page, answer.next.take()) {
                Some(after) => query.page.after = Some(after),
                None => return Ok(EventList { events, ..answer }),
            }
        }
    }

    /// The whole purchase history of a user, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn packages_all(&self, name: &str) -> Result<PackageList, ApiError> {
        let mut page = Page { after: None, limit: LIMIT_MAX };
        let mut packages = Vec::new();
        loop {
            let mut answer = self.packages(name, page.clone()).await?;
            packages.append(&mut answer.packages);
            match next(&page, answer.next.take()) {
                Some(after) => page.after = Some(after),
                None => return Ok(PackageList { packages, ..answer }),
            }
        }
    }

    /// All policies, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn policies_all(&self) -> Result<PolicyList, ApiError> {
        let mut page = Page { after: None, limit: LIMIT_MAX };
        let mut policies = Vec::new();
        loop {
            let mut answer = self.policies(page.clone()).await?;
            policies.append(&mut answer.policies);
            match next(&page, answer.next.take()) {
                Some(after) => page.after = Some(after),
                None => return Ok(PolicyList { policies, ..answer }),
            }
        }
    }
}

/// The cursor of the next page; a cursor that does not move would never end.
fn next(page: &Page, cursor: Option<String>) -> Option<String> {
    cursor.filter(|cursor| page.after.as_ref() != Some(cursor))
}

fn answer_rev(rev: u64) -> UserList {
    UserList { schema: Default::default(), users: Vec::new(), rev, next: None, matching: None }
}
