//! Which keys there are, and what is said of others; what TOML says of an error, without what nobody may see.

use std::path::Path;

use super::{Config, ConfigError, Service};
use crate::service::Kind;

/// The one key that may stand several times.
const SERVICE: &str = "service";

/// Every key of the defaults is known, and no other; so the list cannot go stale.
pub(super) fn check_keys(table: &toml::Table, path: &Path) -> Result<(), ConfigError> {
    let known = toml::Table::try_from(Config::default())
        .map_err(|error| ConfigError::Invalid { path: path.to_owned(), detail: error.to_string() })?;
    for (name, value) in table {
        let unknown = |key: String, nearest| ConfigError::UnknownKey { path: path.to_owned(), key, nearest };
        if name == SERVICE {
            let known = toml::Table::try_from(Service { kind: Some(Kind::V2ray), ..Service::default() })
                .map_err(|error| ConfigError::Invalid { path: path.to_owned(), detail: error.to_string() })?;
            for service in value.as_array().into_iter().flatten() {
                check_table(service, &known, name, &unknown)?;
            }
            continue;
        }
        let Some(section) = known.get(name).and_then(toml::Value::as_table) else {
            let owner = known.iter().find(|(_, keys)| keys.get(name).is_some());
            let nearest = owner.map(|(section, _)| format!("[{section}] {name}"));
            return Err(unknown(name.clone(), nearest.or_else(|| nearest_of(name, known.keys()))));
        };
        check_table(value, section, name, &unknown)?;
    }
    Ok(())
}

/// The keys of a table, and of the tables in it.
fn check_table(
    value: &toml::Value,
    known: &toml::Table,
    place: &str,
    unknown: &dyn Fn(String, Option<String>) -> ConfigError,
) -> Result<(), ConfigError> {
    for (key, value) in value.as_table().into_iter().flatten() {
        match known.get(key) {
            None => return Err(unknown(format!("{place}.{key}"), nearest_of(key, known.keys()))),
            Some(toml::Value::Table(inner)) => check_table(value, inner, &format!("{place}.{key}"), unknown)?,
            Some(_) => {}
        }
    }
    Ok(())
}

/// What TOML says of an error quotes the line; where secrets may stand, only its number is told.
pub(super) fn without_secrets(error: &toml::de::Error, text: &str) -> String {
    if !text.contains("notify") {
        return error.to_string().trim_end().to_owned();
    }
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message())
}

/// The known key with the fewest edits, if it is near enough to have been meant.
fn nearest_of<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    let limit = 1 + key.chars().count() / 3;
    known
        .map(|name| (edits(key, name), name))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, name)| name.clone())
}

/// Insertions, deletions and replacements that make one of the other (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
