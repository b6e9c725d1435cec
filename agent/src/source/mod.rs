//! Who owns a connection, as the proxies tell it. Each source is an async task
//! `run(config, events, shutdown)` which sends `SourceEvent`s and reconnects by itself until
//! `shutdown` turns true. Sources observe only: they change nothing and decide nothing about bytes.
//!
//! Sightings are idempotent by (`source`, `connection`): a replay repeats the open ones.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use crate::{
    core::event::{SourceEvent, SourceKind},
    service::Service,
    singbox::{
        ProxyConfig, Secret,
        config::Inbound,
        process::{self, Process},
    },
};

pub mod access_line;
pub mod access_log;
pub mod api_state;
pub mod clash_logs;
pub mod connect;
#[cfg(test)]
mod fixtures_test;
pub mod joiner;
pub mod log_file;
pub mod log_line;
pub mod singbox_api;

/// Generated from `proto/daemon.proto`.
pub mod daemon {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("daemon");
}

/// Where events go. A full channel makes the source wait, never lose.
pub type Events = mpsc::Sender<SourceEvent>;

/// Turns true once, at the end.
pub type Shutdown = watch::Receiver<bool>;

/// Whether what is counted there are lines that say too little of *one* connection. Clients can make those at
/// will, and they say nothing of other connections; everything else that is lost may have been anybody's. Users
/// without a name are no strangers: they are let in, and not to be ended for what nobody can tell.
pub fn is_of_one_connection(counter: &str) -> bool {
    const OWN: [&str; 5] = [
        log_line::USER_UNKNOWN,
        log_line::USER_AMBIGUOUS,
        log_line::ADDRESS_UNPARSABLE,
        api_state::SOURCE_UNPARSABLE,
        access_log::ZONE_UNKNOWN,
    ];
    OWN.contains(&counter)
}

/// First and longest pause before the next try to connect.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// `[singbox] source` in boxmeter's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Auto,
    Api,
    ClashLogs,
    LogFile,
}

impl Setting {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Setting::Auto),
            "api" => Some(Setting::Api),
            "clash-logs" => Some(Setting::ClashLogs),
            "log-file" => Some(Setting::LogFile),
            _ => None,
        }
    }
}

/// How to reach sing-box's own listener.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub addr: SocketAddr,
    pub secret: Secret,
    /// The network namespace to connect in, for example `/proc/PID/ns/net`; `None`: boxmeter's own.
    pub netns: Option<PathBuf>,
}

/// The source to run.
#[derive(Clone, Debug)]
pub enum Choice {
    Api(Endpoint),
    ClashLogs(Endpoint),
    LogFile {
        path: PathBuf,
        timestamp: bool,
    },
    /// Of V2Ray or Xray.
    AccessLog {
        path: PathBuf,
        service: Service,
    },
}

impl Choice {
    pub fn kind(&self) -> SourceKind {
        match self {
            Choice::Api(_) => SourceKind::Api,
            Choice::ClashLogs(_) => SourceKind::ClashLogs,
            Choice::LogFile { .. } | Choice::AccessLog { .. } => SourceKind::LogFile,
        }
    }

    /// Puts a network namespace into the choice.
    pub fn in_netns(mut self, netns: Option<PathBuf>) -> Self {
        if let Choice::Api(endpoint) | Choice::ClashLogs(endpoint) = &mut self {
            endpoint.netns = netns;
        }
        self
    }
}

