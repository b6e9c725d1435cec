//! The terms of a user or a policy as fields of a form, and back. An empty field of a user means
//! what the policy says; an empty field of a policy means no limit, or the usual. 0 is no limit.

use super::{
    form::{Fields, Form},
    terms_values::{count, count_field, ladder_field, percents, rate, rate_field, size, size_field},
};
use crate::{
    api::terms::{Overrides, PeriodKind, Sharing, SharingAction, Step, Terms, Then, Wins},
    locale::Lang,
};

/// The names of the fields, as they stand in the template.
pub const FIELDS: &[&str] = &[
    "quota",
    "total_quota",
    "period",
    "period_days",
    "reset_day",
    "time_zone",
    "speed_up",
    "speed_down",
    "max_flows",
    "max_addresses",
    "wins",
    "over",
    "over_rate",
    "warn",
    "rollover",
    "valid_days",
    "sharing",
    "sharing_networks",
    "sharing_minutes",
    "sharing_rate",
];

/// Puts terms into the fields; those that are not given stay empty.
pub fn fill(fields: &mut Fields, own: &Overrides) {
    let mut set = |name: &str, value: Option<String>| fields.set(name, value.unwrap_or_default());
    set("quota", own.quota_bytes.map(size_field));
    set("total_quota", own.total_quota_bytes.map(size_field));
    let (period, days) = match own.period {
        None => ("", String::new()),
        Some(PeriodKind::Month) => ("month", String::new()),
        Some(PeriodKind::Week) => ("week", String::new()),
        Some(PeriodKind::Day) => ("day", String::new()),
        Some(PeriodKind::Days(days)) => ("days", days.to_string()),
        Some(PeriodKind::Never) => ("never", String::new()),
    };
    set("period", Some(period.to_owned()));
    set("period_days", Some(days));
    set("reset_day", own.reset_day.map(|it| it.to_string()));
    set("time_zone", own.time_zone.clone().flatten());
    set("speed_up", own.speed_up.map(rate_field));
    set("speed_down", own.speed_down.map(rate_field));
    set("max_flows", own.max_flows.map(count_field));
    set("max_addresses", own.max_addresses.map(count_field));
    set("valid_days", own.valid_days.map(count_field));
    set("wins", own.wins.map(|it| if it == Wins::Newest { "newest" } else { "oldest" }.to_owned()));
    set("rollover", own.rollover.map(|it| if it { "yes" } else { "no" }.to_owned()));
    let ladder = own.over_quota.as_deref().map(ladder_field).unwrap_or_default();
    set("over", Some(ladder.0.to_owned()));
    set("over_rate", Some(ladder.1));
    set("warn", own.warn_percents.as_ref().map(|it| percents_field(it)));
    fill_sharing(fields, own.sharing.as_ref());
}

