//! The rules of the source tree (ARCHITECTURE.md, *Layout* and *Invariants*). Pure: text in, findings out.

use crate::tidy::File;

/// Aim for the length of a source file; longer ones hold more than one meaning.
const LINES_MAX: usize = 500;

/// A word that only some folders may use.
struct Import {
    word: &'static str,
    allowed: &'static [&'static str],
}

const IMPORTS: &[Import] = &[
    Import {
        word: "aya",
        allowed: &["agent/src/kernel/", "agent-common/src/pod.rs", "agent-ebpf/", "tests/kernel/"],
    },
    Import { word: "rusqlite", allowed: &["agent/src/ledger/", "tests/"] },
    Import { word: "lettre", allowed: &["agent/src/notify/", "agent/src/config/notify"] },
];

/// What the core must not know: files, network, clocks, threads of a runtime, the kernel, the database.
const NOT_IN_CORE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "aya",
    "rusqlite",
    "nix::",
    "libc::",
];

/// What the panel's package must not know, as crate names in its sources.
const NOT_IN_WEB: &[&str] = &["aya", "rusqlite", "nix"];

/// What those who send messages must not know: they have a queue, and nothing to decide.
const NOT_IN_NOTIFY: &[&str] = &["aya", "rusqlite", "crate::daemon", "crate::kernel", "crate::enforcer"];

/// Paths and hosts of a machine where somebody worked; written in two parts so that this file is clean.
const MACHINE: &[(&str, &str)] =
    &[("/wo", "rk/"), ("/ro", "ot/"), ("/home", "/runner"), ("index.crates", ".io-")];

/// Code of a line: without a `//` comment. Strings with `//` lose their tail, which no rule here needs.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Is the crate or module named here, as `use word`, `word::` or `pub(crate) use word`?
fn names(line: &str, word: &str) -> bool {
    let code = code(line);
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        let starts =
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-' || c == '"' || c == ':');
        let path = after.starts_with("::") || word.ends_with("::");
        let import = code.trim_start().trim_start_matches("pub ").starts_with("use ")
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        starts && (path || import)
    })
}

fn forbidden_in(file: &File, words: &[&str], place: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for word in words.iter().filter(|w| code(line).contains(*w) && (w.contains("::") || names(line, w))) {
            findings.push(format!("line {}: `{word}` is not for {place}", index + 1));
        }
    }
    findings
}

/// Findings about one file.
pub fn of_file(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (first, second) in MACHINE {
            let place = format!("{first}{second}");
            if line.contains(&place) && !file.path.ends_with("Cargo.lock") {
                findings.push(format!("line {}: a path of one machine: {place}", index + 1));
            }
        }
    }
    if !file.is_rust() {
        return findings;
    }
    if !file.text.starts_with("//!") && !file.text.starts_with("#![") {
        findings.push("begins without `//!` saying what it owns".to_string());
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{lines} lines; split it by meaning (at most {LINES_MAX})"));
    }
    for import in IMPORTS.iter().filter(|i| !i.allowed.iter().any(|folder| file.below(folder))) {
        for (index, _) in file.text.lines().enumerate().filter(|(_, l)| names(l, import.word)) {
            let allowed = import.allowed.join(", ");
            findings.push(format!("line {}: `{}` is only for {allowed}", index + 1, import.word));
        }
    }
    if file.below("agent/src/core/") {
        findings.extend(forbidden_in(file, NOT_IN_CORE, "the core"));
    }
    if file.below("agent/src/notify/") {
        findings.extend(forbidden_in(file, NOT_IN_NOTIFY, "what sends messages"));
    }
    if file.below("web/") {
        findings.extend(forbidden_in(file, NOT_IN_WEB, "the panel's package"));
    }
    findings
}

