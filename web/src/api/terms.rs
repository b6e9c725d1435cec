//! What a policy allows and what a user has instead of it, as JSON. The names are those of the
//! ledger's format: fields may be added, never renamed.

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
};

/// The least rate that a user may be given, in bytes per second: below it handshakes time out, and
/// a user who should have nothing is disabled.
pub const SPEED_MIN: u64 = 1 << 10;
/// The highest percentage of a quota that a step or a warning may name.
pub const PERCENT_MAX: u16 = 1_000;
/// Steps of a ladder and warnings of one policy.
pub const STEPS_MAX: usize = 16;
/// The longest period, in days.
pub const PERIOD_DAYS_MAX: u16 = 3_660;

/// Writes [`Terms`] and [`Overrides`] from one list, so that no field is in one and not the other.
macro_rules! terms {
    ($($(#[$meta:meta])* $name:ident: $type:ty,)*) => {
        /// Everything that a policy says. `None` is no limit.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Terms {
            $($(#[$meta])* pub $name: $type,)*
        }

        /// Some terms: a user's own instead of the policy's, or a change. A field that is not
        /// there comes from the policy, or stays; `null` is no limit.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Overrides {
            $(
                $(#[$meta])*
                #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
                pub $name: Option<$type>,
            )*
        }

        impl Terms {
            /// The terms with some of them replaced.
            #[must_use]
            pub fn with(&self, own: &Overrides) -> Terms {
                Terms {
                    $($name: own.$name.clone().unwrap_or_else(|| self.$name.clone()),)*
                }
            }
        }

        impl Overrides {
            /// The names of all fields.
            pub const FIELDS: &[&str] = &[$(stringify!($name)),*];

            pub fn is_empty(&self) -> bool {
                true $(&& self.$name.is_none())*
            }

            /// Whether the field of this name is given.
            pub fn has(&self, name: &str) -> bool {
                match name {
                    $(stringify!($name) => self.$name.is_some(),)*
                    _ => false,
                }
            }

            /// Takes over what `change` gives.
            pub fn merge(&mut self, change: &Overrides) {
                $(if change.$name.is_some() {
                    self.$name.clone_from(&change.$name);
                })*
            }

            /// What of these terms is not so in `other`.
            #[must_use]
            pub fn without(&self, other: &Overrides) -> Overrides {
                Overrides {
                    $($name: self.$name.clone().filter(|it| other.$name.as_ref() != Some(it)),)*
                }
            }

            /// Gives a field back to the policy; `false` if there is none of this name.
            pub fn give_back(&mut self, name: &str) -> bool {
                match name {
                    $(stringify!($name) => self.$name = None,)*
                    _ => return false,
                }
                true
            }
        }

        impl FromFields for Overrides {
            fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
                Ok(Overrides { $($name: fields.take(stringify!($name))?,)* })
            }
        }
    };
}

terms! {
    /// Bytes per period.
    quota_bytes: Option<u64>,
    /// Bytes over all time.
    total_quota_bytes: Option<u64>,
    period: PeriodKind,
    /// Month: 1–31, clamped to the month's last day. Week: 1 (Monday) – 7.
    reset_day: u8,
    /// IANA name; in a policy `None` is the zone of billing.
    time_zone: Option<String>,
    /// Bytes per second.
    speed_up: Option<u64>,
    speed_down: Option<u64>,
    max_flows: Option<u32>,
    /// Distinct client addresses at a time (IPv6 by /64).
    max_addresses: Option<u32>,
    /// Who stays when there are more addresses or flows than allowed.
    wins: Wins,
    /// What happens at which share of the period's quota, by rising percentage. Empty: cut at 100.
    over_quota: Vec<Step>,
    /// Percentages of the quota at which people are warned, once per period.
    warn_percents: Vec<u16>,
    /// What is left of the period's quota becomes a package for the next period.
    rollover: bool,
    /// Days from the first use until the user expires.
    valid_days: Option<u32>,
    sharing: Sharing,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            quota_bytes: None,
            total_quota_bytes: None,
            period: PeriodKind::Month,
            reset_day: 1,
            time_zone: None,
            speed_up: None,
            speed_down: None,
            max_flows: None,
            max_addresses: None,
            wins: Wins::Newest,
            over_quota: Vec::new(),
            warn_percents: vec![80, 95, 100],
            rollover: false,
            valid_days: None,
            sharing: Sharing::default(),
        }
    }
}