fn percents_field(percents: &[u16]) -> String {
    match percents {
        [] => "0".to_owned(),
        some => some.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn fill_sharing(fields: &mut Fields, sharing: Option<&Sharing>) {
    let Some(it) = sharing else { return };
    let (action, speed) = match it.action {
        SharingAction::Note => ("note", None),
        SharingAction::Warn => ("warn", None),
        SharingAction::Suspend => ("suspend", None),
        SharingAction::Throttle(speed) => ("throttle", Some(speed)),
    };
    fields.set("sharing", action);
    fields.set("sharing_networks", it.networks.to_string());
    fields.set("sharing_minutes", minutes(it.window_s).to_string());
    fields.set("sharing_rate", speed.map(|it| rate_field(Some(it))).unwrap_or_default());
}

/// Whole minutes, as the form has them.
fn minutes(seconds: u32) -> u32 {
    seconds.div_ceil(60)
}

/// All terms of a policy, as if each were given.
pub fn of_terms(terms: &Terms) -> Overrides {
    Overrides {
        quota_bytes: terms.quota_bytes.map(Some),
        total_quota_bytes: terms.total_quota_bytes.map(Some),
        period: Some(terms.period),
        reset_day: Some(terms.reset_day),
        time_zone: terms.time_zone.clone().map(Some),
        speed_up: terms.speed_up.map(Some),
        speed_down: terms.speed_down.map(Some),
        max_flows: terms.max_flows.map(Some),
        max_addresses: terms.max_addresses.map(Some),
        wins: Some(terms.wins),
        over_quota: Some(terms.over_quota.clone()),
        warn_percents: Some(terms.warn_percents.clone()),
        rollover: Some(terms.rollover),
        valid_days: terms.valid_days.map(Some),
        sharing: Some(terms.sharing),
    }
}

/// What was typed, as terms; mistakes go to their fields. `before` is what stood there: a ladder of
/// several steps cannot be typed here and stays as it was, and so do seconds beside minutes.
pub fn read(lang: Lang, form: &Form, before: &Overrides, fields: &mut Fields) -> Overrides {
    let own = Overrides {
        quota_bytes: size(lang, form.get("quota"), "quota", fields),
        total_quota_bytes: size(lang, form.get("total_quota"), "total_quota", fields),
        period: period(lang, form, fields),
        reset_day: reset_day(lang, form, fields),
        time_zone: form.some("time_zone").map(|zone| Some(zone.to_owned())),
        speed_up: rate(lang, form.get("speed_up"), "speed_up", fields),
        speed_down: rate(lang, form.get("speed_down"), "speed_down", fields),
        max_flows: count(lang, form.get("max_flows"), "max_flows", fields),
        max_addresses: count(lang, form.get("max_addresses"), "max_addresses", fields),
        wins: match form.get("wins") {
            "newest" => Some(Wins::Newest),
            "oldest" => Some(Wins::Oldest),
            _ => None,
        },
        over_quota: over_quota(lang, form, before, fields),
        warn_percents: percents(lang, form.get("warn"), "warn", fields),
        rollover: match form.get("rollover") {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        },
        valid_days: count(lang, form.get("valid_days"), "valid_days", fields),
        sharing: sharing(lang, form, before, fields),
    };
    if let Err(error) = own.check() {
        fields.refused(lang, &error);
    }
    own
}

fn period(lang: Lang, form: &Form, fields: &mut Fields) -> Option<PeriodKind> {
    match form.get("period") {
        "month" => Some(PeriodKind::Month),
        "week" => Some(PeriodKind::Week),
        "day" => Some(PeriodKind::Day),
        "never" => Some(PeriodKind::Never),
        "days" => match form.get("period_days").parse() {
            Ok(days) => Some(PeriodKind::Days(days)),
            Err(_) => {
                fields.fail("period_days", lang.text("panel.invalid.count"));
                None
            }
        },
        _ => None,
    }
}

fn reset_day(lang: Lang, form: &Form, fields: &mut Fields) -> Option<u8> {
    let text = form.some("reset_day")?;
    let day = text.parse().ok().filter(|day| (1..=31).contains(day));
    if day.is_none() {
        fields.fail("reset_day", lang.text("panel.invalid.reset_day"));
    }
    day
}

/// A rate that must be there: 0 would mean none.
fn needed_rate(lang: Lang, form: &Form, name: &str, fields: &mut Fields) -> Option<u64> {
    let given = rate(lang, form.get(name), name, fields).flatten();
    if given.is_none() {
        fields.fail(name, lang.text("panel.invalid.rate_needed"));
    }
    given
}

fn over_quota(lang: Lang, form: &Form, before: &Overrides, fields: &mut Fields) -> Option<Vec<Step>> {
    match form.get("over") {
        "cut" => Some(Vec::new()),
        "throttle" => {
            let rate = needed_rate(lang, form, "over_rate", fields)?;
            Some(vec![Step { percent: 100, then: Then::Throttle(rate) }])
        }
        "steps" => before.over_quota.clone(),
        _ => None,
    }
}

fn sharing(lang: Lang, form: &Form, before: &Overrides, fields: &mut Fields) -> Option<Sharing> {
    let action = match form.get("sharing") {
        "note" => SharingAction::Note,
        "warn" => SharingAction::Warn,
        "suspend" => SharingAction::Suspend,
        "throttle" => SharingAction::Throttle(needed_rate(lang, form, "sharing_rate", fields)?),
        _ => return None,
    };
    let usual = Sharing::default();
    let mut number = |name: &str, usual: u32| match form.some(name).map(str::parse) {
        None => usual,
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            fields.fail(name, lang.text("panel.invalid.count"));
            usual
        }
    };
    let networks = number("sharing_networks", usual.networks);
    let typed = number("sharing_minutes", minutes(usual.window_s));
    // Minutes that were not touched are the seconds that they stood for.
    let kept = before.sharing.map(|it| it.window_s).filter(|it| minutes(*it) == typed);
    Some(Sharing { networks, window_s: kept.unwrap_or(typed.saturating_mul(60)), action })
}

/// The names of terms that had an own value and have none any more.
pub fn given_back(before: &Overrides, now: &Overrides) -> Vec<String> {
    let names = Overrides::FIELDS.iter().filter(|name| before.has(name) && !now.has(name));
    names.map(|name| (*name).to_owned()).collect()
}

/// What a change of a policy must say: a limit that is not given is none.
pub fn whole(own: Overrides) -> Overrides {
    let usual = Terms::default();
    Overrides {
        quota_bytes: Some(own.quota_bytes.flatten()),
        total_quota_bytes: Some(own.total_quota_bytes.flatten()),
        period: Some(own.period.unwrap_or(usual.period)),
        reset_day: Some(own.reset_day.unwrap_or(usual.reset_day)),
        time_zone: Some(own.time_zone.flatten()),
        speed_up: Some(own.speed_up.flatten()),
        speed_down: Some(own.speed_down.flatten()),
        max_flows: Some(own.max_flows.flatten()),
        max_addresses: Some(own.max_addresses.flatten()),
        wins: Some(own.wins.unwrap_or(usual.wins)),
        over_quota: Some(own.over_quota.unwrap_or(usual.over_quota)),
        warn_percents: Some(own.warn_percents.unwrap_or(usual.warn_percents)),
        rollover: Some(own.rollover.unwrap_or(usual.rollover)),
        valid_days: Some(own.valid_days.flatten()),
        sharing: Some(own.sharing.unwrap_or(usual.sharing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(fields: &Fields) -> Form {
        Form::of(fields.values().iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn back(own: &Overrides) -> Overrides {
        let mut fields = Fields::default();
        fill(&mut fields, own);
        let mut again = Fields::default();
        let read = read(Lang::En, &form_of(&fields), own, &mut again);
        assert!(!again.wrong(), "{again:?}");
        read
    }

    #[test]
    fn terms_survive_their_form() {
        assert_eq!(back(&Overrides::default()), Overrides::default());
        let own = Overrides {
            quota_bytes: Some(None),
            total_quota_bytes: Some(Some(123_456_789_012)),
            period: Some(PeriodKind::Days(45)),
            reset_day: Some(31),
            time_zone: Some(Some("Asia/Shanghai".to_owned())),
            speed_up: Some(Some(12_500_000)),
            speed_down: Some(Some(5 << 20)),
            max_flows: Some(Some(7)),
            max_addresses: Some(None),
            wins: Some(Wins::Oldest),
            over_quota: Some(vec![Step { percent: 100, then: Then::Throttle(1 << 20) }]),
            warn_percents: Some(vec![50, 90]),
            rollover: Some(true),
            valid_days: Some(Some(30)),
            sharing: Some(Sharing { networks: 5, window_s: 600, action: SharingAction::Throttle(1 << 20) }),
        };
        assert_eq!(back(&own), own);
        let steps =
            vec![Step { percent: 90, then: Then::Throttle(1 << 20) }, Step { percent: 120, then: Then::Cut }];
        let own = Overrides { over_quota: Some(steps), ..Overrides::default() };
        assert_eq!(back(&own), own);
        let terms = Terms { quota_bytes: Some(5), rollover: true, ..Terms::default() };
        assert_eq!(Terms::default().with(&whole(back(&of_terms(&terms)))), terms);
    }

    #[test]
    fn seconds_that_nobody_touched_stay() {
        let of = |window_s| Sharing { networks: 4, window_s, action: SharingAction::Warn };
        let own = Overrides { sharing: Some(of(90)), ..Overrides::default() };
        assert_eq!(back(&own), own, "a minute and a half");
        let mut fields = Fields::default();
        fill(&mut fields, &own);
        fields.set("sharing_minutes", "1");
        let typed = read(Lang::En, &form_of(&fields), &own, &mut Fields::default());
        assert_eq!(typed.sharing, Some(of(60)), "what is typed is what is typed");
    }

    #[test]
    fn what_is_emptied_goes_back_to_the_policy() {
        let before = Overrides { quota_bytes: Some(Some(1)), max_flows: Some(None), ..Overrides::default() };
        let now = Overrides { quota_bytes: Some(Some(2)), ..Overrides::default() };
        assert_eq!(given_back(&before, &now), ["max_flows"]);
    }

    #[test]
    fn mistakes_are_told_at_their_fields() {
        let pairs = [
            ("quota", "12 XB", "quota"),
            ("speed_up", "5 bananas", "speed_up"),
            ("max_flows", "-1", "max_flows"),
            ("reset_day", "32", "reset_day"),
            ("time_zone", "Mars/Base", "time_zone"),
            ("over", "throttle", "over_rate"),
            ("sharing", "throttle", "sharing_rate"),
            ("period", "days", "period_days"),
            ("warn", "many", "warn"),
            ("speed_down", "10", "speed_down"),
        ];
        for lang in Lang::ALL {
            for (name, value, field) in pairs {
                let form = Form::of(vec![(name.to_owned(), value.to_owned())]);
                let mut fields = Fields::default();
                read(lang, &form, &Overrides::default(), &mut fields);
                assert!(!fields.e(field).is_empty(), "{name}={value}: {fields:?}");
                let ascii = fields.e(field).is_ascii();
                assert!(lang == Lang::En || !ascii, "{name}: {}", fields.e(field));
            }
        }
    }
}
