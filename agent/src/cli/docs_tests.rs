//! What the pages tell people to type: each command is one that the command line has, each configuration one
//! that is read, and the table of users one that is understood.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser as _, error::ErrorKind};

use super::args::Cli;
use crate::{config::Config, import};

/// A fenced block: where it begins, what it is said to be, and its text.
struct Block {
    line: usize,
    kind: String,
    text: String,
}

fn pages() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect();
    files.extend(["README.md", "README.zh-CN.md"].map(|name| root.join(name)));
    files.sort();
    let read = |path: PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// The fenced blocks of a page, and its text without them.
fn blocks(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut rest) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for (at, line) in page.lines().enumerate() {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(kind), None) => {
                open = Some(Block { line: at + 1, kind: kind.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block without an end");
    (blocks, rest)
}

/// A line in words, as a shell has them, up to a comment or another command.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(mark), _) if c == mark => quote = None,
            (Some(_), _) => word.push(c),
            (None, '"' | '\'') => (quote, begun) = (Some(c), true),
            (None, '>' | ';' | '&' | '<') => break,
            (None, '#') if word.is_empty() && !begun => break,
            (None, _) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (None, _) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    let end = words.iter().position(|word| word == "|").unwrap_or(words.len());
    words.truncate(end);
    words
}

/// The command without what only people read: `…`, `[optional]`, `one|other`, `SIZE`.
fn plain(words: Vec<String>) -> Vec<String> {
    let stand_in = |word: String| match word.as_str() {
        "DATE" => "2027-01-31".to_owned(),
        "SIZE" => "1GiB".to_owned(),
        "RATE" => "1MiB/s".to_owned(),
        "TIME" => "-1d".to_owned(),
        "N" => "3".to_owned(),
        _ => word,
    };
    words
        .into_iter()
        .filter(|word| !word.contains('…'))
        .map(|word| word.replace(['[', ']'], ""))
        .map(|word| word.split(['|', '\\']).next().unwrap_or_default().to_owned())
        .map(stand_in)
        .collect()
}

fn wrong(words: Vec<String>, whole: bool) -> Option<String> {
    let error = Cli::try_parse_from(plain(words)).err()?;
    let named_only = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    (!shown && (whole || !named_only)).then(|| error.to_string())
}

#[test]
fn every_command_in_the_pages_is_one() {
    let (mut wrongs, mut tried) = (Vec::new(), 0);
    for (name, page) in pages() {
        let (blocks, rest) = blocks(&page);
        for block in blocks {
            for (at, line) in block.text.replace("\\\n", " ").lines().enumerate() {
                let typed = match block.kind.as_str() {
                    "sh" => Some(line.trim_start()),
                    _ => line.trim_start().strip_prefix("$ "),
                };
                let Some(typed) = typed.filter(|typed| typed.starts_with("boxmeter ")) else { continue };
                tried += 1;
                let place = block.line + at + 1;
                wrongs.extend(wrong(words(typed), true).map(|why| format!("{name}:{place}: {typed}\n{why}")));
            }
        }
        for span in rest.split('`').skip(1).step_by(2).filter(|span| span.starts_with("boxmeter ")) {
            tried += 1;
            wrongs.extend(wrong(words(span), false).map(|why| format!("{name}: {span}\n{why}")));
        }
    }
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    assert!(tried > 100, "only {tried} commands were found");
}

#[test]
fn every_configuration_in_the_pages_is_read() {
    let mut tried = 0;
    for (name, page) in pages() {
        for block in blocks(&page).0.iter().filter(|block| block.kind == "toml") {
            tried += 1;
            if let Err(error) = Config::parse(&block.text, Path::new("config.toml")) {
                panic!("{name}:{}: {error}", block.line);
            }
        }
    }
    assert!(tried > 10, "only {tried} configurations were found");
}

#[test]
fn the_users_of_the_pages_are_understood() {
    let now = "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap();
    for (name, page) in pages().into_iter().filter(|(name, _)| name.starts_with("moving")) {
        let blocks = blocks(&page).0;
        let table = blocks.iter().find(|block| block.text.starts_with("name,uuid")).unwrap();
        let read = import::read_csv(table.text.as_bytes(), &now).unwrap();
        assert_eq!((read.users.len(), read.not_understood), (2, vec![]), "{name}");
        assert_eq!(read.users[0].total_quota_bytes, Some(Some(100 << 30)), "{name}");
        // The form that the query of the page writes.
        let when = "name,expires\na,2027-01-31T00:00:00Z\n";
        assert!(import::read_csv(when.as_bytes(), &now).unwrap().users[0].expires_ms.is_some());
    }
}
