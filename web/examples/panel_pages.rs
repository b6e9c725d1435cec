//! Serves the panel over made-up data: for looking at pages while they are made.
//! `cargo run -p boxmeter-web --example panel_pages -- 127.0.0.1:8791`

use std::{net::SocketAddr, sync::Arc};

use boxmeter_web::{
    demo::{Demo, PASSWORD},
    panel::{self, front::MadeUp, options::Options},
};
use jiff::Zoned;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8791".to_owned());
    let demo = Demo::lively(Box::new(Zoned::now), 1);
    demo.spawn();
    let app = panel::app(Arc::new(MadeUp(demo)), Options::default());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    eprintln!("http://{address}/ with the password {PASSWORD}");
    Ok(axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?)
}
