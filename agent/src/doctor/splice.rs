//! Edits JSON text by inserting and replacing bytes, so that every other byte stays; and shows such
//! edits as a unified diff. Pure.

use std::{fmt::Write as _, ops::Range};

use crate::singbox::tree::{Node, Value};

/// Lines around a change that a diff shows.
const CONTEXT: usize = 3;

/// Replaces `range` of the old text by `with`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    pub range: Range<usize>,
    pub with: String,
}

/// Applies edits that do not overlap.
pub fn apply(text: &str, splices: &[Splice]) -> String {
    let mut sorted: Vec<_> = splices.iter().collect();
    // Stable: of two texts for one place the first one goes first.
    sorted.sort_by_key(|splice| splice.range.start);
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for splice in sorted {
        // Two insertions at one place may both claim the blanks after it.
        out.push_str(&text[at..splice.range.start.max(at)]);
        out.push_str(&splice.with);
        at = splice.range.end.max(at);
    }
    out.push_str(&text[at..]);
    out
}

/// Puts text first into an object or array: nothing that is there, comments and trailing commas
/// included, needs to be looked at for that. `item` has lines that are indented from nothing.
pub fn insert_first(text: &str, container: &Node, item: &str) -> Splice {
    let at = container.range.start + 1;
    let empty = match &container.value {
        Value::Array(elements) => elements.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let outer = indent_of_line(text, container.range.start);
    let inner = first_child_indent(text, container).unwrap_or_else(|| format!("{outer}{}", unit(text)));
    let body = item.replace('\t', unit(text)).replace('\n', &format!("{line_end}{inner}"));
    let mut with = format!("{line_end}{inner}{body}");
    if !empty {
        with.push(',');
    }
    // What follows on the same line must go to a line of its own.
    let rest = text[at..].split('\n').next().unwrap_or_default();
    if !rest.trim().is_empty() {
        let closes = rest.trim_start().starts_with(['}', ']']);
        let _ = write!(with, "{line_end}{}", if closes { outer } else { inner });
        let blanks = rest.len() - rest.trim_start().len();
        return Splice { range: at..at + blanks, with };
    }
    Splice { range: at..at, with }
}

/// Replaces a value.
pub fn replace(value: &Node, with: &str) -> Splice {
    Splice { range: value.range.clone(), with: with.to_owned() }
}

fn indent_of_line(text: &str, at: usize) -> String {
    let line_start = text[..at].rfind('\n').map_or(0, |found| found + 1);
    text[line_start..at].chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
}

fn first_child_indent(text: &str, container: &Node) -> Option<String> {
    let rest = &text[container.range.start + 1..container.range.end];
    let (first, after) = rest.split_once('\n')?;
    if !first.trim().is_empty() {
        return None;
    }
    let line = after.lines().find(|line| !line.trim().is_empty())?;
    if line.trim_start().starts_with(['}', ']']) {
        return None;
    }
    Some(line.chars().take_while(|c| matches!(c, ' ' | '\t')).collect())
}

/// One step of the file's indentation.
fn unit(text: &str) -> &'static str {
    match text.lines().find(|line| line.starts_with([' ', '\t'])) {
        Some(line) if line.starts_with('\t') => "\t",
        Some(line) if line.starts_with("    ") => "    ",
        _ => "  ",
    }
}

/// A unified diff of edits. `hide` is never shown: a secret.
pub fn diff(path: &str, text: &str, splices: &[Splice], hide: &str) -> String {
    let mut sorted: Vec<_> = splices.iter().cloned().collect();
    sorted.sort_by_key(|splice| splice.range.start);
    let mut out = format!("--- {path}\n+++ {path}\n");
    let old: Vec<&str> = text.split_inclusive('\n').collect();
    let mut starts = vec![0];
    for line in &old {
        starts.push(starts[starts.len() - 1] + line.len());
    }
    let line_of = |at: usize| starts.partition_point(|&start| start <= at).saturating_sub(1).min(old.len().saturating_sub(1));
    let mut grown = 0isize;
    let mut at = 0;
    while at < sorted.len() {
        let first = line_of(sorted[at].range.start);
        let mut last = line_of(sorted[at].range.end);
        let mut end = at + 1;
        while end < sorted.len() && line_of(sorted[end].range.start) <= last + 2 * CONTEXT {
            last = line_of(sorted[end].range.end);
            end += 1;
        }
        let (from, to) = (starts[first], starts[last + 1]);
        let moved: Vec<Splice> = sorted[at..end]
            .iter()
            .map(|s| Splice { range: s.range.start - from..s.range.end - from, with: s.with.clone() })
            .collect();
        let new = apply(&text[from..to], &moved);
        let mut added: Vec<&str> = new.split_inclusive('\n').collect();
        let mut removed = old[first..=last].to_vec();
        // Equal lines at both ends are context.
        let (mut head, mut tail) = (first, last + 1);
        while !removed.is_empty() && !added.is_empty() && removed[0] == added[0] {
            removed.remove(0);
            added.remove(0);
            head += 1;
        }
        while !removed.is_empty() && !added.is_empty() && removed.last() == added.last() {
            removed.pop();
            added.pop();
            tail -= 1;
        }
        let before = &old[head.saturating_sub(CONTEXT)..head];
        let after = &old[tail..(tail + CONTEXT).min(old.len())];
        let context = before.len() + after.len();
        let old_start = head - before.len() + 1;
        let new_start = (old_start as isize + grown).max(1);
        let _ = writeln!(out, "@@ -{old_start},{} +{new_start},{} @@", removed.len() + context, added.len() + context);
        for (sign, lines) in [(' ', before), ('-', &removed), ('+', &added), (' ', after)] {
            for line in lines {
                let line = line.trim_end_matches(['\n', '\r']);
                let shown = if hide.is_empty() { line.to_owned() } else { line.replace(hide, "…") };
                let _ = writeln!(out, "{sign}{shown}");
            }
        }
        grown += added.len() as isize - removed.len() as isize;
        at = end;
    }
    out
}
