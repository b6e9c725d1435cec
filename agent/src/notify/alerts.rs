//! Which events are told, to whom, and by what the same thing is known again. Pure.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::admins;
use crate::{
    config::notify::{Kind, Notify},
    core::notice::Channel,
    ledger::{Alerts, Happened, NewDelivery},
};

/// What the part of a degradation is called that is about a channel.
pub fn part_of(channel: Channel) -> &'static str {
    match channel {
        Channel::Mail => "notify-mail",
        Channel::Telegram => "notify-telegram",
        Channel::Webhook => "notify-webhook",
    }
}

/// The part of the ledger: what keeps it from being written also keeps messages from being queued.
pub const LEDGER: &str = "ledger";
/// The part of backups.
pub const BACKUP: &str = "backup";

/// What an event gives to tell, by the configuration.
pub fn alerts(config: Notify, zone: TimeZone) -> Alerts {
    Arc::new(move |happened: &Happened| of_event(&config, &zone, happened))
}

fn of_event(config: &Notify, zone: &TimeZone, happened: &Happened) -> Vec<NewDelivery> {
    let Some((kind, topic)) = about(config, zone, happened) else { return Vec::new() };
    let event = &happened.event;
    let message = |channel, recipient: String, own: bool| NewDelivery {
        channel,
        recipient,
        kind: kind.word().to_owned(),
        topic: if own { format!("{topic}:own") } else { topic.clone() },
        user: event.user,
        data: json!({
            "event": event.kind,
            "at_ms": event.at_ms,
            "user": event.user_name,
            "own": own,
            "data": event.data,
        }),
    };
    let mut all = Vec::new();
    if config.kinds.contains(&kind) {
        // What does not get through is not told by itself.
        let fit = |channel: &Channel| event.data["part"] != part_of(*channel);
        for channel in Channel::ALL.into_iter().filter(fit) {
            let to = admins(config, channel).into_iter();
            all.extend(to.map(|recipient| message(channel, recipient, false)));
        }
    }
    let email = happened.email.as_ref().filter(|email| !email.is_empty() && !happened.deleted);
    if let Some(email) = email
        && config.to_users.contains(&kind)
    {
        all.push(message(Channel::Mail, email.clone(), true));
    }
    all
}

/// What kind of news an event is, and what it is about.
fn about(config: &Notify, zone: &TimeZone, happened: &Happened) -> Option<(Kind, String)> {
    let event = &happened.event;
    let data = &event.data;
    let user = event.user.map(|user| user.to_string()).unwrap_or_default();
    let this = || format!("event:{}", event.id);
    let asked = |percent: &Value| config.percentages.iter().any(|it| percent == it);
    Some(match event.kind.as_str() {
        "quota_warning" if asked(&data["percent"]) => {
            let account = &data["account"];
            let (start, generation, percent) =
                (&account["start_ms"], &account["generation"], &data["percent"]);
            (Kind::Quota, format!("quota:{user}:{start}:{generation}:{percent}"))
        }
        "total_quota_warning" => {
            (Kind::Quota, format!("total:{user}:{}:{}", data["quota_bytes"], data["percent"]))
        }
        "expiry_near" => (Kind::Expiry, format!("expiry:{user}:{}:{}", data["expires_at"], data["before_s"])),
        "state_changed" => (state_kind(data)?, this()),
        "sharing_suspected" => {
            let at = Timestamp::from_millisecond(event.at_ms).unwrap_or_default();
            (Kind::Sharing, format!("sharing:{user}:{}", at.to_zoned(zone.clone()).date()))
        }
        "trouble_began" if data["direct"] == Value::Bool(true) => return None,
        "trouble_began" | "trouble_over" if data["part"] == BACKUP => (Kind::Backup, this()),
        "trouble_began" | "trouble_over" => (Kind::Trouble, this()),
        _ => return None,
    })
}

/// What an admin did is no news to an admin.
fn state_kind(data: &Value) -> Option<Kind> {
    let (from, to) = (data["from"].as_str()?, data["to"].as_str()?);
    Some(match (from, to) {
        (_, "throttled") if data["state_cause"] == "sharing" => Kind::Sharing,
        (_, "limited" | "throttled") => Kind::Cut,
        (_, "expired") => Kind::Expiry,
        (_, "suspended") => Kind::Suspended,
        ("limited" | "throttled" | "expired" | "suspended", "active" | "pending") => Kind::Comeback,
        _ => return None,
    })
}
