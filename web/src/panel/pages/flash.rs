//! What a change tells to the page that comes after it, in a cookie that is read once. The text is
//! always one of the catalogue; only its values travel.

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{Pages, view::segment};
use crate::locale::Lang;

pub const COOKIE: &str = "boxmeter_flash";
/// Browsers keep about 4 KB in a cookie; what does not fit is not told one by one.
const BYTES_MAX: usize = 3_500;
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
        let json = serde_json::to_string(self).unwrap_or_default();
        let value = segment(&json);
        if value.len() <= BYTES_MAX
            && let Ok(cookie) = HeaderValue::from_str(&set(pages, &value, 60))
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
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
        let foreign = Flash::done("about.run", &[]);
        assert_eq!(Flash::read(&segment(&serde_json::to_string(&foreign).unwrap())), None);
    }
}
