//! Users from CSV: a line of column names, then a user a line.

use std::collections::BTreeSet;

use ::csv::{ReaderBuilder, Trim};
use jiff::Zoned;

use super::{
    ImportError, Imported,
    fields::{self, NAME, Row},
};

/// Reads CSV that is separated by commas, semicolons or tabs. Dates are read in the zone of `now`.
///
/// # Errors
/// When the text is no CSV, or has no column of names.
pub fn read_csv(bytes: &[u8], now: &Zoned) -> Result<Imported, ImportError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ImportError::NotText)?;
    // Spreadsheets write a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter(text)).trim(Trim::All).from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers().map_err(wrong)?.iter().map(fields::normal).collect();
    if !columns.iter().any(|column| NAME.contains(&column.as_str())) {
        return Err(ImportError::NoName { found: columns.join(", ") });
    }
    let mut imported = Imported::default();
    let unknown: BTreeSet<&String> = columns.iter().filter(|column| !fields::known(column)).collect();
    imported
        .not_understood
        .extend(unknown.iter().map(|column| format!("the column {column:?} is not known")));
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let line = record.position().map_or(0, |at| at.line());
        let row: Row = columns.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        match fields::user(&row, now) {
            Ok(user) => imported.users.push(user),
            Err(what) => imported.not_understood.push(format!("line {line} was left out: {what}")),
        }
    }
    Ok(imported)
}

/// The sign that the first line has most of.
fn delimiter(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    let count = |sign: &u8| first.bytes().filter(|byte| byte == sign).count();
    // Of equal counts the last wins, which is the comma.
    [b'\t', b';', b','].into_iter().max_by_key(count).unwrap_or(b',')
}

fn wrong(error: ::csv::Error) -> ImportError {
    let line = error.position().map_or(1, |at| at.line());
    let what = match error.kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields, the first line has {expected_len}")
        }
        _ => error.to_string(),
    };
    ImportError::Csv { line, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{ImportedStatus, ImportedUsage, UsedIn};

    fn read(text: &str) -> Result<Imported, ImportError> {
        let now = "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap();
        read_csv(text.as_bytes(), &now)
    }

    #[test]
    fn users_come_with_their_limits() {
        let imported = read(
            "\u{feff}Username;Password;Monthly Quota (GB);reset-day;status;expires;used;inbounds;colour\n\
             alice;\"p;1\";100;15;active;2026-12-31;1GiB;a,b;red\n\
             小明;p2;0;;disabled;;;;\n",
        )
        .unwrap();
        let [alice, ming] = &imported.users[..] else { panic!("{imported:?}") };
        assert_eq!(alice.credentials.password.as_deref(), Some("p;1"));
        assert_eq!((alice.quota_bytes, alice.reset_day), (Some(Some(100 << 30)), Some(15)));
        assert_eq!(alice.expires_ms, Some(1_798_646_400_000), "midnight in the zone of now");
        assert_eq!(alice.inbounds, ["a", "b"]);
        assert_eq!(
            alice.used,
            [ImportedUsage { when: UsedIn::Now, upload_bytes: 0, download_bytes: 1 << 30 }]
        );
        assert_eq!((ming.quota_bytes, ming.status), (Some(None), ImportedStatus::Disabled));
        assert_eq!(imported.not_understood, ["the column \"colour\" is not known"]);
    }

    #[test]
    fn who_is_not_understood_is_left_out_and_said() {
        let imported =
            read("name,quota,reset_day,status\na,lots,1,\nb,1G,32,\nc,1G,1,odd\n,1G,1,\nd,1G,,\n").unwrap();
        assert_eq!(imported.users.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["d"]);
        let said = imported.not_understood.join("\n");
        for words in [
            "line 2 was left out: quota: \"lots\"",
            "line 3 was left out: reset_day: \"32\"",
            "line 4 was left out: status: \"odd\"",
            "line 5 was left out: the name is missing",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn what_is_no_table_of_users_is_refused() {
        let text = |result: Result<Imported, ImportError>| result.unwrap_err().to_string();
        assert!(text(read("a,b\n1,2\n")).contains("no column `name`"));
        assert!(text(read("")).contains("no column `name`"));
        assert!(text(read("name,quota\na,1,2\n")).contains("line 2 is not CSV: it has 3 fields"));
        let now = Zoned::now();
        assert!(text(read_csv(b"name\n\xff\n", &now)).contains("UTF-8"));
    }
}
