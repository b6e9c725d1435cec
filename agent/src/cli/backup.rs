//! `boxmeter backup`: a checked copy of the ledger, whether the agent runs or not.

use std::path::PathBuf;

use boxmeter_web::api::types::Time;
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::json;

use super::{
    context::Context,
    failure::Failure,
    format::{bytes, safe, second},
    local,
};

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; it has everything, password hashes and users' entries too: keep it safe.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Overwrite the file if it is there.
    #[arg(long)]
    force: bool,
}

pub fn run(context: &Context, args: &BackupArgs) -> Result<(), Failure> {
    let (done, ledger) = local::backup(context.config.as_deref(), &args.file, args.force)?;
    let as_of = done.as_of_ms.map(|ms| Time::from_ms(ms, &TimeZone::system()));
    if context.json {
        return context.print_json(&json!({
            "schema": 1,
            "file": args.file.display().to_string(),
            "ledger": ledger.display().to_string(),
            "bytes": done.bytes,
            "as_of": as_of,
        }));
    }
    let none = context.text("status.never_committed").to_owned();
    let values = [
        ("file", &*safe(&args.file.display().to_string())),
        ("size", &bytes(done.bytes)),
        ("time", &as_of.as_ref().map_or(none, second)),
    ];
    context.print(&context.fill("backup.done", &values))
}
