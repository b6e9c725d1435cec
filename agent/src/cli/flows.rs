//! `boxmeter flows`: live client connections, and how their owner is known.

use boxmeter_web::api::{
    query::{FlowFilter, Page},
    types::{Flow, OwnerBy},
};
use clap::Args;
use jiff::Timestamp;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, age, bytes, rate, safe_cut},
    status::word,
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this inbound.
    #[arg(long, value_name = "TAG")]
    inbound: Option<String>,
}

pub async fn run(context: &Context, args: FlowsArgs) -> Result<(), Failure> {
    let filter = FlowFilter { user: args.user, inbound: args.inbound, page: Page::default() };
    let list = context.client()?.flows_all(filter).await?;
    if context.json {
        return context.print_json(&list);
    }
    context.print(&render(context, &list.flows, Timestamp::now()))
}

pub fn render(context: &Context, flows: &[Flow], now: Timestamp) -> String {
    if flows.is_empty() {
        return context.text("flows.none").to_owned();
    }
    let mut table = Table::new(context)
        .words("col.user", 0)
        .words("col.via", 2)
        .words("col.inbound", 1)
        .words("col.network", 3)
        .words("col.peer", 0)
        .numbers("col.age", 1)
        .numbers("col.upload", 0)
        .numbers("col.download", 0)
        .numbers("col.rate", 4);
    for flow in flows {
        let per_second = flow.upload_rate.saturating_add(flow.download_rate);
        table.row(vec![
            owner(context, flow),
            via(context, flow),
            Cell::name(&flow.inbound),
            Cell::new(word(flow.network)),
            Cell::new(safe_cut(&flow.peer, 56)),
            Cell::new(age(&flow.opened_at, now)),
            Cell::new(bytes(flow.upload_payload_bytes)),
            Cell::new(bytes(flow.download_payload_bytes)),
            Cell::new(rate(per_second)).tone_if(per_second == 0, Tone::Dim),
        ]);
    }
    table.render()
}

fn owner(context: &Context, flow: &Flow) -> Cell {
    match &flow.user {
        Some(user) => Cell::name(user),
        None if flow.before_metering => Cell::new(context.text("flows.before_metering")).tone(Tone::Dim),
        None => Cell::new(context.text("flows.unknown")).tone(Tone::Warn),
    }
}

fn via(context: &Context, flow: &Flow) -> Cell {
    match flow.owner_by {
        None => Cell::new("–").tone(Tone::Dim),
        Some(by) => {
            let doubtful = matches!(by, OwnerBy::ByPort | OwnerBy::Shared | OwnerBy::Reported);
            let text = context.text(&format!("owner_by.{}", by.as_str())).to_owned();
            Cell::new(text).tone_if(doubtful, Tone::Warn)
        }
    }
}
