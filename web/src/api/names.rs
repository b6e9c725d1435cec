//! Which names boxmeter gives to users and policies: the one rule, which the API, the ledger and the
//! editor of sing-box's files ask. Names that sing-box's configuration already has are taken as they are:
//! the rule is for names that somebody makes here.

use std::fmt::Write as _;

/// The longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;

/// Names that begin so are kept for boxmeter itself.
pub const RESERVED_PREFIX: &str = "boxmeter:";

/// The name of entries that boxmeter writes where a list of users would otherwise become empty.
pub const LOCKED_NAME: &str = "boxmeter-locked";

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is missing")]
    Empty,
    #[error("a name has at most {NAME_BYTES_MAX} bytes (a Chinese character is three)")]
    TooLong,
    #[error("a name may not hold line breaks, tabs or other control characters")]
    Control,
    #[error("a name may not hold characters that are not seen or that turn the direction of text")]
    Deceptive,
    #[error(
        "a name may not hold brackets ([ ] {{ }} < >): sing-box's log has names in brackets, and \
         they could be mistaken"
    )]
    Bracket,
    #[error("a name may not begin or end with a blank")]
    Blank,
    #[error("a name may not be digits alone: sing-box's log shows users without a name by number")]
    Digits,
    #[error("a name may not be dots alone: paths have them for something else")]
    Dots,
    #[error("{LOCKED_NAME:?} and names that begin with {RESERVED_PREFIX:?} are kept for boxmeter itself")]
    Reserved,
}

/// Whether a new user or policy may have this name.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let first_bad = name.chars().find_map(|c| match c {
        _ if c.is_control() => Some(NameError::Control),
        _ if deceptive(c) => Some(NameError::Deceptive),
        '[' | ']' | '{' | '}' | '<' | '>' => Some(NameError::Bracket),
        _ => None,
    });
    match first_bad {
        _ if name.is_empty() => Err(NameError::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        Some(error) => Err(error),
        None if name.trim() != name => Err(NameError::Blank),
        None if name.bytes().all(|byte| byte.is_ascii_digit()) => Err(NameError::Digits),
        None if name.bytes().all(|byte| byte == b'.') => Err(NameError::Dots),
        None if reserved(name) => Err(NameError::Reserved),
        None => Ok(()),
    }
}

fn reserved(name: &str) -> bool {
    let prefix = name.get(..RESERVED_PREFIX.len()).is_some_and(|it| it.eq_ignore_ascii_case(RESERVED_PREFIX));
    // What a purge leaves of a user's name begins so.
    prefix || name.eq_ignore_ascii_case(LOCKED_NAME) || name.starts_with("(purged")
}

/// Characters that hide, reorder or break text: control characters, bidirectional controls,
/// separators, invisible characters. People see them escaped.
pub fn deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with everything escaped that hides, reorders or breaks text.
pub fn safe(text: &str) -> String {
    escape(text, |_| false)
}

/// The text with what is [`deceptive`] written as an escape, but for what `keep` says.
pub fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if keep(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if deceptive(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_taken() {
        for name in [
            "alice",
            "小明",
            "a.b@example.com",
            "Tom (phone)",
            "a b",
            "x1",
            "2nd",
            "a/b",
            "…",
            "boxmeter",
            "boxmeters:x",
            "小明小明小",
        ] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name(&"x".repeat(NAME_BYTES_MAX)), Ok(()));
    }

    #[test]
    fn dangerous_names_are_refused_with_the_rule() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (name, error) in [
            ("", NameError::Empty),
            (&long, NameError::TooLong),
            ("a\nb", NameError::Control),
            ("a\u{1b}[31m", NameError::Control),
            ("a\u{85}", NameError::Control),
            ("a\u{202e}b", NameError::Deceptive),
            ("a\u{200b}", NameError::Deceptive),
            ("a]b", NameError::Bracket),
            ("<script>", NameError::Bracket),
            (" a", NameError::Blank),
            ("a\u{3000}", NameError::Blank),
            ("12345", NameError::Digits),
            ("..", NameError::Dots),
            ("boxmeter:locked", NameError::Reserved),
            ("BoxMeter:x", NameError::Reserved),
            ("Boxmeter-Locked", NameError::Reserved),
        ] {
            assert_eq!(check_name(name), Err(error), "{name:?}");
        }
    }
}
