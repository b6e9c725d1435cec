//! How values stand in columns: words for choices, JSON for what the core owns.

use rusqlite::{
    Row,
    types::{Type, ValueRef},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    error::CommitError,
    records::{AdminState, EntryKind, FileState, ParkedStage},
};

/// A choice with one word per case; the words are part of the ledger's format.
macro_rules! words {
    ($choice:ident { $($case:ident = $word:literal),+ $(,)? }) => {
        impl $choice {
            /// The word in the ledger.
            pub fn word(self) -> &'static str {
                match self { $($choice::$case => $word),+ }
            }
        }

        impl rusqlite::ToSql for $choice {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.word().into())
            }
        }

        impl rusqlite::types::FromSql for $choice {
            fn column_result(
                value: rusqlite::types::ValueRef<'_>,
            ) -> rusqlite::types::FromSqlResult<Self> {
                match value.as_str()? {
                    $($word => Ok($choice::$case),)+
                    other => Err(rusqlite::types::FromSqlError::Other(format!("unknown word {other:?}").into())),
                }
            }
        }
    };
}

pub(super) use words;

words!(AdminState { Enabled = "enabled", Disabled = "disabled", Suspended = "suspended" });
words!(FileState { Adding = "adding", Settled = "settled", Removing = "removing" });
words!(EntryKind { Package = "package", Rollover = "rollover", Adjustment = "adjustment", Spent = "spent", Settled = "settled" });
words!(ParkedStage { Leaving = "leaving", Out = "out", Returning = "returning", Back = "back" });

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error)))
}

pub(super) fn json_or_null<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>> {
    if row.get_ref(index)? == ValueRef::Null { Ok(None) } else { json(row, index).map(Some) }
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, CommitError> {
    serde_json::to_string(value).map_err(|error| CommitError::Other(error.to_string()))
}
