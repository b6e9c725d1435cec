//! Every kind of event that the agent writes, and every part that may not do all it should, has words in each
//! language.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use boxmeter_web::locale::Lang;

/// Literals beside a kind on the same line that are none.
const OTHERS: &[&str] = &["agent", "root"];

/// The text of every file of the agent but its tests.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            found.push(text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
        }
    }
}

fn all_sources() -> Vec<String> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// Words between quotation marks on lines that write an event.
fn kinds(code: &str, found: &mut BTreeSet<String>) {
    let lines = code.lines().filter(|line| {
        line.contains("event(") || line.contains("note(transaction") || line.contains("=> \"service_")
    });
    for word in lines.flat_map(|line| line.split('"').skip(1).step_by(2)) {
        let is_kind = word.contains('_') && word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
        if is_kind && !OTHERS.contains(&word) {
            found.insert(word.to_owned());
        }
    }
}

/// The first word between quotation marks after each of the places that name a part.
fn parts(code: &str, found: &mut BTreeSet<String>) {
    for place in [
        ".degrade(\"",
        "const PART: &str = \"",
        "const FORWARDED: &str = \"",
        "parts.push((\"",
        "Part { singbox: \"",
        ", service: \"",
    ] {
        let words = code.split(place).skip(1).filter_map(|rest| rest.split('"').next());
        found.extend(words.map(str::to_owned));
    }
    // A channel's part is named by its function.
    let channels = code.split("=> \"notify-").skip(1).filter_map(|rest| rest.split('"').next());
    found.extend(channels.map(|channel| format!("notify-{channel}")));
}

#[test]
fn every_part_that_may_fail_has_a_name_a_sentence_and_advice() {
    let mut found = BTreeSet::new();
    all_sources().iter().for_each(|code| parts(code, &mut found));
    assert!(
        found.len() > 8
            && ["source", "service_source", "backup", "notify-mail"].iter().all(|it| found.contains(*it)),
        "{found:?}"
    );
    let told = Lang::En.keys().filter_map(|key| key.strip_prefix("degraded."));
    let told: BTreeSet<String> = told.filter(|part| !part.ends_with("_advice")).map(str::to_owned).collect();
    assert_eq!(told, found, "the catalogue has words for what fails, and for nothing else");
    for part in found {
        for key in [format!("part.{part}"), format!("degraded.{part}"), format!("degraded.{part}_advice")] {
            for lang in Lang::ALL {
                assert!(lang.find(&key).is_some(), "{lang:?}: {key}");
            }
        }
    }
}

#[test]
fn every_kind_of_event_has_a_name() {
    let mut found = BTreeSet::new();
    all_sources().iter().for_each(|code| kinds(code, &mut found));
    assert!(found.len() > 15 && found.contains("state_changed"), "{found:?}");
    for lang in Lang::ALL {
        let nameless: Vec<_> =
            found.iter().filter(|kind| lang.find(&format!("panel.event.{kind}")).is_none()).collect();
        assert!(nameless.is_empty(), "{lang:?}: {nameless:?}");
    }
}
