//! `boxmeter users import`: accounts of another program.

use std::path::PathBuf;

use boxmeter_web::{
    api::types::{
        IMPORT_USERS_MAX, ImportOutcome, ImportReport, ImportRequest, ImportUser, Imported, Schema,
    },
    backend::Backend,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, safe},
    local,
    table::{Cell, Table},
};

/// Lines of the report that people read; `--json` has all.
const LINES_SHOWN_MAX: usize = 100;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file: CSV with a line of column names, JSON, or the SQLite database of the
    /// tutorial's script.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// What the file is; by default by how it begins, and its name.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// The policy of users that the file gives none.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// The inbounds of new users that the file gives none; by default every inbound with users.
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    inbounds: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Json,
    Sqlite,
}

/// The answer, and what of the file was not understood.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: Schema,
    dry_run: bool,
    users: Vec<Imported>,
    not_understood: Vec<String>,
    rev: u64,
}

pub async fn run(context: &Context, args: ImportArgs) -> Result<(), Failure> {
    let (mut users, not_understood) = local::read_import(&args.file, args.format)?;
    for user in &mut users {
        fill_in(user, &args);
    }
    let client = context.client()?;
    let mut report =
        Report { schema: Schema, dry_run: args.dry_run, users: Vec::new(), not_understood, rev: 0 };
    for part in users.chunks(IMPORT_USERS_MAX) {
        let request = ImportRequest { dry_run: args.dry_run, users: part.to_vec() };
        let answer: ImportReport = client.import(context.envelope(None), request).await?;
        report.users.extend(answer.users);
        report.rev = answer.rev;
    }
    if context.json {
        return context.print_json(&report);
    }
    context.print(&render(context, &report.users, &report.not_understood, report.dry_run))
}

/// What the options say for users of whom the file says nothing.
fn fill_in(user: &mut ImportUser, args: &ImportArgs) {
    if user.policy.is_none() {
        user.policy.clone_from(&args.policy);
    }
    if user.inbounds.is_none() {
        user.inbounds.clone_from(&args.inbounds);
    }
}

pub fn render(context: &Context, users: &[Imported], not_understood: &[String], dry_run: bool) -> String {
    let mut out = String::new();
    // What needs a look comes first and is never cut off before what does not.
    let told = |it: &&Imported| it.outcome == ImportOutcome::Refused || it.message.is_some();
    let (loud, quiet): (Vec<&Imported>, Vec<&Imported>) = users.iter().partition(told);
    let mut table = Table::new(context).words("col.user", 0).words("col.outcome", 0).words("col.message", 0);
    for it in loud.iter().chain(&quiet).take(LINES_SHOWN_MAX) {
        let text = context.text(&format!("import.{}", it.outcome.as_str())).to_owned();
        let tone = match it.outcome {
            ImportOutcome::Added | ImportOutcome::Updated => Tone::Good,
            ImportOutcome::Unchanged => Tone::Dim,
            ImportOutcome::Refused => Tone::Bad,
        };
        let message = it.message.as_deref().map(safe).unwrap_or_default();
        table.row(vec![Cell::name(&it.name), Cell::new(text).tone(tone), Cell::new(message)]);
    }
    if !users.is_empty() {
        out.push_str(&table.render());
    }
    if let Some(more) = users.len().checked_sub(LINES_SHOWN_MAX).filter(|more| *more > 0) {
        out.push_str(&format!("{}\n", context.fill("more", &[("count", &more.to_string())])));
    }
    if !not_understood.is_empty() {
        out.push_str(&format!("\n{}\n", context.text("import.not_understood")));
        for sentence in not_understood.iter().take(LINES_SHOWN_MAX) {
            out.push_str(&format!("  {}\n", safe(sentence)));
        }
    }
    let count = |outcome| users.iter().filter(|it| it.outcome == outcome).count().to_string();
    let counts = ImportOutcome::ALL.map(|outcome| (outcome.as_str(), count(outcome)));
    let counts: Vec<(&str, &str)> = counts.iter().map(|(name, count)| (*name, &**count)).collect();
    let key = if dry_run { "import.would" } else { "import.did" };
    out.push_str(&format!("\n{}\n", context.fill(key, &counts)));
    out
}
