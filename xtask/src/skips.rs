//! Skipped tests: how they are told to us and which are allowed. Owns the format of the skip log, which the
//! harness writes (one `test<TAB>reason` per line), and of `.ci/allowed-skips`.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A test that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    pub test: String,
    pub reason: String,
}

/// Reads the log that the harness wrote during a stage; no file means no skip.
pub fn read_log(path: &Path) -> Vec<Skip> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| {
        let (test, reason) = line.split_once('\t')?;
        Some(Skip { test: test.into(), reason: reason.into() })
    };
    text.lines().filter_map(parse).collect()
}

/// The committed list: names of tests which may be skipped, one a line; `#` begins a comment.
pub fn allowed() -> Result<Vec<String>> {
    let path = crate::paths::root().join(".ci/allowed-skips");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
    Ok(names.filter(|l| !l.is_empty()).map(str::to_string).collect())
}
