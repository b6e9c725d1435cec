//! JSON as sing-box reads it, with positions: `//`, `/* */` and `#` comments, trailing commas, keys
//! in any case, repeated keys, several files merged into one tree. Pure; knows no option by name.

use std::{ops::Range, path::PathBuf, sync::Arc};

use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{self, ObjectPropName},
    common::Ranged,
    parse_to_ast,
};

/// Deeper files are refused by the parser. sing-box's own options nest less than 12 deep; logical
/// rules may nest more.
pub const DEPTH_MAX: usize = 128;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub file: Arc<PathBuf>,
    /// Bytes of the file's text.
    pub range: Range<usize>,
    /// The key it stands at as written, if that is not in lower case.
    pub key: Option<Box<str>>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    String(String),
    Array(Vec<Node>),
    /// Keys in lower case, each once.
    Object(Vec<(String, Node)>),
}

/// A place in a file that is not JSON as sing-box reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {what}", file.display())]
pub struct SyntaxError {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub what: String,
}

/// A repeated key (`key` as written the second time), which people rarely mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedKey {
    pub file: PathBuf,
    pub line: usize,
    pub key: String,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Object(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node)
                .filter(|node| !matches!(node.value, Value::Null)),
            _ => None,
        }
    }

    pub fn str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// An integer in the range of `u16`; sing-box reads `80.0` as 80 too.
    pub fn port(&self) -> Option<u16> {
        match &self.value {
            Value::Number(text) => text.parse().ok().or_else(|| {
                let value: f64 = text.parse().ok()?;
                (value.fract() == 0.0 && (0.0..=65535.0).contains(&value)).then_some(value as u16)
            }),
            _ => None,
        }
    }

    pub fn array(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// sing-box's "listable": one value or an array of values.
    pub fn list(&self) -> Vec<&str> {
        match &self.value {
            Value::String(text) => vec![text],
            Value::Array(elements) => elements.iter().filter_map(Node::str).collect(),
            _ => Vec::new(),
        }
    }
}

/// The same text with every `#` comment blanked by spaces, byte for byte as long, so that the ranges
/// of its parse hold for the original.
pub fn blank_hash_comments(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < out.len() {
        match out[at] {
            b'"' => {
                at += 1;
                while at < out.len() && out[at] != b'"' {
                    at += if out[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'/' if out.get(at + 1) == Some(&b'/') => {
                while at < out.len() && out[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if out.get(at + 1) == Some(&b'*') => {
                at += 2;
                while at < out.len() && !out[at..].starts_with(b"*/") {
                    at += 1;
                }
                at += 2;
            }
            b'#' => {
                while at < out.len() && out[at] != b'\n' {
                    if out[at] != b'\r' {
                        out[at] = b' ';
                    }
                    at += 1;
                }
            }
            _ => at += 1,
        }
    }
    // Whole comments were replaced up to an ASCII line end, so no character was split.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// 1-based line and column (in characters) of a byte position.
pub fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |found| found + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    (line, column)
}

fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

/// Reads one file. The warnings are its repeated keys.
pub fn parse(file: &Arc<PathBuf>, text: &str) -> Result<(Node, Vec<RepeatedKey>), SyntaxError> {
    let error = |at: usize, what: String| {
        let (line, column) = line_column(text, at);
        SyntaxError { file: file.as_ref().clone(), line, column, what }
    };
    if text.starts_with('\u{feff}') {
        return Err(error(
            0,
            "the file begins with a byte order mark, which sing-box refuses; save it as UTF-8 without BOM"
                .into(),
        ));
    }
    let blanked = blank_hash_comments(text);
    let parsed = parse_to_ast(&blanked, &CollectOptions::default(), &options()).map_err(|e| {
        error(
            e.range().start,
            format!("{}; is the file complete? `sing-box check` shows the same place", e.kind()),
        )
    })?;
    let Some(value) = parsed.value else {
        return Err(error(text.len(), "the file is empty; sing-box wants a JSON object".into()));
    };
    let mut build = Build { file, text, repeated: Vec::new() };
    let node = build.node(&value, 0).map_err(|at| {
        error(at, format!("nested deeper than {DEPTH_MAX} levels; boxmeter does not read that"))
    })?;
    match node.value {
        Value::Object(_) => Ok((node, build.repeated)),
        Value::Null => Ok((Node { value: Value::Object(Vec::new()), ..node }, build.repeated)),
        _ => Err(error(node.range.start, "sing-box's configuration is a JSON object".into())),
    }
}

struct Build<'a> {
    file: &'a Arc<PathBuf>,
    text: &'a str,
    repeated: Vec<RepeatedKey>,
}

impl Build<'_> {
    /// `Err` is the place that is nested too deep.
    fn node(&mut self, value: &ast::Value<'_>, depth: usize) -> Result<Node, usize> {
        let range = value.range();
        if depth > DEPTH_MAX {
            return Err(range.start);
        }
        let value = match value {
            ast::Value::StringLit(lit) => Value::String(lit.value.to_string()),
            ast::Value::NumberLit(lit) => Value::Number(lit.value.to_owned()),
            ast::Value::BooleanLit(lit) => Value::Bool(lit.value),
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::Array(array) => Value::Array(
                array.elements.iter().map(|e| self.node(e, depth + 1)).collect::<Result<_, _>>()?,
            ),
            ast::Value::Object(object) => {
                let mut entries: Vec<(String, Node)> = Vec::with_capacity(object.properties.len());
                for property in &object.properties {
                    let written = match &property.name {
                        ObjectPropName::String(lit) => lit.value.as_ref(),
                        ObjectPropName::Word(lit) => lit.value,
                    };
                    let key = written.to_lowercase();
                    let mut node = self.node(&property.value, depth + 1)?;
                    node.key = (key != written).then(|| written.into());
                    match entries.iter_mut().find(|(name, _)| *name == key) {
                        None => entries.push((key, node)),
                        Some((_, first)) => {
                            self.repeated.push(RepeatedKey {
                                file: self.file.as_ref().clone(),
                                line: line_column(self.text, property.range.start).0,
                                key: written.to_owned(),
                            });
                            decode_again(first, node);
                        }
                    }
                }
                Value::Object(entries)
            }
        };
        Ok(Node { file: self.file.clone(), range: range.start..range.end, key: None, value })
    }
}

/// A repeated key decodes into the same option: objects field by field, all else is replaced; `null`
/// changes nothing.
fn decode_again(first: &mut Node, second: Node) {
    match (&mut first.value, second.value) {
        (_, Value::Null) => {}
        (Value::Object(entries), Value::Object(again)) => {
            for (key, node) in again {
                match entries.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, old)) => decode_again(old, node),
                    None => entries.push((key, node)),
                }
            }
        }
        (slot, value) => {
            *slot = value;
            first.file = second.file;
            first.range = second.range;
        }
    }
}