/// The length of the billing window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeriodKind {
    #[default]
    Month,
    Week,
    Day,
    /// Every so many days, from the day on which the user was made.
    Days(u16),
    Never,
}

/// Which flows or addresses stay when there are too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wins {
    #[default]
    Newest,
    Oldest,
}

/// From `percent` of the period's quota on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub percent: u16,
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    Cut,
    /// Bytes per second, each direction.
    Throttle(u64),
}

/// When many networks use one account at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharing {
    /// More distinct networks than this within the window are suspicious; 0 is off.
    pub networks: u32,
    pub window_s: u32,
    pub action: SharingAction,
}

impl Default for Sharing {
    fn default() -> Self {
        Sharing { networks: 3, window_s: 300, action: SharingAction::Note }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharingAction {
    /// Told in the events.
    #[default]
    Note,
    Warn,
    /// Bytes per second, each direction, while it lasts.
    Throttle(u64),
    /// Cut until an admin enables the user.
    Suspend,
}

/// A field that is there, `null` included.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Overrides {
    /// The own terms after a change: `change` replaces, `inherit` gives back to the policy.
    ///
    /// # Errors
    /// `Invalid` for a name that is no term, or one that is both given and given back.
    pub fn changed(&self, change: &Overrides, inherit: &[String]) -> Result<Overrides, ApiError> {
        let mut own = self.clone();
        own.merge(change);
        for name in inherit {
            if change.has(name) {
                let text = format!("{name} is given and given back to the policy: do one of both");
                return Err(ApiError::invalid("inherit", text));
            }
            if !own.give_back(name) {
                let known = Overrides::FIELDS.join(", ");
                return Err(ApiError::invalid("inherit", format!("{name:?} is none of {known}")));
            }
        }
        Ok(own)
    }

    /// What can be said about the values without knowing the policy.
    ///
    /// # Errors
    /// `Invalid` with the field's name and what would be right.
    pub fn check(&self) -> Result<(), ApiError> {
        for (name, size) in [("quota_bytes", self.quota_bytes), ("total_quota_bytes", self.total_quota_bytes)]
        {
            check_size(name, size.flatten())?;
        }
        for (name, rate) in [("speed_up", self.speed_up), ("speed_down", self.speed_down)] {
            check_rate(name, rate.flatten())?;
        }
        let counts = [
            ("max_flows", self.max_flows),
            ("max_addresses", self.max_addresses),
            ("valid_days", self.valid_days),
        ];
        for (name, count) in counts {
            if count == Some(Some(0)) {
                return Err(ApiError::invalid(name, "0 is no limit to keep: write null for no limit"));
            }
        }
        self.check_period()?;
        check_steps(self.over_quota.as_deref().unwrap_or_default())?;
        check_percents(self.warn_percents.as_deref().unwrap_or_default())?;
        check_sharing(self.sharing)
    }

    fn check_period(&self) -> Result<(), ApiError> {
        if let Some(day) = self.reset_day
            && !(1..=31).contains(&day)
        {
            return Err(ApiError::invalid("reset_day", format!("{day} is not a day from 1 to 31")));
        }
        if let Some(PeriodKind::Days(days)) = self.period
            && !(1..=PERIOD_DAYS_MAX).contains(&days)
        {
            let text = format!("{days} is not a number of days from 1 to {PERIOD_DAYS_MAX}");
            return Err(ApiError::invalid("period", text));
        }
        match &self.time_zone {
            Some(Some(name)) => check_zone(name),
            _ => Ok(()),
        }
    }
}

impl Terms {
    /// What can only be said about all terms together.
    ///
    /// # Errors
    /// `Invalid` with the field's name and what would be right.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.period == PeriodKind::Week && self.reset_day > 7 {
            let text = "the period is a week: give 1 (Monday) to 7 (Sunday)";
            return Err(ApiError::invalid("reset_day", text));
        }
        Ok(())
    }
}

