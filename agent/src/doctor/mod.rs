//! Checks the machine and sing-box's configuration; every finding says what to do.

use crate::{
    config::Config,
    kernel::probe,
    singbox::{ConfigWatch, process},
    source::{self, Setting},
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    Warn,
    Fail,
}

/// One check and what it found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub severity: Severity,
    pub detail: String,
}

fn finding(check: &'static str, severity: Severity, detail: impl Into<String>) -> Finding {
    Finding { check, severity, detail: detail.into() }
}

/// Everything that is looked at, in the order in which it must be put right.
pub fn findings(config: &Config) -> Vec<Finding> {
    let mut found: Vec<Finding> = probe::features()
        .into_iter()
        .map(|feature| match feature.state {
            Ok(detail) => finding(feature.name, Severity::Ok, detail),
            Err(detail) if feature.required => finding(feature.name, Severity::Fail, detail),
            Err(detail) => finding(feature.name, Severity::Warn, detail),
        })
        .collect();
    match ConfigWatch::new(config.singbox.config.clone()).load() {
        Ok(read) => {
            found.push(finding(
                "sing-box configuration",
                Severity::Ok,
                format!("{} inbounds", read.inbounds.len()),
            ));
            found.extend(
                read.warnings
                    .iter()
                    .map(|warning| finding("sing-box configuration", Severity::Warn, format!("{warning:?}"))),
            );
            match source::choose(&read, Setting::Auto) {
                Ok(choice) => {
                    found.push(finding("source of owners", Severity::Ok, format!("{:?}", choice.kind())))
                }
                Err(reason) => found.push(finding("source of owners", Severity::Fail, reason.to_string())),
            }
        }
        Err(error) => found.push(finding("sing-box configuration", Severity::Fail, error.to_string())),
    }
    match process::find(&config.singbox.config) {
        Ok(process) => {
            let version = process.version().unwrap_or_else(|error| error.to_string());
            found.push(finding("sing-box", Severity::Ok, format!("pid {}, version {version}", process.pid)));
        }
        Err(reason) => found.push(finding("sing-box", Severity::Fail, reason.to_string())),
    }
    found
}

/// Runs the checks and shows them, in JSON if `json`.
///
/// # Errors
/// When something failed, or a change was asked for.
pub fn run(config: &Config, fix: bool, _yes: bool, json: bool) -> anyhow::Result<String> {
    let found = findings(config);
    let text = if json {
        serde_json::to_string_pretty(&serde_json::json!({"schema": 1, "findings": found}))?
    } else {
        found
            .iter()
            .map(|one| {
                let mark = match one.severity {
                    Severity::Ok => "ok  ",
                    Severity::Warn => "warn",
                    Severity::Fail => "FAIL",
                };
                format!("{mark}  {}: {}\n", one.check, one.detail)
            })
            .collect()
    };
    anyhow::ensure!(!fix, "{text}--fix is not built yet: add what is said above by hand");
    let failed = found.iter().any(|one| one.severity == Severity::Fail);
    anyhow::ensure!(!failed, "{text}");
    Ok(text)
}
