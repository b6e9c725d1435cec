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
    fault,
    source::{
        connect,
        life::{self, Place},
        stats::Stats,
        vts::{self, Url},
    },
};

/// What a master process of nginx calls itself.
const MASTER: &str = "nginx: master process ";

/// Readings that wait for the agent's loop. Each is a whole service's.
const WAITING_MAX: usize = 1;

/// How long it may take to see who listens.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

const RESTARTED: &str = "it was restarted while it was asked; it is asked again";

/// Where V2Ray's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub addr: SocketAddr,
    pub netns: Option<PathBuf>,
    /// Its process, by pid and when it began: nobody else may answer for it but root.
    pub process: (u32, u64),
}

/// As its configuration and its process say; `None`: not known yet, or it is not running.
pub type Api = Option<Asked>;

/// How a service is asked.
pub enum Way {
    /// nginx.
    Vts(Url),
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
            Way::Vts(url) => vts(url).await,
            Way::Stats(api) => {
                let api = api.borrow().clone();
                let api =
                    api.ok_or("it is not running, its configuration has no API, or was not read yet")?;
                stats(api).await
            }
        }
    }
}

/// A proxy's own process answers, or root's.
async fn stats(Asked { addr, netns, process }: Asked) -> Result<Reading, String> {
    let addr = SocketAddr::new(connect::reachable(addr.ip()), addr.port());
    let before = look(move || life::place(addr, Some(process))).await?;
    if let Err(stranger @ life::Stranger::User { .. }) = &before {
        return Err(stranger.to_string());
    }
    let mut stats = Stats::connect(addr, netns).await.map_err(|error| error.to_string())?;
    let reading = stats.read().await.map_err(|error| error.to_string())?;
    let after = look(move || life::place(addr, Some(process))).await?;
    same(before, after)?;
    Ok(reading)
}

/// nginx's process tells one start from another, where it is on this machine and the one that answers: it is looked
/// at before and after, so that the counters are of that one.
async fn vts(url: &Url) -> Result<Reading, String> {
    let addr = url.addr;
    let whose = move || {
        let place = life::place(addr, None)?;
        let life = life::of_title(&place, MASTER);
        Ok((place, life))
    };
    let before = look(whose).await?;
    if let Err(stranger @ life::Stranger::User { .. }) = &before {
        return Err(stranger.to_string());
    }
    let reading = vts::read(url, None).await.map_err(|error| error.to_string())?;
    let (before, after) = same_place(before, look(whose).await?)?;
    match (before, after) {
        (Some(before), Some(after)) if before.is(&after) => Ok(Reading { life: Some(before), ..reading }),
        (Some(_), Some(_)) => Err(RESTARTED.to_owned()),
        // Two of them, or none here: what the answer says of itself decides.
        _ => Ok(reading),
    }
}

/// `/proc` is read on a thread of its own, and not waited for without end.
async fn look<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let looked = tokio::time::timeout(LOOK_LIMIT, tokio::task::spawn_blocking(work)).await;
    let looked = looked.map_err(|_| "/proc does not say in time who listens there; it is asked again")?;
    looked.map_err(|error| error.to_string())
}

type Seen<T> = Result<T, life::Stranger>;

/// Was it asked at one place? Whoever listens there now may not have answered.
fn same(before: Seen<Place>, after: Seen<Place>) -> Result<(), String> {
    let (before, after) =
        (before.map_err(|error| error.to_string())?, after.map_err(|error| error.to_string())?);
    if before == after { Ok(()) } else { Err(RESTARTED.to_owned()) }
}

type Start = (Place, Option<Life>);

fn same_place(before: Seen<Start>, after: Seen<Start>) -> Result<(Option<Life>, Option<Life>), String> {
    let lives = (before.as_ref().ok().and_then(|it| it.1), after.as_ref().ok().and_then(|it| it.1));
    same(before.map(|it| it.0), after.map(|it| it.0)).map(|()| lives)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::source::life::Stranger;

    #[test]
    fn an_answer_counts_where_the_same_listened_all_the_time() {
        let addr = ([127, 0, 0, 1], 80).into();
        let here = |inode| Ok(Place::Here(BTreeSet::from([inode])));
        assert_eq!(same(here(1), here(1)), Ok(()));
        assert_eq!(same(Ok(Place::Elsewhere), Ok(Place::Elsewhere)), Ok(()));
        assert_eq!(same(here(1), here(2)), Err(RESTARTED.to_owned()));
        for nobody in [(Err(Stranger::Nobody { addr }), here(1)), (here(1), Err(Stranger::Nobody { addr }))] {
            assert!(same(nobody.0, nobody.1).unwrap_err().contains("nothing that is root's"));
        }
        let nobody = || Err(Stranger::Nobody { addr });
        assert!(same(nobody(), nobody()).is_err(), "somebody listened for a moment");
    }

    /// Somebody's program at the address of a service that is not running is not even asked.
    #[tokio::test]
    async fn somebodys_program_is_not_asked() {
        if !nix::unistd::Uid::current().is_root() {
            return;
        }
        let bind = || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(4242));
            std::net::TcpListener::bind("127.0.0.1:0").unwrap()
        };
        let theirs = std::thread::spawn(bind).join().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let addr = theirs.local_addr().unwrap();
        let url = Url::parse(&format!("http://{addr}/status/format/json")).unwrap();
        assert!(vts(&url).await.unwrap_err().contains("user 4242's"));
        let mut proxy = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = (proxy.id(), crate::singbox::process::start_ticks(proxy.id()).unwrap());
        let answer = stats(Asked { addr, netns: None, process }).await;
        proxy.kill().unwrap();
        proxy.wait().unwrap();
        assert!(answer.unwrap_err().contains("user 4242's"));
        assert!(theirs.accept().is_err(), "nobody came");
    }
}