/// Why there is no source; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSource {
    #[error(
        "sing-box's configuration has neither a service of type `api` (1.14) nor `experimental.clash_api`, so nobody's connections can be told apart; `boxmeter doctor --fix` adds what this version needs"
    )]
    Nothing,
    #[error(
        "`source = \"api\"`, but sing-box's configuration has no service of type `api`; sing-box 1.14 is needed: `boxmeter doctor --fix`"
    )]
    NoApi,
    #[error(
        "sing-box's API service uses TLS, which boxmeter does not speak; let it listen on loopback without `tls`"
    )]
    ApiTls,
    #[error(
        "`source = \"clash-logs\"`, but sing-box's configuration has no `experimental.clash_api.external_controller`: `boxmeter doctor --fix`"
    )]
    NoClashApi,
    #[error("`experimental.clash_api.external_controller` is {0:?}, which is no address and port")]
    ClashAddress(String),
    #[error(
        "log.disabled is true, so the log shows no owners; remove it, or use sing-box 1.14's API service"
    )]
    LogDisabled,
    #[error("log.level is {0:?}, and owners are logged at level info: `boxmeter doctor --fix`")]
    LogLevel(String),
    #[error("`source = \"log-file\"`, but sing-box's configuration has no `log.output`; set it to a file")]
    NoLogFile,
    #[error(
        "{0:?} has no access log in a file, so nobody's connections can be told apart; set `log.access` in its configuration to a path and restart it"
    )]
    NoAccessLog(Arc<str>),
    #[error(
        "the access log of {0:?} is relative to where it was started, and it does not run; start it, boxmeter waits"
    )]
    AccessLogOfNoProcess(Arc<str>),
}

/// Chooses the source. `auto` never takes the log file, which clients can forge. `version` is the
/// running sing-box's (major, minor) if it is known.
pub fn choose(
    config: &ProxyConfig,
    setting: Setting,
    version: Option<(u32, u32)>,
) -> Result<Choice, NoSource> {
    match setting {
        Setting::Auto => match (&config.api_service, &config.clash_api) {
            (Some(api), _) if !api.tls => api_choice(config),
            (_, Some(_)) => clash_choice(config, version),
            (Some(_), None) => Err(NoSource::ApiTls),
            (None, None) => Err(NoSource::Nothing),
        },
        Setting::Api => api_choice(config),
        Setting::ClashLogs => clash_choice(config, version),
        Setting::LogFile => {
            log_shows_owners(config)?;
            let path = config.log.output.clone().ok_or(NoSource::NoLogFile)?;
            Ok(Choice::LogFile { path, timestamp: config.log.timestamp })
        }
    }
}

/// The access log of a V2Ray or Xray: the one that `[[service]] access_log` names, else that of its own
/// configuration, where its process sees it.
///
/// # Errors
/// There is none, or nothing tells where it is.
pub fn choose_access_log(
    service: &Service,
    config: &ProxyConfig,
    named: Option<&Path>,
    process: Option<&Process>,
) -> Result<Choice, NoSource> {
    let choice = |path: PathBuf| Choice::AccessLog { path, service: service.clone() };
    if let Some(named) = named {
        return Ok(choice(named.to_owned()));
    }
    let none = || NoSource::NoAccessLog(Arc::clone(&service.name));
    let path = config.log.output.as_ref().ok_or_else(none)?;
    match process {
        None if path.is_relative() => Err(NoSource::AccessLogOfNoProcess(Arc::clone(&service.name))),
        None => Ok(choice(path.clone())),
        Some(process) => {
            let from = process.work_directory().unwrap_or_default();
            let path = from.join(path);
            Ok(choice(if process.other_mount_ns { process::in_root(process.pid, &path) } else { path }))
        }
    }
}

fn api_choice(config: &ProxyConfig) -> Result<Choice, NoSource> {
    let api = config.api_service.as_ref().ok_or(NoSource::NoApi)?;
    if api.tls {
        return Err(NoSource::ApiTls);
    }
    let addr = SocketAddr::new(connect::reachable(api.listen), api.listen_port);
    Ok(Choice::Api(Endpoint { addr, secret: api.secret.clone(), netns: None }))
}

fn clash_choice(config: &ProxyConfig, version: Option<(u32, u32)>) -> Result<Choice, NoSource> {
    let clash = config.clash_api.as_ref().ok_or(NoSource::NoClashApi)?;
    let addr = connect::controller_addr(&clash.external_controller)
        .ok_or_else(|| NoSource::ClashAddress(clash.external_controller.clone()))?;
    // From 1.13 on the API's own level counts; 1.12 sends only what log.level lets through.
    if config.log.disabled || version.is_none_or(|version| version < (1, 13)) {
        log_shows_owners(config)?;
    }
    Ok(Choice::ClashLogs(Endpoint { addr, secret: clash.secret.clone(), netns: None }))
}

