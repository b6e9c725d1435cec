//! The live view: full snapshots from the backend, full state and then changes over the stream.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::types::{Degradation, Live, Meter, Schema, Time, UserState};

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
