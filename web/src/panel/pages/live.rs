//! Live numbers: one stream from the agent for the whole panel, shared by every page that is open,
//! and one stream per page with only what that page shows, as text in its language.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Query, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{Shared, Visit, view};
use crate::{
    api::live::{LiveSnapshot, LiveUser},
    backend::{ApiError, Backend},
    locale::Lang,
    units::{Rate, Size},
};

/// Points of the throughput chart that a page begins with: ten minutes at one a second.
pub const HISTORY_MAX: usize = 600;
/// The agent's stream is kept so long after the last page that listened, so that going from page to
/// page keeps the chart.
const LINGER: Duration = Duration::from_secs(300);
/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_secs(2);
/// A page is told at most so often, however fast the agent's stream is.
const PACE: Duration = Duration::from_millis(900);
/// A sentence for screen readers comes once in so many messages.
const SAY_EVERY: u64 = 30;
/// The list of a user's connections is made anew once in so many messages, while there are any.
pub const REFRESH_EVERY: u64 = 5;
/// Rows of the list of the busiest users.
pub const TOP_ROWS: usize = 8;
/// Users that one page may ask for.
const IDS_MAX: usize = 500;

/// The newest state and what led to it.
#[derive(Clone)]
pub struct View {
    pub snapshot: Arc<LiveSnapshot>,
    by_id: Arc<HashMap<String, usize>>,
    /// Places in the snapshot: found once for all pages.
    busiest: Arc<Vec<usize>>,
    /// Seconds, download, upload.
    pub history: Arc<VecDeque<[i64; 3]>>,
}

impl View {
    /// After `before`, whose table of ids is taken over where the users are the same.
    fn new(snapshot: Arc<LiveSnapshot>, before: Option<&View>, history: VecDeque<[i64; 3]>) -> Self {
        let users = &snapshot.users;
        let same = |(a, b): (&Arc<LiveUser>, &Arc<LiveUser>)| Arc::ptr_eq(a, b) || a.id == b.id;
        let kept = before.filter(|it| {
            it.snapshot.users.len() == users.len() && it.snapshot.users.iter().zip(users).all(same)
        });
        let by_id = match kept {
            Some(before) => Arc::clone(&before.by_id),
            None => Arc::new(users.iter().enumerate().map(|(at, user)| (user.id.clone(), at)).collect()),
        };
        let busiest = Arc::new(busiest(&snapshot));
        View { snapshot, by_id, busiest, history: Arc::new(history) }
    }

    /// Who moves most right now, then who used most in the period.
    pub fn busiest(&self) -> impl Iterator<Item = &LiveUser> {
        self.busiest.iter().filter_map(|at| self.snapshot.users.get(*at)).map(|it| &**it)
    }

    fn user(&self, id: &str) -> Option<&LiveUser> {
        self.by_id.get(id).and_then(|at| self.snapshot.users.get(*at)).map(|it| &**it)
    }
}

/// See the module.
pub struct Hub {
    backend: Arc<dyn Backend>,
    views: watch::Sender<Option<View>>,
    /// Whether the task that listens to the agent runs.
    running: Mutex<bool>,
}