/// Merges a later file into an earlier one: objects by key, arrays concatenated, of two scalars the
/// earlier one stays.
pub fn merge(earlier: &mut Node, later: Node) {
    match (&mut earlier.value, later.value) {
        (Value::Object(entries), Value::Object(more)) => {
            for (key, node) in more {
                match entries.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, old)) => merge(old, node),
                    None => entries.push((key, node)),
                }
            }
        }
        (Value::Array(elements), Value::Array(more)) => elements.extend(more),
        (slot @ Value::Null, value) => {
            *slot = value;
            earlier.file = later.file;
            earlier.range = later.range;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        parse(&Arc::new("a.json".into()), text).unwrap().0
    }

    /// Seen on the real binaries with `sing-box format`.
    #[test]
    fn keys_of_any_case_and_repeated_ones_decode_as_in_sing_box() {
        let file = Arc::new(PathBuf::from("a.json"));
        let text = r#"{"log":{"level":"info"},"LOG":{"level":"warn","timestamp":true},
            "inbounds":[{"tag":"a"},{"tag":"z"}], "Inbounds":[{"tag":"b"}], "x": 1, "x": null}"#;
        let (node, repeated) = parse(&file, text).unwrap();
        let log = node.get("log").unwrap();
        assert_eq!(log.get("level").unwrap().str(), Some("warn"));
        assert_eq!(log.get("timestamp").unwrap().bool(), Some(true));
        let inbounds = node.get("inbounds").unwrap().array().unwrap();
        assert_eq!(inbounds.len(), 1);
        assert_eq!(inbounds[0].get("tag").unwrap().str(), Some("b"));
        let keys: Vec<_> = repeated.iter().map(|r| (r.line, r.key.as_str())).collect();
        assert_eq!(keys, [(1, "LOG"), (2, "Inbounds"), (2, "x")]);
    }

    #[test]
    fn comments_of_all_kinds_leave_strings_and_positions_alone() {
        let text =
            "# top\n{\"a\": \"x # y // \\\" z\", // c\n /* # \" */ \"b\": [1,2,], # é \"\n\"c\": 7,}\n# end";
        let node = read(text);
        assert_eq!(node.get("a").unwrap().str(), Some("x # y // \" z"));
        assert_eq!(node.get("b").unwrap().array().unwrap().len(), 2);
        let c = node.get("c").unwrap();
        assert_eq!(&text[c.range.clone()], "7");
        assert_eq!(c.port(), Some(7));
        assert_eq!(blank_hash_comments(text).len(), text.len());
    }

    #[test]
    fn what_sing_box_refuses_is_refused_with_its_place() {
        let file = Arc::new(PathBuf::from("a.json"));
        for (text, line, column) in [
            ("\u{feff}{}", 1, 1),
            ("", 1, 1),
            ("{\n  \"a\": 'x'}", 2, 8),
            ("{\n  \"a\": 1 \"b\": 2}", 2, 9),
            ("{a: 1}", 1, 2),
            ("[]", 1, 1),
            ("{} x", 1, 4),
            ("{\"inbounds\": [{\"type\": \"tro", 1, 24),
        ] {
            let error = parse(&file, text).map(|_| ()).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text:?}: {error}");
        }
        assert!(parse(&file, &"[".repeat(100_000)).is_err());
        assert!(parse(&file, &format!("{}1{}", "{\"a\":".repeat(300), "}".repeat(300))).is_err());
    }

    #[test]
    fn of_two_files_the_earlier_one_wins_and_arrays_add_up() {
        let mut first = read(r#"{"log":{"level":"info"},"inbounds":[1],"n":null}"#);
        merge(&mut first, read(r#"{"log":{"level":"warn","timestamp":true},"inbounds":[2],"n":3}"#));
        assert_eq!(first.get("log").unwrap().get("level").unwrap().str(), Some("info"));
        assert_eq!(first.get("log").unwrap().get("timestamp").unwrap().bool(), Some(true));
        assert_eq!(first.get("inbounds").unwrap().array().unwrap().len(), 2);
        assert_eq!(first.get("n").unwrap().port(), Some(3));
    }
}
