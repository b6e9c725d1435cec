//! Small pieces that many pages show: moments, bars, states, names.

use jiff::Timestamp;

use crate::{
    api::{
        names::safe,
        types::{Time, User, UserState},
    },
    locale::Lang,
    units::Size,
    wording,
};

/// Characters of a name in a table; the whole one is in its title and on the user's page.
const NAME_CHARS_MAX: usize = 48;

/// A text from outside as it is shown: nothing in it hides, turns around or breaks the page.
pub fn shown(text: &str) -> String {
    safe(text)
}

/// [`shown`], cut to what a table has room for.
pub fn short(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(NAME_CHARS_MAX).collect();
    match chars.next() {
        None => safe(&head),
        Some(_) => format!("{}…", safe(&head)),
    }
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A moment: what is read, the exact one as a title, and the one for programs.
pub struct Moment {
    pub text: String,
    pub title: String,
    pub iso: String,
}

impl Moment {
    fn of(time: &Time, text: String) -> Self {
        let offset = time.zoned().strftime("%:z").to_string();
        Moment { text, title: format!("{} {offset}", wording::second(time)), iso: time.to_string() }
    }

    /// The date and time, to the minute.
    pub fn at(time: &Time) -> Self {
        Self::of(time, wording::minute(time))
    }

    /// The date and time, to the second.
    pub fn exact(time: &Time) -> Self {
        Self::of(time, wording::second(time))
    }

    /// How long ago or how soon.
    pub fn near(lang: Lang, time: &Time, now: Timestamp) -> Self {
        Self::of(time, wording::distance(lang, time, now))
    }
}

/// When somebody was seen last.
pub struct Seen {
    pub text: String,
    /// The exact moment; empty where it is now, or never was.
    pub title: String,
}

impl Seen {
    pub fn of(lang: Lang, online: bool, last: Option<&Time>, now: Timestamp) -> Self {
        match last {
            _ if online => Seen { text: lang.text("panel.time.now").to_owned(), title: String::new() },
            Some(at) => {
                let Moment { text, title, .. } = Moment::near(lang, at, now);
                Seen { text, title }
            }
            None => Seen { text: lang.text("never").to_owned(), title: String::new() },
        }
    }
}

/// A quota behind what is used of it.
pub fn of_quota(quota: u64) -> String {
    format!("/ {}", Size(quota))
}

/// How much of a quota is used.
pub struct Use {
    pub used: String,
    /// The quota as it stands behind what is used; `None` is no limit.
    pub quota: Option<String>,
    pub percent: u64,
    pub level: &'static str,
}

impl Use {
    pub fn of(used: u64, quota: Option<u64>, state: UserState) -> Self {
        let percent = quota.map_or(0, |quota| percent(used, quota));
        Use {
            used: Size(used).to_string(),
            quota: quota.map(of_quota),
            percent: percent.min(100),
            level: level(percent, state),
        }
    }
}

/// The share in whole percent, cut: 100 means that all is used.
pub fn percent(used: u64, quota: u64) -> u64 {
    let share = u128::from(used) * 100 / u128::from(quota.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// The colour of a bar: amber from 80 %, red from 100 %. Who goes on past the quota has a package, or is slower
/// and not cut, so that there is nothing to be alarmed about.
pub fn level(percent: u64, state: UserState) -> &'static str {
    match (percent, state) {
        (0..80, _) => "ok",
        (80..100, _) | (_, UserState::Active | UserState::Throttled) => "warn",
        _ => "bad",
    }
}

/// A share in tenths of a percent.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    match tenths {
        0 if part > 0 => "< 0.1 %".to_owned(),
        _ => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

/// The state with its word.
pub struct State {
    pub word: &'static str,
    pub text: String,
}

impl State {
    pub fn of(lang: Lang, state: UserState) -> Self {
        let word = state.as_str();
        State { word, text: lang.text(&format!("state.{word}")).to_owned() }
    }
}

/// Whether an admin's `enable` would change something.
pub fn switched_off(user: &User) -> bool {
    matches!(user.state, UserState::Disabled | UserState::Suspended)
}

/// An entry of a list to choose from.
pub struct Choice {
    pub value: String,
    pub text: String,
    pub chosen: bool,
}

impl Choice {
    pub fn new(value: &str, text: impl Into<String>, chosen: bool) -> Self {
        Choice { value: value.to_owned(), text: text.into(), chosen }
    }
}

/// A query string of the pairs that are not empty, with its question mark.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let given: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", segment(value)))
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_turn_amber_and_red_where_the_rule_says() {
        let of = |used| Use::of(used, Some(1_000), UserState::Limited);
        assert_eq!((of(799).percent, of(799).level), (79, "ok"));
        assert_eq!((of(800).percent, of(800).level), (80, "warn"));
        assert_eq!((of(999).percent, of(999).level), (99, "warn"));
        assert_eq!((of(1_000).percent, of(1_000).level), (100, "bad"));
        assert_eq!((of(9_999).percent, of(9_999).level), (100, "bad"));
        assert_eq!(Use::of(u64::MAX, Some(1), UserState::Limited).level, "bad");
        assert!(Use::of(5, None, UserState::Active).quota.is_none());
        assert_eq!(Use::of(9_999, Some(1), UserState::Active).level, "warn", "a package pays for it");
    }

    #[test]
    fn names_become_segments_and_never_turn_the_text_around() {
        assert_eq!(segment("a/b 小?"), "a%2Fb%20%E5%B0%8F%3F");
        assert_eq!(shown("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(short(&"x".repeat(200)).chars().count(), NAME_CHARS_MAX + 1);
        assert_eq!(query(&[("q", "a&b"), ("state", "")]), "?q=a%26b");
        assert_eq!(query(&[("q", "")]), "");
    }
}
