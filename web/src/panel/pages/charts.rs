//! Data of charts as JSON in the page, where the script finds them. The text may hold nothing that
//! ends the element it stands in.

use jiff::ToSpan;
use serde_json::{Value, json};

use super::{frame::Frame, live::HISTORY_MAX};
use crate::api::types::{Meter, Time, UsageRow};

/// What the script draws.
pub struct Chart {
    /// For [`Chart`]'s element; `<` never occurs in it.
    pub json: String,
    /// The same for who has no script: moment, download, upload.
    pub rows: Vec<(String, String, String)>,
}

/// Rates that go on: `points` are seconds, download, upload.
pub fn rates(f: &Frame, zone: &str, points: impl Iterator<Item = [i64; 3]>) -> Chart {
    let mut data = [Vec::new(), Vec::new(), Vec::new()];
    for point in points {
        for (row, value) in data.iter_mut().zip(point) {
            row.push(value);
        }
    }
    let spec = json!({"rate": true, "by": "second", "zone": zone, "lang": f.lang.tag(),
                      "keep": HISTORY_MAX, "data": data});
    Chart { json: harmless(&spec), rows: Vec::new() }
}

/// Usage in spans of time.
pub fn usage(f: &Frame, zone: &str, by: &str, meter: Meter, rows: &[UsageRow]) -> Chart {
    let mut data = [Vec::new(), Vec::new(), Vec::new()];
    let mut table = Vec::new();
    let mut periods = Vec::new();
    for row in rows {
        let (up, down) = row.by(meter);
        if by == "period" {
            periods.push(days(&row.start, &row.end));
        }
        data[0].push(json!(row.start.instant.as_second()));
        data[1].push(json!(down));
        data[2].push(json!(up));
        let size = |bytes| crate::units::Size(bytes).to_string();
        table.push((moment(&row.start, by), size(down), size(up)));
    }
    table.reverse();
    let spec = json!({"rate": false, "by": by, "zone": zone, "lang": f.lang.tag(),
                      "names": periods, "data": data});
    Chart { json: harmless(&spec), rows: table }
}

/// The days of a period, the first and the last.
fn days(start: &Time, end: &Time) -> String {
    let first = start.zoned();
    // Periods end with the beginning of the next one.
    let last = end.zoned().saturating_sub(1.millisecond());
    let form = if last.year() == first.year() { "%m-%d" } else { "%Y-%m-%d" };
    let from = first.strftime("%Y-%m-%d");
    if last.date() <= first.date() { from.to_string() } else { format!("{from} – {}", last.strftime(form)) }
}

fn moment(start: &Time, by: &str) -> String {
    let form = if by == "hour" { "%m-%d %H:%M" } else { "%Y-%m-%d" };
    start.zoned().strftime(form).to_string()
}

/// JSON that stands in a script element: a `<` would be able to end it.
fn harmless(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_named_by_its_days() {
        let named = |start: &str, end: &str| {
            let time = |text: &str| Time::from(&text.parse::<jiff::Zoned>().unwrap());
            days(&time(start), &time(end))
        };
        let (november, december) =
            ("2026-11-01T00:00+08:00[Asia/Shanghai]", "2026-12-01T00:00+08:00[Asia/Shanghai]");
        assert_eq!(named(november, december), "2026-11-01 – 11-30");
        assert_eq!(named(december, "2027-01-01T00:00+08:00[Asia/Shanghai]"), "2026-12-01 – 12-31");
        assert_eq!(named(december, "2027-01-02T00:00+08:00[Asia/Shanghai]"), "2026-12-01 – 2027-01-01");
        assert_eq!(named(november, "2026-11-02T00:00+08:00[Asia/Shanghai]"), "2026-11-01");
        assert_eq!(named(november, november), "2026-11-01");
    }

    #[test]
    fn nothing_ends_the_element() {
        let text = harmless(&json!({"zone": "</script><!--"}));
        assert!(!text.contains('<'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["zone"], "</script><!--");
    }
}
