//! The live view: full snapshots from the backend, full state and then changes over the stream.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::{Degradation, Live, Meter, Schema, Stats, Time, UserState};

/// Everything that `top` and the panel's overview show, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSnapshot {
    #[serde(default)]
    pub schema: Schema,
    pub at: Time,
    pub ok: bool,
    pub degraded: Vec<Degradation>,
    pub meter: Meter,
    /// Over all users and unattributed bytes of watched inbounds.
    pub totals: LiveTotals,
    pub users: Vec<LiveUser>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveTotals {
    pub upload_rate: u64,
    pub download_rate: u64,
    pub flows: u64,
    /// Bytes of `meter` today, both directions, unattributed included.
    pub today_bytes: u64,
    /// Bytes of `meter` over all time, both directions, unattributed included.
    pub total_bytes: u64,
    /// The unattributed part of `total_bytes`.
    pub unattributed_bytes: u64,
    /// Bytes of `meter` this calendar month, both directions, unattributed included.
    #[serde(default)]
    pub month_bytes: u64,
    #[serde(default)]
    pub total_users: u64,
    /// Whose state is `active`, and of no other.
    #[serde(default)]
    pub active_users: u64,
    /// Who has a connection open.
    #[serde(default)]
    pub online_users: u64,
    #[serde(default)]
    pub limited_users: u64,
}

impl LiveTotals {
    /// Counts the users and adds up what they do now.
    pub fn count<'a>(&mut self, users: impl Iterator<Item = &'a LiveUser>) {
        for user in users {
            self.total_users += 1;
            self.active_users += u64::from(user.state == UserState::Active);
            self.limited_users += u64::from(user.state == UserState::Limited);
            self.online_users += u64::from(user.live.flows > 0);
            self.flows += user.live.flows;
            self.upload_rate = self.upload_rate.saturating_add(user.live.upload_rate);
            self.download_rate = self.download_rate.saturating_add(user.live.download_rate);
        }
    }
}

impl From<&LiveSnapshot> for Stats {
    /// The same figures, so that a page and its stream never say different things.
    fn from(snapshot: &LiveSnapshot) -> Stats {
        let totals = snapshot.totals;
        Stats {
            schema: Schema,
            total_users: totals.total_users,
            active_users: totals.active_users,
            total_traffic_bytes: totals.total_bytes.saturating_sub(totals.unattributed_bytes),
            meter: snapshot.meter,
            online_users: totals.online_users,
            limited_users: totals.limited_users,
            today_bytes: totals.today_bytes,
            month_bytes: totals.month_bytes,
            unattributed_bytes: totals.unattributed_bytes,
            as_of: Some(snapshot.at),
        }
    }
}

/// One user's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveUser {
    /// UUID v7: what lines are told apart by.
    pub id: String,
    pub name: String,
    pub state: UserState,
    #[serde(flatten)]
    pub live: Live,
    /// Bytes of `meter` in the user's period.
    pub period_bytes: u64,
    /// `None` is unlimited.
    pub quota_bytes: Option<u64>,
    /// Bytes of `meter` over all time.
    pub total_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Time>,
}

/// A message of the stream. The first one is [`LiveUpdate::State`]; after a gap there is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveUpdate {
    State(LiveSnapshot),
    /// `users` holds only the lines that changed.
    Change {
        #[serde(flatten)]
        snapshot: LiveSnapshot,
        /// Ids of users that are gone.
        removed: Vec<String>,
    },
}

impl LiveUpdate {
    /// What a reader who has `old` must learn to have `new`.
    pub fn between(old: &LiveSnapshot, new: &LiveSnapshot) -> LiveUpdate {
        let before: BTreeMap<&str, &LiveUser> =
            old.users.iter().map(|user| (user.id.as_str(), user)).collect();
        let now: BTreeSet<&str> = new.users.iter().map(|user| user.id.as_str()).collect();
        let users =
            new.users.iter().filter(|user| before.get(user.id.as_str()) != Some(user)).cloned().collect();
        let removed = before.keys().filter(|id| !now.contains(*id)).map(|id| (*id).to_owned()).collect();
        LiveUpdate::Change { snapshot: LiveSnapshot { users, ..new.head() }, removed }
    }

    /// The state after this message; `None` for a change without a state before it.
    pub fn apply(self, old: Option<LiveSnapshot>) -> Option<LiveSnapshot> {
        let (mut snapshot, removed) = match self {
            LiveUpdate::State(snapshot) => return Some(snapshot),
            LiveUpdate::Change { snapshot, removed } => (snapshot, removed),
        };
        let mut users: BTreeMap<String, LiveUser> =
            old?.users.into_iter().map(|user| (user.id.clone(), user)).collect();
        for id in &removed {
            users.remove(id);
        }
        users.extend(snapshot.users.drain(..).map(|user| (user.id.clone(), user)));
        snapshot.users = users.into_values().collect();
        Some(snapshot)
    }

    /// The name of the message in the event stream.
    pub fn event(&self) -> &'static str {
        match self {
            LiveUpdate::State(_) => "state",
            LiveUpdate::Change { .. } => "change",
        }
    }
}

impl LiveSnapshot {
    /// Everything but the users.
    fn head(&self) -> LiveSnapshot {
        LiveSnapshot {
            schema: Schema,
            at: self.at,
            ok: self.ok,
            degraded: self.degraded.clone(),
            meter: self.meter,
            totals: self.totals,
            users: Vec::new(),
        }
    }
}
