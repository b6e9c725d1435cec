//! Users from JSON: a list of objects, or an object with a list `users`.

use std::collections::BTreeSet;

use jiff::Zoned;
use serde_json::Value;

use super::{
    ImportError, Imported,
    fields::{self, Row},
};

/// Reads JSON with the names that CSV has. Dates are read in the zone of `now`.
///
/// # Errors
/// When the text is no JSON, or holds no list of users.
pub fn read_json(bytes: &[u8], now: &Zoned) -> Result<Imported, ImportError> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    let list = match &mut value {
        Value::Array(_) => value,
        Value::Object(map) => map.remove("users").ok_or(ImportError::NoUsers)?,
        _ => return Err(ImportError::NoUsers),
    };
    let Value::Array(users) = list else { return Err(ImportError::NoUsers) };
    let mut imported = Imported::default();
    let mut unknown = BTreeSet::new();
    for (number, user) in (1..).zip(users) {
        match row(user, &mut unknown).and_then(|row| fields::user(&row, now)) {
            Ok(user) => imported.users.push(user),
            Err(what) => imported.not_understood.push(format!("user {number} was left out: {what}")),
        }
    }
    imported.not_understood.extend(unknown.iter().map(|name| format!("the field {name:?} is not known")));
    Ok(imported)
}

fn row(user: Value, unknown: &mut BTreeSet<String>) -> Result<Row, String> {
    let Value::Object(map) = user else { return Err("it is not an object".to_owned()) };
    let mut row = Row::new();
    for (name, value) in map {
        let name = fields::normal(&name);
        if !fields::known(&name) {
            unknown.insert(name);
            continue;
        }
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(is) => is.to_string(),
            Value::Array(values) => {
                let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
                texts.ok_or_else(|| format!("{name}: not a list of texts"))?.join(",")
            }
            Value::Object(_) => return Err(format!("{name}: an object is not understood here")),
        };
        row.insert(name, text);
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::ImportedStatus;

    fn read(text: &str) -> Result<Imported, ImportError> {
        read_json(text.as_bytes(), &"2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap())
    }

    #[test]
    fn both_forms_are_read() {
        let list = r#"[{"name": "a", "quota_bytes": 5, "enabled": false, "inbounds": ["x", "y"], "odd": {}},
                       {"username": "b", "quota_gb": 1.5, "expires": null}]"#;
        let imported = read(list).unwrap();
        let [a, b] = &imported.users[..] else { panic!("{imported:?}") };
        assert_eq!((a.quota_bytes, a.status), (Some(Some(5)), ImportedStatus::Disabled));
        assert_eq!(a.inbounds, ["x", "y"]);
        assert_eq!((b.quota_bytes, b.expires_ms), (Some(Some(3 << 29)), None));
        assert_eq!(imported.not_understood, ["the field \"odd\" is not known"]);
        assert_eq!(read(&format!("{{\"users\": {list}}}")).unwrap(), imported);
    }

    #[test]
    fn what_is_no_list_of_users_is_refused() {
        for text in ["", "5", "{}", r#"{"users": 5}"#] {
            assert!(read(text).is_err(), "{text}");
        }
        let imported = read(r#"[5, {"name": {"x": 1}}, {"quota": "1G"}]"#).unwrap();
        assert_eq!(imported.users, []);
        assert_eq!(imported.not_understood.len(), 3, "{imported:?}");
    }
}
