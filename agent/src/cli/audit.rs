//! `boxmeter audit`: does Σ users + unattributed equal the watched bytes.

use boxmeter_web::{
    api::{
        params::check_range,
        query::AuditQuery,
        types::{Audit, Traffic},
    },
    backend::Backend,
};
use clap::Args;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, exact, minute},
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Beginning, as in `usage`; by default the beginning of metering.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End, exclusive; by default now.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
}

pub async fn run(context: &Context, args: AuditArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let options = [("--from", args.from.as_deref()), ("--to", args.to.as_deref())];
    let [from, to] = context.times(&client, options).await?;
    check_range(from, to)?;
    let audit = client.audit(AuditQuery { from, to }).await?;
    if context.json {
        return context.print_json(&audit);
    }
    context.print(&render(context, &audit))
}

pub fn render(context: &Context, audit: &Audit) -> String {
    let mut out = String::new();
    if let (Some(from), Some(to)) = (&audit.from, &audit.to) {
        let zone = to.offset.to_string();
        let range = [("from", &*minute(from)), ("to", &minute(to)), ("zone", &zone)];
        let range = context.fill("range", &range);
        out.push_str(&format!("{}\n\n", context.paint(Tone::Dim, &range)));
    }
    let mut table = Table::new(context)
        .words("", 0)
        .numbers("audit.users", 0)
        .numbers("usage.unattributed", 0)
        .numbers("audit.sum", 1)
        .numbers("audit.watched", 0);
    let sum = audit.users.plus(&audit.unattributed);
    for (key, figure) in FIGURES {
        let figures = [&audit.users, &audit.unattributed, &sum, &audit.watched];
        let mut cells = vec![Cell::new(context.text(key))];
        cells.extend(figures.map(|traffic| Cell::new(exact(figure(traffic)))));
        table.row(cells);
    }
    out.push_str(&table.render());
    out.push('\n');
    let difference = exact(audit.difference_bytes);
    out.push_str(&match audit.difference_bytes {
        0 => context.paint(Tone::Good, context.text("audit.equal")),
        _ => context.paint(Tone::Bad, &context.fill("audit.differs", &[("bytes", &difference)])),
    });
    out.push('\n');
    if audit.width_bytes > 0 {
        let micros = format!("{}.{}", audit.width_us / 1000, audit.width_us / 100 % 10);
        let values = [("bytes", &*exact(audit.width_bytes)), ("ms", &micros)];
        out.push_str(&format!("{}\n", context.fill("audit.width", &values)));
    }
    if let Some(dropped) = audit.dropped_bytes.filter(|dropped| *dropped > 0) {
        let values = [("bytes", &*exact(dropped))];
        out.push_str(&format!("{}\n", context.fill("audit.dropped", &values)));
    }
    out
}

type Figure = fn(&Traffic) -> u64;

const FIGURES: [(&str, Figure); 4] = [
    ("audit.upload_payload", |it| it.upload_payload_bytes),
    ("audit.download_payload", |it| it.download_payload_bytes),
    ("audit.upload_wire", |it| it.upload_wire_bytes),
    ("audit.download_wire", |it| it.download_wire_bytes),
];
