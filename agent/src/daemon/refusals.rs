//! Has nginx follow who may not connect: a worker for each, beside the agent's loop, since checking and reloading
//! takes as long as it takes. Level-triggered: the newest list holds, and what failed is tried again.
//!
//! A reload drops nobody, but the workers of before stay for as long as their connections last. What changes within
//! a moment is one reload, and reloads are apart.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    clock,
    enforcer::{
        nginx::{Followed, Nginx, NginxError, render},
        reloads::BATCH,
    },
    fault,
};

/// After a failure.
const RETRY: Duration = Duration::from_secs(30);

/// Between two reloads. Nobody but nginx turns away whom it is to refuse: it must not be long.
const APART: Duration = Duration::from_secs(30);

/// Between two looks at the file, which somebody may have changed, and for an nginx that began.
const LOOK: Duration = Duration::from_secs(10);

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// nginx runs with this many refused users.
    Follows {
        service: Arc<str>,
        refused: usize,
    },
    /// Names that cannot be written down for it.
    LeftOut {
        service: Arc<str>,
        names: Vec<String>,
    },
    Failed {
        service: Arc<str>,
        reason: String,
    },
    /// It is written, and there is no nginx that could read it.
    Waits {
        service: Arc<str>,
        reason: String,
    },
    /// It works again.
    Mended {
        service: Arc<str>,
    },
}

struct One {
    service: Arc<str>,
    wanted: watch::Sender<Option<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

/// See the module.
pub struct Refusals {
    all: Vec<One>,
    news: mpsc::Receiver<News>,
    sender: mpsc::Sender<News>,
}

impl Default for Refusals {
    fn default() -> Self {
        let (sender, news) = mpsc::channel(8);
        Refusals { all: Vec::new(), news, sender }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        for one in &self.all {
            one.task.abort();
        }
    }
}

impl Refusals {
    /// Begins with one more nginx, when it is first told who is refused.
    pub fn add(&mut self, service: Arc<str>, nginx: Nginx) {
        let (wanted, told) = watch::channel(None);
        let task = tokio::spawn(follow(Arc::clone(&service), nginx, told, self.sender.clone()));
        self.all.push(One { service, wanted, task });
    }

    /// Whom a service was told to refuse last; `None`: it was not told yet.
    pub fn told(&self, service: &str) -> Option<BTreeSet<String>> {
        self.all.iter().find(|one| *one.service == *service)?.wanted.borrow().clone()
    }

    /// Whom a service is to refuse.
    pub fn set(&self, service: &str, refused: &BTreeSet<String>) {
        for one in self.all.iter().filter(|one| *one.service == *service) {
            one.wanted.send_if_modified(|wanted| {
                let new = wanted.as_ref() != Some(refused);
                if new {
                    *wanted = Some(refused.clone());
                }
                new
            });
        }
    }

