//! Every kind of event that the agent writes has a name in each language.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use boxmeter_web::locale::Lang;

/// Literals beside a kind on the same line that are none.
const OTHERS: &[&str] = &["agent", "root"];

/// Words between quotation marks on lines that write an event.
fn kinds(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            kinds(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines =
                code.lines().filter(|line| line.contains("event(") || line.contains("note(transaction"));
            for word in lines.flat_map(|line| line.split('"').skip(1).step_by(2)) {
                let is_kind =
                    word.contains('_') && word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
                if is_kind && !OTHERS.contains(&word) {
                    found.insert(word.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_kind_of_event_has_a_name() {
    let mut found = BTreeSet::new();
    kinds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 15 && found.contains("state_changed"), "{found:?}");
    for lang in Lang::ALL {
        let nameless: Vec<_> =
            found.iter().filter(|kind| lang.find(&format!("panel.event.{kind}")).is_none()).collect();
        assert!(nameless.is_empty(), "{lang:?}: {nameless:?}");
    }
}
