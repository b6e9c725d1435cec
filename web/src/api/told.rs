//! What changes of users, policies and accounts were, in a sentence: what was and what is.

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::time::Time;
use crate::{
    locale::Lang,
    units::{Rate, Size},
};

/// The sentence of an event of this kind; `None` where its message says it, or nothing is known.
pub fn sentence(kind: &str, data: &Value, zone: &TimeZone, lang: Lang) -> Option<String> {
    let told = Told { data, zone, lang };
    match kind {
        "user_changed" => told.user(),
        "policy_changed" => told.policy(),
        "package_added" => told.package(),
        "traffic_reset" => told.used("told.traffic_reset"),
        "period_turned" => told.used("told.period_turned"),
        "quota_warning" => told.warning("told.quota_warning"),
        "total_quota_warning" => told.warning("told.total_quota_warning"),
        "expiry_near" => told.expiry(),
        "trouble_began" => told.part("told.trouble_began"),
        "trouble_over" => told.part("told.trouble_over"),
        "user_over_limit" => told.over_limit(),
        "sharing_suspected" => told.shared(),
        _ => None,
    }
}

struct Told<'a> {
    data: &'a Value,
    zone: &'a TimeZone,
    lang: Lang,
}

impl Told<'_> {
    fn user(&self) -> Option<String> {
        let mut changes = Vec::new();
        if let Some([from, to]) = self.data.get("policy").and_then(pair) {
            changes.push(self.both("told.policy", &text(from), &text(to)));
        }
        changes.extend(self.terms(self.data.get("terms").and_then(Value::as_object)));
        if let Some(pair) = self.data.get("expires_ms").and_then(pair) {
            changes.push(self.term("expires_ms", pair));
        }
        for name in ["email", "note", "first_use"] {
            if self.data.get(name).is_some() {
                changes.push(self.changed(&format!("told.{name}")));
            }
        }
        (!changes.is_empty())
            .then(|| self.lang.fill("told.user_changed", &[("changes", &self.join(&changes))]))
    }

    fn policy(&self) -> Option<String> {
        let policy = self.data.get("policy")?.as_str()?;
        if let Some(name) = self.data.get("renamed_to").and_then(Value::as_str) {
            return Some(self.lang.fill("told.policy_renamed", &[("policy", policy), ("name", name)]));
        }
        let side = |key: &str| self.data.get(key).and_then(Value::as_object);
        let (before, after) = (side("before")?, side("after")?);
        let differs = before.iter().filter(|(key, value)| after.get(*key) != Some(value));
        let pairs: Map<String, Value> = differs
            .map(|(key, value)| {
                let now = after.get(key).cloned().unwrap_or_default();
                (key.clone(), Value::Array(vec![value.clone(), now]))
            })
            .collect();
        let changes = self.join(&self.terms(Some(&pairs)));
        let users = self.data.get("users").and_then(Value::as_u64).unwrap_or(0).to_string();
        let values = [("policy", policy), ("users", &users), ("changes", &changes)];
        Some(self.lang.fill("told.policy_changed", &values))
    }

    fn package(&self) -> Option<String> {
        let size = Size(self.data.get("bytes")?.as_u64()?).to_string();
        Some(match self.data.get("expires_ms").and_then(Value::as_i64) {
            None => self.lang.fill("told.package_added", &[("size", &size)]),
            Some(ms) => {
                let date = self.time(ms);
                self.lang.fill("told.package_expires", &[("size", &size), ("date", &date)])
            }
        })
    }

    fn expiry(&self) -> Option<String> {
        let at: Time = self.data.get("expires_at")?.as_str()?.parse().ok()?;
        Some(
            self.lang
                .fill("told.expiry_near", &[("time", &at.zoned().strftime("%Y-%m-%d %H:%M").to_string())]),
        )
    }

    fn part(&self, key: &str) -> Option<String> {
        let text = |key: &str| self.data.get(key).and_then(Value::as_str).unwrap_or_default();
        Some(self.lang.fill(key, &[("part", text("part")), ("reason", text("reason"))]))
    }

    fn warning(&self, key: &str) -> Option<String> {
        let number = |key: &str| self.data.get(key)?.as_u64();
        let percent = number("percent")?.to_string();
        let (used, quota) =
            (Size(number("used_bytes")?).to_string(), Size(number("quota_bytes")?).to_string());
        let values = [("percent", &*percent), ("used", &used), ("quota", &quota)];
        Some(self.lang.fill(key, &values))
    }

    fn over_limit(&self) -> Option<String> {
        let key = match self.data.get("limit")?.as_str()? {
            "max_flows" => "told.over_max_flows",
            "max_addresses" => "told.over_max_addresses",
            _ => return None,
        };
        Some(self.lang.text(key).to_owned())
    }

    fn shared(&self) -> Option<String> {
        let number = |key: &str| Some(self.data.get(key)?.as_u64()?.to_string());
        let (peak, allowed, score) = (number("peak")?, number("allowed")?, number("score")?);
        let values = [("peak", &*peak), ("allowed", &allowed), ("score", &score)];
        Some(self.lang.fill("told.shared", &values))
    }

    /// Both directions of the payload, and what was told beside it.
    fn used(&self, key: &str) -> Option<String> {
        let sum = |key: &str| {
            let both = self.data.get(key).and_then(Value::as_array).into_iter().flatten();
            both.filter_map(Value::as_u64).fold(0_u64, u64::saturating_add)
        };
        self.data.get("payload")?;
        let size = Size(sum("payload").saturating_add(sum("reported"))).to_string();
        Some(self.lang.fill(key, &[("size", &size)]))
    }

    fn terms(&self, pairs: Option<&Map<String, Value>>) -> Vec<String> {
        let pairs = pairs.into_iter().flatten();
        pairs.filter_map(|(key, value)| Some(self.term(key, pair(value)?))).collect()
    }

    fn term(&self, key: &str, [from, to]: [&Value; 2]) -> String {
        let name = match key {
            "quota_bytes" => "terms.quota",
            "total_quota_bytes" => "terms.total_quota",
            "warn_percents" => "terms.warn",
            "expires_ms" => "told.expires",
            "reset_day" | "time_zone" | "speed_up" | "speed_down" => &format!("told.{key}"),
            "period" | "max_flows" | "max_addresses" | "wins" | "over_quota" | "rollover" | "valid_days"
            | "sharing" => &format!("terms.{key}"),
            _ => return key.replace('_', " "),
        };
        match (self.value(key, from), self.value(key, to)) {
            (Some(from), Some(to)) => self.both(name, &from, &to),
            _ => self.changed(name),
        }
    }

    /// A value that a line has room for.
    fn value(&self, key: &str, value: &Value) -> Option<String> {
        let number = value.as_u64();
        Some(match (key, value) {
            (_, Value::Null) => self.lang.text("none").to_owned(),
            ("quota_bytes" | "total_quota_bytes", _) => Size(number?).to_string(),
            ("speed_up" | "speed_down", _) => Rate(number?).to_string(),
            ("expires_ms", _) => self.time(value.as_i64()?),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::String(text)) => text.clone(),
            (_, Value::Bool(_) | Value::Array(_) | Value::Object(_)) => return None,
        })
    }

    fn both(&self, name: &str, from: &str, to: &str) -> String {
        let what = self.lang.text(name).to_owned();
        self.lang.fill("told.from_to", &[("what", &what), ("from", from), ("to", to)])
    }

    fn changed(&self, name: &str) -> String {
        let what = self.lang.text(name).to_owned();
        self.lang.fill("told.changed", &[("what", &what)])
    }

    fn time(&self, ms: i64) -> String {
        Time::from_ms(ms, self.zone).zoned().strftime("%Y-%m-%d %H:%M").to_string()
    }

    fn join(&self, changes: &[String]) -> String {
        changes.join(match self.lang {
            Lang::En => ", ",
            Lang::ZhCn => "，",
        })
    }
}

