//! The text between two neighbours of a JSON array: blanks, comments, a comma. Says what stays of it
//! when entries between gaps are taken out, and how a gap is opened for a new entry. Pure.

/// What stands at the two ends of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The array's opening bracket, else an entry.
    pub opens: bool,
    /// The array's closing bracket, else an entry.
    pub closes: bool,
}

/// How an array is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    pub line_end: &'static str,
    /// Of an entry on a line of its own; `None`: entries stand on one line.
    pub indent: Option<String>,
    /// Of the line with the opening bracket.
    pub outer: String,
    /// Between entries of one line.
    pub blank: &'static str,
}

impl Style {
    fn separator(&self) -> String {
        match &self.indent {
            Some(indent) => format!("{}{indent}", self.line_end),
            None => self.blank.to_owned(),
        }
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The places in a gap that are not in a comment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    comma: Option<usize>,
    /// Of the first line end, which may end a comment.
    line: Option<usize>,
}

fn marks(gap: &str) -> Marks {
    let bytes = gap.as_bytes();
    let mut marks = Marks::default();
    let mut at = 0;
    let line_start = |at: usize| if at > 0 && bytes[at - 1] == b'\r' { at - 1 } else { at };
    while at < bytes.len() {
        match bytes[at] {
            b',' => marks.comma = marks.comma.or(Some(at)),
            b'\n' => marks.line = marks.line.or(Some(line_start(at))),
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at += 2;
                while at < bytes.len() && !bytes[at..].starts_with(b"*/") {
                    at += 1;
                }
                at += 1;
            }
            b'/' | b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    marks
}

pub fn has_comma(gap: &str) -> bool {
    marks(gap).comma.is_some()
}

fn without_comma(gap: &str) -> String {
    match marks(gap).comma {
        Some(at) => [&gap[..at], &gap[at + 1..]].concat(),
        None => gap.to_owned(),
    }
}

/// The text that stays of a chain of gaps when the entries between them are taken out: every comment,
/// one comma where one is due, no line that has become blank.
pub fn join(gaps: &[&str], ends: Ends) -> String {
    let [first, rest @ ..] = gaps else { return String::new() };
    let Some((last, _)) = rest.split_last() else { return (*first).to_owned() };
    // A comma after the last entry stays one.
    let keeps = !ends.opens && (!ends.closes || has_comma(last));
    let mut text = if keeps { (*first).to_owned() } else { without_comma(first) };
    for (at, gap) in rest.iter().enumerate() {
        close(&mut text, &without_comma(gap), ends.closes && at + 1 == rest.len());
    }
    text
}

/// Puts the text after a hole to the text before it.
fn close(text: &mut String, after: &str, at_end: bool) {
    let plain = after.trim_start_matches(BLANKS);
    let trimmed = text.trim_end_matches(BLANKS).len();
    let starts_line = text[..trimmed].ends_with('\n');
    let line_end = ["\r\n", "\n"].into_iter().find(|end| plain.starts_with(end));
    match line_end {
        Some(end) => {
            text.truncate(trimmed);
            text.push_str(if starts_line { &plain[end.len()..] } else { plain });
        }
        None if at_end && plain.is_empty() && !starts_line => {
            text.truncate(trimmed);
            text.push_str(after);
        }
        None if text.is_empty() || text.ends_with(BLANKS) || text.ends_with('\n') => text.push_str(plain),
        None => text.push_str(after),
    }
}

/// Opens a gap for a new entry: the gaps before and after it. The entry gets a line of its own where
/// the others have one; comments on the line of the entry before stay with that.
pub fn open(gap: &str, ends: Ends, style: &Style) -> (String, String) {
    let Marks { comma, line } = marks(gap);
    let own_line = |upto: usize| format!("{}{}", &gap[..upto], style.separator());
    let line = line.filter(|_| style.indent.is_some());
    match (ends.opens, ends.closes) {
        (true, true) => match (line, &style.indent) {
            (Some(at), _) => (own_line(at), gap[at..].to_owned()),
            (None, Some(_)) if gap.trim().is_empty() => {
                (style.separator(), format!("{}{}", style.line_end, style.outer))
            }
            _ => (gap.to_owned(), String::new()),
        },
        (true, false) => (gap.to_owned(), format!(",{}", style.separator())),
        (false, _) => match (comma, line) {
            (Some(comma), Some(at)) if comma < at => (own_line(at), format!(",{}", &gap[at..])),
            (Some(comma), None) => {
                (format!("{}{}", &gap[..=comma], style.blank), format!(",{}", &gap[comma + 1..]))
            }
            (None, Some(at)) => (format!(",{}", own_line(at)), gap[at..].to_owned()),
            _ => (format!(",{}", style.separator()), gap.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIDDLE: Ends = Ends { opens: false, closes: false };
    const HEAD: Ends = Ends { opens: true, closes: false };
    const TAIL: Ends = Ends { opens: false, closes: true };

    fn lines() -> Style {
        Style { line_end: "\n", indent: Some("  ".into()), outer: String::new(), blank: " " }
    }

    #[test]
    fn what_stays_has_its_comments_one_comma_and_no_blank_line() {
        for (gaps, ends, wanted) in [
            (&[",\n  ", ",\n  "][..], MIDDLE, ",\n  "),
            (&["\n  ", ",\n  "], HEAD, "\n  "),
            (&[",\n  ", "\n"], TAIL, "\n"),
            (&[",\n  ", ",\n"], TAIL, ",\n"),
            (&[",\r\n\t", ",\r\n\t"], MIDDLE, ",\r\n\t"),
            (&[", ", ", "], MIDDLE, ", "),
            (&["", ", "], HEAD, ""),
            (&[" ", ", "], HEAD, " "),
            (&[", ", ""], TAIL, ""),
            (&[", ", " "], TAIL, " "),
            (&[", // a\n  ", ", # b, b\n  "], MIDDLE, ", // a\n  # b, b\n  "),
            (&["\n  /* , */ // all\n  ", ",\n  "], HEAD, "\n  /* , */ // all\n  "),
            (&[",\n  ", ",\n  ", "\n  // end\n"], TAIL, "\n  // end\n"),
            (&["\n  ", ",\n  ", "\n"], Ends { opens: true, closes: true }, "\n"),
        ] {
            assert_eq!(join(gaps, ends), wanted, "{gaps:?}");
        }
    }

    #[test]
    fn a_new_entry_takes_the_shape_of_the_others() {
        for (gap, ends, wanted) in [
            ("\n", TAIL, (",\n  ", "\n")),
            (" // a\n", TAIL, (", // a\n  ", "\n")),
            (",\n", TAIL, (",\n  ", ",\n")),
            (", // a\n  ", MIDDLE, (", // a\n  ", ",\n  ")),
            ("\n  , ", MIDDLE, (",\n  ", "\n  , ")),
            ("\n  ", HEAD, ("\n  ", ",\n  ")),
            ("", Ends { opens: true, closes: true }, ("\n  ", "\n")),
        ] {
            let (before, after) = open(gap, ends, &lines());
            assert_eq!((&*before, &*after), wanted, "{gap:?}");
        }
    }

    fn gap() -> impl Strategy<Value = String> {
        // A comment of a line never stands right before an entry.
        let part = "( |\t|\n|\r\n|// [a,]{0,2}\n|/\\*[ ,]\\*/|# x\n|\n    ){0,3}";
        (part, part).prop_map(|(before, after)| format!("{before},{after}"))
    }

    proptest! {
        /// Whatever stands between: one comma where one is due, and every comment.
        #[test]
        fn comments_stay_and_one_comma(a in gap(), b in gap(), c in gap(), spot in 0usize..4) {
            let (a, c, ends) = match spot {
                0 => (a, c, MIDDLE),
                1 => (without_comma(&a), c, HEAD),
                2 => (a, without_comma(&c), TAIL),
                _ => (a, c, TAIL),
            };
            let joined = join(&[&a, &b, &c], ends);
            prop_assert_eq!(has_comma(&joined), spot == 0 || spot == 3);
            let rest = without_comma(&joined);
            prop_assert!(!has_comma(&rest), "{:?}", joined);
            let solid = |text: &str| text.split_whitespace().collect::<String>();
            let all = [&a, &b, &c].map(|gap| without_comma(gap)).concat();
            prop_assert_eq!(solid(&rest), solid(&all));
        }

        /// Added and deleted again is as if nothing had been.
        #[test]
        fn an_opened_gap_closes_to_what_it_was(spot in 0usize..4, comment in "( // [a,]{0,3}| /\\*,\\*/)?") {
            let (gap, ends) = match spot {
                0 => (format!(",{comment}\n  "), MIDDLE),
                1 => (format!("{comment}\n  "), HEAD),
                2 => (format!("{comment}\n"), TAIL),
                _ => (format!(",{comment}\n"), TAIL),
            };
            let (before, after) = open(&gap, ends, &lines());
            prop_assert_eq!(join(&[&before, &after], ends), gap);
        }
    }
}
