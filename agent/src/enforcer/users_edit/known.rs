//! Who is in a list, for who puts many in.

use std::collections::{HashMap, HashSet};

/// Names and credentials of everybody in a full list, for who puts many in.
#[derive(Default)]
pub struct Known {
    names: HashSet<String>,
    /// By credential.
    holders: HashMap<String, String>,
}

impl Known {
    /// Is there an entry with this name, in or out?
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Who has this credential, in or out?
    pub fn holder(&self, credential: &str) -> Option<&String> {
        self.holders.get(credential)
    }

    pub fn add(&mut self, name: &str, credential: Option<String>) {
        self.names.insert(name.to_owned());
        if let Some(credential) = credential {
            self.holders.entry(credential).or_insert_with(|| name.to_owned());
        }
    }
}
