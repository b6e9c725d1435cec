//! Serves the pages over made-up data, without signing in: for looking at them while they are made.
//! `cargo run -p boxmeter-web --example panel_pages -- 127.0.0.1:8791`

use std::sync::Arc;

use axum::{Router, routing::get};
use boxmeter_web::{
    demo::Demo,
    locale::Lang,
    panel::pages::{self, Pages, assets},
};
use jiff::Zoned;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8791".to_owned());
    let demo = Demo::lively(Box::new(Zoned::now), 1);
    demo.spawn();
    let pages = Pages::new(demo as Arc<_>, "", Lang::En);
    let app = Router::new().route("/static/{address}", get(assets::serve)).merge(pages::router(pages));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    eprintln!("http://{address}/");
    Ok(axum::serve(listener, app).await?)
}
