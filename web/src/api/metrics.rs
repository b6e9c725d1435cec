//! Prometheus' text format (version 0.0.4), written by hand: names and labels are few, and values are whole numbers or
//! thousandths and below of seconds, which need no floats.

use std::{collections::BTreeSet, fmt::Write as _};

/// The type of an answer in this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a number may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for restarts.
    Counter,
    Gauge,
}

/// An answer in the making. Samples belong to the family that was begun last.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: String,
    begun: BTreeSet<String>,
}

impl Exposition {
    /// Begins a family of samples; a name is begun once.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        debug_assert!(self.begun.insert(name.to_owned()), "{name} twice");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        name.clone_into(&mut self.name);
        self
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.line(labels, &value.to_string())
    }

    /// A number of seconds that is given in milliseconds; before 1970 is 0.
    pub fn millis(&mut self, labels: &[(&str, &str)], ms: i64) -> &mut Self {
        let ms = ms.max(0);
        self.line(labels, &format!("{}.{:03}", ms / 1000, ms % 1000))
    }

    /// A number of seconds that is given in nanoseconds.
    pub fn nanos(&mut self, labels: &[(&str, &str)], ns: u64) -> &mut Self {
        self.line(labels, &format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
    }

    fn line(&mut self, labels: &[(&str, &str)], value: &str) -> &mut Self {
        self.text.push_str(&self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }

    pub fn finish(self) -> String {
        self.text
    }
}

fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_strangers_stay_within_their_quotes() {
        let mut out = Exposition::default();
        out.family("boxmeter_x_bytes_total", Kind::Counter, "Two\nlines.")
            .sample(&[("user", "a\"} 1\nboxmeter_y 2 \\"), ("direction", "upload")], u64::MAX);
        out.family("boxmeter_t_seconds", Kind::Gauge, "Time.").millis(&[], 1_500).nanos(&[], 120);
        insta::assert_snapshot!(out.finish(), @r#"
        # HELP boxmeter_x_bytes_total Two\nlines.
        # TYPE boxmeter_x_bytes_total counter
        boxmeter_x_bytes_total{user="a\"} 1\nboxmeter_y 2 \\",direction="upload"} 18446744073709551615
        # HELP boxmeter_t_seconds Time.
        # TYPE boxmeter_t_seconds gauge
        boxmeter_t_seconds 1.500
        boxmeter_t_seconds 0.000000120
        "#);
    }
}
