//! `boxmeter panel` as a process: listeners, TLS, the rights it gives up, its end. What it serves is in
//! the crate `boxmeter-web`; it asks the agent for everything, by the socket, and has no other way to it.
//!
//! Order of start: what only root can do (ports, the key's file, the first password), then the rights go,
//! then the first connection is taken.

mod first;
mod places;
mod privileges;
mod serve;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use boxmeter_web::{
    api::client::Client,
    demo::Demo,
    locale::Lang,
    panel::{
        self,
        front::{Front, MadeUp},
    },
};
use jiff::Zoned;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config};

/// How long requests may go on after the panel was told to end.
const END_MAX: Duration = Duration::from_secs(5);

/// The demonstration is the same each time.
const DEMO_SEED: u64 = 1;

/// How to run.
pub struct Options {
    pub socket: PathBuf,
    /// Made-up data instead of the agent's.
    pub demo: bool,
    /// Of what is printed.
    pub lang: Lang,
}

/// Runs the panel until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever kept it from starting, with what to do.
pub fn run(config: &Config, options: Options) -> anyhow::Result<()> {
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reading certificates, and nothing else.
        .max_blocking_threads(2)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(process(config, options))
}

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.with_context(|| {
        format!("cannot listen on {address} ([panel] {key}): choose another, or end what has it")
    })
}

async fn process(config: &Config, options: Options) -> anyhow::Result<()> {
    let settings = &config.panel;
    let main = bind("listen", settings.listen)?;
    let public = match settings.public_listen.as_str() {
        "" => None,
        text => Some(bind("public_listen", text.parse()?)?),
    };
    let tls = tls::load(&settings.tls_cert, &settings.tls_key).await?;
    let client = Client::new(options.socket.clone());
    let told = match options.demo {
        true => first::Told::Demo,
        false => first::password(&client).await,
    };
    let rights = match options.demo {
        true => privileges::drop_for_demo()?,
        false => privileges::drop_them()?,
    };
    if rights == privileges::Rights::NoUser {
        let elsewhere = |it: &TcpListener| it.local_addr().is_ok_and(|at| !at.ip().is_loopback());
        anyhow::ensure!(
            !std::iter::once(&main).chain(&public).any(elsewhere),
            "as root the panel listens on loopback only. Make its user, then start it again: useradd --system \
             --no-create-home --shell /usr/sbin/nologin {}",
            crate::daemon::PANEL_USER
        );
    }
    let (main_app, public_app) = apps(config, client, options.demo)?;
    let mut servers = tokio::task::JoinSet::new();
    let end = serve::Ending::default();
    let url = address(config, &main)?;
    let places = || anyhow::Ok(serve::Places::new(settings.proxies().map_err(anyhow::Error::msg)?));
    servers.spawn(serve::serve(main, main_app, tls.clone(), places()?, end.clone()));
    if let Some(public) = public {
        servers.spawn(serve::serve(public, public_app, tls.clone(), places()?, end.clone()));
    }
    if let Some(tls) = tls {
        tokio::spawn(tls.reload_when_changed());
    }
    first::print(options.lang, &url, &told, &rights);
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(ended) = servers.join_next() => {
            ended.context("a listener of the panel failed")??;
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    end.begin(END_MAX);
    while let Some(ended) = servers.join_next().await {
        ended.context("a listener of the panel failed")??;
    }
    Ok(())
}

/// What the two listeners serve; the second only what is below `/s/`.
fn apps(config: &Config, client: Client, demo: bool) -> anyhow::Result<(Router, Router)> {
    let settings = &config.panel;
    let options = panel::options::Options {
        base_path: settings.base_path.clone(),
        tls: !settings.tls_cert.is_empty(),
        public_url: settings.public_url.trim_end_matches('/').to_owned(),
        listen: elsewhere(Some(settings.listen)),
        public_listen: elsewhere(settings.public_listen.parse().ok()),
        trusted_proxies: settings.proxies().map_err(anyhow::Error::msg)?,
        language: match settings.language {
            config::Language::Auto => None,
            config::Language::English => Some(Lang::En),
            config::Language::Chinese => Some(Lang::ZhCn),
        },
    };
    let front: Arc<dyn Front> = match demo {
        false => Arc::new(client),
        true => {
            let demo = Demo::lively(Box::new(Zoned::now), DEMO_SEED);
            demo.spawn();
            Arc::new(MadeUp(demo))
        }
    };
    Ok((panel::app(Arc::clone(&front), options.clone()), panel::public_app(front, options)))
}

/// A listener that others than this machine reach, at a port that is known.
fn elsewhere(listener: Option<SocketAddr>) -> Option<SocketAddr> {
    listener.filter(|it| !it.ip().is_loopback() && it.port() != 0)
}

/// Where a browser on this machine finds the panel. Port 0 was whatever was free.
fn address(config: &Config, listener: &TcpListener) -> anyhow::Result<String> {
    let settings = &config.panel;
    let scheme = if settings.tls_cert.is_empty() { "http" } else { "https" };
    Ok(format!("{scheme}://{}{}/", listener.local_addr()?, settings.base_path))
}
