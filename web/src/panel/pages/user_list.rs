//! `/users`: everybody, filtered and sorted, one page of rows.

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{
    Shared, Visit,
    frame::{Answer, Frame, render},
    view::{Choice, Moment, Seen, State as Word, Use, query, segment, short, shown, switched_off},
};
use crate::{
    api::{
        query::{Page as Cursor, UserFilter, UserSort},
        types::{User, UserState},
    },
    backend::ApiError,
    units::{Rate, Size},
};

/// Rows of a page.
pub const ROWS: u32 = 50;
/// Beside the states in the list of them: whoever has a connection open.
const ONLINE: &str = "online";

/// What the address says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    q: String,
    state: String,
    policy: String,
    sort: String,
    after: String,
}

#[derive(Template)]
#[template(path = "user_list.html")]
struct Page {
    f: Frame,
    asked: Asked,
    states: Vec<Choice>,
    policies: Vec<Choice>,
    sorts: Vec<Choice>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// The live stream of the rows.
    stream: String,
    /// How many the filter takes.
    count: String,
    filtered: bool,
    next: Option<String>,
    first: Option<String>,
    /// Whether some of them are on other pages.
    several_pages: bool,
    /// Where a change comes back to.
    back: String,
}

/// The head of a column.
struct Column {
    key: &'static str,
    class: &'static str,
    /// Where the list is in the order of this column.
    address: Option<String>,
    /// Whether it is now, and in which direction.
    chosen: bool,
    direction: &'static str,
}

/// One user.
pub struct Row {
    pub id: String,
    pub raw: String,
    pub name: String,
    pub full: String,
    pub note: String,
    pub address: String,
    pub policy: String,
    pub state: Word,
    pub reason: String,
    pub usage: Use,
    /// What is left of packages.
    pub extra: Option<String>,
    pub total: String,
    pub down: String,
    pub up: String,
    pub seen: Seen,
    pub expires: Option<Moment>,
    pub off: bool,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Query(asked): Query<Asked>) -> Answer {
    let title = visit.lang.text("panel.nav.users").to_owned();
    let (filter, cursor) = wanted(&asked);
    let now = visit.backend().now();
    let (f, users, policies) = tokio::join!(
        Frame::load(&pages, &visit, "users", title),
        visit.backend().users(filter.clone(), cursor),
        policy_names(&visit),
    );
    let (users, policies) = (users?, policies?);
    let lang = f.lang;
    let rows: Vec<Row> = users.users.iter().map(|user| row(&f, user, now.timestamp())).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).filter(|id| !id.is_empty()).collect();
    let stream = format!("/live?page=users&ids={}", ids.join(","));
    let address = |after: &str| {
        let pairs = [
            ("q", &*asked.q),
            ("state", &asked.state),
            ("policy", &asked.policy),
            ("sort", &asked.sort),
            ("after", after),
        ];
        format!("/users{}", query(&pairs))
    };
    let sorted = |sort: UserSort| {
        let name = if sort == UserSort::Name { "" } else { sort.as_str() };
        format!(
            "/users{}",
            query(&[("q", &*asked.q), ("state", &asked.state), ("policy", &asked.policy), ("sort", name)])
        )
    };
    let any = |key: &str| Choice::new("", lang.text(key), false);
    let states = UserState::ALL
        .iter()
        .map(|it| Choice::new(it.as_str(), Word::of(lang, *it).text, asked.state == it.as_str()))
        .chain([Choice::new(ONLINE, f.t("panel.card.online"), asked.state == ONLINE)]);
    let sorts = UserSort::ALL.iter().map(|it| {
        let text = f.t(format!("panel.sort.{}", it.as_str()));
        Choice::new(it.as_str(), text, filter.sort == *it)
    });
    let chosen = policies.iter().map(|it| Choice::new(it, short(it), *it == asked.policy));
    let page = Page {
        states: std::iter::once(any("panel.users.any_state")).chain(states).collect(),
        policies: std::iter::once(any("panel.users.any_policy")).chain(chosen).collect(),
        sorts: sorts.collect(),
        columns: columns(filter.sort, sorted),
        count: users.matching.unwrap_or(users.users.len() as u64).to_string(),
        filtered: !(asked.q.is_empty() && asked.state.is_empty() && asked.policy.is_empty()),
        several_pages: users.matching.is_some_and(|all| all > users.users.len() as u64),
        next: users.next.as_deref().map(address),
        first: (!asked.after.is_empty()).then(|| address("")),
        back: address(&asked.after),
        rows,
        stream,
        f,
        asked,
    };
    render(&page)
}

