//! An entry that was taken out of sing-box's configuration, as the ledger keeps it until it goes back.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Names one parked entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ParkedKey {
    pub user: String,
    /// The inbound's tag.
    pub inbound: String,
    /// From 0, where one name stands several times in one inbound.
    pub nth: u32,
}

/// A user's entry of one inbound, with what stood around it when all entries were there. It holds a
/// credential: nothing prints it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    #[serde(flatten)]
    pub key: ParkedKey,
    /// The inbound's type: an entry fits no other.
    pub kind: String,
    /// Where it was last; its inbound may have moved to another file since.
    pub file: PathBuf,
    /// The JSON object as it was written.
    pub entry: String,
    /// Place among all entries, those that are out included.
    pub index: usize,
    /// Names of the neighbours among them; `None` is the array's end.
    pub previous: Option<String>,
    pub next: Option<String>,
    /// The text between it and its neighbours; in several pieces where entries between were deleted.
    pub before: Vec<String>,
    pub after: Vec<String>,
    /// SHA-256 of the file that it was taken out of, in hexadecimal: a file that still has this text
    /// was never written.
    pub from: String,
    /// Is the file known to have been written without it? Until then, and from when it is to be put back,
    /// an entry that is in the file is there by boxmeter's own doing, whatever else was edited meanwhile.
    /// The ledger has it as the record's stage.
    #[serde(skip)]
    pub left: bool,
    /// Was it already found that somebody put it back by hand?
    #[serde(skip)]
    pub returned: bool,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("key", &self.key).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Parked {
    /// Does `later` stand right behind it?
    pub(super) fn is_before(&self, later: &Parked) -> bool {
        self.index + 1 == later.index
            && self.next.as_deref() == Some(&later.key.user)
            && later.previous.as_deref() == Some(&self.key.user)
            && self.after == later.before
    }
}
