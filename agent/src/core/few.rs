//! A sorted map of few entries, in one piece of memory as long as what is in it. One entry of a
//! `BTreeMap` takes the room of eleven, and 10,000 users with one address each have as many maps.
//!
//! Putting in and taking out moves what lies behind: for maps with a limit of some hundred entries.

/// See the module.
#[derive(Debug)]
pub(super) struct Few<K, V>(Vec<(K, V)>);

impl<K: Ord, V> Few<K, V> {
    pub const fn new() -> Self {
        Few(Vec::new())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    // Half as much again: most have one entry for good, and the first growth of a
                    // vector would be to four.
                    self.0.reserve_exact(1 + self.0.len() / 2);
                }
                self.0.insert(at, (key, value));
            }
        }
    }

    pub fn remove(&mut self, key: &K) {
        if let Ok(at) = self.find(key) {
            self.0.remove(at);
        }
        self.give_back();
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
        self.give_back();
    }

    fn give_back(&mut self) {
        if self.0.len() < self.0.capacity() / 2 {
            self.0.shrink_to_fit();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Few;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u8..20, any::<u16>()), 0..200)) {
            let (mut few, mut map) = (Few::new(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0 | 1 => {
                        few.insert(key, value);
                        map.insert(key, value);
                    }
                    2 => {
                        few.remove(&key);
                        map.remove(&key);
                    }
                    _ => {
                        few.retain(|key, value| (u16::from(*key) ^ *value) & 1 == 0);
                        map.retain(|key, value| (u16::from(*key) ^ *value) & 1 == 0);
                    }
                }
                prop_assert_eq!(few.len(), map.len());
                prop_assert_eq!(few.is_empty(), map.is_empty());
                prop_assert_eq!(few.get(&key), map.get(&key));
                prop_assert_eq!(few.contains_key(&key), map.contains_key(&key));
                prop_assert!(few.iter().eq(map.iter()), "in order");
                prop_assert!(few.0.capacity() <= 2 * few.len() + 1, "no more room than that");
            }
        }
    }
}
