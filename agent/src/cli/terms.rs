//! The options that say what a user or a policy may do, and how terms look to people.

mod sharing;

use boxmeter_web::{
    api::terms::{Overrides, PeriodKind, Sharing, Step, Terms, Then, Wins},
    backend::ApiError,
    wording,
};
use clap::Args;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, bytes, rate},
};
use crate::units::{is_off, parse_rate, parse_size};
use sharing::sharing;

/// What an option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given<T> {
    /// As the policy has it.
    Policy,
    Own(T),
}

type Limit<T> = Given<Option<T>>;

/// An option that is not given stays as it is, or comes from the policy.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits (0 or none: no limit; policy: as the policy says)")]
pub struct TermsArgs {
    /// Bytes per period, as 100GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    quota: Option<Limit<u64>>,
    /// Bytes over all time.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    total_quota: Option<Limit<u64>>,
    /// The day on which a period begins: 1 to 31 of a month, the last day where a month is
    /// shorter; 1 (Monday) to 7 of a week.
    #[arg(long, value_name = "DAY", value_parser = reset_day)]
    reset_day: Option<Given<u8>>,
    /// The length of a period: month, week, day, a number of days as 30d, or never.
    #[arg(long, value_name = "PERIOD", value_parser = period)]
    period: Option<Given<PeriodKind>>,
    /// The time zone of the periods, as Asia/Shanghai.
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    time_zone: Option<Given<String>>,
    /// The most that the user may send, as 1MiB/s or 8Mbit/s.
    #[arg(long, value_name = "RATE", value_parser = speed)]
    speed_up: Option<Limit<u64>>,
    /// The most that the user may receive.
    #[arg(long, value_name = "RATE", value_parser = speed)]
    speed_down: Option<Limit<u64>>,
    /// Connections at a time.
    #[arg(long, value_name = "N", value_parser = count)]
    max_flows: Option<Limit<u32>>,
    /// Client addresses at a time.
    #[arg(long, value_name = "N", value_parser = count)]
    max_addresses: Option<Limit<u32>>,
    /// Who stays when there are too many connections or addresses: newest or oldest.
    #[arg(long, value_name = "WHO", value_parser = wins)]
    wins: Option<Given<Wins>>,
    /// When the quota is used up: cut, throttle:RATE, or steps as 100=throttle:1MiB/s,120=cut.
    #[arg(long, value_name = "STEPS", value_parser = over_quota)]
    over_quota: Option<Given<Vec<Step>>>,
    /// Percentages of the quota at which to warn, as 80,95; none for no warnings.
    #[arg(long, value_name = "PERCENT,…", value_parser = warn)]
    warn: Option<Given<Vec<u16>>>,
    /// Whether what is left of a period's quota becomes a package: yes or no.
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no)]
    rollover: Option<Given<bool>>,
    /// Days from the first use until the user expires.
    #[arg(long, value_name = "DAYS", value_parser = count)]
    valid_days: Option<Limit<u32>>,
    /// When an account is shared: note, warn, suspend or throttle:RATE; with more than so many
    /// networks within so long before it, as 3/5m=warn; 0 for never.
    #[arg(long, value_name = "ACTION", value_parser = sharing)]
    sharing: Option<Given<Sharing>>,
}

impl TermsArgs {
    /// The terms that are given, and the names of those that the policy is to say again.
    pub fn read(self) -> (Overrides, Vec<String>) {
        let mut inherit = Vec::new();
        let mut own = Overrides::default();
        macro_rules! take {
            ($($option:ident => $field:ident),*) => {
                $(match self.$option {
                    None => {}
                    Some(Given::Own(value)) => own.$field = Some(value.into()),
                    Some(Given::Policy) => inherit.push(stringify!($field).to_owned()),
                })*
            };
        }
        take!(
            quota => quota_bytes, total_quota => total_quota_bytes, period => period,
            reset_day => reset_day, time_zone => time_zone, speed_up => speed_up,
            speed_down => speed_down, max_flows => max_flows, max_addresses => max_addresses,
            wins => wins, over_quota => over_quota, warn => warn_percents, rollover => rollover,
            valid_days => valid_days, sharing => sharing
        );
        (own, inherit)
    }

