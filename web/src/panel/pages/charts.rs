//! Data of charts as JSON in the page, where the script finds them. The text may hold nothing that
//! ends the element it stands in.

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
    for row in rows {
        let (up, down) = row.traffic.by(meter);
        data[0].push(json!(row.start.instant.as_second()));
        data[1].push(json!(down));
        data[2].push(json!(up));
        let size = |bytes| crate::units::Size(bytes).to_string();
        table.push((moment(&row.start, by), size(down), size(up)));
    }
    table.reverse();
    let spec = json!({"rate": false, "by": by, "zone": zone, "lang": f.lang.tag(),
                      "keep": rows.len(), "data": data});
    Chart { json: harmless(&spec), rows: table }
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
    fn nothing_ends_the_element() {
        let text = harmless(&json!({"zone": "</script><!--"}));
        assert!(!text.contains('<'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["zone"], "</script><!--");
    }
}