/// Findings about files together.
pub fn of_tree(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    for readme in ["README.md", "README.zh-CN.md"] {
        let text = files.iter().find(|f| f.path == readme).map(|f| f.text.as_str()).unwrap_or_default();
        for command in ["cargo xtask run", "cargo xtask test"] {
            if !text.contains(command) {
                findings.push(format!("{readme}: does not name `{command}`"));
            }
        }
    }
    if let Some(manifest) = files.iter().find(|f| f.path == "web/Cargo.toml") {
        for name in NOT_IN_WEB {
            if manifest
                .text
                .lines()
                .any(|l| l.starts_with(&format!("{name}.")) || l.starts_with(&format!("{name} ")))
            {
                findings.push(format!("web/Cargo.toml: `{name}` is not for the panel's package"));
            }
        }
    }
    findings.extend(locale_parity(files));
    findings
}

/// Every text exists in every language: catalogues of one folder have the same keys.
fn locale_parity(files: &[File]) -> Vec<String> {
    let catalogues: Vec<&File> =
        files.iter().filter(|f| f.path.contains("/locales/") && f.path.ends_with(".toml")).collect();
    let folder = |f: &File| f.path.rsplit_once('/').map(|(folder, _)| folder.to_string());
    let mut findings = Vec::new();
    for one in &catalogues {
        for other in catalogues.iter().filter(|o| o.path != one.path && folder(o) == folder(one)) {
            let known = keys(&other.text);
            for key in keys(&one.text).into_iter().filter(|k| !known.contains(k)) {
                findings.push(format!("{}: lacks `{key}`, which {} has", other.path, one.path));
            }
        }
    }
    findings
}

/// Keys of a flat catalogue, with the table they are in.
fn keys(text: &str) -> Vec<String> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            found.push(format!("{table}{}", key.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn the_kernel_library_stays_in_its_folder() {
        let text = "//! Doc.\nuse aya::Ebpf;\n";
        assert!(of_file(&file("agent/src/kernel/load.rs", text)).is_empty());
        assert_eq!(of_file(&file("agent/src/daemon/mod.rs", text)).len(), 1);
        let other = "//! Says aya and rusqlite.\n// use aya::Ebpf\nlet display = layaway::x();\n";
        assert!(of_file(&file("agent/src/daemon/mod.rs", other)).is_empty());
    }

    #[test]
    fn the_core_reads_no_clock_and_no_file() {
        for line in
            ["let t = Instant::now();", "use std::fs;", "use tokio::sync::mpsc;", "nix::unistd::getpid();"]
        {
            let found = of_file(&file("agent/src/core/x.rs", &format!("//! Doc.\n{line}\n")));
            assert!(!found.is_empty(), "{line}");
        }
    }

    #[test]
    fn what_sends_messages_knows_neither_agent_nor_tables() {
        for line in ["use crate::daemon::shared;", "let k = crate::kernel::open();"] {
            let text = format!("//! Doc.\n{line}\n");
            assert!(!of_file(&file("agent/src/notify/mail.rs", &text)).is_empty(), "{line}");
            assert!(of_file(&file("agent/src/daemon/notifier.rs", &text)).is_empty(), "{line}");
        }
        assert!(!of_file(&file("agent/src/cli/mail.rs", "//! Doc.\nuse lettre::Message;\n")).is_empty());
    }

    #[test]
    fn long_files_and_missing_docs_are_found() {
        let long = format!("//! Doc.\n{}", "fn f() {}\n".repeat(LINES_MAX));
        assert_eq!(of_file(&file("agent/src/x.rs", &long)).len(), 1);
        assert_eq!(of_file(&file("agent/src/x.rs", "fn main() {}\n")).len(), 1);
    }

    #[test]
    fn catalogues_have_the_same_keys() {
        let files = [
            file("agent/src/cli/locales/en.toml", "[usage]\nuser = \"user\"\nup = \"up\"\n"),
            file("agent/src/cli/locales/zh.toml", "[usage]\nuser = \"用户\"\n"),
        ];
        assert_eq!(locale_parity(&files).len(), 1);
    }
}
