//! What is said to people beside the data: a code with its values for programs and for other languages, and
//! the English sentence that they make.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::safe;
use crate::locale::Lang;

/// A sentence of the catalogue by its code, with what is put into it. One that no catalogue has is said by
/// its English text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub code: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

impl Note {
    pub fn new<const N: usize>(code: &str, values: [(&str, &str); N]) -> Note {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Note { code: code.to_owned(), values: values.collect() }
    }

    /// In a language; `None` for a code that this catalogue does not know.
    pub fn sentence(&self, lang: Lang) -> Option<String> {
        self.said(lang, "")
    }

    /// What to do about it.
    pub fn advice(&self, lang: Lang) -> Option<String> {
        self.said(lang, "_advice")
    }

    fn said(&self, lang: Lang, which: &str) -> Option<String> {
        let key = format!("note.{}{which}", self.code);
        lang.find(&key)?;
        // Values may be anybody's: names of inbounds, what another program said.
        let values: Vec<(&str, String)> =
            self.values.iter().map(|(name, value)| (name.as_str(), safe(value))).collect();
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Some(lang.fill(&key, &values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_said_in_each_language_and_an_unknown_one_in_none() {
        let note = Note::new("inbound_no_port", [("inbound", "a\u{202e}b")]);
        let [en, zh] = Lang::ALL.map(|lang| note.sentence(lang).unwrap());
        assert!(en.contains("a\\u{202e}b") && zh.contains("a\\u{202e}b"), "{en} {zh}");
        assert_ne!(en, zh);
        assert_eq!(Note::new("nobody_says_this", []).sentence(Lang::En), None);
        assert_eq!(Note::new("../panel.nav.users", []).sentence(Lang::En), None);
    }
}
