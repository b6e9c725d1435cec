//! The hands: the users in the proxies' files follow what the gate wants, one edit at a time, beside the
//! agent's loop.
//!
//! Level-triggered like the gate: from the files as they are, what was taken out of them and what is
//! wanted, the enforcer plans; planned again after it was carried out, there is nothing to do. Order of
//! an edit: what is taken out goes into the ledger, then the files are written, then the ledger notes
//! how far it is; a crash between any two steps is found by the next plan. The files of all proxies are one
//! plan; each proxy's are written, checked and put back by themselves. What a proxy has not read yet it is
//! told by its API where it has one; reloads and restarts are decided apart (`enforcer::reloads`).

mod managed;
mod steps;
mod words;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use boxmeter_web::backend::ApiError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    core::event::UserId,
    enforcer::{editor::Editor, reloads::Scene, users_edit::Credentials},
    ledger::{Ledger, ParkedEntry},
    service::Service,
    singbox::servers::Found,
};

pub use crate::enforcer::{
    reconcile::Want,
    users_edit::{Brought, Newcomer},
};
pub use managed::{Removed, services};
pub use steps::{Steps, parked};
pub use words::living;
use worker::Worker;

/// Orders that wait for the worker, which does one edit at a time.
const ORDERS_MAX: usize = 64;

/// Pieces of news that wait for the agent.
const NEWS_MAX: usize = 256;

/// What is asked of the worker.
enum Order {
    /// One user's entries; the answer has what a new one was given.
    Change(String, Want, oneshot::Sender<Result<Vec<Credentials>, ApiError>>),
    CheckNew(Vec<Newcomer>, oneshot::Sender<Result<Vec<Result<(), ApiError>>, ApiError>>),
    Prepare(Vec<Newcomer>, oneshot::Sender<Result<Vec<Result<New, ApiError>>, ApiError>>),
    Admit(Vec<String>, oneshot::Sender<Result<BTreeMap<String, ApiError>, ApiError>>),
    Follow(oneshot::Sender<Result<(), ApiError>>),
    Credentials(String, oneshot::Sender<Result<Vec<Credentials>, ApiError>>),
    Servers(String, oneshot::Sender<Result<Vec<Found>, ApiError>>),
}

/// A user to be made: what the ledger is to keep until the files have it, and the logins.
pub struct New {
    pub entries: Vec<ParkedEntry>,
    pub credentials: Vec<Credentials>,
}

/// What the worker should know of the rest, as of now.
#[derive(Clone, Debug, Default)]
struct Around {
    proxies: Vec<Editor>,
    kept_out: Option<BTreeSet<UserId>>,
    scenes: BTreeMap<Service, Scene>,
    /// The configuration was read anew.
    looks: u64,
}

impl Around {
    fn scene_of(&self, service: &Service) -> Scene {
        self.scenes.get(service).copied().unwrap_or_default()
    }
}

/// What the worker tells.
pub enum HandsNews {
    /// For the events.
    Event { kind: &'static str, user: Option<UserId>, data: serde_json::Value },
    /// Does it work? `None`: it does.
    Trouble(Option<String>),
    /// Entries were parked or put back for these users.
    Moved(Vec<UserId>),
}

/// How far the proxies' configurations are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandsStatus {
    pub edits: u64,
    pub reloads: u64,
    pub last_edit_ms: Option<i64>,
    pub last_reload_ms: Option<i64>,
    /// Since when edits wait for a reload, and when it comes at the latest (`None`: it is the admin's).
    pub pending: Option<(i64, Option<i64>)>,
    /// Names of users whose change waits for a reload.
    pub waiting: BTreeSet<String>,
    pub last_error: Option<(i64, String)>,
}

/// The agent's end.
pub struct Hands {
    around: watch::Sender<Around>,
    news: mpsc::Receiver<HandsNews>,
    status: watch::Receiver<HandsStatus>,
    /// Who was taken out of services.
    pub removed: Removed,
    _task: tokio::task::JoinHandle<()>,
}

/// The end of those who change users.
#[derive(Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
}

/// Starts the worker. `within`: how long removals may wait for a reload or restart, by service.
pub fn start(ledger: Ledger, within: BTreeMap<Service, Duration>) -> (Hands, Handle) {
    let (orders, asked) = mpsc::channel(ORDERS_MAX);
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let around = watch::Sender::new(Around::default());
    let (told, status) = watch::channel(HandsStatus::default());
    let removed = Removed::default();
    let worker = Worker::new(ledger, within, (sender, told), removed.clone());
    let task = tokio::spawn(worker.run(asked, around.subscribe()));
    (Hands { around, news, status, removed, _task: task }, Handle { orders })
}

impl Hands {
    /// Who may not connect now.
    pub fn want(&self, kept_out: BTreeSet<UserId>) {
        self.around.send_if_modified(|around| {
            let new = around.kept_out.as_ref() != Some(&kept_out);
            around.kept_out = Some(kept_out);
            new
        });
    }

    /// The proxies as they were found last.
    pub fn look(&self, proxies: Vec<Editor>) {
        self.around.send_modify(|around| {
            around.proxies = proxies;
            around.looks += 1;
        });
    }

    /// What goes on around each proxy.
    pub fn scene(&self, scenes: BTreeMap<Service, Scene>) {
        self.around.send_if_modified(|around| {
            let new = around.scenes != scenes;
            around.scenes = scenes;
            new
        });
    }

    /// The next news; `None` if the worker is gone, which only a fault in it can bring about.
    pub async fn next(&mut self) -> Option<HandsNews> {
        self.news.recv().await
    }

    pub fn status(&self) -> HandsStatus {
        self.status.borrow().clone()
    }
}

impl Handle {
    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Order,
    ) -> Result<T, ApiError> {
        let ending = || ApiError::unavailable("the agent is ending");
        let (answer, receiver) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| ending())?;
        receiver.await.map_err(|_| ending())?
    }

    /// Edits one user's entries; the answer comes when the files are written. The reload follows by
    /// itself.
    pub async fn change(&self, name: &str, want: Want) -> Result<Vec<Credentials>, ApiError> {
        self.ask(|answer| Order::Change(name.to_owned(), want, answer)).await
    }

    /// Can these users be made? For each by itself.
    pub async fn check_new(&self, users: Vec<Newcomer>) -> Result<Vec<Result<(), ApiError>>, ApiError> {
        self.ask(|answer| Order::CheckNew(users, answer)).await
    }

    /// Makes the entries of new users, and changes nothing.
    pub async fn prepare(&self, users: Vec<Newcomer>) -> Result<Vec<Result<New, ApiError>>, ApiError> {
        self.ask(|answer| Order::Prepare(users, answer)).await
    }

    /// Has the users in whom the ledger has with what was prepared: all by one edit. Who could not be let in,
    /// and why; those are nowhere, or are to be removed.
    pub async fn admit(&self, names: Vec<String>) -> Result<BTreeMap<String, ApiError>, ApiError> {
        self.ask(|answer| Order::Admit(names, answer)).await
    }

    /// Makes everything as the ledger and the gate want it, now.
    pub async fn follow(&self) -> Result<(), ApiError> {
        self.ask(Order::Follow).await
    }

    /// A user's logins, as they are in the files or parked.
    pub async fn credentials(&self, name: &str) -> Result<Vec<Credentials>, ApiError> {
        self.ask(|answer| Order::Credentials(name.to_owned(), answer)).await
    }

    /// How clients get in with them.
    pub async fn servers(&self, name: &str) -> Result<Vec<Found>, ApiError> {
        self.ask(|answer| Order::Servers(name.to_owned(), answer)).await
    }
}
