//! Who lives on the made-up server: names, plans, and what is special about some of them.

use jiff::{ToSpan, Zoned};

use super::{
    data::{GIB, MIB, user},
    history::Random,
};
use crate::api::types::*;

/// Nobody here exists.
const NAMES: [&str; 60] = [
    "alice",
    "bob",
    "carol",
    "dave",
    "erin",
    "frank",
    "grace",
    "heidi",
    "ivan",
    "judy",
    "mallory",
    "niaj",
    "olivia",
    "peggy",
    "quentin",
    "rupert",
    "sybil",
    "trent",
    "ursula",
    "victor",
    "wendy",
    "xavier",
    "yvonne",
    "zoe",
    "小明",
    "小红",
    "李雷",
    "韩梅梅",
    "王芳",
    "张伟",
    "赵敏",
    "陈晨",
    "刘洋",
    "周杰",
    "吴磊",
    "孙莉",
    "老张",
    "阿杰",
    "妈妈",
    "爸爸的平板",
    "公司-前台",
    "公司-会议室",
    "工作室",
    "客厅电视",
    "nas@home",
    "router.beijing",
    "laptop-lin",
    "phone-chen",
    "tablet-wang",
    "guest-01",
    "guest-02",
    "guest-03",
    "tom (phone)",
    "tom (laptop)",
    "Ольга",
    "Jürgen",
    "marie-claire",
    "dev-ci",
    "backup-bot",
    "測試用戶",
];

/// What is special about a user, if something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Usual,
    /// The quota is used up.
    Limited,
    /// Used up, and slowed down instead of cut.
    Throttled,
    Expired,
    ExpiresSoon,
    Disabled,
    Suspended,
    NotUsedYet,
    /// Near the quota.
    Near,
    Packages,
}

pub(super) fn fate(number: usize) -> Fate {
    match number {
        3 | 27 | 41 => Fate::Limited,
        8 | 33 => Fate::Throttled,
        12 | 49 => Fate::Expired,
        14 | 30 | 53 => Fate::ExpiresSoon,
        16 | 36 => Fate::Disabled,
        22 => Fate::Suspended,
        50 | 51 => Fate::NotUsedYet,
        1 | 19 | 25 | 38 => Fate::Near,
        0 | 24 | 31 => Fate::Packages,
        _ => Fate::Usual,
    }
}

/// Everybody, before they have used anything.
pub(super) fn everybody(now: &Zoned, random: &mut Random) -> Vec<User> {
    NAMES.iter().enumerate().map(|(number, name)| person(now, random, number, name)).collect()
}

fn person(now: &Zoned, random: &mut Random, number: usize, name: &str) -> User {
    let mut user = user(now, number as u64 + 1, name, UserState::Pending, None);
    let plan = ["basic", "premium", "basic", "free", "premium", "basic", "unlimited"][number % 7];
    user.policy = Some(plan.to_owned());
    user.overrides = Overrides::default();
    user.traffic = Traffic::default();
    user.total.used_bytes = 0;
    user.period.used_bytes = 0;
    user.last_seen_at = None;
    user.first_used_at = None;
    let made = i64::try_from(random.below(50)).unwrap_or_default() + 10;
    user.created_at = days_ago(now, made);
    user.inbounds = match number % 4 {
        0 => vec!["trojan-in".to_owned(), "vless-in".to_owned()],
        1 => vec!["vless-in".to_owned()],
        2 => vec!["trojan-in".to_owned()],
        _ => vec!["hy2-in".to_owned(), "trojan-in".to_owned()],
    };
    if random.chance(35) {
        user.note = Some(NOTES[number % NOTES.len()].to_owned());
    }
    if random.chance(30) {
        user.email = Some(format!("user{number}@example.com"));
    }
    user
}

const NOTES: [&str; 6] =
    ["paid until spring", "朋友介绍", "two phones and a laptop", "同事", "ask before cutting", "按季度付费"];

/// What a fate means once the usage of the period is known.
pub(super) fn meet(now: &Zoned, user: &mut User, fate: Fate) {
    let used = user.period.used_bytes.max(GIB);
    let round = |bytes: u64| (bytes / GIB).max(1) * GIB;
    let quota = |user: &mut User, bytes: u64| user.overrides.quota_bytes = Some(Some(bytes));
    match fate {
        Fate::Usual => {
            // Nobody is limited by chance: those who use much have a plan for it.
            if user.policy.as_deref() != Some("unlimited") {
                quota(user, round(used * 2 + 20 * GIB));
            }
        }
        Fate::Packages => quota(user, round(used * 9 / 10)),
        Fate::Limited => quota(user, round(used - used / 50)),
        Fate::Near => quota(user, round(used * 12 / 11) + GIB),
        Fate::Throttled => {
            quota(user, round(used - used / 20));
            user.overrides.over_quota = Some(vec![Step { percent: 100, then: Then::Throttle(MIB) }]);
        }
        Fate::Expired => user.expires_at = Some(days_ago(now, 3)),
        Fate::ExpiresSoon => user.expires_at = Some(days_ago(now, -4)),
        Fate::Disabled => {
            user.cause = Some(Reason::Disabled { at: days_ago(now, 5), who: "panel:admin".to_owned() });
        }
        Fate::Suspended => {
            let at = days_ago(now, 1);
            user.cause = Some(Reason::Suspended { at, networks: 6, window_s: 300, until: None });
        }
        Fate::NotUsedYet => {
            user.overrides.valid_days = Some(Some(30));
            user.cause = Some(Reason::NotUsedYet { valid_days: 30 });
        }
    }
}

pub(super) fn days_ago(now: &Zoned, days: i64) -> Time {
    Time::from(&now.saturating_sub(days.days()))
}
