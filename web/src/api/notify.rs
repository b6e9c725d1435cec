//! The JSON of what people are told: `GET /notify` and `POST /notify/test`. No secret is in it, nor the path
//! of a webhook.

use serde::{Deserialize, Serialize};

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
    types::{Schema, Time},
};

/// How a message gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    Mail,
    Telegram,
    Webhook,
}

impl Channel {
    pub const ALL: [Channel; 3] = [Channel::Mail, Channel::Telegram, Channel::Webhook];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Mail => "mail",
            Channel::Telegram => "telegram",
            Channel::Webhook => "webhook",
        }
    }
}

/// `GET /notify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyShow {
    #[serde(default)]
    pub schema: Schema,
    /// Those that are set up.
    pub channels: Vec<ChannelStatus>,
    pub kinds: Vec<String>,
    pub to_users: Vec<String>,
    pub percentages: Vec<u16>,
    pub expiry_before_s: Vec<u64>,
    pub language: String,
    pub reports: ReportTimes,
    /// Messages for which there was no room.
    pub refused: u64,
    /// The newest first: those that wait, then those that are done.
    pub messages: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    pub channel: Channel,
    /// Whom the admin's messages go to; of a webhook host and port.
    pub to: Vec<String>,
    pub waiting: u64,
    pub last_sent_at: Option<Time>,
    /// Why nothing gets through, if it is so.
    pub failing: Option<Failing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Time,
    pub reason: String,
}

/// Times of day; `None`: there is no such report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTimes {
    pub daily: Option<String>,
    pub monthly: Option<String>,
    pub time_zone: Option<String>,
    pub channels: Vec<Channel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    Waiting,
    Sending,
    Sent,
    /// Refused for good.
    Failed,
    /// It could not be sent for too long.
    Expired,
    /// It may have arrived; it is not sent again.
    Unsure,
}

impl MessageState {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageState::Waiting => "waiting",
            MessageState::Sending => "sending",
            MessageState::Sent => "sent",
            MessageState::Failed => "failed",
            MessageState::Expired => "expired",
            MessageState::Unsure => "unsure",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What a receiver tells a repetition by.
    pub id: String,
    pub channel: Channel,
    pub recipient: String,
    pub kind: String,
    pub user: Option<String>,
    pub state: MessageState,
    pub created_at: Time,
    pub attempts: u32,
    /// Of one that waits: not before then.
    pub next_at: Option<Time>,
    pub done_at: Option<Time>,
    pub error: Option<String>,
}

/// `POST /notify/test`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotifyTest {
    /// Only this one; by default all that are set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
}

impl FromFields for NotifyTest {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(NotifyTest { channel: fields.take("channel")?.flatten() })
    }
}

/// What came of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTested {
    #[serde(default)]
    pub schema: Schema,
    /// Did all arrive?
    pub ok: bool,
    pub results: Vec<TestResult>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    pub channel: Channel,
    pub recipient: String,
    pub ok: bool,
    /// What happened, and what to do.
    pub message: String,
    pub took_ms: u64,
}