fn pair(value: &Value) -> Option<[&Value; 2]> {
    match value.as_array()?.as_slice() {
        [from, to] => Some([from, to]),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn both(kind: &str, data: &Value) -> String {
        let zone = TimeZone::UTC;
        let say = |lang| sentence(kind, data, &zone, lang).unwrap_or_default();
        format!("{}\n{}", say(Lang::En), say(Lang::ZhCn))
    }

    #[test]
    fn events_say_what_was_and_what_is() {
        let changed = json!({"policy": ["free", "basic"], "terms": {"quota_bytes": [10_737_418_240_u64, null],
            "speed_down": [1_048_576, 5_242_880], "sharing": [{}, {}]},
            "expires_ms": [null, 1_764_000_000_000_i64], "note": "changed"});
        let policy = json!({"policy": "basic", "users": 3, "before": {"quota_bytes": 1024, "max_flows": null},
            "after": {"quota_bytes": 2048, "max_flows": 7}});
        let package = json!({"bytes": 1_073_741_824, "expires_ms": 1_764_000_000_000_i64});
        let reset = json!({"payload": [1024, 1024], "wire": [9, 9], "reported": [0, 2048]});
        let warning = json!({"percent": 80, "used_bytes": 858_993_459_u64, "quota_bytes": 1_073_741_824_u64});
        let shared = json!({"peak": 5, "allowed": 3, "score": 40});
        let all = [
            both("quota_warning", &warning),
            both("user_over_limit", &json!({"limit": "max_flows"})),
            both("user_over_limit", &json!({"limit": "max_addresses"})),
            both("sharing_suspected", &shared),
            both("user_changed", &changed),
            both("policy_changed", &policy),
            both("package_added", &package),
            both("package_added", &json!({"bytes": 1024, "expires_ms": null})),
            both("traffic_reset", &reset),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        80 % of the quota reached: 819 MiB of 1.00 GiB used
        已用额度的 80%：819 MiB，共 1.00 GiB
        more connections than the limit: some are refused
        连接数超出限制，多出的连接被拒绝
        more addresses than the limit: connections are refused
        地址数超出限制，连接被拒绝
        used from 5 addresses at the same time, 3 are usual (score 40)
        同时在 5 个地址使用，通常为 3 个（评分 40）
        changed: policy free → basic, quota 10.0 GiB → none, download limit 1.00 MiB/s → 5.00 MiB/s, when shared changed, expiry none → 2025-11-24 16:00, note changed
        已修改：套餐 free → basic，额度 10.0 GiB → 无，下载限速 1.00 MiB/s → 5.00 MiB/s，被共享时已更改，到期 无 → 2025-11-24 16:00，备注已更改
        policy basic of 3 users changed: quota 1.00 KiB → 2.00 KiB, max flows none → 7
        套餐 basic（3 个用户）已修改：额度 1.00 KiB → 2.00 KiB，最大连接数 无 → 7
        package of 1.00 GiB added, valid until 2025-11-24 16:00
        已添加 1.00 GiB 流量包，有效期至 2025-11-24 16:00
        package of 1.00 KiB added, valid without end
        已添加 1.00 KiB 流量包，长期有效
        traffic reset at 4.00 KiB used; the period's usage begins anew
        流量已重置，重置时已用 4.00 KiB；本周期重新计量
        ");
        assert_eq!(both("user_changed", &json!({})), "\n");
        assert_eq!(both("agent_started", &json!({})), "\n");
    }
}
