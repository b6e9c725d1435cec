//! x
pub struct LogFile { pub path: std::path::PathBuf, pub timestamp: bool }
pub async fn run(_: LogFile, _: tokio::sync::watch::Receiver<super::KnownInbounds>, _: super::Events, _: super::Shutdown) {}
