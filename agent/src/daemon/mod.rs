//! The agent as a process: the order of start and end, and the wiring between the parts.
//!
//! Order of start: kernel (whose lock says whether another agent lives, before anything is written),
//! ledger, socket, then the agent's task, which reads sing-box's configuration and
//! starts the source. Ready is told when the first configuration was applied or found missing.
//! At the end the last counts are committed; the kernel programs go on counting.

mod agent;
mod answers;
mod backend;
mod care;
mod changes;
mod commits;
mod delays;
mod door;
mod figures;
mod flow_rates;
mod gate;
mod guard;
mod hands;
mod leave;
mod listen;
mod meter;
mod metrics;
mod notifier;
mod peers;
mod people;
mod proxies;
mod proxy;
mod questions;
mod reported;
mod shared;
mod shares;
mod steering;
mod totals;
mod troubles;
mod watchdog;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use boxmeter_common::user::{METER_PAYLOAD, METER_WIRE};
use boxmeter_web::api::{routes::unix_router, serve::serve, types::Meter as ApiMeter};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

pub use answers::{every_page, ledger_query, query_error, usage as usage_answer};
pub use leave::{Leave, Leaving, Left, detach, leaving};
pub use listen::{PANEL_USER, panel_user};

use agent::Agent;
use backend::Answerer;
use commits::Commits;
use gate::Gate;
use meter::Meter;
use proxies::Proxies;
use proxy::{Owners, Proxy};
use shared::{Directory, Picture, QUESTIONS_MAX};
use totals::Totals;

use crate::{
    clock,
    config::{AutoPath, Config, Meter as BilledMeter},
    enforcer::editor::{Editor, Reload},
    kernel::{Kernel, KernelConfig},
    ledger::{Backups, Ledger, Options, Reader},
    service::Service,
};

/// Runs the agent until SIGTERM or SIGINT. The kernel programs stay.
///
/// # Errors
/// Whatever kept it from starting, with what to do.
pub fn run(config: &Config) -> anyhow::Result<()> {
    keep_memory_small();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The ledger's reader, lookups in /proc: never many at a time.
        .max_blocking_threads(4)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(agent_process(config))
}

