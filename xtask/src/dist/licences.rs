//! The licences of what is linked into the program: their texts must go with it.

use crate::shell::cargo;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Files that hold a licence begin with one of these.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Every crate that the program is made of with its licence, then each text once with the crates that have it.
///
/// # Errors
/// Cargo does not tell what the program is made of.
pub fn of_dependencies() -> Result<String> {
    let output = cargo().args(["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let linked = linked(&metadata)?;
    let mut list = String::from("Parts of boxmeter that others have written, and their licences.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in array(&metadata, "packages") {
        let (id, name) =
            (text(package, "id"), format!("{} {}", text(package, "name"), text(package, "version")));
        // Those without a source are our own.
        if !linked.contains(id) || package["source"].is_null() {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or("see its text");
        let _ = writeln!(list, "{name}: {licence}");
        let folder = Path::new(text(package, "manifest_path")).parent().context("a manifest at /")?;
        for entry in fs::read_dir(folder)?.flatten() {
            let file = entry.file_name().to_string_lossy().to_uppercase();
            if NAMES.iter().any(|start| file.starts_with(start)) && entry.path().is_file() {
                let content = String::from_utf8_lossy(&fs::read(entry.path())?).replace('\r', "");
                texts.entry(content.trim().to_owned()).or_default().push(name.clone());
            }
        }
    }
    for (content, of) in texts {
        let _ = write!(list, "\n{}\n{}\n\n{content}\n", "-".repeat(72), of.join(", "));
    }
    Ok(list)
}

/// Ids of the packages that are linked: what `boxmeter` needs, without what only building and testing need.
fn linked(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes: HashMap<&str, &Value> =
        array(&metadata["resolve"], "nodes").map(|node| (text(node, "id"), node)).collect();
    let program = array(metadata, "packages").find(|package| text(package, "name") == "boxmeter");
    let mut wanted = vec![text(program.context("no package `boxmeter`")?, "id")];
    let mut found = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if !found.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| array(node, "deps")) {
            if array(dependency, "dep_kinds").any(|kind| kind["kind"].is_null()) {
                wanted.push(text(dependency, "pkg"));
            }
        }
    }
    Ok(found)
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
