//! Why a user is in its state: for programs as data, for people as a sentence in their language.

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::{
    locale::Lang,
    units::{Rate, Size},
};

/// Why a user is limited, throttled, expired, disabled, suspended or pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// Cut: the period's quota and every package are used up. It comes back `until`, by itself.
    PeriodQuota {
        at: Time,
        used_bytes: u64,
        quota_bytes: u64,
        /// What packages paid for in this period; not in `used_bytes`.
        #[serde(default)]
        packages_bytes: u64,
        until: Option<Time>,
    },
    /// Cut: the quota over all time is used up.
    TotalQuota { at: Time, used_bytes: u64, quota_bytes: u64 },
    /// Slower: a step of the ladder is reached.
    OverQuota {
        at: Time,
        percent: u16,
        used_bytes: u64,
        quota_bytes: u64,
        /// As in [`Reason::PeriodQuota`].
        #[serde(default)]
        packages_bytes: u64,
        /// Bytes per second, each direction.
        rate: u64,
        until: Option<Time>,
    },
    Expired {
        at: Time,
        /// The policy's days from the first use, where they are what ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid_days: Option<u32>,
    },
    /// By an admin; only an admin brings it back.
    Disabled { at: Time, who: String },
    /// Cut for being shared: `until` then, or until an admin enables it.
    Suspended {
        at: Time,
        networks: u32,
        window_s: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Time>,
    },
    /// Slower while it is shared.
    Shared { at: Time, networks: u32, window_s: u32, rate: u64 },
    /// The days begin with the first use.
    NotUsedYet { valid_days: u32 },
}

impl Reason {
    /// One sentence, without a full stop. `zone` is the IANA name of the user's zone, shown beside
    /// the time of coming back.
    pub fn sentence(&self, lang: Lang, zone: Option<&str>) -> String {
        let key = match self {
            Reason::Expired { valid_days: Some(_), .. } => "reason.expired_after_use".to_owned(),
            _ => format!("reason.{}", self.word()),
        };
        let at = self.at().map(|at| second(&at)).unwrap_or_default();
        let mut values = vec![("at", at)];
        match self {
            Reason::PeriodQuota { used_bytes, quota_bytes, .. }
            | Reason::TotalQuota { used_bytes, quota_bytes, .. } => {
                values.extend(quota(*used_bytes, *quota_bytes));
            }
            Reason::OverQuota { percent, used_bytes, quota_bytes, rate, .. } => {
                values.extend(quota(*used_bytes, *quota_bytes));
                values.push(("percent", percent.to_string()));
                values.push(("rate", Rate(*rate).to_string()));
            }
            Reason::Expired { valid_days, .. } => {
                values.push(("days", valid_days.unwrap_or_default().to_string()));
            }
            Reason::Disabled { who, .. } => values.push(("who", who.clone())),
            Reason::Suspended { networks, window_s, .. } => values.extend(crowd(lang, *networks, *window_s)),
            Reason::Shared { networks, window_s, rate, .. } => {
                values.extend(crowd(lang, *networks, *window_s));
                values.push(("rate", Rate(*rate).to_string()));
            }
            Reason::NotUsedYet { valid_days } => values.push(("days", valid_days.to_string())),
        }
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, &**value)).collect();
        let mut text = lang.fill(&key, &values);
        text.push_str(&self.packages(lang));
        match self {
            Reason::PeriodQuota { at, until, .. } | Reason::OverQuota { at, until, .. } => {
                text.push_str(&comes_back(lang, at, until.as_ref(), zone));
            }
            Reason::Suspended { at, until: Some(until), .. } => {
                text.push_str(&comes_back(lang, at, Some(until), zone));
            }
            Reason::Suspended { until: None, .. } => text.push_str(lang.text("reason.until_enabled")),
            _ => {}
        }
        text
    }

    /// What packages paid for beside the quota.
    fn packages(&self, lang: Lang) -> String {
        match self {
            Reason::PeriodQuota { packages_bytes, .. } | Reason::OverQuota { packages_bytes, .. }
                if *packages_bytes > 0 =>
            {
                lang.fill("reason.packages", &[("packages", &Size(*packages_bytes).to_string())])
            }
            _ => String::new(),
        }
    }

    /// The word in `kind`.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::PeriodQuota { .. } => "period_quota",
            Reason::TotalQuota { .. } => "total_quota",
            Reason::OverQuota { .. } => "over_quota",
            Reason::Expired { .. } => "expired",
            Reason::Disabled { .. } => "disabled",
            Reason::Suspended { .. } => "suspended",
            Reason::Shared { .. } => "shared",
            Reason::NotUsedYet { .. } => "not_used_yet",
        }
    }

    /// Since when it is so.
    pub fn at(&self) -> Option<Time> {
        match self {
            Reason::PeriodQuota { at, .. }
            | Reason::TotalQuota { at, .. }
            | Reason::OverQuota { at, .. }
            | Reason::Expired { at, .. }
            | Reason::Disabled { at, .. }
            | Reason::Suspended { at, .. }
            | Reason::Shared { at, .. } => Some(*at),
            Reason::NotUsedYet { .. } => None,
        }
    }
}

