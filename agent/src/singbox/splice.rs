//! Edits JSON text by inserting and replacing bytes, so that every other byte stays; and shows such
//! edits as a unified diff. Pure.

use std::{fmt::Write as _, ops::Range};

use super::tree::{Node, Value};

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

/// The blanks at the beginning of the line that holds a byte.
pub fn indent_of_line(text: &str, at: usize) -> String {
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
pub fn unit(text: &str) -> &'static str {
    match text.lines().find(|line| line.starts_with([' ', '\t'])) {
        Some(line) if line.starts_with('\t') => "\t",
        Some(line) if line.starts_with("    ") => "    ",
        _ => "  ",
    }
}

/// Lines that a change takes the place of, and its own.
struct Change<'a> {
    /// Places of the old lines.
    lines: Range<usize>,
    new: Vec<&'a str>,
}

/// A unified diff of edits. `hide` is never shown: a secret.
pub fn diff(path: &str, text: &str, splices: &[Splice], hide: &str) -> String {
    let old: Vec<&str> = text.split_inclusive('\n').collect();
    let spans = spans(text, &old, splices);
    let changes: Vec<Change<'_>> =
        spans.iter().map(|(lines, new)| change(&old, lines.clone(), new)).collect();
    let mut out = format!("--- {path}\n+++ {path}\n");
    let line = |sign: char, line: &str| {
        let line = line.trim_end_matches(['\n', '\r']);
        let shown = if hide.is_empty() { line.to_owned() } else { line.replace(hide, "…") };
        format!("{sign}{shown}\n")
    };
    let mut grown = 0isize;
    for hunk in changes.chunk_by(|a, b| b.lines.start <= a.lines.end + 2 * CONTEXT) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else {
            continue;
        };
        let start = first.lines.start.saturating_sub(CONTEXT);
        let end = (last.lines.end + CONTEXT).min(old.len());
        let growth: isize = hunk.iter().map(|c| c.new.len() as isize - c.lines.len() as isize).sum();
        let (count, new_start) = (end - start, start as isize + grown);
        let _ = writeln!(out, "@@ -{},{count} +{},{} @@", start + 1, new_start + 1, count as isize + growth);
        let mut at = start;
        for change in hunk {
            out.extend(old[at..change.lines.start].iter().map(|text| line(' ', text)));
            out.extend(old[change.lines.clone()].iter().map(|text| line('-', text)));
            out.extend(change.new.iter().map(|text| line('+', text)));
            at = change.lines.end;
        }
        out.extend(old[at..end].iter().map(|text| line(' ', text)));
        grown += growth;
    }
    out
}

/// The old lines that edits touch, with the text that takes their place; edits of one line together.
fn spans(text: &str, old: &[&str], splices: &[Splice]) -> Vec<(Range<usize>, String)> {
    let mut sorted: Vec<Splice> = splices.to_vec();
    sorted.sort_by_key(|splice| splice.range.start);
    let mut starts = vec![0];
    for line in old {
        starts.push(starts[starts.len() - 1] + line.len());
    }
    let line_of = |at: usize| {
        starts.partition_point(|&start| start <= at).saturating_sub(1).min(old.len().saturating_sub(1))
    };
    let lines = |splice: &Splice| line_of(splice.range.start)..line_of(splice.range.end) + 1;
    let mut spans: Vec<(Range<usize>, Vec<Splice>)> = Vec::new();
    for splice in sorted {
        let touched = lines(&splice);
        match spans.last_mut() {
            Some((span, inside)) if touched.start < span.end => {
                span.end = span.end.max(touched.end);
                inside.push(splice);
            }
            _ => spans.push((touched, vec![splice])),
        }
    }
    let moved = |from: usize, splice: &Splice| Splice {
        range: splice.range.start - from..splice.range.end - from,
        with: splice.with.clone(),
    };
    spans
        .into_iter()
        .map(|(span, inside)| {
            let (from, to) = (starts[span.start], starts[span.end]);
            let inside: Vec<Splice> = inside.iter().map(|splice| moved(from, splice)).collect();
            (span, apply(&text[from..to], &inside))
        })
        .collect()
}

