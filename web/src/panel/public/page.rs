//! The page of a subscription: what was used, until when, and how to get it into a client.

use askama::Template;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{
    api::{
        sharing::{Basis, Day, Subscription},
        types::{Time, UserState},
    },
    locale::Lang,
    share::{self, percent, qr},
    units::{Rate, Size},
};

/// Width of a day's bar with its gap; the drawing is stretched to the page.
const STEP: usize = 10;

struct Bar {
    percent: u64,
    tone: &'static str,
}

struct ChartBar {
    x: usize,
    up: u64,
    up_y: u64,
    down: u64,
    down_y: u64,
    title: String,
}

struct Chart {
    width: usize,
    label: String,
    /// What the top of the drawing means.
    most: String,
    /// The first and the last day.
    ends: Option<(String, String)>,
    bars: Vec<ChartBar>,
}

struct Shown {
    label: String,
    kind: String,
    link: Option<String>,
    qr: Option<String>,
}

#[derive(Template)]
#[template(path = "public/page.html")]
struct Page<'a> {
    lang: Lang,
    languages: [Lang; 2],
    base: &'a str,
    title: String,
    /// The reason where there is one: it begins with the state.
    state: String,
    tone: &'static str,
    bar: Option<Bar>,
    facts: Vec<(&'a str, String)>,
    chart: Chart,
    table: Vec<(String, String, String)>,
    url: &'a str,
    qr: Option<String>,
    apps: Vec<(&'static str, String)>,
    files: Vec<(&'static str, &'static str)>,
    servers: Vec<Shown>,
    support: Option<&'a str>,
    as_of: String,
}

impl Page<'_> {
    fn t<'k>(&self, key: &'k str) -> &'k str {
        self.lang.text(key)
    }
}

#[derive(Template)]
#[template(path = "public/nothing.html")]
struct Nothing<'a> {
    lang: Lang,
    base: &'a str,
    text: &'a str,
}

impl Nothing<'_> {
    fn t<'k>(&self, key: &'k str) -> &'k str {
        self.lang.text(key)
    }
}

pub(super) fn nothing(lang: Lang, base: &str, text: &str) -> String {
    Nothing { lang, base, text }.render().unwrap_or_default()
}

/// `url`: the absolute address of the subscription.
pub(super) fn render(subscription: &Subscription, url: &str, lang: Lang, base: &str) -> String {
    let servers = share::labelled(&subscription.servers)
        .into_iter()
        .map(|it| {
            let link = share::links::link(it.server, &it.label);
            let qr = link.as_deref().and_then(qr::svg);
            Shown { label: it.label, kind: it.server.kind.clone(), link, qr }
        })
        .collect();
    let zone = subscription.time_zone.as_deref();
    let page = Page {
        lang,
        languages: Lang::ALL,
        base,
        title: share::one_line(&subscription.profile.title),
        state: match &subscription.cause {
            Some(cause) => cause.sentence(lang, zone),
            None => lang.text(state_key(subscription.state)).to_owned(),
        },
        tone: tone(subscription.state),
        bar: bar(subscription),
        facts: facts(subscription, lang),
        chart: chart(&subscription.days, lang),
        table: table(&subscription.days),
        url,
        qr: qr::svg(url),
        apps: apps(&subscription.profile.title, url),
        files: vec![
            ("sing-box", "?format=sing-box"),
            ("Clash / mihomo", "?format=clash"),
            ("base64", "?format=base64"),
        ],
        servers,
        support: subscription.profile.support_url.as_deref(),
        as_of: lang.fill("self.as_of", &[("time", &minute(&subscription.as_of))]),
    };
    page.render().unwrap_or_default()
}

fn state_key(state: UserState) -> &'static str {
    match state {
        UserState::Active => "state.active",
        UserState::Limited => "state.limited",
        UserState::Throttled => "state.throttled",
        UserState::Expired => "state.expired",
        UserState::Disabled => "state.disabled",
        UserState::Suspended => "state.suspended",
        UserState::Pending => "state.pending",
    }
}

fn tone(state: UserState) -> &'static str {
    match state {
        UserState::Active => "good",
        UserState::Throttled | UserState::Pending => "warn",
        UserState::Limited | UserState::Expired | UserState::Disabled | UserState::Suspended => "bad",
    }
}