fn second(time: &Time) -> String {
    time.zoned().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn quota(used: u64, quota: u64) -> [(&'static str, String); 2] {
    [("used", Size(used).to_string()), ("quota", Size(quota).to_string())]
}

/// Whole minutes as minutes; people have windows of seconds, too.
pub fn window(lang: Lang, seconds: u32) -> String {
    let (key, count) = match seconds {
        60 => ("duration.minute", 1),
        _ if seconds.is_multiple_of(60) => ("duration.minutes", seconds / 60),
        1 => ("duration.second", 1),
        _ => ("duration.seconds", seconds),
    };
    lang.fill(key, &[("n", &count.to_string())])
}

fn crowd(lang: Lang, networks: u32, window_s: u32) -> [(&'static str, String); 2] {
    [("networks", networks.to_string()), ("window", window(lang, window_s))]
}

/// `; comes back on 1 December 00:00 Asia/Shanghai`, with the year where it is another one.
fn comes_back(lang: Lang, at: &Time, until: Option<&Time>, zone: Option<&str>) -> String {
    let Some(until) = until else { return lang.text("reason.no_return").to_owned() };
    let offset = until.offset.to_string();
    let (at, until) = (at.zoned(), until.zoned());
    let with_year = if at.year() == until.year() { "date.day" } else { "date.day_and_year" };
    let month = lang.text(&format!("month.{}", until.month())).to_owned();
    let (day, year) = (until.day().to_string(), until.year().to_string());
    let date = lang.fill(with_year, &[("day", &day), ("month", &month), ("year", &year)]);
    let time = until.strftime("%H:%M").to_string();
    let zone = zone.unwrap_or(&offset);
    lang.fill("reason.comes_back", &[("date", &date), ("time", &time), ("zone", zone)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    fn every() -> Vec<Reason> {
        let at = time("2026-11-24T14:03:07+08:00");
        let until = Some(time("2026-12-01T00:00:00+08:00"));
        let gib = 1 << 30;
        let next_year = Some(time("2027-01-01T00:00:00+08:00"));
        vec![
            Reason::PeriodQuota {
                at,
                used_bytes: 100 * gib,
                quota_bytes: 100 * gib,
                packages_bytes: 0,
                until,
            },
            Reason::PeriodQuota {
                at,
                used_bytes: gib,
                quota_bytes: gib,
                packages_bytes: 5 * gib,
                until: None,
            },
            Reason::TotalQuota { at, used_bytes: gib, quota_bytes: gib },
            Reason::OverQuota {
                at,
                percent: 100,
                used_bytes: gib,
                quota_bytes: gib,
                packages_bytes: 0,
                rate: 1 << 20,
                until: next_year,
            },
            Reason::Expired { at, valid_days: None },
            Reason::Expired { at, valid_days: Some(30) },
            Reason::Disabled { at, who: "uid:0".to_owned() },
            Reason::Suspended { at, networks: 5, window_s: 300, until: None },
            Reason::Suspended { at, networks: 5, window_s: 60, until },
            Reason::Shared { at, networks: 5, window_s: 90, rate: 1 << 20 },
            Reason::NotUsedYet { valid_days: 30 },
        ]
    }

    fn sentences(lang: Lang) -> String {
        every().iter().map(|it| it.sentence(lang, Some("Asia/Shanghai")) + "\n").collect()
    }

    #[test]
    fn every_reason_is_a_sentence() {
        insta::assert_snapshot!(sentences(Lang::En), @r"
        limited at 2026-11-24 14:03:07: 100 GiB of 100 GiB used; comes back on 1 December 00:00 Asia/Shanghai
        limited at 2026-11-24 14:03:07: 1.00 GiB of 1.00 GiB used and 5.00 GiB of packages; does not come back by itself
        limited at 2026-11-24 14:03:07: 1.00 GiB of 1.00 GiB over all time used; raise the total quota to bring it back
        slowed down to 1.00 MiB/s at 2026-11-24 14:03:07: 100 % of the quota reached, 1.00 GiB of 1.00 GiB used; comes back on 1 January 2027 00:00 Asia/Shanghai
        expired at 2026-11-24 14:03:07; set a later date to bring it back
        expired at 2026-11-24 14:03:07, 30 days after the first use; set a later date to bring it back
        disabled at 2026-11-24 14:03:07 by uid:0; stays so until it is enabled
        suspended at 2026-11-24 14:03:07: used from 5 networks within 5 minutes; stays so until it is enabled
        suspended at 2026-11-24 14:03:07: used from 5 networks within 1 minute; comes back on 1 December 00:00 Asia/Shanghai
        slowed down to 1.00 MiB/s at 2026-11-24 14:03:07: used from 5 networks within 90 seconds
        not used yet: its 30 days begin with the first use
        ");
        insta::assert_snapshot!(sentences(Lang::ZhCn), @r"
        2026-11-24 14:03:07 已限额：已用 100 GiB，额度 100 GiB；12 月 1 日 00:00（Asia/Shanghai）恢复
        2026-11-24 14:03:07 已限额：已用 1.00 GiB，额度 1.00 GiB，另用流量包 5.00 GiB；不会自动恢复
        2026-11-24 14:03:07 已限额：总量已用 1.00 GiB，总额度 1.00 GiB；提高总额度即可恢复
        2026-11-24 14:03:07 起限速为 1.00 MiB/s：已达额度的 100 %，已用 1.00 GiB，额度 1.00 GiB；2027 年 1 月 1 日 00:00（Asia/Shanghai）恢复
        2026-11-24 14:03:07 已过期；设置更晚的日期即可恢复
        2026-11-24 14:03:07 已过期：首次使用后 30 天；设置更晚的日期即可恢复
        2026-11-24 14:03:07 由 uid:0 禁用；启用前一直禁用
        2026-11-24 14:03:07 已暂停：5 分钟内从 5 个网络使用；启用前一直如此
        2026-11-24 14:03:07 已暂停：1 分钟内从 5 个网络使用；12 月 1 日 00:00（Asia/Shanghai）恢复
        2026-11-24 14:03:07 起限速为 1.00 MiB/s：90 秒内从 5 个网络使用
        尚未使用：30 天从首次使用起计算
        ");
    }

    #[test]
    fn every_reason_survives_json() {
        for reason in every() {
            let json = serde_json::to_value(&reason).unwrap();
            assert_eq!(json["kind"], reason.word());
            assert_eq!(serde_json::from_value::<Reason>(json).unwrap(), reason);
        }
    }
}