fn log_shows_owners(config: &ProxyConfig) -> Result<(), NoSource> {
    if config.log.disabled {
        return Err(NoSource::LogDisabled);
    }
    if !config.log.shows_info() {
        return Err(NoSource::LogLevel(config.log.level.clone().unwrap_or_default()));
    }
    Ok(())
}

/// What a log parser must know to tell sing-box's words from a client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownInbounds(pub Arc<Vec<KnownInbound>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownInbound {
    pub kind: String,
    pub tag: Arc<str>,
    /// As printed: an unnamed user's name is its index, and no owner.
    pub users: HashMap<Arc<str>, KnownUser>,
}

/// What a name in the log means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownUser {
    Named,
    /// The printed name is an unnamed user's index, perhaps also another user's name.
    Unnamed,
}

impl KnownInbounds {
    pub fn of(config: &ProxyConfig) -> Self {
        KnownInbounds(Arc::new(config.inbounds.iter().map(KnownInbound::of).collect()))
    }

    /// The names, each with its inbound's tag.
    pub fn names(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().flat_map(|inbound| {
            let named = inbound.users.iter().filter(|(_, user)| **user == KnownUser::Named);
            named.map(|(name, _)| (&inbound.tag, name))
        })
    }

    /// Adds users to inbounds that are known. Says whether there were any new ones.
    pub fn add<'a>(&mut self, names: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> bool {
        let places: HashMap<Arc<str>, usize> =
            self.0.iter().enumerate().map(|(at, inbound)| (Arc::clone(&inbound.tag), at)).collect();
        let mut added = false;
        for (tag, name) in names {
            let Some(&at) = places.get(tag) else { continue };
            // What the log prints for a user without a name stays nobody's.
            if !self.0[at].users.contains_key(name) {
                Arc::make_mut(&mut self.0)[at].users.insert(Arc::clone(name), KnownUser::Named);
                added = true;
            }
        }
        added
    }
}

impl KnownInbound {
    fn of(inbound: &Inbound) -> Self {
        let mut users: HashMap<_, _> = inbound
            .users
            .iter()
            .filter(|user| !user.name.is_empty())
            .map(|user| (user.name.clone(), KnownUser::Named))
            .collect();
        for user in inbound.users.iter().filter(|user| user.name.is_empty()) {
            users.insert(user.log_name.clone(), KnownUser::Unnamed);
        }
        KnownInbound { kind: inbound.kind.clone(), tag: inbound.tag.clone(), users }
    }
}

/// Doubles the pause from `RETRY_FIRST` to `RETRY_MAX`.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(RETRY_FIRST)
    }
}

impl Backoff {
    pub fn reset(&mut self) {
        self.0 = RETRY_FIRST;
    }

    /// Waits; `true` if it is time to end.
    pub async fn wait(&mut self, shutdown: &mut Shutdown) -> bool {
        let pause = self.0;
        self.0 = (self.0 * 2).min(RETRY_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => *shutdown.borrow(),
            () = ended(shutdown) => true,
        }
    }
}

/// Returns when `shutdown` is true or its sender is gone.
pub async fn ended(shutdown: &mut Shutdown) {
    // An error means that nobody is left who could say so: end as well.
    let _ = shutdown.wait_for(|end| *end).await;
}

/// Runs the chosen source until `shutdown`.
pub async fn run(choice: Choice, known: watch::Receiver<KnownInbounds>, events: Events, shutdown: Shutdown) {
    match choice {
        Choice::Api(endpoint) => singbox_api::run(endpoint.into(), events, shutdown).await,
        Choice::ClashLogs(endpoint) => clash_logs::run(endpoint, known, events, shutdown).await,
        Choice::LogFile { path, timestamp } => {
            let lines = log_file::SingboxLines::new(timestamp, KnownInbounds::default());
            log_file::run((path, lines), known, events, shutdown).await;
        }
        Choice::AccessLog { path, service } => {
            log_file::run((path, access_log::AccessLines::new(service)), known, events, shutdown).await;
        }
    }
}