/// Equal lines at both ends are no part of a change.
fn change<'a>(old: &[&str], mut lines: Range<usize>, new: &'a str) -> Change<'a> {
    let mut new: Vec<&str> = new.split_inclusive('\n').collect();
    while !lines.is_empty() && new.first() == Some(&old[lines.start]) {
        new.remove(0);
        lines.start += 1;
    }
    while !lines.is_empty() && new.last() == Some(&old[lines.end - 1]) {
        new.pop();
        lines.end -= 1;
    }
    Change { lines, new }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::singbox::tree;

    fn root(text: &str) -> Node {
        tree::parse(&Arc::new(PathBuf::from("a.json")), text).unwrap().0
    }

    fn inserted(text: &str) -> String {
        apply(text, &[insert_first(text, &root(text), "\"k\": {\n\t\"v\": 1\n}")])
    }

    #[test]
    fn insertions_take_the_file_s_own_shape() {
        for (text, wanted) in [
            ("{}", "{\n  \"k\": {\n    \"v\": 1\n  }\n}"),
            ("{\n}", "{\n  \"k\": {\n    \"v\": 1\n  }\n}"),
            ("{ \"a\": 1 }", "{\n  \"k\": {\n    \"v\": 1\n  },\n  \"a\": 1 }"),
            ("{\n\t\"a\": 1,\n}\n", "{\n\t\"k\": {\n\t\t\"v\": 1\n\t},\n\t\"a\": 1,\n}\n"),
            (
                "{ // c\r\n    \"a\": 1\r\n}",
                "{\r\n    \"k\": {\r\n        \"v\": 1\r\n    },\r\n    // c\r\n    \"a\": 1\r\n}",
            ),
        ] {
            let new = inserted(text);
            assert_eq!(new, wanted, "{text:?}");
            assert!(root(&new).get("k").is_some());
        }
    }

    #[test]
    fn diffs_show_lines_with_context_and_no_secret() {
        let text = "1\n2\n3\n{\n  \"a\": \"warn\"\n}\n7\n8\n9\n10\n";
        let at = text.find("\"warn\"").unwrap();
        let splices = [
            Splice { range: at..at + 6, with: "\"hush\"".into() },
            Splice { range: 0..1, with: "one".into() },
        ];
        insta::assert_snapshot!(diff("f.json", text, &splices, "hush"), @r#"
        --- f.json
        +++ f.json
        @@ -1,8 +1,8 @@
        -1
        +one
         2
         3
         {
        -  "a": "warn"
        +  "a": "…"
         }
         7
         8
        "#);
    }

    proptest! {
        /// Whatever an object looks like: what was there stays, in its order, and both read back.
        #[test]
        fn an_insertion_only_adds(
            lead in "[ \t\n]{0,4}", comment in "(# [a-z]*\n|// [a-z]*\n|/\\* [a-z]* \\*/)?",
            count in 0usize..4, gap in "[ \n\t]{0,3}", trailing in any::<bool>(),
        ) {
            let entries: Vec<String> = (0..count).map(|n| format!("\"e{n}\":{gap}{n}")).collect();
            let comma = if trailing && count > 0 { "," } else { "" };
            let text = format!("{{{lead}{comment}{}{comma}{gap}}}", entries.join(&format!(",{gap}")));
            let new = inserted(&text);
            let node = root(&new);
            prop_assert!(node.get("k").is_some(), "{}", new);
            for n in 0..count {
                prop_assert_eq!(node.get(&format!("e{n}")).and_then(Node::port), Some(n as u16));
            }
            let mut rest = new.chars().filter(|c| !c.is_whitespace());
            let kept = text.chars().filter(|c| !c.is_whitespace()).all(|old| rest.any(|found| found == old));
            prop_assert!(kept, "{}", new);
        }
    }
}
