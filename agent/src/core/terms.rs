//! What a plan allows, and what a user has instead of it.
//!
//! A policy is a set of [`Terms`]; a user's [`Overrides`] replace single ones. Both are kept in the
//! ledger as JSON, so that names here are part of its format: fields may be added, never renamed.

use serde::{Deserialize, Deserializer, Serialize};

/// Bytes of one gibibyte.
pub const GIB: u64 = 1 << 30;
/// Bytes of one mebibyte.
pub const MIB: u64 = 1 << 20;

/// Everything that a policy says. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Bytes per period.
    pub quota_bytes: Option<u64>,
    /// Bytes over all time.
    pub total_quota_bytes: Option<u64>,
    pub period: PeriodKind,
    /// Month: 1–31, clamped to the month's last day. Week: 1 (Monday) – 7.
    pub reset_day: u8,
    /// IANA name; `None` is the zone of billing.
    pub time_zone: Option<String>,
    /// Bytes per second.
    pub speed_up: Option<u64>,
    pub speed_down: Option<u64>,
    pub max_flows: Option<u32>,
    /// Distinct client addresses in use at the same time (IPv6 by /64); see `core::crowd`.
    pub max_addresses: Option<u32>,
    /// Who stays when there are more addresses or flows than allowed.
    pub wins: Wins,
    /// What happens at which share of the period's quota; by rising percentage. Empty means: cut at 100.
    pub over_quota: Vec<Step>,
    /// Percentages of the period's quota at which people are warned, once per account.
    pub warn_percents: Vec<u16>,
    /// What is left of the period's quota becomes a package for the next period.
    pub rollover: bool,
    /// Days from the first use until the user expires.
    pub valid_days: Option<u32>,
    pub sharing: Sharing,
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
pub struct Sharing {
    /// More distinct addresses (IPv6 by /64) than this with traffic at the same time, within the window,
    /// are suspicious; 0 is off.
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

/// A user's own values: absent comes from the policy, `null` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub quota_bytes: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub total_quota_bytes: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_day: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub speed_up: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub speed_down: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub max_flows: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub max_addresses: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wins: Option<Wins>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_quota: Option<Vec<Step>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_percents: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollover: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub valid_days: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
}

/// A field that is there, `null` included.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Terms {
    /// The terms in force for a user.
    #[must_use]
    pub fn with(&self, own: &Overrides) -> Terms {
        Terms {
            quota_bytes: own.quota_bytes.unwrap_or(self.quota_bytes),
            total_quota_bytes: own.total_quota_bytes.unwrap_or(self.total_quota_bytes),
            period: own.period.unwrap_or(self.period),
            reset_day: own.reset_day.unwrap_or(self.reset_day),
            time_zone: own.time_zone.clone().or_else(|| self.time_zone.clone()),
            speed_up: own.speed_up.unwrap_or(self.speed_up),
            speed_down: own.speed_down.unwrap_or(self.speed_down),
            max_flows: own.max_flows.unwrap_or(self.max_flows),
            max_addresses: own.max_addresses.unwrap_or(self.max_addresses),
            wins: own.wins.unwrap_or(self.wins),
            over_quota: own.over_quota.clone().unwrap_or_else(|| self.over_quota.clone()),
            warn_percents: own.warn_percents.clone().unwrap_or_else(|| self.warn_percents.clone()),
            rollover: own.rollover.unwrap_or(self.rollover),
            valid_days: own.valid_days.unwrap_or(self.valid_days),
            sharing: own.sharing.unwrap_or(self.sharing),
        }
    }
}

/// The policies that exist from the start, by name. People may edit all but `unlimited`.
pub fn built_in() -> [(&'static str, Terms); 4] {
    let plan = |quota, rate: u64, addresses| Terms {
        quota_bytes: Some(quota * GIB),
        speed_up: Some(rate * MIB),
        speed_down: Some(rate * MIB),
        max_addresses: Some(addresses),
        ..Terms::default()
    };
    [
        ("free", plan(10, 1, 2)),
        ("basic", plan(100, 5, 5)),
        ("premium", plan(500, 10, 10)),
        ("unlimited", Terms::default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_policies_are_those_of_the_tutorial() {
        let of = |terms: &Terms| {
            let Terms { quota_bytes, speed_up, speed_down, max_addresses, .. } = *terms;
            (quota_bytes, speed_up, speed_down, max_addresses)
        };
        let rows: Vec<_> = built_in().iter().map(|(name, terms)| (*name, of(terms))).collect();
        let row = |name, gib: u64, mib: u64, addresses| {
            (name, (Some(gib << 30), Some(mib << 20), Some(mib << 20), Some(addresses)))
        };
        assert_eq!(
            rows,
            [
                row("free", 10, 1, 2),
                row("basic", 100, 5, 5),
                row("premium", 500, 10, 10),
                ("unlimited", (None, None, None, None)),
            ]
        );
        for (name, terms) in built_in() {
            assert_eq!((terms.period, terms.reset_day), (PeriodKind::Month, 1), "{name}");
        }
    }

    #[test]
    fn an_override_replaces_and_null_lifts() {
        let [_, (_, basic), ..] = built_in();
        let own: Overrides = serde_json::from_str(r#"{"quota_bytes":null,"max_flows":7}"#).unwrap();
        let terms = basic.with(&own);
        assert_eq!((terms.quota_bytes, terms.max_flows), (None, Some(7)));
        assert_eq!(terms.speed_down, Some(5 * MIB), "what is not given comes from the policy");
        assert_eq!(serde_json::to_string(&own).unwrap(), r#"{"quota_bytes":null,"max_flows":7}"#);
    }

    #[test]
    fn terms_survive_the_ledger() {
        for (_, terms) in built_in() {
            let text = serde_json::to_string(&terms).unwrap();
            assert_eq!(serde_json::from_str::<Terms>(&text).unwrap(), terms);
        }
        assert_eq!(serde_json::from_str::<Terms>("{}").unwrap(), Terms::default());
        assert!(serde_json::from_str::<Overrides>(r#"{"quota":1}"#).is_err());
    }
}
