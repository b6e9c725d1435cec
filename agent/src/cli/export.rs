//! `boxmeter export`: usage, users or events for other programs, row by row as the agent gives them. Credentials are
//! not among what it gives.

mod csv_rows;

use std::io::{self, BufWriter, Write};

use boxmeter_web::{
    api::{
        params::check_range,
        query::{By, EventQuery, Page, UsageQuery, UserFilter},
        types::Usage,
    },
    backend::{ApiError, Backend},
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{context::Context, failure::Failure, usage::parse_by};
use csv_rows::Rows;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// csv (for spreadsheets; what they would take for a formula is quoted) or ndjson (one object per line).
    #[arg(long, value_enum)]
    format: Format,
    /// What to export.
    #[arg(long, value_enum, default_value_t = What::Usage)]
    what: What,
    /// Only this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Beginning: a date, an RFC 3339 time, today, yesterday, month, -7d, -3h; by default the beginning of
    /// metering.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End of usage, exclusive; by default now.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// One row of usage per user and: minute, hour, day, month or (billing) period.
    #[arg(long, value_parser = parse_by)]
    by: Option<By>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Usage,
    Users,
    Events,
}

/// Where rows go, in either form.
enum Out {
    Csv(Box<Rows<BufWriter<io::StdoutLock<'static>>>>),
    Ndjson(BufWriter<io::StdoutLock<'static>>),
}

impl Out {
    fn new(format: Format) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        match format {
            Format::Csv => Out::Csv(Box::new(Rows::new(out))),
            Format::Ndjson => Out::Ndjson(out),
        }
    }

    fn head(&mut self, names: &[&str]) -> io::Result<()> {
        match self {
            Out::Csv(csv) => csv.head(names),
            Out::Ndjson(_) => Ok(()),
        }
    }

    fn row(&mut self, object: &impl Serialize, cells: impl FnOnce() -> Vec<String>) -> io::Result<()> {
        match self {
            Out::Csv(csv) => csv.row(cells()),
            Out::Ndjson(lines) => {
                serde_json::to_writer(&mut *lines, object)?;
                lines.write_all(b"\n")
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self {
            Out::Csv(csv) => csv.flush(),
            Out::Ndjson(lines) => lines.flush(),
        }
    }
}

pub async fn run(context: &Context, args: ExportArgs) -> Result<(), Failure> {
    let only_usage = args.to.is_some() || args.by.is_some();
    if args.what != What::Usage && only_usage {
        return Err(ApiError::bad_request("--to and --by are for usage alone").into());
    }
    if args.what == What::Users && (args.user.is_some() || args.from.is_some()) {
        return Err(
            ApiError::bad_request("an export of users has all of them: leave out --user and --from").into()
        );
    }
    let client = context.client()?;
    let options = [("--from", args.from.as_deref()), ("--to", args.to.as_deref())];
    let [from, to] = context.times(&client, options).await?;
    check_range(from, to)?;
    let mut out = Out::new(args.format);
    match args.what {
        What::Usage => {
            let query = UsageQuery { user: args.user, from, to, by: args.by, page: Page::default() };
            usage(&client, query, &mut out).await?;
        }
        What::Users => users(&client, &mut out).await?,
        What::Events => {
            events(&client, EventQuery { user: args.user, since: from, ..EventQuery::default() }, &mut out)
                .await?;
        }
    }
    Ok(out.end()?)
}

/// At the end the bytes that nobody owns, where the question was not about one user.
async fn usage(backend: &impl Backend, mut query: UsageQuery, out: &mut Out) -> Result<(), Failure> {
    let mut begun = false;
    loop {
        let page = backend.usage(query.clone()).await?;
        if !std::mem::replace(&mut begun, true) {
            out.head(&csv_rows::USAGE)?;
        }
        for row in &page.rows {
            out.row(row, || csv_rows::usage(row))?;
        }
        match page.next.clone() {
            Some(next) => query.page.after = Some(next),
            None if query.user.is_some() => return Ok(()),
            None => return Ok(unattributed(&page, out)?),
        }
    }
}

fn unattributed(page: &Usage, out: &mut Out) -> io::Result<()> {
    let end = page.to.or(page.as_of);
    let mut object = json!({"user": null, "unattributed": true, "start": page.from, "end": end});
    if let (Some(object), Ok(serde_json::Value::Object(traffic))) =
        (object.as_object_mut(), serde_json::to_value(page.unattributed))
    {
        object.extend(traffic);
    }
    out.row(&object, || csv_rows::unattributed(page.from, end, &page.unattributed))
}

async fn users(backend: &impl Backend, out: &mut Out) -> Result<(), Failure> {
    let mut page = Page::default();
    let mut begun = false;
    loop {
        let list = backend.users(UserFilter::default(), page.clone()).await?;
        if !std::mem::replace(&mut begun, true) {
            out.head(&csv_rows::USERS)?;
        }
        for user in &list.users {
            out.row(user, || csv_rows::user(user))?;
        }
        match list.next {
            Some(next) => page.after = Some(next),
            None => return Ok(()),
        }
    }
}

async fn events(backend: &impl Backend, mut query: EventQuery, out: &mut Out) -> Result<(), Failure> {
    let mut begun = false;
    loop {
        let list = backend.events(query.clone()).await?;
        if !std::mem::replace(&mut begun, true) {
            out.head(&csv_rows::EVENTS)?;
        }
        for event in &list.events {
            out.row(event, || csv_rows::event(event))?;
        }
        match list.next {
            Some(next) => query.page.after = Some(next),
            None => return Ok(()),
        }
    }
}
