//! `/settings/notify`: what people are told and by which ways, the latest messages, and a test. Nothing is changed
//! from here: where messages go is a matter of the configuration.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    Shared, Visit,
    flash::Flash,
    frame::{Answer, Frame, render},
    view::{Moment, short, shown},
};
use crate::{
    api::notify::{Channel, ChannelStatus, Message, MessageState, NotifyShow, NotifyTest, NotifyTested},
    locale::Lang,
};

/// Messages that a page has room for.
const SHOWN_MAX: usize = 30;

#[derive(Template)]
#[template(path = "settings_notify.html")]
struct Page {
    f: Frame,
    ways: Vec<Way>,
    what: String,
    to_users: Option<String>,
    reports: Vec<String>,
    rows: Vec<Row>,
}

/// A channel that is set up.
struct Way {
    word: &'static str,
    name: String,
    to: String,
    /// Since when, and why.
    failing: Option<String>,
    sent: String,
    waiting: Option<String>,
}

struct Row {
    at: Moment,
    channel: String,
    to: String,
    kind: String,
    user: String,
    state: String,
    /// Of its colour.
    level: &'static str,
    error: String,
}

pub async fn show(State(pages): State<Shared>, visit: Visit) -> Answer {
    let shown = visit.backend().notify().await?;
    let title = visit.lang.text("panel.notify.title").to_owned();
    let f = Frame::load(&pages, &visit, "settings", title).await;
    let lang = f.lang;
    let percentages: Vec<String> = shown.percentages.iter().map(u16::to_string).collect();
    let values = [("kinds", &*kinds(lang, &shown.kinds)), ("percentages", &percentages.join(", "))];
    render(&Page {
        ways: shown.channels.iter().map(|it| way(lang, it)).collect(),
        what: lang.fill("panel.notify.what", &values),
        to_users: (!shown.to_users.is_empty())
            .then(|| lang.fill("panel.notify.to_users", &[("kinds", &kinds(lang, &shown.to_users))])),
        reports: reports(lang, &shown),
        rows: shown.messages.iter().take(SHOWN_MAX).map(|it| row(lang, it)).collect(),
        f,
    })
}

fn name(lang: Lang, channel: Channel) -> String {
    lang.text(&format!("notify_channel.{}", channel.as_str())).to_owned()
}

fn kind(lang: Lang, word: &str) -> String {
    lang.find(&format!("notify_kind.{word}")).map_or_else(|| shown(word), str::to_owned)
}

fn kinds(lang: Lang, words: &[String]) -> String {
    match words {
        [] => lang.text("none").to_owned(),
        some => some.iter().map(|it| kind(lang, it)).collect::<Vec<_>>().join(", "),
    }
}

fn reports(lang: Lang, shown: &NotifyShow) -> Vec<String> {
    let times = [
        ("panel.notify.report_daily", &shown.reports.daily),
        ("panel.notify.report_monthly", &shown.reports.monthly),
    ];
    let some = times.into_iter().filter_map(|(key, time)| Some((key, time.as_deref()?)));
    some.map(|(key, time)| lang.fill(key, &[("time", time)])).collect()
}

fn way(lang: Lang, it: &ChannelStatus) -> Way {
    let minute = crate::wording::minute;
    let to: Vec<String> = it.to.iter().map(|to| shown(to)).collect();
    Way {
        word: it.channel.as_str(),
        name: name(lang, it.channel),
        to: to.join(", "),
        failing: it.failing.as_ref().map(|failing| {
            let values = [("time", &*minute(&failing.since)), ("reason", &shown(&failing.reason))];
            lang.fill("panel.notify.failing", &values)
        }),
        sent: match &it.last_sent_at {
            Some(at) => lang.fill("panel.notify.last_sent", &[("time", &minute(at))]),
            None => lang.text("panel.notify.never_sent").to_owned(),
        },
        waiting: (it.waiting > 0)
            .then(|| lang.fill("panel.notify.waiting", &[("count", &it.waiting.to_string())])),
    }
}

fn row(lang: Lang, it: &Message) -> Row {
    let at = it.done_at.as_ref().or(it.next_at.as_ref()).unwrap_or(&it.created_at);
    Row {
        at: Moment::at(at),
        channel: name(lang, it.channel),
        to: short(&it.recipient),
        kind: kind(lang, &it.kind),
        user: short(it.user.as_deref().unwrap_or_default()),
        state: lang.text(&format!("notify_state.{}", it.state.as_str())).to_owned(),
        level: match it.state {
            MessageState::Sent => "active",
            MessageState::Waiting | MessageState::Sending => "pending",
            MessageState::Failed | MessageState::Expired | MessageState::Unsure => "error",
        },
        error: it.error.as_deref().map(shown).unwrap_or_default(),
    }
}

/// Sends a test, and tells on the page what came of it.
pub async fn test(State(pages): State<Shared>, visit: Visit) -> Answer {
    match visit.backend().test_notify(visit.envelope(), NotifyTest::default()).await {
        Ok(tested) => Ok(told(&pages, visit.lang, &tested)),
        Err(error) => {
            let values = [("message", &*error.message)];
            Ok(Flash::failed("panel.failed.notify", &values).to(&pages, "/settings/notify"))
        }
    }
}

fn told(pages: &Shared, lang: Lang, tested: &NotifyTested) -> Response {
    let flash = tested.results.iter().fold(Flash::default(), |flash, it| {
        let (channel, to, ms) = (name(lang, it.channel), shown(&it.recipient), it.took_ms.to_string());
        match it.ok {
            true => {
                let values = [("channel", &*channel), ("to", &to), ("ms", &ms)];
                flash.and(true, "panel.done.notify", &values)
            }
            false => {
                let message = format!("{channel}, {to}: {}", shown(&it.message));
                flash.and(false, "panel.failed.notify", &[("message", &message)])
            }
        }
    });
    flash.to(pages, "/settings/notify")
}