    /// The terms of a policy, behind which there is no other.
    ///
    /// # Errors
    /// `BadRequest` where an option says `policy`.
    pub fn read_for_policy(self) -> Result<Overrides, Failure> {
        let (own, inherit) = self.read();
        match inherit.first() {
            None => Ok(own),
            Some(name) => {
                let option = name.trim_end_matches("_bytes").trim_end_matches("_percents").replace('_', "-");
                let text =
                    format!("--{option} policy: a policy has no policy behind it; give a value or none");
                Err(ApiError::bad_request(text).into())
            }
        }
    }
}

/// `policy`, or what `read` makes of it.
fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Given<T>, String> {
    match text.trim() {
        word if word.eq_ignore_ascii_case("policy") => Ok(Given::Policy),
        word => read(word).map(Given::Own),
    }
}

fn size(text: &str) -> Result<Limit<u64>, String> {
    given(text, |text| parse_size(text).map_err(|error| error.to_string()))
}

/// A rate, not below what the contract takes.
fn speed(text: &str) -> Result<Limit<u64>, String> {
    given(text, |text| {
        let rate = parse_rate(text).map_err(|error| error.to_string())?;
        checked(Overrides { speed_up: Some(rate), ..Overrides::default() }, rate)
    })
}

fn count(text: &str) -> Result<Limit<u32>, String> {
    given(text, |text| match text {
        word if is_off(word) => Ok(None),
        number => match number.parse() {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(_) => Err("give a whole number, or 0 for no limit".to_owned()),
        },
    })
}

fn reset_day(text: &str) -> Result<Given<u8>, String> {
    given(text, |text| {
        let day = text.parse().ok().filter(|day| (1..=31).contains(day));
        day.ok_or_else(|| "give a day from 1 to 31".to_owned())
    })
}

fn period(text: &str) -> Result<Given<PeriodKind>, String> {
    given(text, |text| {
        let period = match text {
            "month" => PeriodKind::Month,
            "week" => PeriodKind::Week,
            "day" => PeriodKind::Day,
            "never" => PeriodKind::Never,
            days => match days.strip_suffix('d').and_then(|days| days.parse().ok()) {
                Some(days) => PeriodKind::Days(days),
                None => return Err("give month, week, day, a number of days as 30d, or never".to_owned()),
            },
        };
        checked(Overrides { period: Some(period), ..Overrides::default() }, period)
    })
}

fn zone(text: &str) -> Result<Given<String>, String> {
    given(text, |text| {
        let name = text.to_owned();
        checked(Overrides { time_zone: Some(Some(name.clone())), ..Overrides::default() }, name)
    })
}

fn wins(text: &str) -> Result<Given<Wins>, String> {
    given(text, |text| match text {
        "newest" => Ok(Wins::Newest),
        "oldest" => Ok(Wins::Oldest),
        _ => Err("give newest or oldest".to_owned()),
    })
}

fn yes_or_no(text: &str) -> Result<Given<bool>, String> {
    given(text, |text| match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("give yes or no".to_owned()),
    })
}

const OVER_QUOTA_FORMS: &str = "give cut, throttle:RATE as throttle:1MiB/s, or steps by rising \
                                percentage as 100=throttle:1MiB/s,120=cut; to have no quota, give \
                                --quota none";

fn over_quota(text: &str) -> Result<Given<Vec<Step>>, String> {
    given(text, |text| {
        let mut steps = Vec::new();
        for part in text.split(',') {
            let (percent, then) = part.split_once('=').unwrap_or(("100", part));
            let percent = percent.trim().trim_end_matches('%').trim().parse();
            let (Ok(percent), Some(then)) = (percent, then_of(then.trim())?) else {
                return Err(OVER_QUOTA_FORMS.to_owned());
            };
            steps.push(Step { percent, then });
        }
        checked(Overrides { over_quota: Some(steps.clone()), ..Overrides::default() }, steps)
    })
}

/// `None`: no word that is known.
fn then_of(text: &str) -> Result<Option<Then>, String> {
    if text == "cut" {
        return Ok(Some(Then::Cut));
    }
    Ok(throttle(text)?.map(Then::Throttle))
}

