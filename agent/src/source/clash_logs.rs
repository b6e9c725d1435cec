//! x
pub async fn run(_: super::Endpoint, _: tokio::sync::watch::Receiver<super::KnownInbounds>, _: super::Events, _: super::Shutdown) {}
