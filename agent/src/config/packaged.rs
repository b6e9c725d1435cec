//! The configuration that packages bring: every key is there, commented, with its default.

use std::path::Path;

use super::Config;

pub const TEXT: &str = include_str!("../../../dist/config.toml");

/// Takes the `#` away where a key follows at once; other comments have a space there.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    TEXT.lines().map(line).collect::<Vec<_>>().join("\n")
}

pub fn keys(table: &toml::Table, before: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let name = format!("{before}{key}");
        match value.as_table() {
            Some(inner) => keys(inner, &format!("{name}."), found),
            None => found.push(name),
        }
    }
}

#[test]
fn the_packaged_configuration_says_the_defaults() {
    let path = Path::new("dist/config.toml");
    assert_eq!(Config::parse(TEXT, path).unwrap(), Config::default());
    assert_eq!(Config::parse(&uncommented(), path).unwrap(), Config::default());
    let (mut written, mut known) = (Vec::new(), Vec::new());
    keys(&uncommented().parse().unwrap(), "", &mut written);
    keys(&toml::Table::try_from(Config::default()).unwrap(), "", &mut known);
    written.sort();
    known.sort();
    assert_eq!(written, known, "keys of dist/config.toml, and those that there are");
}
