//! `boxmeter users import`: accounts of another program.

use std::path::PathBuf;

use boxmeter_web::{
    api::types::{
        IMPORT_USERS_MAX, ImportOutcome, ImportReport, ImportRequest, ImportUser, Imported, InboundStatus,
        Schema,
    },
    backend::Backend,
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, safe, safe_lines},
    local::{self, ForeignUsers, place_users},
    table::{Cell, Table},
};

/// Lines of the report that people read; `--json` has all.
const LINES_SHOWN_MAX: usize = 100;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file: CSV with a line of column names, JSON, or the SQLite database of 3x-ui, S-UI or
    /// the tutorial's script, which is told by its tables.
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
    /// Of a panel's database: instead of those that it has.
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
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub schema: Schema,
    pub dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_as: Option<ReadAs>,
    pub users: Vec<Imported>,
    pub not_understood: Vec<String>,
    /// A panel's inbounds that are here under another name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renamed_inbounds: Vec<Renamed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_inbounds: Vec<Missing>,
    pub rev: u64,
}

/// Whose database the file is.
#[derive(Debug, Serialize)]
pub struct ReadAs {
    pub program: &'static str,
    pub versions: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Renamed {
    pub from: String,
    pub to: String,
}

/// An inbound that sing-box's configuration does not have.
#[derive(Debug, Serialize)]
pub struct Missing {
    pub tag: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub port: Option<u16>,
    /// `null`: sing-box cannot do the same.
    pub snippet: Option<Value>,
}

pub async fn run(context: &Context, args: ImportArgs) -> Result<(), Failure> {
    let mut read = local::read_import(&args.file, args.format)?;
    let client = context.client()?;
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    if let Some(panel) = read.panel {
        report.read_as = Some(ReadAs { program: panel.name(), versions: panel.versions() });
        match &args.inbounds {
            Some(tags) => read.users.iter_mut().for_each(|user| go_to(user, tags)),
            None => place(&mut report, &mut read, &client.status().await?.inbounds),
        }
    }
    report.not_understood = read.not_understood;
    for user in &mut read.users {
        fill_in(user, &args);
    }
    for part in read.users.chunks(IMPORT_USERS_MAX) {
        let request = ImportRequest { dry_run: args.dry_run, users: part.to_vec() };
        let answer: ImportReport = client.import(context.envelope(None), request).await?;
        report.users.extend(answer.users);
        report.rev = answer.rev;
    }
    if context.json {
        return context.print_json(&report);
    }
    context.print(&render(context, &report))
}

/// To these inbounds instead of the panel's.
fn go_to(user: &mut ImportUser, tags: &[String]) {
    user.inbounds = Some(tags.to_vec());
    user.logins.retain(|tag, _| tags.contains(tag));
}

/// Finds the panel's inbounds among sing-box's, and notes what is not there.
fn place(report: &mut Report, read: &mut ForeignUsers, present: &[InboundStatus]) {
    let placed = place_users(&mut read.users, &read.inbounds, present);
    let renamed = placed.renamed.into_iter().map(|(from, to)| Renamed { from, to });
    report.renamed_inbounds = renamed.collect();
    for inbound in placed.without.iter().filter_map(|at| read.inbounds.get(*at)) {
        let why = inbound.why_not.as_deref().unwrap_or_default();
        read.not_understood
            .push(format!("inbound {:?}: its clients were left out there: {why}", inbound.tag));
    }
    let missing = placed.missing.iter().filter_map(|at| read.inbounds.get(*at)).map(|inbound| Missing {
        tag: inbound.tag.clone(),
        kind: inbound.kind.clone(),
        port: inbound.port,
        snippet: inbound.snippet.clone(),
    });
    report.missing_inbounds = missing.collect();
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

pub fn render(context: &Context, report: &Report) -> String {
    let (users, not_understood) = (&report.users, &report.not_understood);
    let mut out = String::new();
    if let Some(ReadAs { program, versions }) = report.read_as {
        let text = context.fill("import.read_as", &[("program", program), ("versions", versions)]);
        out.push_str(&format!("{text}\n"));
        out.push_str(if users.is_empty() { "" } else { "\n" });
    }
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
    out.push_str(&inbounds(context, report));
    let count = |outcome| users.iter().filter(|it| it.outcome == outcome).count().to_string();
    let counts = ImportOutcome::ALL.map(|outcome| (outcome.as_str(), count(outcome)));
    let counts: Vec<(&str, &str)> = counts.iter().map(|(name, count)| (*name, &**count)).collect();
    let key = if report.dry_run { "import.would" } else { "import.did" };
    out.push_str(&format!("\n{}\n", context.fill(key, &counts)));
    out
}

/// Where the panel's inbounds are, and what sing-box would need for those that are nowhere.
fn inbounds(context: &Context, report: &Report) -> String {
    let mut out = String::new();
    for Renamed { from, to } in &report.renamed_inbounds {
        let text = context.fill("import.renamed", &[("from", &*safe(from)), ("to", &*safe(to))]);
        out.push_str(&format!("\n{text}"));
    }
    if !report.renamed_inbounds.is_empty() {
        out.push('\n');
    }
    if report.missing_inbounds.is_empty() {
        return out;
    }
    out.push_str(&format!("\n{}\n", context.text("import.missing")));
    let (with, without): (Vec<&Missing>, Vec<&Missing>) =
        report.missing_inbounds.iter().partition(|inbound| inbound.snippet.is_some());
    let snippets: Vec<&Value> = with.iter().filter_map(|inbound| inbound.snippet.as_ref()).collect();
    if !snippets.is_empty() {
        let whole = serde_json::json!({ "inbounds": snippets });
        let text = serde_json::to_string_pretty(&whole).unwrap_or_default();
        out.push_str(&format!("{}\n", safe_lines(&text)));
    }
    for inbound in without {
        let words = [("tag", &*safe(&inbound.tag)), ("type", &*safe(&inbound.kind))];
        out.push_str(&format!("{}\n", context.fill("import.by_hand", &words)));
    }
    out.push_str(&format!("{}\n", context.text("import.missing_then")));
    out
}
