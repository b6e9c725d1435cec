//! The file of refused users: a `map` from `$boxmeter_user` to `$boxmeter_refused`. Names are patterns of
//! hexadecimal bytes: nginx's own comparison ignores case, and nothing that a name may hold can end a pattern. Pure.

use std::{collections::BTreeSet, fmt::Write as _};

/// Bytes of a name. nginx reads no word of more than 4,096, and each byte takes four.
pub const NAME_MAX: usize = 512;

/// What every text of boxmeter's begins with. A file that does not is somebody else's.
const OWN: &str = "# Written by boxmeter";

const BEFORE: &str = "    \"~^";
const AFTER: &str = "\\z\" 1;";

/// The text of the file, and names that cannot be in it.
pub fn render<'n>(refused: impl IntoIterator<Item = &'n str>) -> (String, Vec<&'n str>) {
    let mut text = format!(
        "{OWN}: users who may not connect now. What is edited here is lost.\n\
         map $boxmeter_user $boxmeter_refused {{\n    volatile;\n    default 0;\n"
    );
    let mut left_out = Vec::new();
    for name in refused.into_iter().collect::<BTreeSet<_>>() {
        if name.is_empty() || name.len() > NAME_MAX {
            left_out.push(name);
            continue;
        }
        text.push_str(BEFORE);
        for byte in name.bytes() {
            // Letters for whoever reads the file; all else could mean something.
            let _ = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => write!(text, "{}", char::from(byte)),
                _ => write!(text, "\\x{byte:02x}"),
            };
        }
        text.push_str(AFTER);
        text.push('\n');
    }
    text.push_str("}\n");
    (text, left_out)
}

/// May boxmeter write over this text?
pub fn is_own(text: &[u8]) -> bool {
    text.trim_ascii().is_empty() || text.starts_with(OWN.as_bytes())
}

/// The users whom a text of boxmeter's refuses.
pub fn names(text: &str) -> BTreeSet<String> {
    let pattern = |line: &str| Some(line.strip_prefix(BEFORE)?.strip_suffix(AFTER)?.to_owned());
    text.lines().filter_map(pattern).filter_map(|pattern| name(&pattern)).collect()
}

fn name(pattern: &str) -> Option<String> {
    // All that is written is ASCII; what somebody else has put there is no name.
    let (mut bytes, mut rest) = (Vec::new(), Some(pattern).filter(|pattern| pattern.is_ascii())?);
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            bytes.push(u8::from_str_radix(rest.get(2..4)?, 16).ok()?);
            rest = &rest[4..];
        } else {
            bytes.push(u8::try_from(first).ok()?);
            rest = &rest[1..];
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_mean_anything_to_nginx() {
        let hostile =
            ["alice", "a.b+c@d e", "x\" 0; } server { listen 1; #", "$remote_user", "a\nb\\Q", "名", "(?i)x"];
        let long = "x".repeat(NAME_MAX + 1);
        let (text, left_out) = render(hostile.into_iter().chain(["", long.as_str(), "alice"]));
        assert_eq!(left_out, ["", long.as_str()]);
        let patterns: Vec<&str> = text.lines().filter(|line| line.contains('~')).collect();
        assert_eq!(patterns.len(), hostile.len(), "{text}");
        for line in patterns {
            let pattern = line.strip_prefix("    \"~^").unwrap().strip_suffix("\\z\" 1;").unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '\\');
            assert!(pattern.chars().all(plain), "{pattern}");
        }
        assert!(text.contains("\"~^alice\\z\" 1;") && text.contains("\"~^a\\x2eb\\x2bc\\x40d\\x20e\\z\""));
        assert!(text.contains("\"~^\\xe5\\x90\\x8d\\z\""));
        assert_eq!(names(&text), hostile.into_iter().map(str::to_owned).collect());
        assert!(is_own(text.as_bytes()) && is_own(b" \n") && !is_own(b"server {}") && !is_own(b"\xff"));
        // Whatever somebody makes of it is no panic.
        assert!(
            names("    \"~^\\x\\z\" 1;\n    \"~^\\xzz\\z\" 1;\n    \"~^\u{e9}\u{540d}\\z\" 1;").is_empty()
        );
    }
}
