//! Every text comes from the catalogue, in the language of who asks and of nobody else.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Rig, words};
use crate::locale::Lang;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// Quoted words that look like keys: `head.tail`, with a head that the catalogue knows.
fn keys_in(text: &str, heads: &BTreeSet<&str>) -> Vec<String> {
    let keyish = |it: &&str| {
        let letters = it.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c));
        letters
            && !it.ends_with('.')
            && !it.ends_with(".html")
            && it.split_once('.').is_some_and(|(head, _)| heads.contains(head))
    };
    text.split('"').filter(keyish).map(str::to_owned).collect()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|it| it.as_os_str() == "tests" || it.as_os_str() == "tests.rs")
}

#[test]
fn every_key_is_in_the_catalogue_and_every_key_of_the_panel_is_used() {
    let heads: BTreeSet<&str> =
        Lang::En.keys().filter_map(|key| key.split_once('.')).map(|(head, _)| head).collect();
    let mut sources = files(&folder("templates"), "html");
    sources.extend(files(&folder("src/panel"), "rs").into_iter().filter(|(path, _)| !is_test(path)));
    sources.extend(files(&folder("src"), "rs").into_iter().filter(|(path, _)| path.ends_with("wording.rs")));
    let mut all = String::new();
    for (path, text) in &sources {
        let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for key in keys_in(text, &heads) {
            for lang in Lang::ALL {
                assert!(
                    lang.keys().any(|it| it == key),
                    "{}: {key} is not in {}",
                    path.display(),
                    lang.tag()
                );
            }
        }
        all.push_str(text);
    }
    // Keys that are put together: `panel.event.` and the kind of an event. What the process says when it
    // starts is in the agent.
    let computed = [
        "panel.event.",
        "panel.error.",
        "panel.invalid.",
        "panel.field.",
        "panel.nav.",
        "panel.start.",
        "panel.theme.",
        "panel.sort.",
        "panel.severity.",
        "panel.chart.",
        "panel.period.",
        "panel.scope.",
        "panel.sharing.",
        "panel.scope.",
        "panel.done.",
        "panel.events.severity_",
        "panel.events.who_",
        "panel.events.since_",
        "panel.unit.missing_",
        "panel.unit.number_",
    ];
    for key in Lang::En.keys().filter(|key| key.starts_with("panel.")) {
        let used = all.contains(&format!("\"{key}\"")) || computed.iter().any(|it| key.starts_with(it));
        assert!(used, "{key} is not used");
    }
}

/// A template without what is put in: no letter may be left in its text, nor in an attribute that
/// people read.
#[test]
fn templates_have_no_text_of_their_own() {
    for (path, text) in files(&folder("templates"), "html") {
        let bare = without(&without(&without(&text, "{#", "#}"), "{{", "}}"), "{%", "%}");
        let texts = words(&bare).replace("boxmeter", "");
        let left: Vec<&str> =
            texts.split_whitespace().filter(|it| it.chars().any(char::is_alphabetic)).collect();
        assert_eq!(left, Vec::<&str>::new(), "{}", path.display());
        for name in ["title", "aria-label", "placeholder", "alt", "label"] {
            for part in bare.split(&format!(" {name}=\"")).skip(1) {
                let value = part.split('"').next().unwrap_or_default();
                assert!(!value.chars().any(char::is_alphabetic), "{}: {name}={value:?}", path.display());
            }
        }
    }
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut parts = text.split(open);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once(close).map_or("", |(_, rest)| rest));
    }
    out
}

/// The catalogue is asked by language, never set: readers on several threads get their own.
#[test]
fn two_languages_at_once_do_not_mix() {
    // Words that stand in the frame of every page, in one language only.
    let own = |lang: Lang| {
        ["panel.nav.settings", "panel.frame.skip", "panel.nav.events"].map(|key| lang.find(key).unwrap())
    };
    let read = |lang: Lang, round: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new().await;
            let other = if lang == Lang::En { Lang::ZhCn } else { Lang::En };
            for path in Rig::all().into_iter().skip(round).step_by(2) {
                let seen = rig.get_in(lang, path).await;
                assert!(seen.has(&format!("<html lang=\"{}\"", lang.tag())), "{path}");
                for word in own(lang) {
                    assert!(seen.has(word), "{path}: {word} is missing");
                }
                for word in own(other) {
                    assert!(!seen.has(word), "{path}: {word} in {}", lang.tag());
                }
            }
        });
    };
    std::thread::scope(|threads| {
        for round in 0..2 {
            for lang in Lang::ALL {
                threads.spawn(move || read(lang, round));
            }
        }
    });
}

/// What is Chinese on an English page comes from names and notes, which the demonstration has; pages
/// without any are all English.
#[tokio::test]
async fn pages_without_names_have_one_language() {
    let rig = Rig::new().await;
    let cjk = |c: char| ('\u{4e00}'..='\u{9fff}').contains(&c);
    for path in ["/add-user", "/policies", "/add-policy", "/policies/basic", "/settings", "/no-such-page"] {
        let seen = rig.get(path).await;
        let words = seen.words().replace(Lang::ZhCn.text("panel.language"), "");
        let left: String = words.chars().filter(|c| cjk(*c)).collect();
        assert_eq!(left, "", "{path}");
    }
}
