//! Has nginx follow who may not connect: a worker for each, beside the agent's loop, since checking and reloading
//! takes as long as it takes. Level-triggered: the newest list holds, and what failed is tried again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    enforcer::nginx::{Followed, Nginx, render},
    fault,
};

/// After a failure.
const RETRY: Duration = Duration::from_secs(30);

/// Between two looks at the file, which somebody may have changed.
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

async fn follow(
    service: Arc<str>,
    nginx: Nginx,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
    news: mpsc::Sender<News>,
) {
    let (mut failed, mut left_out) = (None, Vec::new());
    loop {
        let refused = wanted.borrow_and_update().clone();
        let mut pause = LOOK;
        if let Some(refused) = refused {
            let told = tell(&service, &nginx, refused, (&mut failed, &mut left_out)).await;
            if failed.is_some() {
                pause = RETRY;
            }
            for one in told {
                if news.send(one).await.is_err() {
                    return;
                }
            }
        }
        let hurried = pause / u32::try_from(fault::hurry()).unwrap_or(u32::MAX);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(hurried) => {}
        }
    }
}

/// One try; each failure is told once.
async fn tell(
    service: &Arc<str>,
    nginx: &Nginx,
    refused: BTreeSet<String>,
    (failed, left_out): (&mut Option<String>, &mut Vec<String>),
) -> Vec<News> {
    let mut told = Vec::new();
    let out: Vec<String> =
        render(refused.iter().map(String::as_str)).1.into_iter().map(str::to_owned).collect();
    if !out.is_empty() && out != *left_out {
        told.push(News::LeftOut { service: Arc::clone(service), names: out.clone() });
    }
    *left_out = out;
    let (nginx, count) = (nginx.clone(), refused.len());
    let done = tokio::task::spawn_blocking(move || nginx.follow(&refused)).await;
    match done.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| error.to_string())) {
        Ok(followed) => {
            if failed.take().is_some() {
                told.push(News::Mended { service: Arc::clone(service) });
            }
            if followed == Followed::Reloaded {
                told.push(News::Follows { service: Arc::clone(service), refused: count });
            }
        }
        Err(reason) => {
            if failed.as_ref() != Some(&reason) {
                told.push(News::Failed { service: Arc::clone(service), reason: reason.clone() });
            }
            *failed = Some(reason);
        }
    }
    told
}
