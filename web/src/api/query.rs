//! What may be asked: the filters and cursors of every list, as the backend gets them.

use jiff::Timestamp;

use super::types::UserState;

/// Rows of one answer unless `limit` says otherwise.
pub const LIMIT_DEFAULT: u32 = 1_000;
/// The most that `limit` may say: an answer stays below some megabytes.
pub const LIMIT_MAX: u32 = 10_000;

/// A page of a list: what follows the cursor `after`, at most `limit` entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub after: Option<String>,
    pub limit: u32,
}

impl Default for Page {
    fn default() -> Self {
        Page { after: None, limit: LIMIT_DEFAULT }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFilter {
    pub state: Option<UserState>,
    /// Part of the name, any case.
    pub search: Option<String>,
}

/// The width of one usage row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Minute,
    Hour,
    Day,
    Month,
    Period,
}

impl By {
    pub const ALL: [By; 5] = [By::Minute, By::Hour, By::Day, By::Month, By::Period];

    pub fn as_str(self) -> &'static str {
        match self {
            By::Minute => "minute",
            By::Hour => "hour",
            By::Day => "day",
            By::Month => "month",
            By::Period => "period",
        }
    }
}

/// `from` is inclusive, `to` exclusive; `None` is the beginning and now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    pub user: Option<String>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// `None`: one row per user over the whole range.
    pub by: Option<By>,
    pub page: Page,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    pub user: Option<String>,
    pub inbound: Option<String>,
    pub page: Page,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    pub user: Option<String>,
    pub since: Option<Timestamp>,
    pub page: Page,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}
