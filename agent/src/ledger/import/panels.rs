//! Rows of panels' databases, for the readers in `crate::import`: which panel a file is of, and the values of
//! the columns that matter, as JSON.

use rusqlite::{Connection, types::ValueRef};
use serde_json::Value;

use super::{
    Findings, USERS_MAX,
    tables::{Table, Tables},
};
use crate::import::{
    Imported, Panel,
    panel::{self, Row},
};

/// Rows of one table.
const ROWS_MAX: usize = USERS_MAX;
/// A list of clients is one text: this is 100,000 of them.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Whose database it is, if it is no script's.
pub(super) enum Whose {
    Read(Panel),
    Marzban,
    /// Before its inbounds had a table.
    OldSui,
}

/// All panels also have a table `users`, of those who may use the panel: they are never taken for clients.
pub(super) fn whose(tables: &Tables) -> Option<Whose> {
    let has = |table: &str, columns: &[&str]| {
        tables.get(table).is_some_and(|table| columns.iter().all(|column| table.find(&[column]).is_some()))
    };
    if has("inbounds", &["protocol", "settings"]) && has("client_traffics", &["email"]) {
        Some(Whose::Read(Panel::ThreeXui))
    } else if has("clients", &["name", "config", "inbounds"]) {
        Some(if has("inbounds", &["type", "tag", "options"]) {
            Whose::Read(Panel::Sui)
        } else {
            Whose::OldSui
        })
    } else if has("users", &["username", "data_limit"]) && tables.get("proxies").is_some() {
        Some(Whose::Marzban)
    } else {
        None
    }
}

/// `None`: there are more users than a file may have.
pub(super) fn read(
    connection: &Connection,
    tables: &Tables,
    whose: Panel,
    findings: &mut Findings,
) -> rusqlite::Result<Option<Imported>> {
    let mut full = false;
    let mut all = |name: &str| -> rusqlite::Result<Vec<Row>> {
        let Some(table) = tables.get(name) else { return Ok(Vec::new()) };
        let rows = rows(connection, table)?;
        full |= rows.is_none();
        Ok(rows.unwrap_or_default())
    };
    let read = match whose {
        Panel::ThreeXui => panel::Rows {
            inbounds: all("inbounds")?,
            people: all("client_traffics")?,
            clients: all("clients")?,
            links: all("client_inbounds")?,
            ..panel::Rows::default()
        },
        Panel::Sui => panel::Rows {
            inbounds: all("inbounds")?,
            people: all("clients")?,
            tls: all("tls")?,
            ..panel::Rows::default()
        },
    };
    if full {
        return Ok(None);
    }
    let now_ms = crate::clock::wall_ms();
    let imported = panel::read(whose, &read, now_ms, findings);
    Ok((imported.users.len() <= USERS_MAX).then_some(imported))
}

fn rows(connection: &Connection, table: &Table) -> rusqlite::Result<Option<Vec<Row>>> {
    let names: Vec<String> = table.columns.iter().map(|column| column.to_ascii_lowercase()).collect();
    let mut statement = connection.prepare(&table.select_all())?;
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        if rows.len() == ROWS_MAX {
            return Ok(None);
        }
        let mut values = Row::default();
        for (at, name) in names.iter().enumerate() {
            values.set(name, value(row.get_ref(at)?));
        }
        rows.push(values);
    }
    Ok(Some(rows))
}

/// What cannot be read is as if it were not there: whoever needs it says so.
fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => value.into(),
        ValueRef::Real(value) => value.into(),
        // Programs in Go write JSON as bytes.
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.len() <= TEXT_BYTES_MAX => {
            std::str::from_utf8(bytes).map_or(Value::Null, Value::from)
        }
        ValueRef::Text(_) | ValueRef::Blob(_) => Value::Null,
    }
}
