//! What people are told of before something happens, and the ways by which they are told.

use serde::{Deserialize, Serialize};

/// How a message gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    Mail,
    Telegram,
    Webhook,
}

impl Channel {
    pub const ALL: [Channel; 3] = [Channel::Mail, Channel::Telegram, Channel::Webhook];
}

/// At what usage and how long before an expiry somebody wants to be told, of every user; beside the
/// warnings of their policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Of the quota of a period, and of the quota over all time.
    pub percents: Vec<u16>,
    pub expiry_before_ms: Vec<i64>,
}

/// An expiry that is near enough to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    pub expires_ms: i64,
    /// The shortest of the times that were asked for and have begun.
    pub before_ms: i64,
}
