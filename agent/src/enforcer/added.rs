//! What boxmeter put into sing-box's files beside `users` (`doctor --fix`), kept so that exactly that is
//! taken out again when boxmeter leaves. Pure but for the types: texts go in, edits come out.
//!
//! What somebody has changed by hand since is theirs: it stays, and is told.

use std::{fmt, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{editor::Edit, users_edit};
use crate::singbox::{
    files::FileText,
    splice::{self, Splice},
    tree::{self, Node, Value},
};

/// One place of a file. It may hold a secret: nothing prints it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    pub file: PathBuf,
    /// Keys from the top to a value that took the place of another; none for text that was put in.
    pub keys: Vec<String>,
    /// Of text that was put in: the keys to the object or array that it was put into.
    #[serde(default)]
    pub inside: Vec<String>,
    pub before: String,
    pub after: String,
    /// Of the API; it names the entry.
    pub secret: String,
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Added").field("file", &self.file).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// What becomes of the files.
#[derive(Debug, Default)]
pub struct TakenOut {
    /// Texts of files that change.
    pub edits: Vec<Edit>,
    /// Places that somebody has changed since: they stay.
    pub kept: Vec<PathBuf>,
}

/// What `splices` are going to put into a file.
pub fn note(file: &FileText, root: &Node, splices: &[Splice], secret: &str) -> Vec<Added> {
    let mut sorted: Vec<&Splice> = splices.iter().collect();
    sorted.sort_by_key(|splice| splice.range.start);
    let mut at = 0;
    let mut noted = Vec::with_capacity(sorted.len());
    for splice in sorted {
        // As `splice::apply`: two insertions at one place take the blanks after it once.
        let start = splice.range.start.max(at);
        at = splice.range.end.max(at);
        noted.push(Added {
            file: file.path.as_ref().clone(),
            keys: keys_of(root, splice).unwrap_or_default(),
            inside: inside(root, splice).unwrap_or_default(),
            before: file.text[start..at].to_owned(),
            after: splice.with.clone(),
            secret: secret.to_owned(),
        });
    }
    noted
}

/// The way to the value that a splice replaces as a whole.
fn keys_of(node: &Node, splice: &Splice) -> Option<Vec<String>> {
    let Value::Object(entries) = &node.value else { return None };
    entries.iter().find_map(|(key, value)| {
        if value.range == splice.range {
            return Some(vec![key.clone()]);
        }
        let mut keys = keys_of(value, splice)?;
        keys.insert(0, key.clone());
        Some(keys)
    })
}

/// The way to the innermost object or array that a splice puts text into.
fn inside(node: &Node, splice: &Splice) -> Option<Vec<String>> {
    if !(node.range.start < splice.range.start && splice.range.end < node.range.end) {
        return None;
    }
    let Value::Object(entries) = &node.value else { return Some(Vec::new()) };
    let deeper = entries.iter().find_map(|(key, value)| {
        let mut keys = inside(value, splice)?;
        keys.insert(0, key.clone());
        Some(keys)
    });
    Some(deeper.unwrap_or_default())
}

/// Takes out what was added, the last first.
pub fn take_out(files: &[FileText], added: &[Added]) -> TakenOut {
    let mut taken = TakenOut::default();
    // Who has taken the API out by hand has made the rest of it their own.
    let in_force = |one: &Added| {
        let same = || added.iter().filter(|other| other.secret == one.secret);
        !same().any(|other| other.after.contains(&one.secret))
            || files.iter().any(|file| file.text.contains(&one.secret))
    };
    for file in files {
        let mut text = file.text.clone();
        for one in added.iter().rev().filter(|one| one.file == *file.path) {
            if !in_force(one) {
                continue;
            }
            match without(file, &text, one) {
                Some(new) => text = new,
                None if text.contains(&one.secret) && one.after.contains(&one.secret) => {
                    taken.kept.push(one.file.clone());
                }
                // It is gone already, or has another value by now.
                None => {}
            }
        }
        if text != file.text {
            taken.edits.push(Edit {
                service: file.service.clone(),
                path: file.path.as_ref().clone(),
                expected: file.sha256,
                content: text,
            });
        }
    }
    taken
}

fn without(file: &FileText, text: &str, one: &Added) -> Option<String> {
    let read =
        |text: &str| tree::parse(&Arc::new(file.path.as_ref().clone()), text).ok().map(|(node, _)| node);
    if !one.keys.is_empty() {
        let root = read(text)?;
        let node = one.keys.iter().try_fold(&root, |node, key| node.get(key))?;
        let same = text[node.range.clone()] == one.after;
        return same.then(|| splice::apply(text, &[splice::replace(node, &one.before)]));
    }
    let mut places = text.match_indices(&one.after).map(|(at, _)| at);
    if let (Some(at), None) = (places.next(), places.next())
        && (one.after.contains(&one.secret) || stands_where_it_was_put(&read(text)?, one, at))
    {
        let new = format!("{}{}{}", &text[..at], one.before, &text[at + one.after.len()..]);
        if read(&new).is_some() {
            return Some(new);
        }
    }
    // The list that it came with has other entries by now: only the entry goes.
    let root = read(text)?;
    let services = root.get("services")?;
    let secret = |node: &Node| node.get("secret").and_then(Node::str) == Some(&one.secret);
    let at = services.array()?.iter().position(secret)?;
    Some(splice::apply(text, &[users_edit::without_element(text, services, at)?]))
}

/// Only the secret says by itself whose text it is: what has none can be anybody's, but where it was put.
fn stands_where_it_was_put(root: &Node, one: &Added, at: usize) -> bool {
    // Of what an earlier version has noted the place is not known.
    let container = (!one.inside.is_empty())
        .then(|| one.inside.iter().try_fold(root, |node: &Node, key| node.get(key)))
        .flatten();
    let Some(container) = container else { return false };
    let end = at + one.after.len();
    let deeper = match &container.value {
        // Not in something that stands inside.
        Value::Object(entries) => {
            entries.iter().any(|(_, value)| value.range.start <= at && end <= value.range.end)
        }
        _ => false,
    };
    container.range.start < at && end < container.range.end && !deeper
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforcer::swap::sha256;

    fn file(text: &str) -> FileText {
        FileText {
            service: crate::service::Service::singbox(),
            path: Arc::new("/etc/a.json".into()),
            sha256: sha256(text.as_bytes()),
            text: text.to_owned(),
        }
    }

    fn root(file: &FileText) -> Node {
        tree::parse(&file.path, &file.text).unwrap().0
    }

    /// Puts an API service and a log level in; the text and what was noted.
    fn fixed(old: &FileText) -> (FileText, Vec<Added>) {
        let root = root(old);
        let service = "\"services\": [\n\t{\n\t\t\"type\": \"api\",\n\t\t\"secret\": \"abcd\"\n\t}\n]";
        let level = root.get("log").unwrap().get("level").unwrap();
        let splices = [splice::insert_first(&old.text, &root, service), splice::replace(level, "\"info\"")];
        let new = file(&splice::apply(&old.text, &splices));
        (new, note(old, &root, &splices, "abcd"))
    }

    fn out(now: &FileText, added: &[Added]) -> (String, usize) {
        let taken = take_out(std::slice::from_ref(now), added);
        let text = taken.edits.first().map_or(now.text.clone(), |edit| edit.content.clone());
        (text, taken.kept.len())
    }

    #[test]
    fn what_was_added_goes_and_what_came_later_stays() {
        for old in [
            "{ \"log\": {\"level\": \"warn\"} }",
            "{\r\n  // c\r\n  \"log\": {\"level\": \"warn\"},\r\n}\r\n",
        ] {
            let old = file(old);
            let (new, added) = fixed(&old);
            assert_ne!(new.text, old.text);
            assert_eq!(out(&new, &added), (old.text.clone(), 0));
            // Taken out twice is taken out once.
            assert_eq!(out(&old, &added), (old.text.clone(), 0));
            let later = file(&new.text.replace("\"info\"", "\"debug\""));
            let (text, kept) = out(&later, &added);
            assert_eq!((text.contains("\"debug\""), text.contains("services"), kept), (true, false, 0));
        }
    }

    /// Text without the secret can be anybody's.
    #[test]
    fn what_somebody_else_has_written_stays() {
        let old = file(
            "{\n  \"experimental\": {\n    \"clash_api\": {\n      \"secret\": \"own\"\n    }\n  }\n}\n",
        );
        let root = root(&old);
        let clash = root.get("experimental").unwrap().get("clash_api").unwrap();
        let splices = [splice::insert_first(&old.text, clash, "\"external_controller\": \"127.0.0.1:9090\"")];
        let new = file(&splice::apply(&old.text, &splices));
        let added = note(&old, &root, &splices, "abcd");
        assert_eq!(out(&new, &added), (old.text.clone(), 0));
        // Somebody has taken it out, and has the same text elsewhere.
        let theirs = |key: &str| {
            let text = new.text.replacen("\"clash_api\"", key, 1);
            file(&text.replacen("\"experimental\": {", "\"experimental\": {\n    \"clash_api\": {},", 1))
        };
        for other in [theirs("\"mine\""), file(&new.text.replacen("\"experimental\"", "\"other\"", 1))] {
            assert_ne!(other.text, new.text);
            assert_eq!(out(&other, &added), (other.text.clone(), 0), "{}", other.text);
        }
        // And what belongs to an API that somebody has taken out is theirs too.
        let old = file("{ \"log\": {\"level\": \"warn\"} }");
        let (new, added) = fixed(&old);
        let without = file(&new.text.replace("\"abcd\"", "\"mine\""));
        assert_ne!(without.text, new.text);
        assert_eq!(out(&without, &added), (without.text.clone(), 0));
    }

    #[test]
    fn a_service_that_somebody_put_beside_it_stays() {
        let old = file("{\n  \"log\": {\"level\": \"warn\"}\n}\n");
        let (new, added) = fixed(&old);
        let service = "{\"type\": \"resolved\", \"listen_port\": 5}";
        for more in [
            new.text.replace("  }\n  ]", &format!("  }},\n    // mine\n    {service}\n  ]")),
            new.text.replace("[\n    {\n", &format!("[\n    {service},\n    {{\n")),
        ] {
            assert_ne!(more, new.text);
            let (text, kept) = out(&file(&more), &added);
            let root = root(&file(&text));
            let services = root.get("services").unwrap().array().unwrap();
            assert_eq!(
                (services.len(), services[0].get("listen_port").and_then(Node::port)),
                (1, Some(5)),
                "{text}"
            );
            assert!(!text.contains("abcd") && kept == 0);
            assert_eq!(text.contains("// mine"), more.contains("// mine"));
        }
    }
}