/// The ledger's integers are signed.
pub(crate) fn check_size(name: &str, size: Option<u64>) -> Result<(), ApiError> {
    match size {
        Some(0) => Err(ApiError::invalid(name, "0 is no size to keep: write null for no limit")),
        Some(size) if i64::try_from(size).is_err() => {
            Err(ApiError::invalid(name, format!("{size} is too large: at most {} bytes", i64::MAX)))
        }
        _ => Ok(()),
    }
}

fn check_rate(name: &str, rate: Option<u64>) -> Result<(), ApiError> {
    check_size(name, rate)?;
    match rate {
        Some(rate) if rate < SPEED_MIN => Err(ApiError::invalid(
            name,
            format!(
                "{rate} bytes per second are too few to work with: give at least {SPEED_MIN}, or \
                 disable the user"
            ),
        )),
        _ => Ok(()),
    }
}

/// An IANA name that this machine knows.
pub(crate) fn check_zone(name: &str) -> Result<(), ApiError> {
    match TimeZone::get(name) {
        Ok(_) => Ok(()),
        Err(_) => {
            let text = format!("{name:?} is not a known time zone: give an IANA name, as Asia/Shanghai");
            Err(ApiError::invalid("time_zone", text))
        }
    }
}

fn check_steps(steps: &[Step]) -> Result<(), ApiError> {
    let wrong = |text: String| Err(ApiError::invalid("over_quota", text));
    if steps.len() > STEPS_MAX {
        return wrong(format!("{} steps are more than {STEPS_MAX}", steps.len()));
    }
    let mut last: Option<Step> = None;
    for step in steps {
        if !(1..=PERCENT_MAX).contains(&step.percent) {
            return wrong(format!("{} is not a percentage from 1 to {PERCENT_MAX}", step.percent));
        }
        if let Then::Throttle(rate) = step.then {
            check_rate("over_quota", Some(rate))?;
        }
        match last {
            Some(before) if before.then == Then::Cut => {
                return wrong(format!("nothing can follow the cut at {} %", before.percent));
            }
            Some(before) if before.percent >= step.percent => {
                return wrong(format!(
                    "{} % follows {} %: give steps by rising percentage",
                    step.percent, before.percent
                ));
            }
            _ => last = Some(*step),
        }
    }
    Ok(())
}

fn check_percents(percents: &[u16]) -> Result<(), ApiError> {
    let wrong = |text: String| Err(ApiError::invalid("warn_percents", text));
    if percents.len() > STEPS_MAX {
        return wrong(format!("{} warnings are more than {STEPS_MAX}", percents.len()));
    }
    match percents.iter().find(|percent| !(1..=PERCENT_MAX).contains(*percent)) {
        Some(percent) => wrong(format!("{percent} is not a percentage from 1 to {PERCENT_MAX}")),
        None => Ok(()),
    }
}

