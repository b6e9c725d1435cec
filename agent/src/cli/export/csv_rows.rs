//! Rows of CSV. Text that a spreadsheet would take for a formula gets an apostrophe in front: names and notes come
//! from strangers.

use std::io::{self, Write};

use boxmeter_web::api::types::{Event, Time, Traffic, UsageRow, User};

pub const USAGE: [&str; 9] = [
    "user",
    "start",
    "end",
    "upload_payload_bytes",
    "download_payload_bytes",
    "upload_wire_bytes",
    "download_wire_bytes",
    "reported_upload_bytes",
    "reported_download_bytes",
];

pub const USERS: [&str; 28] = [
    "name",
    "id",
    "state",
    "reason",
    "policy",
    "email",
    "note",
    "created_at",
    "expires_at",
    "last_seen_at",
    "period_start",
    "period_end",
    "period_quota_bytes",
    "period_used_bytes",
    "period_remaining_bytes",
    "total_quota_bytes",
    "total_used_bytes",
    "packages_remaining_bytes",
    "speed_up",
    "speed_down",
    "max_flows",
    "max_addresses",
    "time_zone",
    "inbounds",
    "upload_payload_bytes",
    "download_payload_bytes",
    "upload_wire_bytes",
    "download_wire_bytes",
];

pub const EVENTS: [&str; 8] = ["id", "at", "kind", "severity", "user", "who", "message", "data"];

/// Writes rows as they come.
pub struct Rows<W: Write>(csv::Writer<W>);

impl<W: Write> Rows<W> {
    pub fn new(out: W) -> Self {
        Rows(csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out))
    }

    pub fn head(&mut self, names: &[&str]) -> io::Result<()> {
        self.0.write_record(names).map_err(io_error)
    }

    pub fn row(&mut self, cells: Vec<String>) -> io::Result<()> {
        self.0.write_record(cells.into_iter().map(defused)).map_err(io_error)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// As the error of the stream that it is, so that a reader who is gone is told from a failure.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// What OWASP lists as the beginnings of formulas, full-width forms included. Our own numbers have no sign.
fn defused(cell: String) -> String {
    let first = cell.chars().next();
    match first {
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠') => {
            format!("'{cell}")
        }
        _ => cell,
    }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn time(value: Option<&Time>) -> String {
    value.and_then(|time| serde_json::to_value(time).ok()?.as_str().map(str::to_owned)).unwrap_or_default()
}

fn traffic(traffic: &Traffic) -> [String; 4] {
    [
        traffic.upload_payload_bytes,
        traffic.download_payload_bytes,
        traffic.upload_wire_bytes,
        traffic.download_wire_bytes,
    ]
    .map(|bytes| bytes.to_string())
}

pub fn usage(row: &UsageRow) -> Vec<String> {
    let mut cells = vec![row.user.clone(), time(Some(&row.start)), time(Some(&row.end))];
    cells.extend(traffic(&row.traffic));
    cells.extend(
        [row.reported_upload_bytes, row.reported_download_bytes].map(|it| it.unwrap_or(0).to_string()),
    );
    cells
}

/// A row without a user.
pub fn unattributed(from: Option<Time>, to: Option<Time>, bytes: &Traffic) -> Vec<String> {
    let mut cells = vec![String::new(), time(from.as_ref()), time(to.as_ref())];
    cells.extend(traffic(bytes));
    cells.extend([String::from("0"), String::from("0")]);
    cells
}

pub fn user(user: &User) -> Vec<String> {
    let mut cells = vec![
        user.name.clone(),
        text(user.id.as_ref()),
        user.state.as_str().to_owned(),
        text(user.reason.as_ref()),
        text(user.policy.as_ref()),
        text(user.email.as_ref()),
        text(user.note.as_ref()),
        time(Some(&user.created_at)),
        time(user.expires_at.as_ref()),
        time(user.last_seen_at.as_ref()),
        time(user.period.start.as_ref()),
        time(user.period.end.as_ref()),
        text(user.period.quota_bytes.as_ref()),
        user.period.used_bytes.to_string(),
        text(user.period.remaining_bytes.as_ref()),
        text(user.total.quota_bytes.as_ref()),
        user.total.used_bytes.to_string(),
        user.packages.remaining_bytes.to_string(),
        text(user.speed.up.as_ref()),
        text(user.speed.down.as_ref()),
        text(user.max_flows.as_ref()),
        text(user.max_addresses.as_ref()),
        text(user.time_zone.as_ref()),
        user.inbounds.join(" "),
    ];
    cells.extend(traffic(&user.traffic));
    cells
}

pub fn event(event: &Event) -> Vec<String> {
    vec![
        event.id.clone(),
        time(Some(&event.at)),
        event.kind.clone(),
        event.severity.as_str().to_owned(),
        text(event.user.as_ref()),
        text(event.who.as_ref()),
        event.message.clone(),
        text(event.data.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_spreadsheet_would_run_gets_through() {
        let mut rows = Rows::new(Vec::new());
        let hostile =
            ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "plain", "a=1", "", "=\"a,b\""];
        rows.row(hostile.map(str::to_owned).to_vec()).unwrap();
        let bytes = rows.0.into_inner().unwrap();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        let record = reader.records().next().unwrap().unwrap();
        let cells: Vec<&str> = record.iter().collect();
        let expected: Vec<String> = hostile
            .iter()
            .enumerate()
            .map(|(at, cell)| if (8..11).contains(&at) { (*cell).to_owned() } else { format!("'{cell}") })
            .collect();
        assert_eq!(cells, expected);
    }
}