    /// Never, where there is no nginx.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

/// A pause as tests want it.
fn hurried(pause: Duration) -> Duration {
    pause / u32::try_from(fault::hurry()).unwrap_or(u32::MAX)
}

/// One nginx, as the worker has it.
struct Worker {
    service: Arc<str>,
    nginx: Nginx,
    /// What keeps it from being as it should, as people were told.
    trouble: Option<String>,
    /// While none runs, it is looked for as often as always.
    failed: bool,
    left_out: Vec<String>,
    reloaded_ns: Option<u64>,
}

async fn follow(
    service: Arc<str>,
    nginx: Nginx,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
    news: mpsc::Sender<News>,
) {
    let mut worker =
        Worker { service, nginx, trouble: None, failed: false, left_out: Vec::new(), reloaded_ns: None };
    loop {
        let refused = wanted.borrow_and_update().clone();
        let mut pause = hurried(LOOK);
        if let Some(refused) = refused {
            match worker.apart(&refused).await {
                Some(rest) => pause = rest,
                None => {
                    for one in worker.tell(refused).await {
                        if news.send(one).await.is_err() {
                            return;
                        }
                    }
                    if worker.failed {
                        pause = hurried(RETRY);
                    }
                }
            }
        }
        tokio::select! {
            changed = wanted.changed() => match changed {
                // Others follow.
                Ok(()) => sleep(hurried(BATCH)).await,
                Err(_) => return,
            },
            () = sleep(pause) => {}
        }
    }
}

/// Runs what blocks beside the agent's loop. Outer error: it has panicked.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NginxError> + Send + 'static,
) -> Result<Result<T, NginxError>, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// Was nginx told to reload, whether that is over or not?
fn was_told(done: &Result<Followed, NginxError>) -> bool {
    match done {
        Ok(followed) => *followed == Followed::Reloaded,
        Err(error) => matches!(error, NginxError::NotReloaded { .. }),
    }
}

impl Worker {
    /// How long a reload for this list has still to wait; `None`: it need not, or none is needed.
    async fn apart(&self, refused: &BTreeSet<String>) -> Option<Duration> {
        let apart_ns = u64::try_from(hurried(APART).as_nanos()).unwrap_or(u64::MAX);
        let rest = self.reloaded_ns?.saturating_add(apart_ns).saturating_sub(clock::mono_ns());
        if rest == 0 {
            return None;
        }
        let (nginx, refused) = (self.nginx.clone(), refused.clone());
        let needed = blocking(move || nginx.needs_reload(&refused)).await;
        // What fails is told by who tries.
        matches!(needed, Ok(Ok(true))).then(|| Duration::from_nanos(rest))
    }

    /// One try; each trouble is told once.
    async fn tell(&mut self, refused: BTreeSet<String>) -> Vec<News> {
        let (mut told, service) = (Vec::new(), || Arc::clone(&self.service));
        let out: Vec<String> =
            render(refused.iter().map(String::as_str)).1.into_iter().map(str::to_owned).collect();
        if !out.is_empty() && out != self.left_out {
            told.push(News::LeftOut { service: service(), names: out.clone() });
        }
        let (nginx, count) = (self.nginx.clone(), refused.len());
        let done = blocking(move || nginx.follow(&refused)).await;
        let was_told = done.as_ref().is_ok_and(was_told);
        let done = done.and_then(|done| done.map_err(|error| error.to_string()));
        let trouble = match &done {
            Ok(Followed::Nothing | Followed::Reloaded) => None,
            Ok(Followed::Waits { ignored }) => Some(waits(ignored)),
            Err(reason) => Some(reason.clone()),
        };
        match trouble.clone() {
            Some(reason) if self.trouble.as_ref() == Some(&reason) => {}
            Some(reason) if done.is_ok() => told.push(News::Waits { service: service(), reason }),
            Some(reason) => told.push(News::Failed { service: service(), reason }),
            None if self.trouble.is_some() => told.push(News::Mended { service: service() }),
            None => {}
        }
        if done == Ok(Followed::Reloaded) {
            told.push(News::Follows { service: service(), refused: count });
        }
        if was_told {
            self.reloaded_ns = Some(clock::mono_ns());
        }
        (self.trouble, self.failed, self.left_out) = (trouble, done.is_err(), out);
        told
    }
}

fn waits(ignored: &[String]) -> String {
    let mut text = "no running nginx was found that reads who is refused: one reads it when it starts, and \
                    boxmeter looks for it again"
        .to_owned();
    for reason in ignored {
        text.push_str("; ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that is still loading is not told again at once.
    #[test]
    fn a_reload_counts_as_one_when_nginx_was_told() {
        assert!(was_told(&Ok(Followed::Reloaded)) && was_told(&Err(NginxError::NotReloaded { pid: 1 })));
        assert!(!was_told(&Ok(Followed::Nothing)) && !was_told(&Err(NginxError::Ended { pid: 1 })));
    }
}
