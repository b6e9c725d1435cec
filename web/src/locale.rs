//! Texts for people, in every language that is kept: one catalogue per language, shared by the
//! command line and the panel. The language is an argument, never a global.

use std::{collections::BTreeMap, sync::LazyLock};

/// A language that has a catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    #[default]
    En,
    ZhCn,
}

type Catalogue = BTreeMap<String, String>;

static EN: LazyLock<Catalogue> = LazyLock::new(|| parse(include_str!("../locales/en.json")));
static ZH_CN: LazyLock<Catalogue> = LazyLock::new(|| parse(include_str!("../locales/zh-CN.json")));

fn parse(json: &str) -> Catalogue {
    serde_json::from_str(json).expect("the embedded catalogues are checked by a test")
}

impl Lang {
    pub const ALL: [Lang; 2] = [Lang::En, Lang::ZhCn];

    /// The tag of BCP 47.
    pub fn tag(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::ZhCn => "zh-CN",
        }
    }

    /// From a tag or a locale's name: `zh-CN`, `zh_TW.UTF-8`, `en`, `C`. `None` for a language
    /// without a catalogue.
    pub fn of(name: &str) -> Option<Lang> {
        let word = name.split(['-', '_', '.', '@']).next().unwrap_or_default();
        match word.to_ascii_lowercase().as_str() {
            "zh" => Some(Lang::ZhCn),
            "en" | "c" | "posix" => Some(Lang::En),
            _ => None,
        }
    }

    /// The language of an environment, by POSIX's order of variables: the first that is set and
    /// not empty decides; a language without a catalogue reads English.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Lang {
        ["LC_ALL", "LC_MESSAGES", "LANG"]
            .iter()
            .filter_map(|name| variable(name))
            .find(|value| !value.is_empty())
            .and_then(|value| Lang::of(&value))
            .unwrap_or_default()
    }

    fn catalogue(self) -> &'static Catalogue {
        match self {
            Lang::En => &EN,
            Lang::ZhCn => &ZH_CN,
        }
    }

    /// All keys of the language.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        self.catalogue().keys().map(String::as_str)
    }

    /// The text of a key, if there is one.
    pub fn find(self, key: &str) -> Option<&'static str> {
        let found = self.catalogue().get(key).or_else(|| EN.get(key));
        found.map(String::as_str)
    }

    /// The text of a key. A key that the language lacks is read from English; one that nobody has
    /// is shown itself, which a test excludes for the keys of the command line.
    pub fn text(self, key: &str) -> &str {
        self.find(key).unwrap_or(key)
    }

    /// The text with its `{placeholders}` filled in. Values are put in as they are, and what looks
    /// like a placeholder inside a value stays.
    pub fn fill(self, key: &str, values: &[(&str, &str)]) -> String {
        let mut out = String::new();
        let mut rest = self.text(key);
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            rest = &rest[open..];
            let Some(close) = rest.find('}') else { break };
            let name = &rest[1..close];
            match values.iter().find(|(key, _)| *key == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&rest[..=close]),
            }
            rest = &rest[close + 1..];
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placeholders(text: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            text.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn catalogues_have_the_same_keys_and_placeholders() {
        let keys = |lang: Lang| lang.catalogue().keys().collect::<Vec<_>>();
        assert_eq!(keys(Lang::En), keys(Lang::ZhCn));
        for (key, text) in EN.iter() {
            assert_eq!(placeholders(text), placeholders(&ZH_CN[key]), "{key}");
            assert!(!text.trim().is_empty() && !ZH_CN[key].trim().is_empty(), "{key}");
        }
    }

    #[test]
    fn the_first_set_variable_decides() {
        let lang = |set: &[(&str, &str)]| {
            Lang::of_environment(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(lang(&[]), Lang::En);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8")]), Lang::ZhCn);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "")]), Lang::ZhCn);
        assert_eq!(lang(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C.UTF-8")]), Lang::En);
        assert_eq!(lang(&[("LANG", "de_DE.UTF-8")]), Lang::En);
    }

    #[test]
    fn values_are_never_templates() {
        let text = Lang::En.fill("more", &[("count", "{count}{x}")]);
        assert!(text.contains("{count}{x}"), "{text}");
    }
}
