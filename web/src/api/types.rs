//! The JSON of the contract. Names here are fixed; fields may be added, never renamed.
//!
//! Sizes are bytes, rates are bytes per second, times are RFC 3339 with an offset.

use serde::{Deserialize, Serialize};

pub use super::{change::*, policies::*, reason::Reason, status::*, terms::*, time::Time};

/// The version of the contract: the number 1 at the top of every object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema;

impl Schema {
    pub const VERSION: u32 = 1;
}

impl Serialize for Schema {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(Self::VERSION)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            Self::VERSION => Ok(Schema),
            other => Err(serde::de::Error::custom(format!(
                "schema {other} is not understood; use a program of the same version as the agent"
            ))),
        }
    }
}

/// Which bytes quotas are measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    #[default]
    Payload,
    Wire,
}

/// The four byte counts that the kernel keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub upload_payload_bytes: u64,
    pub download_payload_bytes: u64,
    pub upload_wire_bytes: u64,
    pub download_wire_bytes: u64,
}

impl Traffic {
    /// Both directions of one meter.
    pub fn total(&self, meter: Meter) -> u64 {
        let (up, down) = self.by(meter);
        up.saturating_add(down)
    }

    /// Upload and download of one meter.
    pub fn by(&self, meter: Meter) -> (u64, u64) {
        match meter {
            Meter::Payload => (self.upload_payload_bytes, self.download_payload_bytes),
            Meter::Wire => (self.upload_wire_bytes, self.download_wire_bytes),
        }
    }

    /// The sum; counts of real machines stay far below 2⁶⁴, so it stops there instead of wrapping.
    #[must_use]
    pub fn plus(&self, other: &Traffic) -> Traffic {
        Traffic {
            upload_payload_bytes: self.upload_payload_bytes.saturating_add(other.upload_payload_bytes),
            download_payload_bytes: self.download_payload_bytes.saturating_add(other.download_payload_bytes),
            upload_wire_bytes: self.upload_wire_bytes.saturating_add(other.upload_wire_bytes),
            download_wire_bytes: self.download_wire_bytes.saturating_add(other.download_wire_bytes),
        }
    }
}

/// `GET /usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub schema: Schema,
    pub meter: Meter,
    pub rows: Vec<UsageRow>,
    pub unattributed: Traffic,
    /// The unattributed bytes again, by inbound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unattributed_by_inbound: Vec<InboundTraffic>,
    /// The beginning and end that were meant, resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// The moment up to which the kernel's counts are in the figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// The ledger's revision that the answer was read at.
    #[serde(default)]
    pub rev: u64,
    /// The cursor of the next page: give it as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One user in one span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    pub user: String,
    pub start: Time,
    pub end: Time,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What sing-box itself reported for traffic that the kernel cannot see or split; never part
    /// of the columns above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_upload_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_download_bytes: Option<u64>,
}

/// Unattributed bytes of one inbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundTraffic {
    pub inbound: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What a user may do now, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserState {
    Active,
    Limited,
    Throttled,
    Expired,
    Disabled,
    Suspended,
    Pending,
}

impl UserState {
    pub const ALL: [UserState; 7] = [
        UserState::Active,
        UserState::Limited,
        UserState::Throttled,
        UserState::Expired,
        UserState::Disabled,
        UserState::Suspended,
        UserState::Pending,
    ];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            UserState::Active => "active",
            UserState::Limited => "limited",
            UserState::Throttled => "throttled",
            UserState::Expired => "expired",
            UserState::Disabled => "disabled",
            UserState::Suspended => "suspended",
            UserState::Pending => "pending",
        }
    }
}

/// One account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    /// UUID v7: stays when the name changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub state: UserState,
    /// For people, in English.
    pub reason: Option<String>,
    /// The same for programs, and for people of other languages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Reason>,
    pub policy: Option<String>,
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub created_at: Time,
    pub expires_at: Option<Time>,
    pub period: Period,
    pub total: Total,
    pub packages: Packages,
    pub speed: Speed,
    pub max_flows: Option<u64>,
    pub max_addresses: Option<u64>,
    pub live: Live,
    pub last_seen_at: Option<Time>,
    /// Tags of the inbounds that have the user.
    #[serde(default)]
    pub inbounds: Vec<String>,
    /// The four counts over all time.
    #[serde(default)]
    pub traffic: Traffic,
    /// Each proxy's share of them, where there is more than sing-box; only of a user who is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceShare>,
    /// The user's own terms; what is not here comes from the policy.
    #[serde(default)]
    pub overrides: Overrides,
    /// The terms in force: the policy's with the user's own instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// The IANA zone of the user's periods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_used_at: Option<Time>,
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Moves with the settings and the state, not with the usage: what `If-Match` is compared with.
    #[serde(default)]
    pub rev: u64,
}

