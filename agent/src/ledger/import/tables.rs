//! Which tables and columns a foreign file has.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::Findings;

/// Tables and columns that are looked at; a file with more is not what it says.
const TABLES_MAX: i64 = 200;

pub(super) struct Table {
    pub name: String,
    /// As in the file, in their order.
    pub columns: Vec<String>,
}

impl Table {
    /// The first of these names that the table has, whatever the case, as the file spells it.
    pub fn find(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.columns.iter().find(|column| column.eq_ignore_ascii_case(name)))
            .map(String::as_str)
    }

    pub fn select(&self, columns: &[String]) -> String {
        let columns: Vec<String> = columns.iter().map(|column| identifier(column)).collect();
        format!("SELECT {} FROM {}", columns.join(", "), identifier(&self.name))
    }

    pub fn select_all(&self) -> String {
        self.select(&self.columns)
    }
}

/// Names in SQL: a foreign file may have any.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// By name in lower case. Views and virtual tables are left out: they run what the file wants.
pub(super) struct Tables(BTreeMap<String, Table>);

impl Tables {
    pub fn of(connection: &Connection) -> rusqlite::Result<Tables> {
        let mut statement = connection.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'create table%'
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' LIMIT ?1",
        )?;
        let names: Vec<String> =
            statement.query_map([TABLES_MAX], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut tables = BTreeMap::new();
        for name in names {
            // Hidden and generated columns are not listed by this pragma.
            let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
            let columns = statement.query_map([&name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            tables.insert(name.to_ascii_lowercase(), Table { name, columns });
        }
        Ok(Tables(tables))
    }

    pub fn get(&self, name: &str) -> Option<&Table> {
        self.0.get(name)
    }

    pub fn names(&self) -> String {
        let names: Vec<String> = self.0.values().take(20).map(|table| super::quoted(&table.name)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// Says which tables were not looked at.
    pub fn unused(&self, used: &[&str], findings: &mut Findings) {
        for (name, table) in &self.0 {
            if !used.contains(&name.as_str()) {
                findings.add(format!("the table {} was not taken over", super::quoted(&table.name)));
            }
        }
    }
}
