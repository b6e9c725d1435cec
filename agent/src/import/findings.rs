//! What people are told of a file that was read: bounded, and harmless in a terminal.

/// Sentences; more are counted.
const FINDINGS_MAX: usize = 200;
/// Characters of a foreign text that are shown.
const SHOWN_MAX: usize = 40;

/// What was not understood, for people.
#[derive(Default)]
pub struct Findings {
    texts: Vec<String>,
    more: u64,
}

impl Findings {
    pub fn add(&mut self, text: String) {
        if self.texts.len() < FINDINGS_MAX {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.texts.push(format!("and {} more", self.more));
        }
        self.texts
    }
}

/// A text from the file, as it may be shown: short, and nothing that a terminal obeys.
#[must_use]
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_MAX).collect();
    format!("{short:?}")
}
