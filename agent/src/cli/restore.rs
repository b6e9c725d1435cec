//! `boxmeter restore`: a backup takes the ledger's place, and what was there is kept.

use std::path::PathBuf;

use boxmeter_web::api::types::Time;
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    context::Context,
    failure::Failure,
    format::{bytes, safe, second},
    local,
};
use crate::ledger::{Restored, Since};

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup. It stays as it is.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub fn run(context: &Context, args: &RestoreArgs) -> Result<(), Failure> {
    let done = local::restore(context.config.as_deref(), &args.file)?;
    match context.json {
        true => context.print_json(&answer(&done)),
        false => context.print(&render(context, &done)),
    }
}

fn time(ms: Option<i64>) -> Option<Time> {
    ms.map(|ms| Time::from_ms(ms, &TimeZone::system()))
}

fn answer(done: &Restored) -> Value {
    let since = done.since.as_ref().map(|since| {
        json!({
            "replaced_as_of": time(since.as_of_ms),
            "in_kernel_bytes": since.in_kernel_bytes,
            "gone_bytes": since.gone_bytes,
            "unknown_users": since.unknown_users,
            "unknown_users_out": since.unknown_out,
        })
    });
    json!({
        "schema": 1,
        "restored": true,
        "as_of": time(done.as_of_ms),
        "ledger_id": done.ledger_id.to_string(),
        "kept": done.kept.as_ref().map(|kept| kept.display().to_string()),
        "since": since,
    })
}

fn render(context: &Context, done: &Restored) -> String {
    let none = context.text("status.never_committed").to_owned();
    let as_of = time(done.as_of_ms).as_ref().map_or(none, second);
    let mut lines = vec![context.fill("restore.done", &[("time", &as_of)])];
    if let Some(kept) = &done.kept {
        let kept = safe(&kept.display().to_string());
        lines.push(context.fill("restore.kept", &[("file", &kept)]));
        match &done.since {
            None => lines.push(context.text("restore.unreadable").to_owned()),
            Some(since) => lines.extend(told(context, since)),
        }
    }
    lines.push(context.text("restore.next").to_owned());
    lines.join("\n")
}

/// What is not as it was before.
fn told(context: &Context, since: &Since) -> Vec<String> {
    let size = |count: i64| bytes(u64::try_from(count).unwrap_or(0));
    let values = [("kernel", &*size(since.in_kernel_bytes)), ("gone", &size(since.gone_bytes))];
    let mut lines = vec![context.fill("restore.since", &values)];
    let names = |names: &[String]| names.iter().map(|name| safe(name)).collect::<Vec<_>>().join(", ");
    if !since.unknown_users.is_empty() {
        lines.push(context.fill("restore.unknown", &[("names", &names(&since.unknown_users))]));
    }
    if !since.unknown_out.is_empty() {
        lines.push(context.fill("restore.unknown_out", &[("names", &names(&since.unknown_out))]));
    }
    lines
}
