//! `boxmeter usage`: who used how much.

use std::path::PathBuf;

use boxmeter_web::api::{
    params::check_range,
    query::{By, Page, UsageQuery},
    types::{Meter, Time, Traffic, Usage, UsageRow},
};
use clap::Args;
use jiff::Zoned;

use super::{
    context::{Context, read_times},
    failure::Failure,
    format::{Tone, bytes, minute},
    local,
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Only this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Beginning: a date, an RFC 3339 time, today, yesterday, month, -7d, -3h; by default the
    /// beginning of metering. A day or month means its beginning.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End, exclusive; by default now.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// One row per user and: minute, hour, day, month or (billing) period.
    #[arg(long, value_parser = parse_by)]
    by: Option<By>,
    /// Read a ledger's file, read-only, instead of asking the agent.
    #[arg(long, value_name = "FILE")]
    offline: Option<PathBuf>,
}

pub fn parse_by(text: &str) -> Result<By, String> {
    let found = By::ALL.into_iter().find(|by| by.as_str() == text);
    found.ok_or_else(|| format!("give one of {}", By::ALL.map(By::as_str).join(", ")))
}

pub async fn run(context: &Context, args: UsageArgs) -> Result<(), Failure> {
    let options = [("--from", args.from.as_deref()), ("--to", args.to.as_deref())];
    let query = |[from, to]: [_; 2]| {
        check_range(from, to)?;
        let user = args.user.clone();
        Ok::<_, Failure>(UsageQuery { user, from, to, by: args.by, page: Page::default() })
    };
    let usage = match &args.offline {
        Some(file) => local::usage_offline(file, &query(read_times(&options, &Zoned::now())?)?)?,
        None => {
            let client = context.client()?;
            let times = context.times(&client, options).await?;
            client.usage_all(query(times)?).await?
        }
    };
    if context.json {
        return context.print_json(&usage);
    }
    context.print(&render(context, &usage, args.by, args.user.is_some()))
}

pub fn render(context: &Context, usage: &Usage, by: Option<By>, one_user: bool) -> String {
    let everything = usage.rows.iter().fold(Traffic::default(), |sum, row| sum.plus(&row.traffic));
    let all_reported = usage.rows.iter().map(told).fold(0, u64::saturating_add);
    let with_unattributed = everything.plus(&usage.unattributed);
    let empty = usage.rows.is_empty() && (one_user || usage.unattributed == Traffic::default());
    let mut out = heading(context, usage);
    if empty {
        out.push_str(context.text("usage.none"));
        return out;
    }
    let reported = all_reported > 0;
    let mut table = columns(context, usage.meter, by.is_some(), reported);
    let add = |table: &mut Table, name: Cell, start: Option<String>, traffic: &Traffic, extra| {
        let mut cells = vec![name];
        if by.is_some() {
            cells.push(Cell::new(start.unwrap_or_default()));
        }
        cells.extend(figures(traffic, usage.meter));
        if reported {
            cells.push(Cell::new(extra));
        }
        table.row(cells);
    };
    for row in sorted(usage, by) {
        let start = by.map(|by| span(&row.start, by));
        add(&mut table, Cell::name(&row.user), start, &row.traffic, extra(row));
    }
    if !one_user {
        let name = Cell::new(context.text("usage.unattributed")).tone(Tone::Dim);
        add(&mut table, name, None, &usage.unattributed, String::new());
        let name = Cell::new(context.text("usage.total")).tone(Tone::Bold);
        add(&mut table, name, None, &with_unattributed, bytes(all_reported));
    } else if usage.rows.len() > 1 {
        let name = Cell::new(context.text("usage.total")).tone(Tone::Bold);
        add(&mut table, name, None, &everything, bytes(all_reported));
    }
    out.push_str(&table.render());
    if usage.rows.is_empty() {
        out.push_str(&format!("\n{}\n", context.text("usage.no_owner")));
    }
    out
}

/// The range that was meant and the meter.
fn heading(context: &Context, usage: &Usage) -> String {
    let meter = match usage.meter {
        Meter::Payload => context.text("meter.payload"),
        Meter::Wire => context.text("meter.wire"),
    };
    let begin = context.text("usage.beginning").to_owned();
    let from = usage.from.as_ref().map_or(begin, minute);
    let to = usage.to.or(usage.as_of);
    let now = context.text("usage.now").to_owned();
    let to_text = to.as_ref().map_or(now, minute);
    let zone = to.or(usage.from).map_or_else(|| "–".to_owned(), |time| time.offset.to_string());
    let range = context.fill("range", &[("from", &from), ("to", &to_text), ("zone", &zone)]);
    let text = context.fill("usage.heading", &[("range", &range), ("meter", meter)]);
    format!("{}\n\n", context.paint(Tone::Dim, &text))
}

fn columns(context: &Context, meter: Meter, by: bool, reported: bool) -> Table<'_> {
    let other = match meter {
        Meter::Payload => "col.wire",
        Meter::Wire => "col.payload",
    };
    let mut table = Table::new(context).words("col.user", 0);
    if by {
        table = table.words("col.start", 0);
    }
    table =
        table.numbers("col.upload", 0).numbers("col.download", 0).numbers("col.total", 0).numbers(other, 2);
    if reported { table.numbers("col.reported", 1) } else { table }
}

fn figures(traffic: &Traffic, meter: Meter) -> [Cell; 4] {
    let (up, down) = traffic.by(meter);
    let other = match meter {
        Meter::Payload => Meter::Wire,
        Meter::Wire => Meter::Payload,
    };
    let total = traffic.total(meter);
    [up, down, total, traffic.total(other)].map(|count| Cell::new(bytes(count)))
}

/// What proxies reported beside the kernel's counts, both directions.
fn told(row: &UsageRow) -> u64 {
    let (up, down) = row.reported();
    up.saturating_add(down)
}

fn extra(row: &UsageRow) -> String {
    match told(row) {
        0 => String::new(),
        told => bytes(told),
    }
}

/// Who used most comes first; by time, the order of the answer stays.
fn sorted(usage: &Usage, by: Option<By>) -> Vec<&UsageRow> {
    let mut rows: Vec<&UsageRow> = usage.rows.iter().collect();
    if by.is_none() {
        rows.sort_by(|a, b| {
            let total = |row: &UsageRow| row.traffic.total(usage.meter).saturating_add(told(row));
            total(b).cmp(&total(a)).then_with(|| a.user.cmp(&b.user))
        });
    }
    rows
}

/// A row's beginning, to what its width needs.
fn span(start: &Time, by: By) -> String {
    let form = match by {
        By::Minute | By::Hour | By::Period => "%Y-%m-%d %H:%M",
        By::Day => "%Y-%m-%d",
        By::Month => "%Y-%m",
    };
    start.zoned().strftime(form).to_string()
}