/// The rate of `throttle:RATE`; `None` where it is something else.
fn throttle(text: &str) -> Result<Option<u64>, String> {
    let Some(text) = text.strip_prefix("throttle:") else { return Ok(None) };
    match parse_rate(text) {
        Ok(Some(rate)) => Ok(Some(rate)),
        Ok(None) => Err("throttle:0 would be no limit: give a rate, or cut".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn warn(text: &str) -> Result<Given<Vec<u16>>, String> {
    given(text, |text| {
        if is_off(text) {
            return Ok(Vec::new());
        }
        let percents: Result<Vec<u16>, _> =
            text.split(',').map(|it| it.trim().trim_end_matches('%').trim().parse()).collect();
        let percents = percents.map_err(|_| "give percentages as 80,95, or none".to_owned())?;
        checked(Overrides { warn_percents: Some(percents.clone()), ..Overrides::default() }, percents)
    })
}

/// The value, if the contract takes it. The option's name stands before the message already.
fn checked<T>(own: Overrides, value: T) -> Result<T, String> {
    match own.check() {
        Ok(()) => Ok(value),
        Err(error) => {
            let field = error.field.unwrap_or_default();
            let text = error.message.strip_prefix(&format!("{field}: ")).unwrap_or(&error.message);
            Err(text.to_owned())
        }
    }
}

/// The terms as keys and values, one per line; a user's own are marked.
pub fn lines(context: &Context, terms: &Terms, own: &Overrides) -> Vec<(&'static str, String)> {
    let none = || context.text("none").to_owned();
    let size = |value: Option<u64>| value.map_or_else(none, bytes);
    let speed = |value: Option<u64>| value.map_or_else(none, rate);
    let count = |value: Option<u32>| value.map_or_else(none, |it| it.to_string());
    let yes_or_no = if terms.rollover { "yes" } else { "no" };
    let speeds = format!("↑ {}  ↓ {}", speed(terms.speed_up), speed(terms.speed_down));
    let period_fields = ["period", "reset_day", "time_zone"];
    let lines: [(&str, &[&str], String); 12] = [
        ("terms.quota", &["quota_bytes"], size(terms.quota_bytes)),
        ("terms.total_quota", &["total_quota_bytes"], size(terms.total_quota_bytes)),
        ("terms.period", &period_fields, period_text(context, terms)),
        ("terms.over_quota", &["over_quota"], ladder(context, &terms.over_quota)),
        ("terms.warn", &["warn_percents"], wording::percents(context.lang, &terms.warn_percents)),
        ("terms.rollover", &["rollover"], context.text(yes_or_no).to_owned()),
        ("terms.speed", &["speed_up", "speed_down"], speeds),
        ("terms.max_flows", &["max_flows"], count(terms.max_flows)),
        ("terms.max_addresses", &["max_addresses"], count(terms.max_addresses)),
        ("terms.wins", &["wins"], context.text(wins_key(terms.wins)).to_owned()),
        ("terms.valid_days", &["valid_days"], count(terms.valid_days)),
        ("terms.sharing", &["sharing"], wording::sharing(context.lang, &terms.sharing)),
    ];
    let marked = |fields: &[&str], value: String| match fields.iter().any(|field| own.has(field)) {
        true => format!("{value} {}", context.paint(Tone::Dim, context.text("terms.own"))),
        false => value,
    };
    lines.into_iter().map(|(key, fields, value)| (key, marked(fields, value))).collect()
}

fn wins_key(wins: Wins) -> &'static str {
    match wins {
        Wins::Newest => "terms.newest",
        Wins::Oldest => "terms.oldest",
    }
}

/// The length of the period and the day on which it begins.
pub fn period_text(context: &Context, terms: &Terms) -> String {
    wording::period(context.lang, terms)
}

/// The steps, as they are typed.
pub fn ladder(context: &Context, steps: &[Step]) -> String {
    wording::ladder(context.lang, steps)
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        terms: TermsArgs,
    }

    fn read(words: &[&str]) -> Result<(Overrides, Vec<String>), String> {
        let command = <Only as clap::CommandFactory>::command();
        let matches = command.try_get_matches_from([&["x"], words].concat());
        let only = matches.and_then(|it| Only::from_arg_matches(&it)).map_err(|error| error.to_string())?;
        Ok(only.terms.read())
    }

    #[test]
    fn every_option_becomes_its_field() {
        let words = "--quota 100G --total-quota none --reset-day 31 --period 30d --time-zone Asia/Shanghai \
                     --speed-up 8Mbit/s --speed-down 0 --max-flows 7 --max-addresses none --wins oldest \
                     --over-quota 100=throttle:1MiB/s,120=cut --warn 50,90% --rollover yes \
                     --valid-days 30 --sharing 5/10m=throttle:1MiB/s";
        let (own, inherit) = read(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(inherit, Vec::<String>::new());
        let json = serde_json::to_string(&own).unwrap().replace(",\"", ",\n\"");
        insta::assert_snapshot!(json, @r#"
        {"quota_bytes":107374182400,
        "total_quota_bytes":null,
        "period":{"days":30},
        "reset_day":31,
        "time_zone":"Asia/Shanghai",
        "speed_up":1000000,
        "speed_down":null,
        "max_flows":7,
        "max_addresses":null,
        "wins":"oldest",
        "over_quota":[{"percent":100,
        "then":{"throttle":1048576}},{"percent":120,
        "then":"cut"}],
        "warn_percents":[50,90],
        "rollover":true,
        "valid_days":30,
        "sharing":{"networks":5,
        "window_s":600,
        "action":{"throttle":1048576}}}
        "#);
    }

    #[test]
    fn policy_gives_a_value_back() {
        let (own, inherit) =
            read(&["--quota", "policy", "--over-quota", "policy", "--max-flows", "0"]).unwrap();
        assert_eq!(inherit, ["quota_bytes", "over_quota"]);
        assert_eq!(serde_json::to_string(&own).unwrap(), r#"{"max_flows":null}"#);
        let terms = TermsArgs { warn: Some(Given::Policy), ..TermsArgs::default() };
        let Err(Failure::Told(error)) = terms.read_for_policy() else { panic!("taken") };
        assert!(error.message.starts_with("--warn policy:"), "{error}");
    }

    #[test]
    fn over_quota_has_a_short_and_a_long_form() {
        let steps = |text: &str| read(&["--over-quota", text]).unwrap().0.over_quota.unwrap();
        assert_eq!(steps("cut"), [Step { percent: 100, then: Then::Cut }]);
        assert_eq!(steps("throttle:8Mbit/s"), [Step { percent: 100, then: Then::Throttle(1_000_000) }]);
        assert_eq!(
            steps("100% = throttle:1M, 120 = cut"),
            [Step { percent: 100, then: Then::Throttle(1 << 20) }, Step { percent: 120, then: Then::Cut }]
        );
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        for (option, value, words) in [
            ("--quota", "100Gi/s", "use B, KiB, MiB"),
            ("--quota", "lots", "write for example 100GiB"),
            ("--speed-up", "1Mbit/h", "MiB/s or Mbit/s"),
            ("--speed-down", "100", "give at least 1024"),
            ("--max-flows", "many", "0 for no limit"),
            ("--max-addresses", "-1", "0 for no limit"),
            ("--reset-day", "32", "1 to 31"),
            ("--reset-day", "none", "1 to 31"),
            ("--period", "fortnight", "30d, or never"),
            ("--period", "0d", "1 to 3660"),
            ("--time-zone", "Mars", "Asia/Shanghai"),
            ("--wins", "both", "newest or oldest"),
            ("--over-quota", "stop", "100=throttle:1MiB/s,120=cut"),
            ("--over-quota", "none", "--quota none"),
            ("--over-quota", "throttle:0", "give a rate, or cut"),
            ("--over-quota", "throttle:fast", "write for example"),
            ("--over-quota", "100=cut,120=cut", "nothing can follow"),
            ("--over-quota", "x=cut", "rising percentage"),
            ("--warn", "most", "80,95"),
            ("--warn", "80,2000", "1 to 1000"),
            ("--rollover", "maybe", "yes or no"),
            ("--sharing", "ban/5m", "3/5m=warn"),
            ("--sharing", "ban", "3/5m=warn"),
            ("--sharing", "3/5=warn", "3/5m=warn"),
            ("--sharing", "3/1s=warn", "10 to 86400"),
        ] {
            let error = read(&[&format!("{option}={value}")]).unwrap_err();
            assert!(error.contains(words) && error.contains(option), "{option} {value}: {error}");
        }
    }
}
