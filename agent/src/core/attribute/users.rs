//! The users' names as sing-box's configuration has them, and short numbers in place of ids.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use crate::core::event::UserId;

/// A user within the table of flows: four bytes instead of sixteen for each flow. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserNo(NonZeroU32);

#[derive(Debug, Default)]
pub(super) struct Users {
    names: BTreeMap<Arc<str>, UserId>,
    ids: Vec<UserId>,
    numbers: BTreeMap<UserId, UserNo>,
}

impl Users {
    /// Whoever had a name that nobody has any more keeps it here: sing-box lets a user in who was taken out
    /// of its file until it has read that, and those bytes are nobody else's.
    pub fn set_names(&mut self, names: BTreeMap<Arc<str>, UserId>) {
        let before = std::mem::replace(&mut self.names, names);
        for (name, id) in before {
            self.names.entry(name).or_insert(id);
        }
    }

    pub fn by_name(&mut self, name: &str) -> Option<UserNo> {
        let id = *self.names.get(name)?;
        self.number(id)
    }

    /// `None` only past four billion users in one life of the process.
    pub fn number(&mut self, id: UserId) -> Option<UserNo> {
        if let Some(&number) = self.numbers.get(&id) {
            return Some(number);
        }
        let number = UserNo(NonZeroU32::new(u32::try_from(self.ids.len() + 1).ok()?)?);
        self.ids.push(id);
        self.numbers.insert(id, number);
        Some(number)
    }

    pub fn known(&self, id: UserId) -> Option<UserNo> {
        self.numbers.get(&id).copied()
    }

    pub fn id(&self, number: UserNo) -> Option<UserId> {
        self.ids.get(number.0.get() as usize - 1).copied()
    }
}
