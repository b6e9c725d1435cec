//! The live view: full snapshots from the backend, full state and then changes over the stream.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

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
    /// Over all users, with what services report themselves, and unattributed bytes of watched inbounds.
    pub totals: LiveTotals,
    /// Each by itself: most of them are the same from one snapshot to the next.
    #[serde(with = "lines")]
    pub users: Vec<Arc<LiveUser>>,
}

/// Written and read as the users that they hold.
mod lines {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::LiveUser;

    pub fn serialize<S: Serializer>(users: &[Arc<LiveUser>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(users.iter().map(|it| &**it))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Arc<LiveUser>>, D::Error> {
        Ok(Vec::<LiveUser>::deserialize(from)?.into_iter().map(Arc::new).collect())
    }
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
    pub fn count(&mut self, users: impl Iterator<Item = (UserState, Live)>) {
        for (state, live) in users {
            self.total_users += 1;
            self.active_users += u64::from(state == UserState::Active);
            self.limited_users += u64::from(state == UserState::Limited);
            self.online_users += u64::from(live.flows > 0);
            self.flows += live.flows;
            self.upload_rate = self.upload_rate.saturating_add(live.upload_rate);
            self.download_rate = self.download_rate.saturating_add(live.download_rate);
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
        let (mut users, mut removed) = (Vec::new(), Vec::new());
        let (before, now) = (by_id(&old.users), by_id(&new.users));
        side_by_side(&before, &now, |one, other| match (one, other) {
            (Some(gone), None) => removed.push(gone.id.clone()),
            (Some(before), Some(now)) if Arc::ptr_eq(before, now) || before == now => {}
            (_, Some(now)) => users.push(Arc::clone(now)),
            (None, None) => {}
        });
        LiveUpdate::Change { snapshot: LiveSnapshot { users, ..new.head() }, removed }
    }

    /// The state after this message; `None` for a change without a state before it.
    pub fn apply(self, old: Option<&LiveSnapshot>) -> Option<LiveSnapshot> {
        let (mut snapshot, removed) = match self {
            LiveUpdate::State(snapshot) => return Some(snapshot),
            LiveUpdate::Change { snapshot, removed } => (snapshot, removed),
        };
        let (before, changed) = (by_id(&old?.users), by_id(&snapshot.users));
        let mut users = Vec::with_capacity(before.len() + changed.len());
        side_by_side(&before, &changed, |one, other| match (one, other) {
            (Some(same), None) if !removed.is_empty() && removed.contains(&same.id) => {}
            (Some(one), None) | (_, Some(one)) => users.push(Arc::clone(one)),
            (None, None) => {}
        });
        snapshot.users = users;
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

/// In the order of ids, in which they mostly are.
fn by_id(users: &[Arc<LiveUser>]) -> Cow<'_, [Arc<LiveUser>]> {
    if users.is_sorted_by(|a, b| a.id < b.id) {
        return Cow::Borrowed(users);
    }
    let mut sorted = users.to_vec();
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    Cow::Owned(sorted)
}

/// Hands over who is in one of them or in both, in the order of ids.
fn side_by_side<'a>(
    one: &'a [Arc<LiveUser>],
    other: &'a [Arc<LiveUser>],
    mut each: impl FnMut(Option<&'a Arc<LiveUser>>, Option<&'a Arc<LiveUser>>),
) {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let order = match (one.peek(), other.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.id.cmp(&b.id),
        };
        match order {
            Ordering::Less => each(one.next(), None),
            Ordering::Greater => each(None, other.next()),
            Ordering::Equal => each(one.next(), other.next()),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::demo;

    /// Users by number, each with a rate.
    fn snapshot(users: &[(u64, u64)]) -> LiveSnapshot {
        let now = "2026-11-24T15:30:00Z[UTC]".parse().unwrap();
        let user = |(number, rate): &(u64, u64)| {
            let mut user = demo::user(&now, *number, &format!("user-{number}"), UserState::Active, None);
            user.live.download_rate = *rate;
            user
        };
        demo::Demo::new(now.clone()).with_users(users.iter().map(user).collect()).snapshot()
    }

    proptest! {
        /// Whatever changed between two states, and in whatever order they list their users.
        #[test]
        fn a_change_takes_who_has_the_old_state_to_the_new_one(
            old in proptest::collection::btree_map(1..20_u64, 0..3_u64, 0..12),
            new in proptest::collection::btree_map(1..20_u64, 0..3_u64, 0..12),
            backwards in any::<bool>(),
        ) {
            let listed = |of: std::collections::BTreeMap<u64, u64>| {
                let mut all: Vec<_> = of.into_iter().collect();
                if backwards {
                    all.reverse();
                }
                snapshot(&all)
            };
            let (old, new) = (listed(old), listed(new));
            let change = LiveUpdate::between(&old, &new);
            let LiveUpdate::Change { snapshot, removed } = &change else { unreachable!() };
            prop_assert!(snapshot.users.iter().all(|it| !old.users.contains(it)), "only what is new");
            prop_assert!(removed.iter().all(|id| new.users.iter().all(|it| it.id != *id)));
            let text = serde_json::to_string(&change).unwrap();
            let read: LiveUpdate = serde_json::from_str(&text).unwrap();
            let mut expected = new.clone();
            expected.users.sort_by(|a, b| a.id.cmp(&b.id));
            prop_assert_eq!(read.apply(Some(&old)), Some(expected));
        }
    }
}
