//! The live connections of a user: a part of the user's page, and a page of its own that the part
//! is renewed from.

use askama::Template;
use axum::extract::{Path, State};

use super::{
    Shared, Visit,
    frame::{Answer, Frame, render},
    view::{Moment, segment, shown},
};
use crate::{
    api::{
        query::{FlowFilter, Page as Cursor},
        types::{Flow, Network},
    },
    backend::ApiError,
    locale::Lang,
    units::{Rate, Size},
};

/// Connections on the page.
const ROWS: u32 = 100;

#[derive(Template)]
#[template(path = "user_flows.html")]
struct Page {
    f: Frame,
    name: String,
    address: String,
    flows: Connections,
}

/// The first of a user's live connections.
#[derive(Default)]
pub struct Connections {
    pub rows: Vec<Connection>,
    /// After so many there are more.
    pub cut: Option<u32>,
}

/// One live connection.
pub struct Connection {
    pub peer: String,
    pub inbound: String,
    pub network: &'static str,
    pub owner_by: String,
    pub opened: Moment,
    pub down: String,
    pub up: String,
    pub down_total: String,
    pub up_total: String,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Path(name): Path<String>) -> Answer {
    let user = visit.backend().user(&name).await?.user;
    let flows = connections(&visit, &name).await?;
    let f = Frame::load(&pages, &visit, "users", visit.lang.text("panel.flows.title").to_owned()).await;
    let f = f.with_stream(format!("/live?page=flows&ids={}", user.id.unwrap_or_default()));
    let address = format!("{}/users/{}", f.base, segment(&name));
    render(&Page { f, name: shown(&name), address, flows })
}

pub async fn connections(visit: &Visit, name: &str) -> Result<Connections, ApiError> {
    let filter =
        FlowFilter { user: Some(name.to_owned()), inbound: None, page: Cursor { after: None, limit: ROWS } };
    let now = visit.backend().now().timestamp();
    let list = visit.backend().flows(filter).await?;
    let rows = list.flows.iter().map(|flow| connection(visit.lang, flow, now)).collect();
    Ok(Connections { rows, cut: list.next.is_some().then_some(ROWS) })
}

fn connection(lang: Lang, flow: &Flow, now: jiff::Timestamp) -> Connection {
    let owner = match flow.owner_by {
        Some(by) => lang.find(&format!("owner_by.{}", by.as_str())),
        None => lang.find("flows.unknown"),
    };
    let owner = owner.unwrap_or_default();
    let before = if flow.before_metering { lang.text("flows.before_metering") } else { "" };
    Connection {
        peer: shown(&flow.peer),
        inbound: shown(&flow.inbound),
        network: if flow.network == Network::Tcp { "TCP" } else { "UDP" },
        owner_by: format!("{owner}{before}"),
        opened: Moment::near(lang, &flow.opened_at, now),
        down: Rate(flow.download_rate).to_string(),
        up: Rate(flow.upload_rate).to_string(),
        down_total: Size(flow.download_payload_bytes).to_string(),
        up_total: Size(flow.upload_payload_bytes).to_string(),
    }
}
