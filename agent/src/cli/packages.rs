//! `boxmeter packages`: extra traffic that was bought, with its history.

use boxmeter_web::{
    api::types::{NewPackage, Package, PackageAdded, PackageOrigin},
    backend::Backend,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, bytes, minute, safe_cut},
    table::{Cell, Table},
};
use crate::units::parse_size;

#[derive(Debug, Args)]
pub struct PackagesArgs {
    #[command(subcommand)]
    verb: PackagesVerb,
}

#[derive(Debug, Subcommand)]
enum PackagesVerb {
    /// What a user bought, and what is left of it.
    List {
        /// The user's name.
        name: String,
    },
    /// Give a user more traffic, used after the period's quota.
    Add(AddArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The user's name.
    name: String,
    /// How much, as 50GiB.
    #[arg(value_parser = parse_size_given)]
    size: u64,
    /// When it lapses: a date, an RFC 3339 time, or a span from now as 30d; by default never.
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    expires: Option<String>,
    /// A note for yourself, for instance an order's number.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

fn parse_size_given(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err("give a size, as 50GiB; to lift the quota: `users set NAME --quota none`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub async fn run(context: &Context, args: PackagesArgs) -> Result<(), Failure> {
    match args.verb {
        PackagesVerb::List { name } => list(context, &name).await,
        PackagesVerb::Add(args) => add(context, args).await,
    }
}

async fn list(context: &Context, name: &str) -> Result<(), Failure> {
    let list = context.client()?.packages_all(name).await?;
    if context.json {
        return context.print_json(&list);
    }
    context.print(&render(context, name, &list.packages, list.remaining_bytes))
}

async fn add(context: &Context, args: AddArgs) -> Result<(), Failure> {
    let mut new = NewPackage { bytes: args.size, expires_at: None, note: args.note };
    new.check(Timestamp::now())?;
    let client = context.client()?;
    if let Some(text) = args.expires.as_deref().filter(|text| *text != "none") {
        new.expires_at = Some(context.future(&client, "--expires", text).await?);
    }
    let added = client.add_package(context.envelope(None), &args.name, new).await?;
    if context.json {
        return context.print_json(&added);
    }
    context.print(&render_added(context, &added))
}

pub fn render_added(context: &Context, added: &PackageAdded) -> String {
    let values = [
        ("name", &*safe_cut(&added.user, 60)),
        ("size", &bytes(added.package.bytes)),
        ("left", &bytes(added.remaining_bytes)),
    ];
    context.paint(Tone::Good, &context.fill("packages.added", &values))
}

pub fn render(context: &Context, name: &str, packages: &[Package], remaining: u64) -> String {
    let name = safe_cut(name, 60);
    if packages.is_empty() {
        return context.fill("packages.none", &[("name", &name)]);
    }
    let left = context.fill("packages.left", &[("name", &name), ("left", &bytes(remaining))]);
    format!("{}\n{left}\n", table(context, packages))
}

/// The purchase history, oldest first.
pub fn table(context: &Context, packages: &[Package]) -> String {
    let mut table = Table::new(context)
        .words("col.bought", 0)
        .numbers("col.size", 0)
        .numbers("col.left", 0)
        .words("col.expires", 0)
        .words("col.by", 2)
        .words("col.note", 3);
    for it in packages {
        let expires = it.expires_at.as_ref().map_or_else(|| context.text("never").to_owned(), minute);
        let by = match it.origin {
            PackageOrigin::Bought => safe_cut(&it.who, 30),
            PackageOrigin::Rollover => context.text("packages.rollover").to_owned(),
        };
        table.row(vec![
            Cell::new(minute(&it.bought_at)),
            Cell::new(bytes(it.bytes)),
            Cell::new(bytes(it.remaining_bytes)).tone_if(it.remaining_bytes == 0, Tone::Dim),
            Cell::new(expires),
            Cell::new(by),
            Cell::name(it.note.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}
