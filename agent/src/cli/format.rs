//! How values look to people. Names come from sing-box's configuration and from clients, so that
//! nothing reaches a terminal before its control characters are escaped.

use boxmeter_web::api::{names::escape, types::Time};
pub use boxmeter_web::{
    api::names::safe,
    wording::{minute, second},
};
use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::units::{Rate, Size};

/// What a piece of text says by its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Warn,
    Bad,
    Dim,
    Bold,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
        }
    }
}

/// The text in a tone, where colours are wanted.
pub fn paint(colour: bool, tone: Tone, text: &str) -> String {
    match colour {
        true => format!("\x1b[{}m{text}\x1b[0m", tone.code()),
        false => text.to_owned(),
    }
}

/// [`safe`], keeping line breaks: for texts of several lines that we made.
pub fn safe_lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

/// [`safe`], cut to so many columns of a terminal; a cut is shown by `…`.
pub fn safe_cut(text: &str, columns: usize) -> String {
    // A name may be megabytes long; what cannot be shown is not escaped either.
    let head: String = text.chars().take(columns.saturating_add(1)).collect();
    let escaped = safe(&head);
    if escaped.width() <= columns {
        return escaped;
    }
    let mut out = String::new();
    let mut used = 1;
    for c in escaped.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A size as people read it.
pub fn bytes(count: u64) -> String {
    Size(count).to_string()
}

/// A rate in bytes per second as people read it.
pub fn rate(per_second: u64) -> String {
    Rate(per_second).to_string()
}

/// `used / quota`, or the size alone where there is no quota.
pub fn of_quota(used: u64, quota: Option<u64>) -> String {
    match quota {
        Some(quota) => format!("{} / {}", bytes(used), bytes(quota)),
        None => bytes(used),
    }
}

/// A count with its digits in groups, where the exact value matters.
pub fn exact(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share in tenths of a percent; sizes are whole numbers, so no float is needed.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    if tenths == 0 && part > 0 {
        return "< 0.1 %".to_owned();
    }
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Cells of a terminal that [`bar`] fills.
const BAR_CELLS: u64 = 20;

/// How much of the whole is used, as a bar and a share. Only what is whole is filled, so that a
/// full bar means that all is used.
pub fn bar(colour: bool, used: u64, whole: u64) -> String {
    let tenths = u128::from(used) * 10 / u128::from(whole.max(1));
    let cells = u128::from(used) * u128::from(BAR_CELLS) / u128::from(whole.max(1));
    let filled = usize::try_from(cells.min(u128::from(BAR_CELLS))).unwrap_or(0);
    let tone = match tenths {
        0..8 => Tone::Good,
        8..10 => Tone::Warn,
        _ => Tone::Bad,
    };
    let empty = "░".repeat(BAR_CELLS as usize - filled);
    format!("{}{empty} {}", paint(colour, tone, &"█".repeat(filled)), share(used, whole))
}

/// How long ago a moment was: `3s`, `12m`, `5h`, `9d`. A clock that ran back gives `0s`.
pub fn age(time: &Time, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.instant.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(safe("a\x1b[31mb\nc\r\u{9b}d\x07"), "a\\u{1b}[31mb\\nc\\r\\u{9b}d\\u{7}");
        assert_eq!(safe("ab\u{202e}cd\u{200b}"), "ab\\u{202e}cd\\u{200b}");
        assert_eq!(safe("小明 <script> é"), "小明 <script> é");
        assert_eq!(safe_lines("a\n\x1b"), "a\n\\u{1b}");
    }

    #[test]
    fn cutting_counts_columns_not_characters() {
        assert_eq!(safe_cut("小明小明小明", 7), "小明小…");
        assert_eq!(safe_cut("小明小明小明", 6), "小明…");
        assert_eq!(safe_cut("abc", 3), "abc");
        assert_eq!(safe_cut("abcd", 3), "ab…");
        assert_eq!(safe_cut(&"x".repeat(10_000), 10).width(), 10);
        assert_eq!(safe_cut("\n\n\n\n", 4), "\\n\\…");
    }

    #[test]
    fn figures_are_exact_where_it_matters() {
        assert_eq!(exact(0), "0");
        assert_eq!(exact(1_234_567), "1,234,567");
        assert_eq!(exact(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(0, 0), "0 %");
        assert_eq!(share(1, 1_000_000), "< 0.1 %");
        assert_eq!(share(0, 9), "0.0 %");
        assert_eq!(share(u64::MAX, u64::MAX), "100.0 %");
    }

    #[test]
    fn a_bar_is_full_when_all_is_used_and_never_longer() {
        assert_eq!(bar(false, 0, 100), "░░░░░░░░░░░░░░░░░░░░ 0.0 %");
        assert_eq!(bar(false, 52, 100), "██████████░░░░░░░░░░ 52.0 %");
        assert_eq!(bar(false, 999, 1_000), "███████████████████░ 99.9 %");
        assert_eq!(bar(false, 225, 100), "████████████████████ 225.0 %");
        assert_eq!(bar(false, u64::MAX, 1).chars().filter(|c| *c == '█').count(), 20);
        assert!(bar(true, 9, 10).starts_with("\x1b[33m"));
    }
}