fn check_sharing(sharing: Option<Sharing>) -> Result<(), ApiError> {
    let Some(sharing) = sharing else { return Ok(()) };
    if !(10..=86_400).contains(&sharing.window_s) {
        return Err(ApiError::invalid("sharing", "window_s: give 10 to 86400 seconds"));
    }
    match sharing.action {
        SharingAction::Throttle(rate) => check_rate("sharing", Some(rate)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Overrides, ApiError> {
        let mut fields = Fields::parse(value.to_string().as_bytes())?;
        let own = Overrides::from_fields(&mut fields)?;
        fields.finish()?;
        own.check()?;
        Ok(own)
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let own = read(json!({"quota_bytes": null, "max_flows": 7})).unwrap();
        assert_eq!((own.quota_bytes, own.max_flows, own.speed_up), (Some(None), Some(Some(7)), None));
        assert_eq!(serde_json::to_value(&own).unwrap(), json!({"quota_bytes": null, "max_flows": 7}));
        let policy = Terms { quota_bytes: Some(5), speed_up: Some(9), ..Terms::default() };
        let terms = policy.with(&own);
        assert_eq!((terms.quota_bytes, terms.max_flows, terms.speed_up), (None, Some(7), Some(9)));
    }

    #[test]
    fn a_change_replaces_and_gives_back() {
        let own = read(json!({"quota_bytes": 5, "speed_up": 4096})).unwrap();
        let change = read(json!({"max_flows": 3})).unwrap();
        let after = own.changed(&change, &["quota_bytes".to_owned()]).unwrap();
        assert_eq!(serde_json::to_value(&after).unwrap(), json!({"speed_up": 4096, "max_flows": 3}));
        for (inherit, words) in [("quota", "is none of quota_bytes"), ("max_flows", "do one of both")] {
            let error = own.changed(&change, &[inherit.to_owned()]).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("inherit"));
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn every_field_has_its_name() {
        let all = serde_json::to_value(Terms::default()).unwrap();
        let names: Vec<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, Overrides::FIELDS);
        let mut own: Overrides = serde_json::from_value(all).unwrap();
        for name in Overrides::FIELDS {
            assert!(own.has(name) && own.give_back(name) && !own.has(name), "{name}");
        }
        assert!(own.is_empty());
    }

    #[test]
    fn what_is_refused_names_its_field() {
        for (value, field, words) in [
            (json!({"quota": 1}), "quota", "unknown field; known here: quota_bytes"),
            (json!({"quota_bytes": "100GiB"}), "quota_bytes", "invalid type"),
            (json!({"quota_bytes": -1}), "quota_bytes", "invalid value"),
            (json!({"quota_bytes": 1.5}), "quota_bytes", "invalid type"),
            (json!({"quota_bytes": 0}), "quota_bytes", "write null"),
            (json!({"total_quota_bytes": u64::MAX}), "total_quota_bytes", "too large"),
            (json!({"speed_up": 100}), "speed_up", "too few"),
            (json!({"max_addresses": 0}), "max_addresses", "write null"),
            (json!({"reset_day": 32}), "reset_day", "1 to 31"),
            (json!({"reset_day": null}), "reset_day", "invalid type"),
            (json!({"period": {"days": 0}}), "period", "number of days"),
            (json!({"period": "fortnight"}), "period", "unknown variant"),
            (json!({"time_zone": "Mars/Olympus"}), "time_zone", "Asia/Shanghai"),
            (json!({"warn_percents": [80, 0]}), "warn_percents", "percentage"),
            (json!({"over_quota": [{"percent": 0, "then": "cut"}]}), "over_quota", "percentage"),
            (json!({"over_quota": [{"percent": 9, "then": {"throttle": 1}}]}), "over_quota", "too few"),
            (
                json!({"over_quota": [{"percent": 100, "then": "cut"}, {"percent": 120, "then": "cut"}]}),
                "over_quota",
                "nothing can follow",
            ),
            (
                json!({"over_quota": [{"percent": 100, "then": {"throttle": 4096}},
                                      {"percent": 90, "then": "cut"}]}),
                "over_quota",
                "rising",
            ),
            (json!({"sharing": {"networks": 1, "window_s": 1, "action": "note"}}), "sharing", "10 to 86400"),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{value}: {error}");
            assert!(error.message.contains(words), "{value}: {error}");
        }
        // No networks at all is no detection.
        read(json!({"sharing": {"networks": 0, "window_s": 300, "action": "note"}})).unwrap();
        let week = Terms { period: PeriodKind::Week, reset_day: 8, ..Terms::default() };
        assert_eq!(week.check().unwrap_err().field.as_deref(), Some("reset_day"));
    }
}
