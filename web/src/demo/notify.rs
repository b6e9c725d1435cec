//! Made-up messages: nothing is sent by a demonstration.

use jiff::{Timestamp, ToSpan, Zoned};

use crate::api::{
    error::ApiError,
    notify::{
        Channel, ChannelStatus, Failing, Message, MessageState, NotifyShow, NotifyTest, NotifyTested,
        ReportTimes, TestResult,
    },
    types::{Schema, Time, User},
};

/// To whom.
const ADMIN: &str = "admin@example.org";

pub(super) fn show(now: &Zoned, users: &[User]) -> NotifyShow {
    let ago = |minutes: i64| {
        let at: Timestamp = now.timestamp() - minutes.minutes();
        Time::new(at, now.time_zone())
    };
    let user = users.first().map(|user| user.name.clone());
    let mail = Message {
        id: "00000000-0000-7000-8000-000000000001".to_owned(),
        channel: Channel::Mail,
        recipient: ADMIN.to_owned(),
        kind: "quota".to_owned(),
        user: user.clone(),
        state: MessageState::Sent,
        created_at: ago(90),
        attempts: 1,
        next_at: None,
        done_at: Some(ago(90)),
        error: None,
    };
    let refused = "connection refused".to_owned();
    let waiting = Message {
        id: "00000000-0000-7000-8000-000000000002".to_owned(),
        channel: Channel::Webhook,
        recipient: String::new(),
        state: MessageState::Waiting,
        attempts: 3,
        next_at: Some(ago(-5)),
        done_at: None,
        error: Some(refused.clone()),
        ..mail.clone()
    };
    NotifyShow {
        schema: Schema,
        channels: vec![
            ChannelStatus {
                channel: Channel::Mail,
                to: vec![ADMIN.to_owned()],
                waiting: 0,
                last_sent_at: Some(ago(90)),
                failing: None,
            },
            ChannelStatus {
                channel: Channel::Webhook,
                to: vec!["hooks.example.org:443".to_owned()],
                waiting: 1,
                last_sent_at: None,
                failing: Some(Failing { since: ago(60), reason: refused }),
            },
        ],
        kinds: ["quota", "expiry", "cut", "comeback", "trouble"].map(str::to_owned).into(),
        to_users: vec!["quota".to_owned()],
        percentages: vec![80, 95, 100],
        expiry_before_s: vec![604_800, 86_400],
        language: "en".to_owned(),
        reports: ReportTimes {
            daily: Some("08:00".to_owned()),
            monthly: None,
            time_zone: now.time_zone().iana_name().map(str::to_owned),
            channels: vec![Channel::Mail],
        },
        refused: 0,
        messages: vec![waiting, mail],
    }
}

pub(super) fn test(test: NotifyTest) -> Result<NotifyTested, ApiError> {
    let results = [(Channel::Mail, ADMIN), (Channel::Webhook, "hooks.example.org:443")];
    let wanted = results.into_iter().filter(|(channel, _)| test.channel.is_none_or(|it| it == *channel));
    let results: Vec<TestResult> = wanted
        .map(|(channel, recipient)| TestResult {
            channel,
            recipient: recipient.to_owned(),
            ok: true,
            message: "this is a demonstration: nothing was sent".to_owned(),
            took_ms: 1,
        })
        .collect();
    if results.is_empty() {
        return Err(ApiError::conflict("this channel is not set up in [notify]"));
    }
    Ok(NotifyTested { schema: Schema, ok: true, results })
}
