//! A message for a person: lines and tables that become plain text, or a page of mail. Whatever comes from
//! users is put in by [`shown`], so that no name breaks a line, hides or reorders text.

use askama::Template;

use crate::{api::names::safe, locale::Lang};

/// Characters of a name or a reason that are shown.
const SHOWN_MAX: usize = 300;

/// See the module. Everything in it is shown as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    pub lang: Lang,
    pub subject: String,
    pub lines: Vec<String>,
    pub tables: Vec<Table>,
    /// Who sends this, and from where.
    pub footer: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Instead of rows.
    pub none: String,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct Page<'a> {
    letter: &'a Letter,
}

/// Text from elsewhere: on one line, nothing hidden, and not too long.
pub fn shown(text: &str) -> String {
    let text = safe(text);
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

impl Letter {
    /// Everything below the subject.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for line in &self.lines {
            out.push_str(line);
            out.push('\n');
        }
        for table in &self.tables {
            out.push_str(&format!("\n{}\n", table.title));
            if table.rows.is_empty() {
                out.push_str(&format!("  {}\n", table.none));
            }
            for row in &table.rows {
                out.push_str(&format!("  {}\n", row.join("  ·  ")));
            }
        }
        if !self.footer.is_empty() {
            out.push_str(&format!("\n{}\n", self.footer));
        }
        out
    }

    /// The whole page.
    ///
    /// # Errors
    /// Never, but that a template may.
    pub fn html(&self) -> Result<String, askama::Error> {
        Page { letter: self }.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            lang: Lang::En,
            subject: "<b>".to_owned(),
            lines: vec![shown("a\r\nBcc: x <script>alert(1)</script>\u{202e}")],
            tables: vec![
                Table {
                    title: "Top".to_owned(),
                    head: vec!["User".to_owned(), "Used".to_owned()],
                    rows: vec![vec!["<img src=x>".to_owned(), "1 GiB".to_owned()]],
                    none: String::new(),
                },
                Table { title: "Cut".to_owned(), none: "nobody".to_owned(), ..Table::default() },
            ],
            footer: "boxmeter".to_owned(),
        }
    }

    #[test]
    fn as_text_it_is_what_it_says() {
        insta::assert_snapshot!(letter().text(), @r"
        a\r\nBcc: x <script>alert(1)</script>\u{202e}

        Top
          <img src=x>  ·  1 GiB

        Cut
          nobody

        boxmeter
        ");
    }

    #[test]
    fn a_page_has_nothing_that_acts() {
        let html = letter().html().unwrap();
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
        assert!(html.contains("&#60;img src=x&#62;") && html.contains("nobody"), "{html}");
        assert!(html.contains("lang=\"en\""), "{html}");
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(shown(&"长".repeat(1000)).chars().count(), SHOWN_MAX + 1);
    }
}