impl Hub {
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Hub { backend, views: watch::Sender::new(None), running: Mutex::new(false) }
    }

    /// Listens, and begins to listen to the agent if nobody did.
    pub fn listen(self: &Arc<Self>) -> watch::Receiver<Option<View>> {
        let receiver = self.views.subscribe();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !*running {
            *running = true;
            tokio::spawn(Arc::clone(self).run());
        }
        receiver
    }

    /// The state of now; `None` if the agent tells none within a moment.
    pub async fn view(self: &Arc<Self>) -> Option<View> {
        let mut receiver = self.listen();
        let found = tokio::time::timeout(RETRY, receiver.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }

    async fn run(self: Arc<Self>) {
        loop {
            // A lost agent leaves no old state behind that would look like a new one.
            if let Err(error) = self.follow().await {
                tracing::debug!(%error, "the agent's stream ended");
            }
            self.views.send_replace(None);
            if self.stop_if_alone() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Passes on what the agent tells until its stream ends or nobody listens for long.
    async fn follow(&self) -> Result<(), ApiError> {
        let mut stream = self.backend.subscribe().await?;
        let mut history = VecDeque::new();
        let mut alone_since: Option<tokio::time::Instant> = None;
        while let Some(snapshot) = stream.next().await {
            let snapshot = snapshot?;
            let point = [
                snapshot.at.instant.as_second(),
                clipped(snapshot.totals.download_rate),
                clipped(snapshot.totals.upload_rate),
            ];
            append(&mut history, point);
            let view = View::new(snapshot, self.views.borrow().as_ref(), history.clone());
            self.views.send_replace(Some(view));
            let now = tokio::time::Instant::now();
            match (self.views.receiver_count(), alone_since) {
                (0, None) => alone_since = Some(now),
                (0, Some(since)) if now - since >= LINGER => return Ok(()),
                (0, Some(_)) => {}
                _ => alone_since = None,
            }
        }
        Ok(())
    }

    /// Whether the task may end: decided under the lock, so that nobody begins to listen meanwhile.
    fn stop_if_alone(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = self.views.receiver_count() > 0;
        !*running
    }
}

/// Times only grow: after the clock was set back, what it said before is not the past any more.
fn append(history: &mut VecDeque<[i64; 3]>, point: [i64; 3]) {
    while history.back().is_some_and(|last| last[0] >= point[0]) {
        history.pop_back();
    }
    history.push_back(point);
    while history.len() > HISTORY_MAX {
        history.pop_front();
    }
}

fn clipped(rate: u64) -> i64 {
    i64::try_from(rate).unwrap_or(i64::MAX)
}

/// What a page shows live.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// `overview`, `users`, `user` or `flows`.
    #[serde(default)]
    page: String,
    /// Ids of users, with commas between.
    #[serde(default)]
    ids: String,
}

/// `GET /live`
pub async fn stream(State(pages): State<Shared>, visit: Visit, Query(wanted): Query<Wanted>) -> Response {
    let receiver = pages.hub.listen();
    let ids: Vec<String> = wanted.ids.split(',').take(IDS_MAX).map(str::to_owned).collect();
    let teller = Teller {
        lang: visit.lang,
        page: wanted.page,
        ids,
        told: Map::new(),
        degraded: None,
        count: 0,
        base: pages.base.clone(),
    };
    let messages = stream::unfold((receiver, teller), |(mut receiver, mut teller)| async move {
        loop {
            // The sender lives as long as the panel. Whatever comes within the pace is skipped.
            if teller.count > 0 {
                tokio::time::sleep(PACE).await;
                receiver.changed().await.ok()?;
            }
            let view = receiver.wait_for(Option::is_some).await.ok()?.clone();
            receiver.mark_unchanged();
            let Some(message) = view.map(|view| teller.message(&view)) else { continue };
            let event = Event::default().data(message.to_string());
            return Some((Ok::<_, Infallible>(event), (receiver, teller)));
        }
    });
    Sse::new(messages).keep_alive(KeepAlive::default()).into_response()
}

/// Tells one page what is new for it.
struct Teller {
    lang: Lang,
    page: String,
    ids: Vec<String>,
    base: String,
    told: Map<String, Value>,
    /// What was not well when it was told last, and since when.
    degraded: Option<Vec<(String, Timestamp)>>,
    count: u64,
}

impl Teller {
    fn message(&mut self, view: &View) -> Value {
        let mut now = Map::new();
        let (mut flows_moved, mut standing_moved) = (false, false);
        match &*self.page {
            "overview" => overview(&self.base, view, &mut now),
            _ => {
                for user in self.ids.iter().filter_map(|id| view.user(id)) {
                    user_line(self.lang, user, view.snapshot.at.instant, &mut now);
                }
            }
        }
        let mut set = Map::new();
        for (key, value) in &now {
            if self.told.get(key) != Some(value) {
                flows_moved |= key.ends_with(":flows") && !self.told.is_empty();
                standing_moved |=
                    (key.ends_with(":state") || key.ends_with(":quota")) && !self.told.is_empty();
                set.insert(key.clone(), value.clone());
            }
        }
        self.told.extend(set.clone());
        let mut message = json!({"set": set});
        if let Some(point) = self.point(view) {
            message["point"] = json!(point);
        }
        // Beside their number, what each connection carries moves all the time.
        if matches!(&*self.page, "user" | "flows") && (flows_moved || self.carries(view)) {
            message["refresh"] = json!(true);
        }
        // What depends on the state is more than a number: the reason, packages, buttons.
        if self.page == "user" && standing_moved {
            message["renew"] = json!(true);
        }
        // What began or is over; the agent's words of it may change all the time.
        let degraded = view.snapshot.degraded.iter().map(|it| (it.part.clone(), it.since.instant)).collect();
        if self.degraded.replace(degraded).is_some_and(|before| Some(before) != self.degraded) {
            message["health"] = json!(true);
        }
        if self.count % SAY_EVERY == SAY_EVERY - 1
            && let Some(text) = self.sentence(view)
        {
            message["say"] = json!(text);
        }
        self.count += 1;
        message
    }

    /// Whether it is time to look at connections that are open.
    fn carries(&self, view: &View) -> bool {
        let open = || self.ids.first().and_then(|id| view.user(id)).is_some_and(|it| it.live.flows > 0);
        self.count > 0 && self.count.is_multiple_of(REFRESH_EVERY) && open()
    }

    /// The newest point of the page's chart.
    fn point(&self, view: &View) -> Option<[i64; 3]> {
        let at = view.snapshot.at.instant.as_second();
        match &*self.page {
            "overview" => view.history.back().copied(),
            "user" => {
                let live = view.user(self.ids.first()?)?.live;
                Some([at, clipped(live.download_rate), clipped(live.upload_rate)])
            }
            _ => None,
        }
    }

    /// For who hears the page.
    fn sentence(&self, view: &View) -> Option<String> {
        let (down, up) = match &*self.page {
            "overview" => (view.snapshot.totals.download_rate, view.snapshot.totals.upload_rate),
            "user" => {
                let live = view.user(self.ids.first()?)?.live;
                (live.download_rate, live.upload_rate)
            }
            _ => return None,
        };
        let values = [("down", &*Rate(down).to_string()), ("up", &Rate(up).to_string())];
        Some(self.lang.fill("panel.live.say", &values))
    }
}

fn overview(base: &str, view: &View, out: &mut Map<String, Value>) {
    let totals = view.snapshot.totals;
    let mut put = |key: &str, text: String| out.insert(key.to_owned(), Value::String(text));
    put("down", Rate(totals.download_rate).to_string());
    put("up", Rate(totals.upload_rate).to_string());
    put("flows", totals.flows.to_string());
    put("today", Size(totals.today_bytes).to_string());
    put("total", Size(totals.total_bytes).to_string());
    put("unattributed", view::share(totals.unattributed_bytes, totals.total_bytes));
    put("month", Size(totals.month_bytes).to_string());
    put("users", totals.total_users.to_string());
    put("active", totals.active_users.to_string());
    put("online", totals.online_users.to_string());
    put("limited", totals.limited_users.to_string());
    let mut busiest = view.busiest();
    for row in 0..TOP_ROWS {
        let user = busiest.next();
        let name = match user {
            Some(user) => {
                let href = format!("{base}/users/{}", view::segment(&user.name));
                json!({"text": view::short(&user.name), "href": href})
            }
            None => json!({"text": ""}),
        };
        let text =
            |of: fn(&LiveUser) -> u64| json!(user.map_or(String::new(), |user| Rate(of(user)).to_string()));
        out.insert(format!("top{row}:name"), name);
        out.insert(format!("top{row}:down"), text(|it| it.live.download_rate));
        out.insert(format!("top{row}:up"), text(|it| it.live.upload_rate));
        out.insert(
            format!("top{row}:used"),
            json!(user.map_or(String::new(), |it| Size(it.period_bytes).to_string())),
        );
    }
}

/// The first of them, by their places.
fn busiest(snapshot: &LiveSnapshot) -> Vec<usize> {
    let rank = |at: &usize| {
        let user = &snapshot.users[*at];
        let rate = user.live.upload_rate.saturating_add(user.live.download_rate);
        std::cmp::Reverse((rate, user.period_bytes))
    };
    let mut users: Vec<usize> = (0..snapshot.users.len()).collect();
    if users.len() > TOP_ROWS {
        users.select_nth_unstable_by_key(TOP_ROWS, rank);
        users.truncate(TOP_ROWS);
    }
    users.sort_by_key(rank);
    users
}

fn user_line(lang: Lang, user: &LiveUser, now: Timestamp, out: &mut Map<String, Value>) {
    let id = &user.id;
    let mut put = |key: &str, value: Value| out.insert(format!("{id}:{key}"), value);
    put("down", json!(Rate(user.live.download_rate).to_string()));
    put("up", json!(Rate(user.live.upload_rate).to_string()));
    put("flows", json!(user.live.flows.to_string()));
    put("addresses", json!(user.live.addresses.to_string()));
    put("used", json!(Size(user.period_bytes).to_string()));
    put("total", json!(Size(user.total_bytes).to_string()));
    let usage = view::Use::of(user.period_bytes, user.quota_bytes, user.state);
    let bar = usage.quota.as_ref().map(|_| json!({"percent": usage.percent, "level": usage.level}));
    put("bar", json!(bar));
    put("quota", json!(usage.quota.unwrap_or_default()));
    let state = view::State::of(lang, user.state);
    put("state", json!({"text": state.text, "state": state.word}));
    let seen = view::Seen::of(lang, user.live.flows > 0, user.last_seen_at.as_ref(), now);
    put("seen", json!({"text": seen.text, "title": seen.title}));
}