/// What is done to a user right now. Dropping packets and editing files are two decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// The kernel drops the user's packets.
    pub cut: bool,
    /// Taken out of `users` in sing-box's configuration.
    pub taken_out: bool,
    /// The configuration has changed for this user and sing-box has not read it yet.
    pub reload_pending: bool,
    /// The rates that the kernel keeps the user to.
    pub speed: Speed,
}

impl User {
    /// What the user's traffic is held to now: the throttle where there is one, else what the terms say.
    pub fn speed_now(&self) -> Speed {
        let (held, terms) = (self.enforcement.speed, self.speed);
        Speed { up: held.up.or(terms.up), down: held.down.or(terms.down) }
    }
}

/// The billing window. A quota of `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    pub start: Option<Time>,
    /// `None` where the period never ends.
    pub end: Option<Time>,
    pub quota_bytes: Option<u64>,
    pub used_bytes: u64,
    pub remaining_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    pub quota_bytes: Option<u64>,
    pub used_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    pub remaining_bytes: u64,
}

/// Limits in bytes per second; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    pub up: Option<u64>,
    pub down: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub flows: u64,
    pub addresses: u64,
    pub upload_rate: u64,
    pub download_rate: u64,
}

/// `GET /users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserList {
    #[serde(default)]
    pub schema: Schema,
    pub users: Vec<User>,
    #[serde(default)]
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many users the filter takes, on all pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
}

/// `GET /users/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserShow {
    #[serde(default)]
    pub schema: Schema,
    pub user: User,
}

/// How a flow's owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerBy {
    Api,
    Log,
    ClashLogs,
    LogFile,
    ByPort,
    Shared,
    Reported,
}

impl OwnerBy {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            OwnerBy::Api => "api",
            OwnerBy::Log => "log",
            OwnerBy::ClashLogs => "clash_logs",
            OwnerBy::LogFile => "log_file",
            OwnerBy::ByPort => "by_port",
            OwnerBy::Shared => "shared",
            OwnerBy::Reported => "reported",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    Tcp,
    Udp,
}

/// One live client connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub user: Option<String>,
    pub owner_by: Option<OwnerBy>,
    pub inbound: String,
    pub network: Network,
    pub peer: String,
    pub opened_at: Time,
    pub upload_payload_bytes: u64,
    pub download_payload_bytes: u64,
    #[serde(default)]
    pub upload_rate: u64,
    #[serde(default)]
    pub download_rate: u64,
    /// Open before metering began: its owner may never be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before_metering: bool,
    /// Unique within a kernel epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `GET /flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    #[serde(default)]
    pub schema: Schema,
    pub flows: Vec<Flow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How much an event matters to people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Error,
}

impl Severity {
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Error];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that happened, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// UUID v7.
    pub id: String,
    pub at: Time,
    /// A dotted word, for instance `user.adopted`, `source.disconnected`.
    pub kind: String,
    #[serde(default)]
    pub severity: Severity,
    pub user: Option<String>,
    /// For people, in English.
    pub message: String,
    /// Who did it: `agent`, `uid:0`, a panel session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    #[serde(default)]
    pub rev: u64,
}

/// `GET /events`, oldest first unless `order=newest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    #[serde(default)]
    pub schema: Schema,
    pub events: Vec<Event>,
    #[serde(default)]
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /audit`: does Σ users + unattributed equal the watched bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    #[serde(default)]
    pub schema: Schema,
    pub watched: Traffic,
    pub users: Traffic,
    pub unattributed: Traffic,
    /// The largest of the four differences; 0 when the sums lie between both readings.
    pub difference_bytes: u64,
    /// How far the two readings of the watched counters lay apart.
    #[serde(default)]
    pub width_bytes: u64,
    #[serde(default)]
    pub width_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// Bytes dropped by a budget: in neither side of the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_bytes: Option<u64>,
}

/// `GET /stats`: the three cards of the tutorial's page, and what an overview adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    #[serde(default)]
    pub schema: Schema,
    pub total_users: u64,
    /// Whose state is `active`.
    pub active_users: u64,
    /// Both directions of `meter`, over all time and users; `unattributed_bytes` come on top.
    pub total_traffic_bytes: u64,
    pub meter: Meter,
    #[serde(default)]
    pub online_users: u64,
    #[serde(default)]
    pub limited_users: u64,
    #[serde(default)]
    /// Of the calendar day, unattributed included.
    pub today_bytes: u64,
    /// Of the calendar month, unattributed included.
    #[serde(default)]
    pub month_bytes: u64,
    #[serde(default)]
    pub unattributed_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
}