/// Has the C library give memory back that is free. Left alone it raises its thresholds with the large blocks
/// that reading the kernel's type information takes at the start, and keeps some 15 MiB of them for good.
#[cfg(target_env = "gnu")]
fn keep_memory_small() {
    const THRESHOLD: libc::c_int = 128 << 10;
    // SAFETY: settings of the allocator, before any other thread runs. One that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_memory_small() {}

fn kernel_config(config: &Config) -> KernelConfig {
    KernelConfig {
        cgroup: match &config.kernel.cgroup {
            AutoPath::Auto => None,
            AutoPath::Path(path) => Some(path.clone()),
        },
        pins: config.kernel.pins.clone(),
        object: std::env::var_os("BOXMETER_BPF_OBJECT").map(Into::into),
        ..KernelConfig::default()
    }
}

/// How the proxies' files are edited: everything but what is found on the machine. sing-box first, where
/// there is to be one.
fn edit_ways(config: &Config) -> anyhow::Result<Vec<Editor>> {
    let binary = |path: &AutoPath| match path {
        AutoPath::Auto => None,
        AutoPath::Path(path) => Some(path.clone()),
    };
    let backups = config.ledger.path.parent().map(|folder| folder.join("backups"));
    let mut ways = Vec::new();
    if config.has_singbox() {
        ways.push(Editor {
            service: Service::singbox(),
            config: config.singbox.config.clone(),
            process: None,
            last: None,
            binary: binary(&config.singbox.binary),
            reload: Reload::parse(&config.singbox.reload.to_string()).context("[singbox] reload")?,
            backups: backups.clone(),
        });
    }
    for service in &config.services {
        let identity = service.identity();
        ways.push(Editor {
            config: service.config.clone(),
            process: None,
            last: None,
            binary: binary(&service.binary),
            reload: Reload::parse(&service.restart.to_string()).context("[[service]] restart")?,
            backups: backups.as_ref().map(|folder| folder.join("services").join(&*identity.name)),
            service: identity,
        });
    }
    Ok(ways)
}

/// How long removals may wait for a reload or restart.
fn patience(config: &Config) -> std::collections::BTreeMap<Service, std::time::Duration> {
    let others = config.services.iter().map(|service| (service.identity(), service.restart_within));
    std::iter::once((Service::singbox(), config.singbox.reload_within)).chain(others).collect()
}

/// sing-box first, where there is to be one.
fn proxies(config: &Config, hands: &hands::Hands) -> Proxies {
    let removed = || hands.removed.clone();
    let singbox = config.has_singbox().then(|| {
        let owners = Owners::Singbox(config.singbox.source.into());
        Proxy::new(Service::singbox(), config.singbox.config.clone(), owners, removed())
    });
    let others = config.services.iter().map(|service| {
        let owners = Owners::AccessLog(match &service.access_log {
            AutoPath::Auto => None,
            AutoPath::Path(path) => Some(path.clone()),
        });
        Proxy::new(service.identity(), service.config.clone(), owners, removed())
    });
    Proxies::new(singbox.into_iter().chain(others).collect(), config.billing.default_policy.clone())
}

/// Scheduled backups, if they are wanted.
fn backups(config: &Config) -> Option<Backups> {
    let ledger = &config.ledger;
    Some(Backups {
        directory: ledger.backups(),
        every: ledger.backup_every?,
        keep: usize::try_from(ledger.backup_keep).unwrap_or(usize::MAX),
        keep_for: ledger.backup_keep_for,
    })
}

fn zone(config: &Config) -> anyhow::Result<jiff::tz::TimeZone> {
    config.zone().context("the time zone of [billing] time_zone")
}

/// The ends of what was started.
struct Wired {
    questions: mpsc::Sender<shared::Question>,
    pictures: shared::PictureReceiver,
    hands: hands::Handle,
    backups: care::Statuses,
    notifier: Option<crate::notify::run::Handle>,
    info: Option<crate::ledger::LedgerInfo>,
}

fn answerer(
    config: &Config,
    wired: Wired,
    (ledger, zone): (&Ledger, &jiff::tz::TimeZone),
    (epoch, billed): ([u8; 16], u32),
    started_ms: i64,
) -> Answerer {
    Answerer {
        questions: wired.questions,
        pictures: wired.pictures,
        ledger_path: config.ledger.path.clone(),
        ledger: ledger.clone(),
        hands: wired.hands,
        epoch,
        billed,
        default_policy: config.billing.default_policy.clone(),
        zone: zone.clone(),
        meter: if billed == METER_WIRE { ApiMeter::Wire } else { ApiMeter::Payload },
        public_url: config.panel.public_url.trim_end_matches('/').to_owned(),
        started_ms,
        ledger_id: wired.info.as_ref().map(|info| info.ledger_id.to_string()),
        node_id: wired.info.as_ref().map(|info| info.node_id.to_string()),
        reader: Arc::new(Mutex::new(None)),
        backups: wired.backups,
        notifier: wired.notifier,
        notify: config.notify.clone(),
        metrics_of_users: config.metrics.users,
        turns: backend::Turns::default(),
        hashing: door::Hashing::default(),
    }
}

async fn agent_process(config: &Config) -> anyhow::Result<()> {
    let started = clock::now();
    let kernel = Kernel::open(&kernel_config(config))?;
    let zone = zone(config)?;
    let ledger = open_ledger(config, &zone, started.wall_ms)?;
    let info = ledger.info().await.ok();
    // SAFETY: `Events` gives the same descriptor each time, and owns it as long as it lives.
    let news = unsafe { AsyncFd::register_with_interest(kernel.events()?, Interest::READABLE)? };
    let billed = billed(config);
    let guard_bytes = config.kernel.guard_bytes().map_err(anyhow::Error::msg).context("[kernel] guard")?;
    let mut meter = Meter::new(kernel, billed)?;
    meter.guarded = guard_bytes.is_some();
    let epoch = meter.kernel.epoch();
    let notices = notifier::notices(&config.notify);
    let mut gate = Gate::new(ledger.clone(), zone.clone(), billed, epoch, notices);
    gate.set_proxies(config.singbox.networks().map_err(anyhow::Error::msg)?);
    let (hands, handle) = hands::start(ledger.clone(), patience(config));
    let (care, backups) = care::start(ledger.clone(), backups(config)).context("starting a thread")?;
    let (pictures, receiver) = watch::channel(Arc::new(Picture::default()));
    let (notifier, troubles) =
        notifier::start(config, &ledger, &zone, receiver.clone(), backups.clone()).await?;
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let wired = Wired { questions, pictures: receiver, hands: handle, backups, notifier, info };
    let answerer = answerer(config, wired, (&ledger, &zone), (epoch, billed), started.wall_ms);
    let (restored, cut_off) = what_was(&config.ledger.path, epoch);
    let listener = listen::bind(&config.api.socket)
        .with_context(|| format!("the socket {}", config.api.socket.display()))?;
    let proxies = proxies(config, &hands);
    let mut agent = Agent {
        meter,
        gate,
        hands,
        care,
        restored,
        ways: edit_ways(config)?,
        news,
        commits: Commits::new(ledger),
        proxies,
        pictures,
        directory: Directory::default(),
        totals: Totals::new(zone),
        tick: config.ledger.tick,
        flush_waiting: Vec::new(),
        flush_running: Vec::new(),
        events: std::collections::VecDeque::new(),
        refusals: 0,
        delays: delays::Delays::default(),
        source_down_ns: std::collections::BTreeMap::new(),
        guard: guard::Guard::new(guard_bytes),
        troubles,
        watchdog: watchdog::Watchdog::of_environment(),
    };
    told_at_start(&mut agent, config, cut_off);
    agent.event("agent_started", None, serde_json::json!({"version": env!("CARGO_PKG_VERSION")}));
    agent.start().await?;
    answered(agent, answerer, listener, asked, &config.api.socket).await
}

/// What was found before anything was counted.
fn told_at_start(agent: &mut Agent, config: &Config, cut_off: Option<i64>) {
    for finding in config.exposed() {
        tracing::warn!("{finding}");
        agent.event("secret_readable", None, serde_json::json!({"message": finding, "severity": "warning"}));
    }
    agent.lost(cut_off);
}

/// Opens the ledger; one of gigabytes is copied and changed when its schema is an older one.
fn open_ledger(config: &Config, zone: &jiff::tz::TimeZone, now_ms: i64) -> anyhow::Result<Ledger> {
    let _patience = watchdog::Patience::please();
    Ok(Ledger::open(&config.ledger.path, Options::new(zone.clone(), now_ms))?)
}

/// Whether a backup was restored that nothing was committed to since, and the last commit if the machine went down
/// under the agent before this one.
fn what_was(ledger: &Path, epoch: [u8; 16]) -> (bool, Option<i64>) {
    let Ok(before) = Reader::open(ledger) else { return (false, None) };
    (before.is_restored().unwrap_or(false), before.cut_off(epoch).ok().flatten())
}

/// Runs the agent and answers questions, until it is told to end.
async fn answered(
    mut agent: Agent,
    answerer: Answerer,
    listener: tokio::net::UnixListener,
    asked: mpsc::Receiver<shared::Question>,
    socket: &Path,
) -> anyhow::Result<()> {
    let router = unix_router(Arc::new(answerer));
    let server = tokio::spawn(serve(listener, router, listen::access, std::future::pending()));
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let end = agent.run(asked, Box::pin(stop_signal()?)).await;
    server.abort();
    let _ = std::fs::remove_file(socket);
    finish(agent).await;
    end
}

/// What quotas are measured on, in the kernel's words.
fn billed(config: &Config) -> u32 {
    match config.billing.meter {
        BilledMeter::Payload => METER_PAYLOAD,
        BilledMeter::Wire => METER_WIRE,
    }
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn finish(mut agent: Agent) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    agent.end_notify().await;
    agent.event("agent_stopped", None, serde_json::json!({}));
    if let Err(reason) = agent.commit_last().await {
        tracing::warn!("the last counts are not committed, the kernel keeps them: {reason}");
    }
    // Whoever else has a handle on it, as a backup under way: the file is whole by itself then.
    agent.commits.ledger.close();
}
