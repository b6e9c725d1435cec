//! What may be asked: the filters and cursors of every list, as the backend gets them.

use jiff::Timestamp;

use super::types::{Severity, Time, User, UserState};

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
    /// Part of the name, the note or the e-mail address, any case.
    pub search: Option<String>,
    /// The policy's name.
    pub policy: Option<String>,
    /// Only who has a connection open.
    pub online: bool,
    pub sort: UserSort,
}

/// The order of a list of users. But for names, whoever matters most comes first: who used most,
/// who is fastest, who was seen last, who expires next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserSort {
    #[default]
    Name,
    /// By the period's usage.
    Used,
    Total,
    /// By both directions together.
    Rate,
    LastSeen,
    Expires,
}

impl UserSort {
    pub const ALL: [UserSort; 6] = [
        UserSort::Name,
        UserSort::Used,
        UserSort::Total,
        UserSort::Rate,
        UserSort::LastSeen,
        UserSort::Expires,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            UserSort::Name => "name",
            UserSort::Used => "used",
            UserSort::Total => "total",
            UserSort::Rate => "rate",
            UserSort::LastSeen => "last_seen",
            UserSort::Expires => "expires",
        }
    }

    /// Smaller comes first.
    fn rank(self, user: &Facts<'_>) -> u64 {
        let most_first = |value: u64| u64::MAX - value;
        match self {
            UserSort::Name => 0,
            UserSort::Used => most_first(user.used_bytes),
            UserSort::Total => most_first(user.total_bytes),
            UserSort::Rate => most_first(user.rate),
            UserSort::LastSeen => most_first(u64::try_from(user.last_seen_ms.unwrap_or(0)).unwrap_or(0)),
            UserSort::Expires => u64::try_from(user.expires_ms.unwrap_or(i64::MAX)).unwrap_or(0),
        }
    }

    /// Where a user stands in the list; names tell apart who has the same rank.
    fn place<'a>(self, user: &Facts<'a>) -> (u64, &'a str) {
        (self.rank(user), user.name)
    }

    /// The cursor after a user: for names the name, else the rank before it, in hexadecimal.
    fn cursor(self, user: &Facts<'_>) -> String {
        match self {
            UserSort::Name => user.name.to_owned(),
            _ => format!("{:016x}{}", self.rank(user), user.name),
        }
    }

    /// The place that a cursor names. One that was made for another order begins anew.
    fn place_of(self, cursor: &str) -> (u64, &str) {
        if self == UserSort::Name {
            return (0, cursor);
        }
        let parts = cursor.split_at_checked(16);
        let rank = parts.and_then(|(rank, _)| u64::from_str_radix(rank, 16).ok());
        match (rank, parts) {
            (Some(rank), Some((_, name))) => (rank, name),
            _ => (0, ""),
        }
    }
}

/// What a list is filtered and sorted by. Of ten thousand users fifty are on a page: only those are made as a
/// whole.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub name: &'a str,
    pub note: Option<&'a str>,
    pub email: Option<&'a str>,
    pub policy: Option<&'a str>,
    pub state: UserState,
    pub online: bool,
    /// In the period.
    pub used_bytes: u64,
    pub total_bytes: u64,
    /// Both directions together.
    pub rate: u64,
    pub last_seen_ms: Option<i64>,
    pub expires_ms: Option<i64>,
}

impl<'a> From<&'a User> for Facts<'a> {
    fn from(user: &'a User) -> Self {
        let ms = |time: Time| time.instant.as_millisecond();
        Facts {
            name: &user.name,
            note: user.note.as_deref(),
            email: user.email.as_deref(),
            policy: user.policy.as_deref(),
            state: user.state,
            online: user.live.flows > 0,
            used_bytes: user.period.used_bytes,
            total_bytes: user.total.used_bytes,
            rate: user.live.upload_rate.saturating_add(user.live.download_rate),
            last_seen_ms: user.last_seen_at.map(ms),
            expires_ms: user.expires_at.map(ms),
        }
    }
}

/// What a search looks at: whatever an admin may remember of somebody.
fn texts<'a>(user: &Facts<'a>) -> impl Iterator<Item = &'a str> {
    [Some(user.name), user.note, user.email].into_iter().flatten()
}

impl UserFilter {
    /// Whether the user is one of those that are asked for; `search` is in lower case.
    fn takes(&self, user: &Facts<'_>, search: &str) -> bool {
        self.state.is_none_or(|state| user.state == state)
            && self.policy.as_deref().is_none_or(|policy| user.policy == Some(policy))
            && (!self.online || user.online)
            && (search.is_empty() || texts(user).any(|text| text.to_lowercase().contains(search)))
    }

    /// One page of `users`, who are in any order: what `whole` makes of each on it.
    pub fn page<'a, T>(
        &self,
        users: impl Iterator<Item = (Facts<'a>, T)>,
        page: &Page,
        whole: impl Fn(T) -> User,
    ) -> UserPage {
        let search = self.search.as_deref().unwrap_or_default().to_lowercase();
        let mut users: Vec<(Facts<'a>, T)> = users.filter(|(user, _)| self.takes(user, &search)).collect();
        let matching = users.len() as u64;
        if let Some(after) = &page.after {
            let after = self.sort.place_of(after);
            users.retain(|(user, _)| self.sort.place(user) > after);
        }
        let limit = page.limit.max(1) as usize;
        let more = users.len() > limit;
        if more {
            users.select_nth_unstable_by(limit, |(a, _), (b, _)| self.sort.place(a).cmp(&self.sort.place(b)));
            users.truncate(limit);
        }
        users.sort_unstable_by(|(a, _), (b, _)| self.sort.place(a).cmp(&self.sort.place(b)));
        let next = users.last().filter(|_| more).map(|(user, _)| self.sort.cursor(user));
        UserPage { users: users.into_iter().map(|(_, user)| whole(user)).collect(), next, matching }
    }
}

/// See [`UserFilter::page`].
pub struct UserPage {
    pub users: Vec<User>,
    pub next: Option<String>,
    /// How many users the filter takes, on all pages.
    pub matching: u64,
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
    /// Only what matters at least as much.
    pub severity: Option<Severity>,
    /// Only what a person did, by any face.
    pub by_people: bool,
    /// The newest first.
    pub newest: bool,
    pub page: Page,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}