/// Green, amber from 80 %, red at the end.
fn bar(subscription: &Subscription) -> Option<Bar> {
    let whole = subscription.total_bytes?;
    let used = subscription.upload_bytes.saturating_add(subscription.download_bytes);
    let percent = match whole {
        0 => 100,
        whole => u64::try_from(u128::from(used) * 100 / u128::from(whole)).unwrap_or(u64::MAX),
    };
    let tone = match percent {
        0..80 => "good",
        80..100 => "warn",
        _ => "bad",
    };
    Some(Bar { percent: percent.min(100), tone })
}

fn minute(time: &Time) -> String {
    time.zoned().strftime("%Y-%m-%d %H:%M").to_string()
}

fn facts(subscription: &Subscription, lang: Lang) -> Vec<(&'static str, String)> {
    let text = |key: &'static str| lang.text(key);
    let none = || lang.text("none").to_owned();
    let size = |bytes: u64| Size(bytes).to_string();
    let used = subscription.upload_bytes.saturating_add(subscription.download_bytes);
    let of = match subscription.total_bytes {
        Some(whole) => lang.fill("self.of", &[("used", &size(used)), ("whole", &size(whole))]),
        None => size(used),
    };
    let left = subscription.total_bytes.map_or_else(none, |whole| size(whole.saturating_sub(used)));
    let mut facts = vec![
        (text("self.used"), of),
        (text("self.left"), left),
        (text("self.upload"), size(subscription.upload_bytes)),
        (text("self.download"), size(subscription.download_bytes)),
    ];
    if subscription.basis == Basis::Period {
        facts.push((text("self.reset"), subscription.period.end.as_ref().map_or_else(none, minute)));
    }
    facts.push((text("self.expires"), subscription.expires_at.as_ref().map_or_else(none, minute)));
    if subscription.packages.remaining_bytes > 0 {
        facts.push((text("self.packages"), size(subscription.packages.remaining_bytes)));
    }
    let speed = |rate: Option<u64>| rate.map_or_else(none, |rate| Rate(rate).to_string());
    if subscription.speed.up.is_some() || subscription.speed.down.is_some() {
        let both = format!("↑ {}  ↓ {}", speed(subscription.speed.up), speed(subscription.speed.down));
        facts.push((text("self.speed"), both));
    }
    facts
}

fn chart(days: &[Day], lang: Lang) -> Chart {
    let sum = |day: &Day| day.upload_bytes.saturating_add(day.download_bytes);
    let most = days.iter().map(sum).max().unwrap_or(0).max(1);
    let height = |bytes: u64| u64::try_from(u128::from(bytes) * 100 / u128::from(most)).unwrap_or(100);
    let bars = days.iter().enumerate().map(|(number, day)| {
        let (up, down) = (height(day.upload_bytes), height(day.download_bytes));
        let (name, upload, download) = row(day);
        ChartBar {
            x: number * STEP + 1,
            up,
            up_y: 100_u64.saturating_sub(up + down),
            down,
            down_y: 100_u64.saturating_sub(down),
            title: format!("{name}: ↑ {upload} ↓ {download}"),
        }
    });
    let most = if days.iter().all(|day| sum(day) == 0) { 0 } else { most };
    let most = Size(most).to_string();
    let values = [("days", &*days.len().to_string()), ("most", &*most)];
    Chart {
        width: days.len().max(1) * STEP,
        label: lang.fill("self.chart", &values),
        ends: days.first().zip(days.last()).map(|(first, last)| (date(first), date(last))),
        bars: bars.collect(),
        most,
    }
}

fn date(day: &Day) -> String {
    day.start.zoned().strftime("%Y-%m-%d").to_string()
}

fn row(day: &Day) -> (String, String, String) {
    (date(day), Size(day.upload_bytes).to_string(), Size(day.download_bytes).to_string())
}

/// The newest day first.
fn table(days: &[Day]) -> Vec<(String, String, String)> {
    days.iter().rev().map(row).collect()
}

/// Links that open an app with the subscription in it.
fn apps(title: &str, url: &str) -> Vec<(&'static str, String)> {
    let (address, name) = (percent(url), percent(&share::one_line(title)));
    vec![
        ("sing-box", format!("sing-box://import-remote-profile?url={address}#{name}")),
        ("Clash / mihomo", format!("clash://install-config?url={address}&name={name}")),
        ("Hiddify", format!("hiddify://import/{url}#{name}")),
        ("Shadowrocket", format!("shadowrocket://add/sub://{}?remark={name}", BASE64.encode(url))),
    ]
}
