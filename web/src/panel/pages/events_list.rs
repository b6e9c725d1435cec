//! `/events`: what happened and why, newest first; with `who=people` it is the audit trail.

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{
    Shared, Visit,
    frame::{Answer, Frame, render},
    view::{Choice, Moment, query, segment, shown},
};
use crate::{
    api::{
        query::{EventQuery, Page as Cursor, UserFilter},
        time::parse_time,
        types::{Event, Severity},
    },
    wording,
};

/// Rows of a page.
const ROWS: u32 = 50;
/// Names that are offered while one is typed.
const NAMES: u32 = 20;
/// How far back the list goes, as [`parse_time`] reads it; empty is everything.
const SINCE: [&str; 4] = ["", "-1d", "-7d", "-30d"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    user: String,
    severity: String,
    who: String,
    since: String,
    after: String,
}

#[derive(Template)]
#[template(path = "events_list.html")]
struct Page {
    f: Frame,
    asked: Asked,
    severities: Vec<Choice>,
    whos: Vec<Choice>,
    sinces: Vec<Choice>,
    /// Users whose names have what was typed in them.
    names: Vec<String>,
    /// Nobody has exactly the name, and these have it in theirs: address and name.
    meant: Vec<(String, String)>,
    rows: Vec<Entry>,
    next: Option<String>,
    first: Option<String>,
}

/// Users whose names, notes or addresses have the text in them. Whoever cannot say it offers nobody.
async fn like(visit: &Visit, text: &str) -> Vec<String> {
    let filter = UserFilter { search: Some(text.to_owned()), ..UserFilter::default() };
    let page = Cursor { after: None, limit: NAMES };
    let found = visit.backend().users(filter, page).await;
    found.map(|list| list.users.into_iter().map(|it| it.name).collect()).unwrap_or_default()
}

/// One event.
pub struct Entry {
    pub at: Moment,
    pub title: String,
    pub severity: &'static str,
    pub severity_text: String,
    pub user: String,
    pub user_address: String,
    pub text: String,
    pub who: String,
}

pub async fn show(State(pages): State<Shared>, visit: Visit, Query(asked): Query<Asked>) -> Answer {
    let title = visit.lang.text("panel.nav.events").to_owned();
    let now = visit.backend().now();
    let text = |text: &str| Some(text.trim().to_owned()).filter(|it| !it.is_empty());
    let wanted = EventQuery {
        user: text(&asked.user),
        since: text(&asked.since).and_then(|it| parse_time(&it, &now).ok()),
        severity: Severity::ALL.into_iter().find(|it| it.as_str() == asked.severity),
        by_people: asked.who == "people",
        newest: true,
        page: Cursor { after: text(&asked.after), limit: ROWS },
    };
    let typed = asked.user.trim();
    let (f, list, names) = tokio::join!(
        Frame::load(&pages, &visit, "events", title),
        visit.backend().events(wanted),
        like(&visit, typed)
    );
    // A name that nobody has is a filter that finds nothing, not an error.
    let list = match list {
        Err(error) if error.kind == crate::backend::ErrorKind::NotFound => Default::default(),
        other => other?,
    };
    let address = |after: &str| {
        let pairs = [
            ("user", &*asked.user),
            ("severity", &asked.severity),
            ("who", &asked.who),
            ("since", &asked.since),
            ("after", after),
        ];
        format!("/events{}", query(&pairs))
    };
    let nobody = !typed.is_empty() && list.events.is_empty() && !names.iter().any(|it| it == typed);
    let meant = names
        .iter()
        .filter(|_| nobody)
        .map(|it| (format!("{}/events?user={}", f.base, segment(it)), shown(it)));
    let choice = |group: &str, value: &str, chosen: &str| {
        let word = if value.is_empty() { "any" } else { value.trim_start_matches('-') };
        Choice::new(value, f.t(format!("panel.events.{group}_{word}")), value == chosen)
    };
    let page = Page {
        severities: ["", "warning", "error"]
            .iter()
            .map(|it| choice("severity", it, &asked.severity))
            .collect(),
        whos: ["", "people"].iter().map(|it| choice("who", it, &asked.who)).collect(),
        sinces: SINCE.iter().map(|it| choice("since", it, &asked.since)).collect(),
        meant: meant.collect(),
        names: names.clone(),
        rows: list.events.iter().map(|it| entry(&f, it)).collect(),
        next: list.next.as_deref().map(address),
        first: (!asked.after.is_empty()).then(|| address("")),
        asked: asked.clone(),
        f,
    };
    render(&page)
}

pub fn entry(f: &Frame, event: &Event) -> Entry {
    let user = event.user.as_deref().unwrap_or_default();
    let title = wording::event_title(f.lang, &event.kind);
    let text = wording::explanation(f.lang, event);
    Entry {
        at: Moment::exact(&event.at),
        title: shown(&title),
        severity: event.severity.as_str(),
        severity_text: f.t(format!("panel.severity.{}", event.severity.as_str())).to_owned(),
        user: shown(user),
        user_address: format!("{}/users/{}", f.base, segment(user)),
        // Some say no more than what they are called.
        text: if text == title { String::new() } else { shown(&text) },
        who: event.who.as_deref().filter(|it| *it != "agent").map(shown).unwrap_or_default(),
    }
}
