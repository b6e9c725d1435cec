//! How terms and moments read in a language: one wording for the command line and the panel.

use jiff::Timestamp;

use crate::{
    api::{
        names::safe,
        reason,
        terms::{PeriodKind, Sharing, SharingAction, Step, Terms, Then},
        told,
        types::{Event, Reason, Time},
    },
    locale::Lang,
    units::Rate,
};

/// The length of the period and the day on which it begins, with the zone if the terms name one.
pub fn period(lang: Lang, terms: &Terms) -> String {
    let day = terms.reset_day.to_string();
    let text = match terms.period {
        PeriodKind::Month => lang.fill("period.month", &[("day", &day)]),
        PeriodKind::Week => lang.fill("period.week", &[("day", lang.text(&format!("weekday.{day}")))]),
        PeriodKind::Day => lang.text("period.day").to_owned(),
        PeriodKind::Days(days) => lang.fill("period.days", &[("days", &days.to_string())]),
        PeriodKind::Never => lang.text("period.never").to_owned(),
    };
    match &terms.time_zone {
        Some(zone) => format!("{text} ({})", safe(zone)),
        None => text,
    }
}

/// What happens at which share of the quota.
pub fn ladder(lang: Lang, steps: &[Step]) -> String {
    let step = |step: &Step| {
        let percent = step.percent.to_string();
        match step.then {
            Then::Cut => lang.fill("terms.step_cut", &[("percent", &percent)]),
            Then::Throttle(speed) => {
                let rate = Rate(speed).to_string();
                lang.fill("terms.step_throttle", &[("percent", &percent), ("rate", &rate)])
            }
        }
    };
    match steps {
        [] => lang.fill("terms.step_cut", &[("percent", "100")]),
        steps => steps.iter().map(step).collect::<Vec<_>>().join(", "),
    }
}

pub fn percents(lang: Lang, percents: &[u16]) -> String {
    match percents {
        [] => lang.text("none").to_owned(),
        some => some.iter().map(|it| format!("{it} %")).collect::<Vec<_>>().join(", "),
    }
}

/// When an account counts as shared, and what is done then.
pub fn sharing(lang: Lang, sharing: &Sharing) -> String {
    if sharing.networks == 0 {
        return lang.text("sharing.off").to_owned();
    }
    let action = match sharing.action {
        SharingAction::Note => lang.text("sharing.note").to_owned(),
        SharingAction::Warn => lang.text("sharing.warn").to_owned(),
        SharingAction::Suspend => lang.text("sharing.suspend").to_owned(),
        SharingAction::Throttle(speed) => {
            lang.fill("sharing.throttle", &[("rate", &Rate(speed).to_string())])
        }
    };
    let (networks, window) = (sharing.networks.to_string(), reason::window(lang, sharing.window_s));
    lang.fill("sharing.text", &[("action", &action), ("networks", &networks), ("window", &window)])
}

/// What an event is called; its kind in words where nobody has named it.
pub fn event_title(lang: Lang, kind: &str) -> String {
    let title = lang.find(&format!("panel.event.{}", kind.replace('.', "_")));
    title.map_or_else(|| kind.replace(['_', '.'], " "), str::to_owned)
}

/// Why an event happened: in the reader's language where the reason is known by its kind, else as
/// the agent said it.
pub fn explanation(lang: Lang, event: &Event) -> String {
    if event.message == event.kind.replace(['_', '.'], " ") {
        return event_title(lang, &event.kind);
    }
    let data = event.data.as_ref();
    let cause = data.and_then(|data| serde_json::from_value::<Reason>(data.get("cause")?.clone()).ok());
    let zone = data.and_then(|data| data.get("time_zone")?.as_str());
    let zoned = event.at.zoned();
    let told = data.and_then(|data| told::sentence(&event.kind, data, zoned.time_zone(), lang));
    match cause {
        // The agent's own sentence is English already, and may say more than the reason.
        Some(cause) if lang != Lang::En => cause.sentence(lang, zone),
        _ if lang != Lang::En => told.unwrap_or_else(|| event.message.clone()),
        _ => event.message.clone(),
    }
}

/// A moment to the minute, in the offset that it came with.
pub fn minute(time: &Time) -> String {
    time.zoned().strftime("%Y-%m-%d %H:%M").to_string()
}

/// A moment to the second.
pub fn second(time: &Time) -> String {
    time.zoned().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How far a moment is from `now`, in one unit: `12 min ago`, `in 3 d`.
pub fn distance(lang: Lang, time: &Time, now: Timestamp) -> String {
    let seconds = time.instant.as_second() - now.as_second();
    let (count, unit) = match seconds.unsigned_abs() {
        0..60 => return lang.text("panel.time.now").to_owned(),
        it @ 60..3_600 => (it / 60, "panel.time.minutes"),
        it @ 3_600..172_800 => (it / 3_600, "panel.time.hours"),
        it => (it / 86_400, "panel.time.days"),
    };
    let span = lang.fill(unit, &[("n", &count.to_string())]);
    lang.fill(if seconds < 0 { "panel.time.ago" } else { "panel.time.in" }, &[("span", &span)])
}
