//! What a change tells to the page that comes after it, in a cookie that is read once. The text is
//! always one of the catalogue; only its values travel.

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{Pages, view::segment};
use crate::locale::Lang;

pub const COOKIE: &str = "boxmeter_flash";
/// Browsers keep about 4 KB in a cookie.
const BYTES_MAX: usize = 3_500;
/// Characters of a value, ever fewer until all lines fit.
const VALUE_CHARS: [usize; 5] = [1_000, 200, 60, 20, 8];
/// More lines than this are not read.
const LINES_MAX: usize = 8;

/// Some messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash(Vec<Line>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    good: bool,
    key: String,
    values: Vec<(String, String)>,
}

impl Flash {
    /// `panel.done.…` of the catalogue.
    pub fn done(key: &str, values: &[(&str, &str)]) -> Flash {
        Flash::default().and(true, key, values)
    }

    /// `panel.failed.…` of the catalogue.
    pub fn failed(key: &str, values: &[(&str, &str)]) -> Flash {
        Flash::default().and(false, key, values)
    }

    #[must_use]
    pub fn and(mut self, good: bool, key: &str, values: &[(&str, &str)]) -> Flash {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        if self.0.len() < LINES_MAX {
            self.0.push(Line { good, key: key.to_owned(), values: values.collect() });
        }
        self
    }

    /// From the cookie's value; anything odd is no message.
    pub fn read(value: &str) -> Option<Flash> {
        let json = unescape(value)?;
        let flash: Flash = serde_json::from_str(&json).ok()?;
        let known = |line: &Line| {
            let ours = line.key.starts_with("panel.done.") || line.key.starts_with("panel.failed.");
            ours && Lang::En.text(&line.key) != line.key
        };
        (!flash.0.is_empty() && flash.0.len() <= LINES_MAX && flash.0.iter().all(known)).then_some(flash)
    }

    /// Whether it is good, and the text.
    pub fn lines(&self, lang: Lang) -> Vec<(bool, String)> {
        let text = |line: &Line| {
            let values: Vec<(&str, &str)> =
                line.values.iter().map(|(name, value)| (&**name, &**value)).collect();
            (line.good, lang.fill(&line.key, &values))
        };
        self.0.iter().map(text).collect()
    }

    /// Goes on to a page, which shows the messages.
    pub fn to(&self, pages: &Pages, path: &str) -> Response {
        let mut response = Redirect::to(&format!("{}{path}", pages.base)).into_response();
        if let Ok(cookie) = HeaderValue::from_str(&set(pages, &self.value(), 60)) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }

    /// The cookie's value.
    fn value(&self) -> String {
        let of = |flash: &Flash| segment(&serde_json::to_string(flash).unwrap_or_default());
        let mut fitting = VALUE_CHARS.iter().map(|&most| of(&self.cut(most)));
        fitting.find(|it| it.len() <= BYTES_MAX).unwrap_or_default()
    }

    /// Values of so many characters at most.
    fn cut(&self, most: usize) -> Flash {
        let mut flash = self.clone();
        for (_, value) in flash.0.iter_mut().flat_map(|line| &mut line.values) {
            if let Some((at, _)) = value.char_indices().nth(most) {
                value.truncate(at);
                value.push('…');
            }
        }
        flash
    }
}

/// The header that puts the messages away once they are shown.
pub fn forget(pages: &Pages) -> Option<HeaderValue> {
    HeaderValue::from_str(&set(pages, "", 0)).ok()
}

fn set(pages: &Pages, value: &str, seconds: u32) -> String {
    let base = &pages.base;
    format!("{COOKIE}={value}; Path={base}/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_cookie_and_only_ours_are_read() {
        let flash = Flash::done("panel.done.enabled", &[("name", "小; <b>\"%")]);
        let value = segment(&serde_json::to_string(&flash).unwrap());
        assert!(value.bytes().all(|it| it.is_ascii_alphanumeric() || b"%-_.~".contains(&it)), "{value}");
        assert_eq!(Flash::read(&value), Some(flash));
        for odd in ["", "%", "%zz", "x", "[]", "%5B%7B%7D%5D"] {
            assert_eq!(Flash::read(odd), None, "{odd}");
        }
        // However much there is to tell, it is told.
        let long = "长".repeat(5_000);
        let all = (0..LINES_MAX).fold(Flash::default(), |flash, _| {
            flash.and(false, "panel.failed.user", &[("name", &long), ("message", &long)])
        });
        let value = all.value();
        assert!(value.len() <= BYTES_MAX, "{}", value.len());
        assert_eq!(Flash::read(&value).unwrap().0.len(), LINES_MAX);
        let foreign = Flash::done("about.run", &[]);
        assert_eq!(Flash::read(&segment(&serde_json::to_string(&foreign).unwrap())), None);
    }
}
