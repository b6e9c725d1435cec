//! Whom nginx's file refused when the agent began: names of purged users are nowhere else until nginx is asked.

use std::{collections::BTreeSet, fs, path::Path};

/// The names in a file as `enforcer::nginx` writes it; none where there is no such file.
pub fn read(path: &Path) -> BTreeSet<String> {
    written(&fs::read_to_string(path).unwrap_or_default())
}

fn written(text: &str) -> BTreeSet<String> {
    let patterns = text.lines().filter_map(|line| line.trim().strip_prefix("\"~^")?.strip_suffix("\\z\" 1;"));
    patterns.filter_map(name).collect()
}

/// A pattern of letters and hexadecimal bytes.
fn name(pattern: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), pattern.as_bytes());
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let hex = rest.strip_prefix(b"x")?.get(..2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = &rest[3..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforcer::nginx::render;

    #[test]
    fn what_is_written_for_nginx_is_read_again() {
        let names = ["user1", "User1", "a\"; return 200; # \\z'", "\u{7528}\u{6237}", "a.b@c"];
        let (text, left_out) = render(names);
        assert_eq!(left_out, [""; 0]);
        assert_eq!(written(&text), names.map(str::to_owned).into());
        assert_eq!(written("map $a $b {\n    \"~^\\x\\z\" 1;\n    default 0;\n}\n"), BTreeSet::new());
    }
}
