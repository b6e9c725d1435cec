//! Asks services for their totals: a task for each, which reads all of them at its pace and waits until the agent
//! has taken what it read. Decides nothing.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    core::counters::{Life, Reading},
    enforcer::nginx::Nginx,
    fault,
    source::{
        life,
        stats::Stats,
        vts::{self, Url},
    },
};

/// Readings that wait for the agent's loop. Each is a whole service's.
const WAITING_MAX: usize = 1;

/// Where V2Ray's API is, as its configuration and its process say; `None`: not known yet.
pub type Api = Option<(SocketAddr, Option<PathBuf>)>;

/// How a service is asked.
pub enum Way {
    /// nginx, with what finds its process: that tells one start from another.
    Vts(Url, Nginx),
    Stats(watch::Receiver<Api>),
}

/// What a service said, or why it says nothing.
pub struct News {
    pub service: Arc<str>,
    pub read: Result<Reading, String>,
}

/// The tasks; they end with this.
pub struct Counted {
    news: mpsc::Receiver<News>,
    sender: mpsc::Sender<News>,
    tasks: Vec<JoinHandle<()>>,
}

impl Default for Counted {
    fn default() -> Self {
        let (sender, news) = mpsc::channel(WAITING_MAX);
        Counted { news, sender, tasks: Vec::new() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Counted {
    /// Asks one more service from now on.
    pub fn ask(&mut self, service: Arc<str>, way: Way, every: Duration) {
        let news = self.sender.clone();
        self.tasks.push(tokio::spawn(async move {
            let mut ticks = interval(every / u32::try_from(fault::hurry()).unwrap_or(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let read = way.read().await;
                if news.send(News { service: Arc::clone(&service), read }).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// What the next one says; never, where nobody is asked.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

impl Way {
    async fn read(&self) -> Result<Reading, String> {
        match self {
            Way::Vts(url, nginx) => vts(url, nginx).await,
            Way::Stats(api) => {
                let api = api.borrow().clone();
                let (addr, netns) = api.ok_or("its configuration has no API, or was not read yet")?;
                let mut stats = Stats::connect(addr, netns).await.map_err(|error| error.to_string())?;
                stats.read().await.map_err(|error| error.to_string())
            }
        }
    }
}

/// nginx says nothing that tells one start from another; its process does. It is looked at before and after, so
/// that the counters are of that one.
async fn vts(url: &Url, nginx: &Nginx) -> Result<Reading, String> {
    let before = life_of(nginx).await;
    let reading = vts::read(url, None).await.map_err(|error| error.to_string())?;
    let after = life_of(nginx).await;
    match (before, after) {
        (Some(before), Some(after)) if before.is(&after) => Ok(Reading { life: Some(before), ..reading }),
        (None, None) => Ok(reading),
        _ => Err("nginx was restarted while it was asked; it is asked again".to_owned()),
    }
}

/// `None` where no process can be found for certain, as of an nginx on another machine.
async fn life_of(nginx: &Nginx) -> Option<Life> {
    let nginx = nginx.clone();
    let found = tokio::task::spawn_blocking(move || nginx.find()).await;
    let master = found.ok()?.ok()??;
    life::of_process(master.pid, master.start_ticks)
}
