//! `cargo xtask tidy`: the rules of the source tree as failures. Owns which files are looked at; the rules
//! themselves are in `tidy_rules`.

use crate::shell::output;
use crate::{paths, tidy_rules};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// A file of the tree: path from the repository's root with `/`, and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Does the path lie in this folder?
    pub fn below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

/// Everything that git knows or would add; what is ignored is not ours.
fn files() -> Result<Vec<File>> {
    let root = paths::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let list = output(&mut git).context("git ls-files fails: tidy needs git and a repository")?;
    let mut found = Vec::new();
    for path in list.lines() {
        // Binary files and files removed but not yet committed have no text.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            found.push(File { path: path.to_string(), text });
        }
    }
    Ok(found)
}

pub fn run() -> Result<()> {
    let files = files()?;
    let mut findings: Vec<String> = Vec::new();
    for file in &files {
        findings.extend(tidy_rules::of_file(file).into_iter().map(|f| format!("{}: {f}", file.path)));
    }
    findings.extend(tidy_rules::of_tree(&files));
    if findings.is_empty() {
        println!("tidy: {} files, no finding", files.len());
        return Ok(());
    }
    bail!("tidy: {} findings\n  {}", findings.len(), findings.join("\n  "))
}