/// Whoever matters most comes first; names and expiries go up.
fn columns(chosen: UserSort, address: impl Fn(UserSort) -> String) -> Vec<Column> {
    let column = |key, class, sort: Option<UserSort>| Column {
        key,
        class,
        address: sort.map(&address),
        chosen: sort == Some(chosen),
        direction: match sort {
            Some(UserSort::Name | UserSort::Expires) => "ascending",
            _ => "descending",
        },
    };
    vec![
        column("panel.col.user", "", Some(UserSort::Name)),
        column("col.state", "", None),
        column("panel.col.used", "", Some(UserSort::Used)),
        column("panel.col.total", "num total", Some(UserSort::Total)),
        column("panel.col.rate", "num", Some(UserSort::Rate)),
        column("col.last_seen", "seen", Some(UserSort::LastSeen)),
        column("col.expires", "expires", Some(UserSort::Expires)),
    ]
}

fn wanted(asked: &Asked) -> (UserFilter, Cursor) {
    let sort = UserSort::ALL.into_iter().find(|it| it.as_str() == asked.sort).unwrap_or_default();
    let after = Some(asked.after.trim().to_owned()).filter(|it| !it.is_empty());
    (UserFilter { sort, ..filter(&asked.q, &asked.state, &asked.policy) }, Cursor { after, limit: ROWS })
}

/// Whom the fields of the filter take, by name. One that does not make sense filters nothing: who changes the
/// address by hand is not told off.
pub fn filter(search: &str, state: &str, policy: &str) -> UserFilter {
    let text = |text: &str| Some(text.trim().to_owned()).filter(|it| !it.is_empty());
    UserFilter {
        state: UserState::ALL.into_iter().find(|it| it.as_str() == state),
        search: text(search),
        policy: text(policy),
        online: state == ONLINE,
        sort: UserSort::Name,
    }
}

/// The names of all policies. Whoever only meters has none.
pub async fn policy_names(visit: &Visit) -> Result<Vec<String>, ApiError> {
    match visit.backend().policies(Cursor::default()).await {
        Ok(list) => Ok(list.policies.into_iter().map(|it| it.name).collect()),
        Err(error) if error.kind == crate::backend::ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn row(f: &Frame, user: &User, now: jiff::Timestamp) -> Row {
    let reason = user.cause.as_ref().map(|it| it.sentence(f.lang, user.time_zone.as_deref()));
    Row {
        id: user.id.clone().unwrap_or_default(),
        raw: user.name.clone(),
        name: short(&user.name),
        full: shown(&user.name),
        note: user.note.as_deref().map(shown).unwrap_or_default(),
        address: format!("{}/users/{}", f.base, segment(&user.name)),
        policy: user.policy.as_deref().map(short).unwrap_or_default(),
        state: Word::of(f.lang, user.state),
        reason: shown(&reason.or_else(|| user.reason.clone()).unwrap_or_default()),
        usage: Use::of(user.period.used_bytes, user.period.quota_bytes, user.state),
        extra: Some(user.packages.remaining_bytes).filter(|it| *it > 0).map(|it| Size(it).to_string()),
        total: Size(user.total.used_bytes).to_string(),
        down: Rate(user.live.download_rate).to_string(),
        up: Rate(user.live.upload_rate).to_string(),
        seen: Seen::of(f.lang, user.live.flows > 0, user.last_seen_at.as_ref(), now),
        expires: user.expires_at.as_ref().map(|at| Moment::near(f.lang, at, now)),
        off: switched_off(user),
    }
}
