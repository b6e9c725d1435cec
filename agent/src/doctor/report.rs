//! What `boxmeter doctor` prints, and the conversation of `--fix`: the difference, the question, the
//! change. Everything that it decides is decided in `check` and `fix`.

use std::{
    fmt::Write as _,
    io::{self, BufRead, IsTerminal, Write as _},
};

use anyhow::{Context, bail, ensure};

use super::{
    Finding, KernelFact, Severity, check,
    check::machine,
    fix,
    gather::{Gathered, gather},
    services,
};
use crate::{
    config::{AutoPath, Config},
    enforcer::editor::{Editor, Reload},
    kernel::probe,
    service::Service,
    source::Setting,
};

/// Runs the checks, with `fix` also the change, and gives what is to be printed.
///
/// # Errors
/// When something fails that boxmeter needs, or a change was not made; the text says which.
pub fn run(config: &Config, fix: bool, yes: bool, json: bool) -> anyhow::Result<String> {
    let setting = config.singbox.source.into();
    if fix {
        ensure!(
            config.has_singbox(),
            "there is nothing that --fix could change: it repairs sing-box's configuration"
        );
        repair(config, &gather(&config.singbox.config, setting), yes)?;
    }
    let singbox = config.has_singbox().then(|| gather(&config.singbox.config, setting));
    let mut findings = match &singbox {
        Some(singbox) => check(&singbox.inputs(kernel_facts())),
        None => machine(&kernel_facts()),
    };
    let others = services::gather(config);
    findings.extend(others.iter().flat_map(services::check));
    findings.extend(services::collisions(&others, singbox.as_ref().and_then(|it| it.config.as_ref().ok())));
    let text = if json { in_json(&findings)? } else { in_words(&findings) };
    let failed = findings.iter().filter(|finding| finding.severity == Severity::Fail).count();
    if failed == 0 {
        return Ok(text);
    }
    // The report is the answer, also when it is not a good one.
    println!("{text}");
    bail!("{failed} of {} checks failed", findings.len())
}

fn kernel_facts() -> Vec<KernelFact> {
    let fact = |feature: probe::Feature| {
        let (severity, detail) = match feature.state {
            Ok(detail) => (Severity::Ok, detail),
            Err(detail) if feature.required => (Severity::Fail, detail),
            Err(detail) => (Severity::Warn, detail),
        };
        let what_to_do = if severity == Severity::Fail {
            "boxmeter needs Linux 6.1 or later with BPF, BTF and cgroup v2, and root".to_owned()
        } else {
            String::new()
        };
        KernelFact { id: feature.name, severity, title: feature.name.to_owned(), detail, what_to_do }
    };
    probe::features().into_iter().map(fact).collect()
}

fn in_words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok   ",
            Severity::Warn => "warn ",
            Severity::Fail => "FAIL ",
        };
        let _ = write!(text, "{mark} {}", finding.title);
        if !finding.detail.is_empty() {
            let _ = write!(text, ": {}", finding.detail);
        }
        text.push('\n');
        if finding.severity != Severity::Ok && !finding.what_to_do.is_empty() {
            let _ = writeln!(text, "      → {}", finding.what_to_do);
        }
    }
    text
}

fn in_json(findings: &[Finding]) -> anyhow::Result<String> {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "id": finding.id,
                "severity": match finding.severity {
                    Severity::Ok => "ok",
                    Severity::Warn => "warn",
                    Severity::Fail => "fail",
                },
                "title": finding.title,
                "detail": finding.detail,
                "what_to_do": finding.what_to_do,
            })
        })
        .collect();
    let ok = findings.iter().all(|finding| finding.severity != Severity::Fail);
    Ok(serde_json::to_string_pretty(&serde_json::json!({"schema": 1, "ok": ok, "findings": rows}))?)
}

fn repair(config: &Config, gathered: &Gathered, yes: bool) -> anyhow::Result<()> {
    let process = gathered.process.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let version = gathered.version.as_deref().context("sing-box does not say its version")?;
    let singbox = Editor {
        service: Service::singbox(),
        config: config.singbox.config.clone(),
        process: Some(process.clone()),
        last: None,
        binary: match &config.singbox.binary {
            AutoPath::Auto => None,
            AutoPath::Path(path) => Some(path.clone()),
        },
        reload: Reload::parse(&config.singbox.reload.to_string()).context("[singbox] reload")?,
        backups: config.ledger.path.parent().map(|folder| folder.join("backups")),
    };
    let Some(plan) = fix::prepare(&singbox, version, None)? else {
        eprintln!("nothing to change in sing-box's configuration");
        return Ok(());
    };
    eprintln!("{}", plan.diff);
    for warning in &plan.warnings {
        eprintln!("note: {warning}");
    }
    if !yes {
        ask()?;
    }
    let applied = fix::apply(&singbox, &plan)?;
    for backup in &applied.backups {
        eprintln!("the version before is kept in {}", backup.display());
    }
    eprintln!("done{}", if applied.reloaded { "; sing-box was reloaded and answers" } else { "" });
    Ok(())
}

fn ask() -> anyhow::Result<()> {
    ensure!(io::stdin().is_terminal(), "nothing was changed: there is no terminal to ask on; add --yes");
    eprint!("Change sing-box's configuration like this? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "是");
    ensure!(yes, "nothing was changed");
    Ok(())
}

impl From<crate::config::Source> for Setting {
    fn from(source: crate::config::Source) -> Self {
        match source {
            crate::config::Source::Auto => Setting::Auto,
            crate::config::Source::Api => Setting::Api,
            crate::config::Source::ClashLogs => Setting::ClashLogs,
            crate::config::Source::LogFile => Setting::LogFile,
        }
    }
}
